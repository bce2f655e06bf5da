//! Functions over slices for the CPU backends, without Burn and without I/O.
//!
//! A kernel here reads weights as the file holds them, through [`weights::Encoding`], and
//! activations as plain `f32` slices. It hides how work is cut for caches and threads; what it
//! computes is defined elsewhere, by the scalar unpack of the encoding.

mod linear;

pub use linear::{PackedMatrix, linear};

/// Sets how many threads compute, in this crate and in everything else that shares its pool;
/// 0 takes all cores.
///
/// Only the first call of a process counts: a pool that works cannot be resized.
pub fn use_threads(threads: u32) {
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(threads as usize)
        .thread_name(|index| format!("compute-{index}"));
    // A pool that stands already was set by an earlier call, or has all cores.
    let _first = pool.build_global();
}
