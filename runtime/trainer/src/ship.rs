//! `trainer ship`: the trained weights as the file that the program carries.

use std::path::Path;

use anyhow::{Context as _, Result};
use weights::{Encoding, NewTensor, TensorName, write_gguf};

use crate::checkpoint::Folder;

/// Writes matrices as Q8_0, gains as F32.
pub(crate) fn ship(folder: &Folder, file: &Path) -> Result<()> {
    let vocabulary = folder.vocabulary()?;
    let hyper = {
        let mut hyper = weights::open(folder.path())?.hyper().clone();
        hyper.name = Some("zonda".into());
        hyper.license = Some("MIT OR Apache-2.0".into());
        hyper
    };
    let values = folder.values(&hyper)?;
    let (matrices, gains) = crate::parameters::names(&hyper);
    let tensor = |name: TensorName, encoding| -> Result<NewTensor<'_>> {
        let values = values.get(&name).with_context(|| format!("{name:?} is not there"))?;
        Ok(NewTensor { name, encoding, values })
    };
    let tensors = matrices
        .into_iter()
        .map(|name| tensor(name, Encoding::Q8_0))
        .chain(gains.into_iter().map(|name| tensor(name, Encoding::F32)))
        .collect::<Result<Vec<_>>>()?;
    let bytes = write_gguf(file, &hyper, &vocabulary, &tensors)?;
    println!("{}: {:.2} MB", file.display(), bytes as f64 / 1e6);
    Ok(())
}
