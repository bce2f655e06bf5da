//! What can be wrong with a tokenizer or a request, in words for whoever has to mend it.

use std::path::PathBuf;

use protocol::{Fault, FaultCode};

use crate::TemplateVersion;

/// Strings and tokens do not come together.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TextError {
    /// A tokenizer file cannot be read.
    #[error("cannot read tokenizer {path}: {source}")]
    Unreadable {
        /// As given.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A tokenizer is larger than any that makes sense.
    #[error("tokenizer {path} has {bytes} bytes, the limit is {bytes_max}")]
    TooLarge {
        /// As given.
        path: PathBuf,
        /// What the file system says.
        bytes: u64,
        /// What is allowed.
        bytes_max: u64,
    },
    /// A tokenizer file or a vocabulary contradicts itself.
    #[error("malformed {container}: {message}")]
    Malformed {
        /// The kind of file.
        container: &'static str,
        /// What is wrong, and where.
        message: String,
    },
    /// A tokenizer needs something that this build does not do.
    #[error("{container} needs {feature}, which is not supported")]
    Tokenizer {
        /// The kind of file.
        container: &'static str,
        /// What it needs.
        feature: String,
    },
    /// The vocabulary lacks a control token of the prompt encoding.
    #[error(
        "prompt encoding {version} needs the control token {token}, which this vocabulary lacks; \
         choose an earlier encoding or another tokenizer"
    )]
    MissingControl {
        /// The encoding asked for.
        version: TemplateVersion,
        /// The spelling of the token.
        token: &'static str,
    },
    /// The request breaks a rule of the conversation.
    #[error("{message}")]
    Rule {
        /// The field at fault.
        param: String,
        /// Which rule, and what to do.
        message: String,
    },
    /// The request asks for something that this build or this model does not do.
    #[error("{message}")]
    Unsupported {
        /// The field at fault.
        param: &'static str,
        /// What, and what to do.
        message: String,
    },
    /// A token of the request is not in the vocabulary.
    #[error("token {token} is not in the vocabulary of {vocabulary_size} tokens")]
    UnknownToken {
        /// The offending id.
        token: u32,
        /// Ids below this exist.
        vocabulary_size: usize,
    },
    /// A text could not be cut into tokens.
    #[error("the tokenizer could not cut the text: {message}")]
    Uncut {
        /// What the tokenizer says; never the text.
        message: String,
    },
}

impl TextError {
    pub(crate) fn rule(param: impl Into<String>, message: impl Into<String>) -> Self {
        Self::Rule { param: param.into(), message: message.into() }
    }

    pub(crate) fn malformed(container: &'static str, message: impl Into<String>) -> Self {
        Self::Malformed { container, message: message.into() }
    }
}

impl From<TextError> for Fault {
    fn from(error: TextError) -> Self {
        let message = error.to_string();
        match error {
            TextError::Rule { param, .. } => Self::bad_request(message).at(param),
            TextError::Unsupported { param, .. } => {
                Self::new(FaultCode::Unsupported, message).at(param)
            }
            TextError::MissingControl { .. } => {
                Self::new(FaultCode::Unsupported, message).at("model")
            }
            TextError::UnknownToken { .. } => Self::bad_request(message).at("tokens"),
            TextError::Unreadable { .. }
            | TextError::TooLarge { .. }
            | TextError::Malformed { .. }
            | TextError::Tokenizer { .. }
            | TextError::Uncut { .. } => Self::new(FaultCode::Internal, message),
        }
    }
}
