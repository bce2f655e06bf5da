//! The door of the room: an opened model.

use std::path::{Path, PathBuf};

use bytes::Bytes;

use crate::mapped::Mapped;
use crate::table::{Place, Table};
use crate::{Encoding, Hyper, TensorName, Vocabulary, WeightsError};

/// The layout a model's files follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Container {
    /// One GGUF file.
    Gguf,
    /// Hugging Face safetensors with `config.json`.
    HuggingFace,
    /// Mistral's own safetensors with `params.json`.
    Mistral,
}

impl Container {
    /// A name to show.
    pub fn name(self) -> &'static str {
        match self {
            Self::Gguf => "gguf",
            Self::HuggingFace => "hugging-face",
            Self::Mistral => "mistral",
        }
    }
}

/// How the rows of a tensor lie in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TensorLayout {
    /// One row behind the other.
    Rows,
    /// Panels of 16 rows, whose bytes are interleaved as the kernels for the CPU read them.
    ///
    /// This room states only the size: the rows are filled up to a multiple of 16.
    Panels,
}

/// A tensor as it lies in the file.
#[derive(Debug, Clone)]
pub struct RawTensor {
    /// `[rows (out), columns (in)]`, or `[length]`; row-major in every container.
    pub shape: Vec<usize>,
    /// How its values are packed; blocks never cross a row.
    pub encoding: Encoding,
    /// How its rows lie; [`TensorLayout::Rows`] but for the matrices of a prepared file.
    pub layout: TensorLayout,
    /// A view into the mapped file: no copy, and the mapping lives as long as the view.
    pub bytes: Bytes,
}

impl RawTensor {
    /// Its values, unpacked: one allocation of the tensor's own size.
    ///
    /// # Errors
    /// `UnpackLength` if shape and bytes do not belong together; `InPanels` if it lies in panels.
    pub fn to_f32(&self) -> Result<Vec<f32>, WeightsError> {
        if self.layout == TensorLayout::Panels {
            return Err(WeightsError::InPanels { encoding: self.encoding.name() });
        }
        // Blocks that the bytes hold, so that a forged shape allocates nothing.
        let blocks = self.bytes.len() / self.encoding.block_bytes();
        let mut values = vec![0.0; blocks * self.encoding.block_values()];
        self.encoding.unpack(&self.bytes, &mut values)?;
        Ok(values)
    }
}

/// A line of the table of contents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorSummary {
    /// The container's spelling.
    pub name: String,
    /// As in [`RawTensor::shape`].
    pub shape: Vec<usize>,
    /// How its values are packed.
    pub encoding: Encoding,
    /// Bytes in the file.
    pub bytes: u64,
}

/// An opened model: checked, mapped, immutable, shared.
pub trait Archive: Send + Sync {
    /// The architecture.
    fn hyper(&self) -> &Hyper;
    /// One tensor, with the shape that the hyper-parameters ask for.
    ///
    /// `Output` of a model with tied embeddings is its `Embedding`.
    ///
    /// # Errors
    /// `MissingTensor` in the container's spelling; `WrongShape` with both shapes.
    fn tensor(&self, name: TensorName) -> Result<RawTensor, WeightsError>;
    /// Says that a tensor will not be read soon: its part of the files need not stay in the memory
    /// of the program. What reads it later reads the file again.
    fn release(&self, name: TensorName);
    /// The vocabulary, where the file carries one (GGUF).
    fn vocabulary(&self) -> Option<&Vocabulary>;
    /// The tokenizer file that lies beside the weights, where one does.
    fn tokenizer_path(&self) -> Option<&Path>;
    /// The layout the files follow.
    fn container(&self) -> Container;
    /// Everything in the files, by name.
    fn tensors(&self) -> Vec<TensorSummary>;
    /// Bytes of all weight files.
    fn file_bytes(&self) -> u64;
    /// When the youngest weight file was last changed, in seconds since 1970; 0 if unknown.
    fn modified_unix(&self) -> u64;
}

