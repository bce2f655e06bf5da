//! Why the program cannot do what it was told.

use std::path::PathBuf;

use firmware_config::ProfileError;
use model::LoadError;
use protocol::TransportError;
use text::TextError;
use tools::mcp::McpError;
use weights::WeightsError;

/// The program cannot do what it was told.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AssembleError {
    /// The configuration is wrong.
    #[error("configuration: {0}")]
    Profile(#[from] ProfileError),
    /// A value of the configuration makes no sense together with the model.
    #[error("configuration: {message}")]
    Configuration {
        /// What, and what to do.
        message: String,
    },
    /// The backend cannot be had.
    #[error(transparent)]
    Device(#[from] model::DeviceError),
    /// The model's files are not right.
    #[error("model: {0}")]
    Weights(#[from] WeightsError),
    /// The tokenizer is not right.
    #[error("tokenizer: {0}")]
    Text(#[from] TextError),
    /// Weights and cache do not fit, or the device refused them.
    #[error("model: {0}")]
    Load(#[from] LoadError),
    /// Weights and cache are more than the profile grants.
    #[error("memory: {message}")]
    Memory {
        /// The numbers, and what to do.
        message: String,
    },
    /// Nothing beside or in the model says how text becomes tokens.
    #[error(
        "model {} has no tokenizer: put tokenizer.model, tekken.json or tokenizer.json beside the weights",
        path.display()
    )]
    NoTokenizer {
        /// The model.
        path: PathBuf,
    },
    /// The tools of other programs cannot be had.
    #[error("tools: {0}")]
    Mcp(#[from] McpError),
    /// The engine cannot start.
    #[error("engine: {0}")]
    Engine(#[from] engine::EngineError),
    /// A transport cannot start or broke.
    #[error("{0}")]
    Transport(#[from] TransportError),
    /// What was given to read is not what was asked for.
    #[error("{message}")]
    Input {
        /// What, and what to do.
        message: String,
    },
    /// A request failed.
    #[error("{0}")]
    Fault(#[from] protocol::Fault),
    /// Reading or writing failed.
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

/// Kinds of [`AssembleError`], for exit codes and status numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AssembleKind {
    /// The configuration is wrong.
    Configuration,
    /// The backend cannot be had.
    Device,
    /// The model, its tokenizer or the input is not right.
    Model,
    /// It does not fit into memory.
    Memory,
    /// Anything else.
    Other,
}

impl AssembleError {
    /// What kind of failure.
    pub fn kind(&self) -> AssembleKind {
        match self {
            Self::Profile(_)
            | Self::Configuration { .. }
            | Self::Mcp(McpError::Approvals { .. })
            | Self::Transport(TransportError::Configuration { .. }) => AssembleKind::Configuration,
            Self::Device(_) => AssembleKind::Device,
            Self::Memory { .. } => AssembleKind::Memory,
            Self::Load(error) if error.is_out_of_memory() => AssembleKind::Memory,
            Self::Weights(_)
            | Self::Text(_)
            | Self::Load(_)
            | Self::NoTokenizer { .. }
            | Self::Input { .. } => AssembleKind::Model,
            _ => AssembleKind::Other,
        }
    }
}
