//! Kernels for GPUs: one source for Vulkan, Metal and CUDA, over buffers.
//!
//! Weights lie in the panels that the CPU's kernels read, byte for byte, as words of 32 bits: the
//! same prepared file serves every device. No tensor library is known here, and every device gets
//! kernels that need no more of it than WebGPU promises: 256 units in a work-group, 16 KiB that they
//! share, buffers of 32-bit words, nothing between the units of a plane, which some drivers do not
//! have. Prompts are multiplied by the matrix units of a device that has them.
//!
//! Launches do not wait. Every size is compared with its buffer before a launch.
#![deny(unsafe_op_in_unsafe_fn)]
#![allow(
    clippy::manual_is_multiple_of,
    clippy::collapsible_if,
    reason = "kernels are not Rust: not every method is there, and a condition of the build stands alone"
)]

mod activations;
mod argmax;
pub mod attention;
mod blocks;
mod cooperative;
mod copy;
#[cfg(feature = "cuda")]
mod cuda;
mod floats;
mod halves;
pub mod kv;
mod likeliest;
mod matrix;
mod norm;
mod tiles;
mod vectors;
mod words;

pub use activations::{quantize, scale_count, word_count};
pub use argmax::argmax;
pub use cooperative::{matrix_units_refused, refuse_matrix_units};
pub use copy::copy;
pub use cubecl::prelude::BufferArg;
#[cfg(feature = "cuda")]
pub use cuda::check_cuda;
pub use likeliest::{LIKELIEST_MAX, LIKELIEST_WORDS, WEIGHING_NUMBERS, likeliest};
pub use matrix::{Matrix, Outcome, Shape, linear, linear_floats, reads_floats};
pub use norm::rms_norm;

/// Units of every work-group.
pub(crate) const UNITS: usize = 256;
