//! The C ABI for plugins of others and the process that hosts them.
//!
//! `include/zonda_plugin.h` is what an author needs, [`abi`] the same in Rust. A plugin runs in a
//! process of its own ([`host`]), which the daemon starts, limits, watches and replaces; a plugin
//! that goes on failing is quarantined until a person enables it again. What a plugin does appears
//! to the daemon as a `protocol::Tool`, a `protocol::Filter` or a `protocol::Observer`.

#[cfg(not(unix))]
compile_error!("plugins are hosted over Unix sockets");

pub mod abi;
mod child;
mod confine;
mod filter;
mod host;
mod journal;
mod limiter;
mod limits;
mod loaded;
mod manifest;
mod observer;
mod offers;
mod plugin;
mod restarts;
mod state;
mod supervisor;
mod tool;
mod wire;

pub use child::HostProgram;
pub use host::{HostError, host};
pub use manifest::{Fail, Found, Kind, Manifest, ManifestError, is_id, scan};
pub use plugin::{Plugin, Surroundings};
pub use state::{Quarantine, Remembered, StateFolder};
