//! Activations as whole numbers of 8 bits, for weights that are whole numbers themselves.

use cubecl::client::Client;
use cubecl::prelude::*;

use crate::UNITS;
use crate::norm::norm_factor;

/// Columns that share a scale.
pub(crate) const GROUP: usize = 32;
/// Numbers that a group of columns has beside its integers: the scale, and the sums of both halves.
pub(crate) const SCALES: usize = 3;
/// Words of four columns that a group has.
const WORDS: usize = GROUP / 4;

/// Words that the integers of so many tokens take.
pub fn word_count(tokens: usize, cols: usize) -> usize {
    tokens * cols / 4
}

/// Floats that their scales and sums take.
pub fn scale_count(tokens: usize, cols: usize) -> usize {
    tokens * (cols / GROUP) * SCALES
}

/// Rounds each 32 columns of a token to 8 bits with one scale, behind a norm if there is an epsilon.
///
/// Shapes: `x: [tokens, cols]`, `gain: [cols]`, of any length where it is not read, `words`: [`word_count`] of type u32, `scales`:
/// [`scale_count`].
/// Panics: when `cols` is not a multiple of 32, or lengths do not match.
pub fn quantize(
    client: &Client,
    x: BufferArg,
    (gain, epsilon): (BufferArg, Option<f32>),
    cols: usize,
    words: BufferArg,
    scales: BufferArg,
) {
    assert!(cols > 0 && cols.is_multiple_of(GROUP), "{cols} columns are not groups of {GROUP}");
    assert!(x.len().is_multiple_of(cols), "{} numbers are not rows of {cols}", x.len());
    let tokens = x.len() / cols;
    assert_eq!(words.len(), word_count(tokens, cols), "words of the activations");
    assert_eq!(scales.len(), scale_count(tokens, cols), "scales of the activations");
    let passes = (cols / 4).div_ceil(UNITS);
    let shares = match epsilon {
        Some(_) => {
            assert_eq!(gain.len(), cols, "a gain for each column");
            1
        }
        None => passes as u32,
    };
    let count = CubeCount::Static(tokens as u32, shares, 1);
    // SAFETY: the four buffers have the lengths that the kernel reads and writes.
    unsafe {
        quantize_kernel::launch_unchecked(
            client,
            count,
            CubeDim::new_1d(UNITS as u32),
            x,
            gain,
            words,
            scales,
            cols,
            epsilon.unwrap_or(0.0),
            epsilon.is_some(),
        );
    }
}

/// A work-group for each token, or for a share of it; each unit takes four columns in a pass.
#[cube(launch_unchecked)]
fn quantize_kernel(
    x: &[f32],
    gain: &[f32],
    words: &mut [u32],
    scales: &mut [f32],
    cols: usize,
    epsilon: f32,
    #[comptime] normed: bool,
) {
    let token = CUBE_POS_X as usize;
    let mut factor = 1.0f32;
    if comptime!(normed) {
        factor = norm_factor(x, token * cols, cols, epsilon);
    }
    let unit = UNIT_POS as usize;
    let row_words = cols / 4;
    let mut peaks = Shared::<[f32]>::new_slice(UNITS);
    let mut sums = Shared::<[f32]>::new_slice(UNITS);
    let passes = row_words.div_ceil(UNITS);
    for pass in range_stepped(CUBE_POS_Y as usize, passes, CUBE_COUNT_Y as usize) {
        let word = pass * UNITS + unit;
        let inside = word < row_words;
        let mut values = Array::<f32>::new(4usize);
        let mut peak = 0.0f32;
        if inside {
            #[unroll]
            for at in 0..4usize {
                let col = word * 4 + at;
                let mut value = x[token * cols + col] * factor;
                if comptime!(normed) {
                    value *= gain[col];
                }
                values[at] = value;
                peak = max(peak, value.abs());
            }
        }
        peaks[unit] = peak;
        sync_cube();
        let first = unit / WORDS * WORDS;
        #[unroll]
        for at in 0..WORDS {
            peak = max(peak, peaks[first + at]);
        }
        // A group of zeros has no scale; its integers are zeros.
        let inverse = select(peak > 0.0, 127.0 / max(peak, 1e-30f32), 0.0f32);
        let mut packed = 0u32;
        let mut sum = 0.0f32;
        #[unroll]
        for at in 0..4usize {
            let rounded = (values[at] * inverse).round();
            sum += rounded;
            let byte = u32::reinterpret(i32::cast_from(rounded)) & 255;
            packed |= byte << comptime!(at as u32 * 8);
        }
        sums[unit] = sum;
        sync_cube();
        if inside {
            words[token * row_words + word] = packed;
            if unit % WORDS == 0 {
                let scale = peak / 127.0;
                let mut low = 0.0f32;
                let mut high = 0.0f32;
                #[unroll]
                for at in 0..comptime!(WORDS / 2) {
                    low += sums[unit + at];
                    high += sums[unit + comptime!(WORDS / 2) + at];
                }
                let group = (token * row_words + word) / WORDS * SCALES;
                scales[group] = scale;
                scales[group + 1] = low * scale;
                scales[group + 2] = high * scale;
            }
        }
        sync_cube();
    }
}
