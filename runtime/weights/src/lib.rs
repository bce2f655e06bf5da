//! Files to named tensors and hyper-parameters, without a tensor library.
//!
//! A model comes as one GGUF file, as Hugging Face safetensors (one file or shards with an index)
//! or in Mistral's own layout (`consolidated*.safetensors` and `params.json`). [`open`] maps the
//! files, checks every number in them against the bytes that are really there, and hands out an
//! [`Archive`]: the hyper-parameters, each tensor as a view into the mapping, and the vocabulary
//! where the file carries one.
//!
//! What the room hides: how each container spells a tensor, which order its dimensions come in,
//! which pairs its rotary embedding turns, and which of its claims are known to be wrong.
//! It also writes: [`prepare`] rewrites a GGUF file so that its matrices lie as the kernels for the
//! CPU read them, and [`write_gguf`] makes a file of a model that was trained here.
//!
//! What it states once for the whole house: the byte layout of every [`Encoding`], with the
//! scalar unpack that defines it.

mod archive;
mod config;
mod encoding;
mod error;
mod folder;
mod gguf;
mod hyper;
mod json;
mod mapped;
mod names;
mod open;
mod safetensors;
mod synthetic;
mod table;
mod vocabulary;

pub use archive::{Archive, Container, RawTensor, TensorLayout, TensorSummary};
pub use encoding::Encoding;
pub use error::WeightsError;
pub use gguf::{NewTensor, PackRows, prepare, write_gguf};
pub use hyper::{Hyper, RopePairing};
pub use names::{Part, TensorName};
pub use open::{gguf_vocabulary, open, open_embedded, safetensors_contents};
pub use synthetic::{Mix, ModelShape, synthetic};
pub use vocabulary::{TokenKind, Vocabulary};
