//! From a path to an opened model: which container it is.

use std::path::Path;
use std::sync::Arc;

use crate::archive::{Archive, TensorSummary, summaries};
use crate::mapped::Mapped;
use crate::table::Table;
use crate::{Vocabulary, WeightsError, folder, gguf, safetensors};

/// Opens a model: a `.gguf` file, a `.safetensors` file with its configuration beside it, or a
/// folder of either.
///
/// What comes back is complete: every tensor of the architecture is there, with its shape, and
/// nothing else that would change what the model says. The files stay mapped: replace one by
/// renaming a new file over it, never by writing into it.
///
/// # Errors
/// Whatever [`WeightsError`] lists: foreign bytes are never trusted.
pub fn open(path: &Path) -> Result<Arc<dyn Archive>, WeightsError> {
    let opened = if path.is_dir() {
        folder::open(path)?
    } else {
        let file = Mapped::open(path)?;
        if gguf::is_gguf(&file.bytes) {
            gguf::open(file)?
        } else if safetensors::is_safetensors(&file.path) {
            folder::open_file(file)?
        } else {
            let found = "it does not begin with GGUF, nor is it named .safetensors".into();
            return Err(WeightsError::Unrecognised { path: path.to_owned(), found });
        }
    };
    Ok(Arc::new(opened))
}

/// Opens a GGUF file that the program carries. `name` stands for its path in errors.
///
/// # Errors
/// As [`open`].
pub fn open_embedded(name: &str, bytes: &'static [u8]) -> Result<Arc<dyn Archive>, WeightsError> {
    Ok(Arc::new(gguf::open(Mapped::embedded(name, bytes))?))
}

/// The table of contents of one `.safetensors` file, which needs no configuration beside it.
///
/// # Errors
/// As [`open`], for the file's header.
pub fn safetensors_contents(path: &Path) -> Result<Vec<TensorSummary>, WeightsError> {
    let mut table = Table::default();
    safetensors::read(&Mapped::open(path)?, 0, &mut table)?;
    Ok(summaries(&table))
}

/// The vocabulary of a GGUF file, which may hold nothing else.
///
/// # Errors
/// As [`open`], for the file's header and its vocabulary; `Unrecognised` for another container.
pub fn gguf_vocabulary(path: &Path) -> Result<Option<Vocabulary>, WeightsError> {
    let file = Mapped::open(path)?;
    if gguf::is_gguf(&file.bytes) {
        return gguf::vocabulary(&file);
    }
    let found = "it does not begin with GGUF".into();
    Err(WeightsError::Unrecognised { path: path.to_owned(), found })
}