pub(crate) fn summaries(table: &Table) -> Vec<TensorSummary> {
    let summary = |(name, place): (&str, &Place)| TensorSummary {
        name: name.to_owned(),
        shape: place.shape.clone(),
        encoding: place.encoding,
        bytes: place.range.len() as u64,
    };
    table.iter().map(summary).collect()
}

/// The one kind of archive: every container comes down to files and a table.
pub(crate) struct Opened {
    path: PathBuf,
    container: Container,
    hyper: Hyper,
    files: Vec<Mapped>,
    table: Table,
    vocabulary: Option<Vocabulary>,
    tokenizer: Option<PathBuf>,
}

impl Opened {
    /// Takes what a container's reader found, if it is the whole architecture and no more.
    pub(crate) fn check(
        path: PathBuf,
        container: Container,
        hyper: Hyper,
        files: Vec<Mapped>,
        table: Table,
        vocabulary: Option<Vocabulary>,
    ) -> Result<Self, WeightsError> {
        let opened = Self { path, container, hyper, files, table, vocabulary, tokenizer: None };
        // The limit on layers keeps this within u16.
        let layers = opened.hyper.layers as u16;
        for name in TensorName::all_but_output(layers).chain([TensorName::Output]) {
            opened.checked_place(name)?;
        }
        for (text, _) in opened.table.iter() {
            opened.refuse_foreign(text, layers)?;
        }
        Ok(opened)
    }

    /// Names the tokenizer file beside the weights.
    pub(crate) fn with_tokenizer(mut self, tokenizer: Option<PathBuf>) -> Self {
        self.tokenizer = tokenizer;
        self
    }

    /// A tensor that the architecture does not have means that this is another architecture.
    fn refuse_foreign(&self, text: &str, layers: u16) -> Result<(), WeightsError> {
        let known = match TensorName::from_spelling(self.container, text) {
            Some(TensorName::Block { layer, .. }) => layer < layers,
            Some(_) => true,
            // Angles that follow from the hyper-parameters, as older tools wrote them out.
            None => text.ends_with("rotary_emb.inv_freq") || text == "rope.freqs",
        };
        if known {
            return Ok(());
        }
        Err(WeightsError::Unsupported {
            path: self.path.clone(),
            what: format!("tensor `{text}`, which a dense model of {layers} layers does not have,"),
            advice: "Use a dense text model of the Mistral family.".into(),
        })
    }

    fn checked_place(&self, name: TensorName) -> Result<&Place, WeightsError> {
        let stored = match name {
            TensorName::Output if self.hyper.tied_embeddings => TensorName::Embedding,
            name => name,
        };
        let tensor = stored.spelled(self.container);
        let Some(place) = self.table.place(&tensor) else {
            return Err(WeightsError::MissingTensor { path: self.path.clone(), tensor });
        };
        let expected = self.hyper.shape_of(stored);
        if place.shape != expected {
            let (path, found) = (self.path.clone(), place.shape.clone());
            return Err(WeightsError::WrongShape { path, tensor, found, expected });
        }
        Ok(place)
    }
}

impl Archive for Opened {
    fn hyper(&self) -> &Hyper {
        &self.hyper
    }

    fn tensor(&self, name: TensorName) -> Result<RawTensor, WeightsError> {
        let place = self.checked_place(name)?;
        Ok(RawTensor {
            shape: place.shape.clone(),
            encoding: place.encoding,
            layout: place.layout,
            bytes: self.files[place.file].bytes.slice(place.range.clone()),
        })
    }

    fn release(&self, name: TensorName) {
        if let Ok(place) = self.checked_place(name) {
            self.files[place.file].release(place.range.clone());
        }
    }

    fn vocabulary(&self) -> Option<&Vocabulary> {
        self.vocabulary.as_ref()
    }

    fn tokenizer_path(&self) -> Option<&Path> {
        self.tokenizer.as_deref()
    }

    fn container(&self) -> Container {
        self.container
    }

    fn tensors(&self) -> Vec<TensorSummary> {
        summaries(&self.table)
    }

    fn file_bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes.len() as u64).sum()
    }

    fn modified_unix(&self) -> u64 {
        self.files.iter().map(|file| file.modified_unix).max().unwrap_or(0)
    }
}
