//! Tokens to logits: the one Mistral definition over Burn tensors.
//!
//! [`Network::load`] builds the model from an opened archive and gives what the engine drives
//! through [`engine::Forward`]. The room hides the tensor library from everyone above it, and from
//! itself where weights lie and which kernels read them. What a step needs goes up to its devices
//! before the first operation, what the engine wants comes down after the last one, and nothing in
//! between waits, but where the blocks of one device end and those of another begin.
#![forbid(unsafe_code)]

mod embedding;
mod fit;
mod forward;
mod identity;
mod learner;
mod load;
mod memory;
mod mistral;
mod placement;
mod pool;
mod prepare;
mod upload;

pub use forward::Network;
pub use fused_ops::{
    AvailableDevice, BackendChoice, DeviceError, KvEncoding, OpenDevice, Wanted,
    available as available_devices, copy_bandwidth, int8_peak, log_likelihoods,
    open as open_device, use_threads,
};
#[cfg(feature = "learn")]
pub use fused_ops::{Precision, set_precision};
pub use learner::{Learner, PlainWeights};
pub use load::{CacheLimits, LoadError};
pub use memory::{Footprint, available_bytes};
pub use placement::Placement;
pub use prepare::prepare;
