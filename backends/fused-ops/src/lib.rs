//! The seam between the model and the backends: fused tensor operations and device selection.
//!
//! The model calls the functions of this crate and sees no backend. What a backend computes by a
//! kernel of ours stands in the trait [`FusedOps`]; what every backend computes well enough from
//! Burn's own operations stands in [`reference`](mod@reference), which is also the specification
//! that kernels are tested against. Only here may a build feature be asked for.
#![forbid(unsafe_code)]

mod api;
mod cache;
#[cfg(any(feature = "flex", feature = "ndarray"))]
mod cpu;
mod device;
#[cfg(feature = "flex")]
mod flex;
#[cfg(feature = "ndarray")]
mod ndarray;
mod ops;
pub mod reference;
mod weight;

pub use api::{
    AttentionOptions, Norm, PageMap, PageSpan, linear_add, norm_gated, norm_linear,
    paged_attention, rms_norm, rope, rope_table, store_kv,
};
pub use cache::{Heads, KvPool, Rotation};
pub use cpu_kernels::{
    KvEncoding, KvLayout, TILE_TOKENS, int8_peak, pack, panel_bytes, panel_count, use_threads,
};
pub use device::{AvailableDevice, BackendChoice, DeviceError, OpenDevice, available, open};
pub use ops::{FusedOps, HeadLayout, Products};
pub use weight::{PackedLayout, STACK_MAX, Stack, Weight, WeightError};
