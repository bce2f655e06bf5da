//! The seam between the model and the backends: fused tensor operations and device selection.
//!
//! The model calls the functions of this crate and sees no backend. What a backend computes by a
//! kernel of ours stands in the trait [`FusedOps`]; what every backend computes well enough from
//! Burn's own operations stands in [`reference`](mod@reference), which is also the specification
//! that kernels are tested against. Only here may a build feature be asked for.
#![forbid(unsafe_code)]

mod api;
mod device;
#[cfg(feature = "flex")]
mod flex;
#[cfg(feature = "ndarray")]
mod ndarray;
mod ops;
pub mod reference;

pub use api::{
    AttentionOptions, PageMap, PageSpan, packed_linear, paged_attention, rms_norm, rope,
    rope_table, store_kv,
};
pub use cpu_kernels::use_threads;
pub use device::{AvailableDevice, BackendChoice, DeviceError, OpenDevice, available, open};
pub use ops::{FusedOps, PackedLayout};
