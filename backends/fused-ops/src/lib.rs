//! The seam between the model and the backends: fused tensor operations and device selection.
//!
//! The model calls the functions of this crate and sees no backend. What a backend computes by a
//! kernel of ours stands in the trait [`FusedOps`]; [`reference`](mod@reference) is the
//! specification in Burn's own operations. Only here may a build feature be asked for.
#![forbid(unsafe_code)]

mod api;
mod bandwidth;
mod cache;
#[cfg(any(feature = "flex", feature = "ndarray"))]
mod cpu;
#[cfg(feature = "cube")]
mod cube;
mod device;
#[cfg(feature = "flex")]
mod flex;
#[cfg(feature = "learn")]
mod learned;
mod likeliest;
#[cfg(feature = "ndarray")]
mod ndarray;
mod ops;
pub mod reference;
mod weight;

pub use api::{
    AttentionOptions, Norm, PageMap, PageSpan, argmax, linear_add, log_likelihoods, norm_gated,
    norm_linear, rope_table,
};
pub use bandwidth::copy_bandwidth;
pub use cache::{Heads, KvPool, LayerCache, Rotation};
pub use cpu_kernels::learn::Wanted;
#[cfg(feature = "learn")]
pub use cpu_kernels::learn::{Precision, set_precision};
pub use cpu_kernels::{
    KvEncoding, KvLayout, TILE_TOKENS, int8_peak, pack, panel_bytes, panel_count, use_threads,
};
pub use device::{AvailableDevice, BackendChoice, DeviceError, OpenDevice, available, open};
#[cfg(feature = "learn")]
pub use learned::{LearnedOps, StepHeads};
pub use likeliest::{LIKELIEST_WORDS, Likeliest, Weighing, likeliest};
pub use ops::{FusedOps, HeadLayout, Products};
pub use weight::{PackedLayout, STACK_MAX, Stack, Weight, WeightError};
