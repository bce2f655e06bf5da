//! The head of each row: its likeliest tokens, and how much the others weigh, so that a draw downloads
//! some two kilobytes and not a vocabulary.
//!
//! Each unit finds the greatest of its numbers, and the 128th greatest of these is the floor: at least
//! 128 numbers reach it, and some 180 of a row whose greatest lie anywhere.

use cubecl::client::Client;
use cubecl::prelude::*;

use crate::UNITS;

/// Numbers that a row's head has room for.
pub const LIKELIEST_MAX: usize = 256;

/// Words of a row's head: how many numbers reach the floor, the bits of what the others weigh, indices,
/// and the bits of the numbers.
pub const LIKELIEST_WORDS: usize = 2 + 2 * LIKELIEST_MAX;

/// Numbers that say how a row is weighed: what its numbers are divided by, the first index that counts,
/// and the first behind it that does not.
pub const WEIGHING_NUMBERS: usize = 3;

/// The bits that are all set in what is no finite number.
const EXPONENT: u32 = 0x7f80_0000;

/// The units whose greatest numbers reach the floor.
const KEPT: usize = UNITS / 2;

/// The numbers of each row that reach its floor, and the sum of `exp((number - greatest) / temperature)`
/// over the others that count. Where more reach it than there is room for, which takes many equal ones,
/// or a number is none, the count is beyond the room and the indices are some of them.
///
/// Shapes: `logits: [rows, width]`, `weighing: [rows, WEIGHING_NUMBERS]`,
/// `out: [rows, LIKELIEST_WORDS]` of type i32.
/// Panics: when lengths do not match.
pub fn likeliest(client: &Client, logits: BufferArg, weighing: BufferArg, out: BufferArg) {
    let (length, rows) = (logits.len(), weighing.len() / WEIGHING_NUMBERS);
    assert!(rows > 0 && length.is_multiple_of(rows), "{length} logits are not {rows} rows");
    assert_eq!(weighing.len(), rows * WEIGHING_NUMBERS, "each row is weighed");
    assert_eq!(out.len(), rows * LIKELIEST_WORDS, "a head for each row");
    let width = length / rows;
    let count = CubeCount::Static(rows as u32, 1, 1);
    // SAFETY: rows are whole, each has what weighs it and a place for its head.
    unsafe {
        likeliest_kernel::launch_unchecked(
            client,
            count,
            CubeDim::new_1d(UNITS as u32),
            logits,
            weighing,
            out,
            width,
        );
    }
}

/// One work-group for each row.
#[cube(launch_unchecked)]
fn likeliest_kernel(logits: &[f32], weighing: &[f32], out: &mut [i32], width: usize) {
    let unit = UNIT_POS as usize;
    let row = CUBE_POS_X as usize;
    let first = row * width;
    let temperature = weighing[row * comptime!(WEIGHING_NUMBERS)];
    let counted = usize::cast_from(weighing[row * comptime!(WEIGHING_NUMBERS) + 1]);
    let counted_end = usize::cast_from(weighing[row * comptime!(WEIGHING_NUMBERS) + 2]);
    let head = row * comptime!(LIKELIEST_WORDS);
    // Finite, for drivers that assume no infinity; no logit is below it.
    let mut best = f32::new(-3.4e38f32);
    for at in range_stepped(unit, width, UNITS) {
        let value = logits[first + at];
        if value > best {
            best = value;
        }
    }
    let greatest = of_rank(best, 0usize);
    let floor = of_rank(best, comptime!(KEPT - 1));
    let mut count = 0u32;
    let mut rest = 0.0f32;
    for at in range_stepped(unit, width, UNITS) {
        let value = logits[first + at];
        // By its bits, because drivers may assume that every number is one.
        if u32::reinterpret(value) & EXPONENT == EXPONENT {
            count += comptime!(LIKELIEST_MAX as u32 + 1);
        } else if value >= floor {
            count += 1;
        } else if at >= counted && at < counted_end {
            rest += ((value - greatest) / temperature).exp();
        }
    }
    let mut counts = Shared::<[u32]>::new_slice(UNITS);
    let mut rests = Shared::<[f32]>::new_slice(UNITS);
    counts[unit] = count;
    rests[unit] = rest;
    sync_cube();
    let mut before = 0u32;
    for other in 0..unit {
        before += counts[other];
    }
    let mut place = before;
    for at in range_stepped(unit, width, UNITS) {
        let value = logits[first + at];
        if value >= floor {
            if place < comptime!(LIKELIEST_MAX as u32) {
                let to = head + 2 + place as usize;
                out[to] = i32::cast_from(at as u32);
                out[to + comptime!(LIKELIEST_MAX)] = i32::reinterpret(value);
            }
            place += 1;
        }
    }
    if unit == UNITS - 1 {
        let mut sum = 0.0f32;
        for other in 0..UNITS {
            sum += rests[other];
        }
        out[head] = i32::cast_from(before + count);
        out[head + 1] = i32::reinterpret(sum);
    }
}

/// Of one number of each unit the one that so many are above. Each of the work-group's units gets it.
#[cube]
fn of_rank(own: f32, #[comptime] rank: usize) -> f32 {
    let unit = UNIT_POS as usize;
    let mut numbers = Shared::<[f32]>::new_slice(UNITS);
    let mut found = Shared::<[f32]>::new_slice(1usize);
    numbers[unit] = own;
    sync_cube();
    let mut above = 0usize;
    for other in 0..UNITS {
        let value = numbers[other];
        if value > own || (value == own && other < unit) {
            above += 1;
        }
    }
    if above == rank {
        found[0] = own;
    }
    sync_cube();
    found[0]
}
