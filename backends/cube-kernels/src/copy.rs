//! What the memory of a device gives, to measure kernels against.

use cubecl::client::Client;
use cubecl::prelude::*;

use crate::UNITS;

/// Words that a unit copies.
const WORDS: usize = 16;

/// Copies words, all of them at the pace of the memory.
///
/// Panics: when the buffers differ in length, or it is not whole work-groups of 4096 words.
pub fn copy(client: &Client, from: BufferArg, to: BufferArg) {
    let words = from.len();
    assert_eq!(words, to.len(), "buffers of one length");
    assert!(words.is_multiple_of(UNITS * WORDS), "{words} words are not whole work-groups");
    let groups = words / (UNITS * WORDS);
    let (wide, high) = (groups.min(32768), groups.div_ceil(32768));
    // SAFETY: units beyond the last word do nothing.
    unsafe {
        copy_kernel::launch_unchecked(
            client,
            CubeCount::Static(wide as u32, high as u32, 1),
            CubeDim::new_1d(UNITS as u32),
            from,
            to,
            words,
        );
    }
}

#[cube(launch_unchecked)]
fn copy_kernel(from: &[u32], to: &mut [u32], words: usize) {
    let group = CUBE_POS_Y as usize * CUBE_COUNT_X as usize + CUBE_POS_X as usize;
    let first = group * comptime!(UNITS * WORDS) + UNIT_POS as usize;
    if first < words {
        #[unroll]
        for turn in 0..WORDS {
            to[first + turn * UNITS] = from[first + turn * UNITS];
        }
    }
}
