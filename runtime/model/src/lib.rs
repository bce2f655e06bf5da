//! Tokens to logits: the one Mistral definition over Burn tensors.
//!
//! [`Network::load`] builds the model from an opened archive and gives what the engine drives
//! through [`engine::Forward`]. The room hides the tensor library from everyone above it, and from
//! itself where weights lie: on the CPU a matrix stays the mapped bytes of its file, elsewhere it
//! is unpacked once. What a step needs goes up to the device before the first operation, what the
//! engine wants comes down after the last one, and nothing in between waits.
#![forbid(unsafe_code)]

mod embedding;
mod forward;
mod linear;
mod load;
mod memory;
mod mistral;
mod pool;
mod upload;

pub use forward::Network;
pub use fused_ops::{
    AvailableDevice, BackendChoice, DeviceError, OpenDevice, available as available_devices,
    open as open_device, use_threads,
};
pub use load::{CacheLimits, LoadError};
pub use memory::{Footprint, available_bytes};
