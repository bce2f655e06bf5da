//! What goes wrong with a network's files, and when it runs.

use std::path::PathBuf;

/// A network cannot be had, or gave no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OnnxError {
    /// A file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file is larger than what is read of its kind.
    #[error("{} has {bytes} bytes; at most {bytes_max} are read", path.display())]
    TooLarge {
        /// Which file.
        path: PathBuf,
        /// Its size.
        bytes: u64,
        /// The limit.
        bytes_max: u64,
    },
    /// A file is not what it should be, or holds what this build does not run.
    #[error("{}: {message}", path.display())]
    Malformed {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        message: String,
    },
    /// The network is sound, but not one for what it is to do.
    #[error("{}: {message}", path.display())]
    Unfit {
        /// Which file.
        path: PathBuf,
        /// What it should have, and what it has.
        message: String,
    },
    /// A text is longer than what is read of one.
    #[error("the text is too long: about {tokens_max} tokens are read at most")]
    TooLong {
        /// The limit, about.
        tokens_max: u32,
    },
    /// It did not run.
    #[error("the network failed: {message}")]
    Run {
        /// What happened.
        message: String,
    },
}
