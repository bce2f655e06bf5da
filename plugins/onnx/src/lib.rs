//! Small networks in ONNX beside the model: embeddings, classifiers, detectors.
//!
//! What it hides: tract, which reads and runs ONNX; the `tokenizers` crate; and how a network that
//! takes texts of any length, of one length or of a few is run. A file is foreign: its size has a
//! limit, what it says of its own tensors is compared with the bytes that it brings, it may refer to
//! no other file, and a panic of the reader is an error like any other.
//!
//! Texts go through one at a time. Nothing is padded where the network takes any length, a long text
//! delays a short one by one run at most, and the same text always has the same numbers, whatever it
//! was sent with. [`Workers`] bounds the threads that compute.
#![forbid(unsafe_code)]

mod classifier;
mod detector;
mod embedder;
mod error;
mod files;
mod graph;
mod plans;
mod stream;
mod text_network;
mod words;
mod workers;

pub use classifier::{Judged, Scoring, TextClassifier, TextClassifierConfig};
pub use detector::{Detector, DetectorConfig, WINDOW_MAX, WINDOW_MIN};
pub use embedder::{Embedded, Embedder, EmbedderConfig, Pooling};
pub use error::OnnxError;
pub use files::{NETWORK_BYTES_MAX, TOKENIZER_BYTES_MAX};
pub use stream::{Alarm, AlarmRule, Pace, Standing, Window, read_number};
pub use text_network::{TOKENS_MAX, TOKENS_MIN, TextConfig};
pub use workers::{WorkError, Workers};
