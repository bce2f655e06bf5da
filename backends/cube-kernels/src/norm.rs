//! The norm before a matrix.

use cubecl::client::Client;
use cubecl::prelude::*;

use crate::UNITS;

/// Scales each token's vector to a mean square of one, then by `gain`.
///
/// Shapes: `x`, `out: [tokens, width]`, `gain: [width]`.
/// Panics: when lengths do not match.
/// Source: Zhang and Sennrich 2019, arXiv:1910.07467, eq. 4.
pub fn rms_norm(client: &Client, x: BufferArg, gain: BufferArg, epsilon: f32, out: BufferArg) {
    let (width, length) = (gain.len(), x.len());
    assert!(width > 0 && length.is_multiple_of(width), "{length} numbers are not rows of {width}");
    assert_eq!(out.len(), length, "a number for each");
    let tokens = length / width;
    let count = CubeCount::Static(tokens as u32, 1, 1);
    // SAFETY: rows are whole, so that what is read and written is within the three buffers.
    unsafe {
        norm_kernel::launch_unchecked(
            client,
            count,
            CubeDim::new_1d(UNITS as u32),
            x,
            gain,
            out,
            width,
            epsilon,
        );
    }
}

/// One work-group for each token.
#[cube(launch_unchecked)]
fn norm_kernel(x: &[f32], gain: &[f32], out: &mut [f32], width: usize, epsilon: f32) {
    let first = CUBE_POS_X as usize * width;
    let factor = norm_factor(x, first, width, epsilon);
    for at in range_stepped(UNIT_POS as usize, width, UNITS) {
        out[first + at] = x[first + at] * factor * gain[at];
    }
}

/// What a vector's numbers are multiplied with so that their mean square is one. Each of the
/// work-group's units gets it.
#[cube]
pub(crate) fn norm_factor(x: &[f32], first: usize, width: usize, epsilon: f32) -> f32 {
    let unit = UNIT_POS as usize;
    let mut sum = 0.0f32;
    for at in range_stepped(unit, width, UNITS) {
        let value = x[first + at];
        sum += value * value;
    }
    let mut sums = Shared::<[f32]>::new_slice(UNITS);
    sums[unit] = sum;
    sync_cube();
    #[unroll]
    for step in 0..8usize {
        let half = comptime!(UNITS >> (step + 1));
        if unit < half {
            let other = sums[unit + half];
            sums[unit] += other;
        }
        sync_cube();
    }
    1.0f32 / (sums[0] / f32::cast_from(width as u32) + epsilon).sqrt()
}
