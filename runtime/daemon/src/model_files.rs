//! Where a model comes from: a path, or the program itself.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use text::Tokenizer;
use weights::{Archive, Mix, ModelShape, WeightsError};

use crate::error::AssembleError;

/// The model that the program carries, so that a first run needs nothing: it turns sentences in five
/// languages into calls of the tools it is given. `models/README.md` is its card.
const EMBEDDED: &[u8] = include_bytes!("../models/zonda.gguf");
const EMBEDDED_NAME: &str = "zonda";

/// A model's files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ModelFiles {
    /// A file or folder.
    Path(PathBuf),
    /// What the program carries.
    Embedded,
    /// Random weights of true sizes, to measure a box with.
    Synthetic(ModelShape, Mix),
}

impl ModelFiles {
    /// Maps and checks them; computes nothing.
    pub(crate) fn open(&self) -> Result<Arc<dyn Archive>, WeightsError> {
        match self {
            Self::Path(path) => weights::open(path),
            Self::Embedded => weights::open_embedded(EMBEDDED_NAME, EMBEDDED),
            Self::Synthetic(shape, mix) => Ok(Arc::new(weights::synthetic(*shape, *mix))),
        }
    }

    /// The tokenizer beside or inside them.
    pub(crate) fn tokenizer(&self, archive: &dyn Archive) -> Result<Tokenizer, AssembleError> {
        match (archive.tokenizer_path(), archive.vocabulary()) {
            (Some(file), _) => Ok(Tokenizer::from_file(file)?),
            (None, Some(vocabulary)) => Ok(Tokenizer::from_vocabulary(vocabulary)?),
            (None, None) => Err(AssembleError::NoTokenizer { path: self.path().to_owned() }),
        }
    }

    /// The file that the program carries.
    pub(crate) fn embedded() -> &'static [u8] {
        EMBEDDED
    }

    /// The path as people know it.
    pub(crate) fn path(&self) -> &Path {
        match self {
            Self::Path(path) => path,
            Self::Embedded => Path::new(EMBEDDED_NAME),
            Self::Synthetic(shape, _) => Path::new(shape.name()),
        }
    }

    /// The file's or folder's own name, without what tells its container: what a person typed is
    /// what they know.
    pub(crate) fn name(&self) -> Option<String> {
        let path = self.path();
        let file = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        let own = if file.is_dir() { file.file_name() } else { file.file_stem() };
        own.map(|name| name.to_string_lossy().into_owned())
    }
}

impl From<Option<PathBuf>> for ModelFiles {
    fn from(path: Option<PathBuf>) -> Self {
        path.map_or(Self::Embedded, Self::Path)
    }
}
