//! Functions over slices for the CPU backends, without Burn and without I/O.
//!
//! A kernel reads weights as panels of 16 rows, which hold the very bytes of the file
//! ([`pack`]), and activations as plain `f32` slices. It hides how work is cut for caches, vectors
//! and threads; what it computes is defined elsewhere, by the scalar unpack of the encoding.

mod activations;
mod attention;
mod encodings;
mod kernels;
mod kv;
pub mod learn;
mod limits;
mod linear;
mod memory;
mod norm;
mod panels;
mod simd;
mod threads;
#[cfg(target_arch = "x86_64")]
mod tiles;

pub use activations::WIDEST as TILE_TOKENS;
pub use attention::{Attention, PageMap, Span, attend};
pub use kv::{KvEncoding, KvLayout, Rotation, store};
pub use limits::int8_peak;
pub use linear::{Outcome, PackedMatrix, linear};
pub use memory::{PanelMemory, prefer_large_pages};
pub use norm::rms_norm;
pub use panels::{pack, panel_bytes, panel_count};
pub use simd::Isa;
pub use threads::{count as thread_count, use_threads};
