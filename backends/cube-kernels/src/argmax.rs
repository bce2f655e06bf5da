//! The likeliest token of each row, so that a word of logits comes back instead of all.

use cubecl::client::Client;
use cubecl::prelude::*;

use crate::UNITS;

/// The lowest index among those with the highest number, of each row; 0 where none is a number.
///
/// Shapes: `logits: [rows, width]`, `out: [rows]` of type i32.
/// Panics: when `logits` are not as many rows as `out` has places.
pub fn argmax(client: &Client, logits: BufferArg, out: BufferArg) {
    let (length, rows) = (logits.len(), out.len());
    assert!(rows > 0 && length.is_multiple_of(rows), "{length} logits are not {rows} rows");
    let width = length / rows;
    let count = CubeCount::Static(rows as u32, 1, 1);
    // SAFETY: rows are whole, and there is a place for each.
    unsafe {
        argmax_kernel::launch_unchecked(
            client,
            count,
            CubeDim::new_1d(UNITS as u32),
            logits,
            out,
            width,
        );
    }
}

/// One work-group for each row.
#[cube(launch_unchecked)]
fn argmax_kernel(logits: &[f32], out: &mut [i32], width: usize) {
    let unit = UNIT_POS as usize;
    let first = CUBE_POS_X as usize * width;
    // Finite, for drivers that assume no infinity; no logit is below it.
    let mut best = f32::new(-3.4e38f32);
    let mut place = 0u32;
    for at in range_stepped(unit, width, UNITS) {
        let value = logits[first + at];
        if value > best {
            best = value;
            place = at as u32;
        }
    }
    let mut values = Shared::<[f32]>::new_slice(UNITS);
    let mut places = Shared::<[u32]>::new_slice(UNITS);
    values[unit] = best;
    places[unit] = place;
    sync_cube();
    #[unroll]
    for step in 0..8usize {
        let half = comptime!(UNITS >> (step + 1));
        if unit < half {
            let other = values[unit + half];
            let other_place = places[unit + half];
            let own = values[unit];
            if other > own || (other == own && other_place < places[unit]) {
                values[unit] = other;
                places[unit] = other_place;
            }
        }
        sync_cube();
    }
    if unit == 0 {
        out[CUBE_POS_X as usize] = i32::cast_from(places[0]);
    }
}
