//! What this device is: typed, layered configuration and device profiles.
//!
//! Settings come in layers, later ones over earlier ones: defaults, the device's profile,
//! `/usr/lib/zonda/zonda.toml`, `/etc/zonda/zonda.toml`, `conf.d/*.toml` beside it, environment
//! variables `ZONDA__SECTION__KEY`, flags. [`Profile::load`] reads them all and gives back either a
//! whole [`Profile`] or every [`Problem`] at once, each with the place that it stands at.
//!
//! The room hides the file format: nobody outside knows that the files are TOML. There is no
//! separate table of keys: a key exists because `read.rs` asks for it, with its default and its
//! range, so the list of known keys cannot drift from what is read.
#![forbid(unsafe_code)]

mod amount;
mod classifiers;
mod clients;
mod detectors;
mod device;
mod hardware;
mod layer;
mod mcp_servers;
mod nearest;
mod onnx;
mod origin;
mod plugins;
mod profile;
mod read;
mod reader;
mod router;
mod secret;
mod sources;

pub use classifiers::{ClassifierConfig, TargetConfig};
pub use clients::{ClientConfig, ClientLimits};
pub use detectors::DetectorConfig;
pub use device::{Expect, HardwareFacts, Match, ModelFacts, ProfileFile, detect, profiles};
pub use hardware::Hardware;
pub use mcp_servers::{McpApproval, McpServerConfig, McpToolConfig};
pub use onnx::{OnnxCategory, OnnxConfig, OnnxPooling, OnnxRole, OnnxScores};
pub use origin::{Origin, Problem, ProfileError};
pub use plugins::{PluginSettings, PluginsSection};
pub use profile::{
    AliasConfig, DeviceConfig, EngineConfig, FilterConfig, HttpSection, KvDtype, LogSection,
    LostDevice, MemoryConfig, ModelConfig, MqttSection, MqttVersion, PrefixSharing, Profile,
    Strictness, TlsFiles, ToolsSection,
};
pub use router::{RouteAction, RouteConfig, RouterConfig};
pub use secret::Secret;
pub use sources::{Loaded, Override, Setting, Sources};
