//! Products for many tokens: what was unpacked once serves a tile of them.

use cubecl::client::Client;
use cubecl::prelude::*;

use crate::UNITS;
use crate::activations::{GROUP, SCALES};
use crate::blocks::{Blocks, ROWS, group, slot_scales, step_words};
use crate::matrix::{Operands, Outcome, finish};
use crate::vectors::sum_of_slot;

/// Rows of a tile, and tokens.
const SIDE: usize = 64;
/// Units along a side; each has every 16th row and token.
const STRIDE: usize = 16;
/// Rows, and tokens, of a unit.
const OWN: usize = SIDE / STRIDE;
/// Units that unpack one row together.
const HELPERS: usize = UNITS / SIDE;

const _: () = assert!(STRIDE * STRIDE == UNITS && STRIDE == ROWS);

/// The caller has compared all lengths.
pub(crate) fn launch(client: &Client, operands: Operands, (blocks, outcome): (Blocks, Outcome)) {
    let Operands { matrix, words, scales, out, shape } = operands;
    let tiles = (matrix.rows.div_ceil(SIDE), shape.tokens.div_ceil(SIDE));
    // SAFETY: `linear` has compared the lengths of all four buffers with these numbers; rows and
    // tokens beyond the last are read as the last.
    unsafe {
        tiles_kernel::launch_unchecked(
            client,
            CubeCount::Static(tiles.0 as u32, tiles.1 as u32, 1),
            CubeDim::new_1d(UNITS as u32),
            matrix.panels,
            words,
            scales,
            out,
            matrix.cols,
            matrix.rows,
            shape.tokens,
            shape.out_cols,
            shape.first_col,
            blocks,
            outcome,
        );
    }
}

/// A work-group has 64 rows of 64 tokens, and walks along the columns a chunk at a time.
#[cube(launch_unchecked)]
fn tiles_kernel(
    panels: &[u32],
    words: &[u32],
    scales: &[f32],
    out: &mut [f32],
    cols: usize,
    rows: usize,
    tokens: usize,
    out_cols: usize,
    first_col: usize,
    #[comptime] blocks: Blocks,
    #[comptime] outcome: Outcome,
) {
    let unit = UNIT_POS as usize;
    let first_row = CUBE_POS_X as usize * SIDE;
    let first_token = CUBE_POS_Y as usize * SIDE;
    let (slots, steps) = comptime!((blocks.slots, blocks.steps));
    let row_blocks = cols / comptime!(blocks.groups * 4);

    let mut weight_words = Shared::<[u32]>::new_slice(comptime!(blocks.chunk_words() * SIDE));
    let mut weight_scales = Shared::<[f32]>::new_slice(comptime!(slots * SIDE));
    let mut weight_minimums = Shared::<[f32]>::new_slice(comptime!(slots * SIDE));
    let mut token_words = Shared::<[u32]>::new_slice(comptime!(blocks.chunk_words() * SIDE));
    let mut token_scales = Shared::<[f32]>::new_slice(comptime!(slots * SIDE));
    let mut token_sums = Shared::<[f32]>::new_slice(comptime!(slots * SIDE));

    // Which row this unit unpacks, and its share of the steps.
    let side = unit % SIDE;
    let share = unit / SIDE;
    let panel = min((first_row + side) / ROWS, (rows - 1) / ROWS);
    let panel_first = panel * row_blocks * comptime!(blocks.words);
    let token_read = min(first_token + side, tokens - 1);

    let mut sums = Array::<f32>::new(comptime!(OWN * OWN));
    #[unroll]
    for at in 0..comptime!(OWN * OWN) {
        sums[at] = 0.0f32;
    }
    let mut integers = Array::<u32>::new(slots);
    let mut factors = Array::<f32>::new(2usize);
    for item in 0..row_blocks * comptime!(blocks.chunks) {
        let block = item / comptime!(blocks.chunks);
        let chunk = item % comptime!(blocks.chunks);
        let first = panel_first + block * comptime!(blocks.words);
        let before = block * comptime!(blocks.groups);
        #[unroll]
        for turn in 0..comptime!(steps / HELPERS) {
            let step = share + turn * HELPERS;
            step_words(panels, first, side % ROWS, chunk, step, &mut integers, blocks);
            #[unroll]
            for slot in 0..slots {
                let word = (slot * steps + step) * SIDE + side;
                weight_words[word] = integers[slot];
                let at = before + group(chunk, step, slot, blocks);
                token_words[word] = words[token_read * (cols / 4) + at];
            }
        }
        #[unroll]
        for slot in 0..slots {
            if share == slot {
                slot_scales(panels, first, side % ROWS, chunk, slot, &mut factors, blocks);
                weight_scales[slot * SIDE + side] = factors[0];
                let at = before + group(chunk, 0, slot, blocks);
                let of_group = (token_read * (cols / GROUP) + at / 8) * SCALES;
                token_scales[slot * SIDE + side] = scales[of_group];
                if comptime!(blocks.minimum) {
                    weight_minimums[slot * SIDE + side] = factors[1];
                    token_sums[slot * SIDE + side] = sum_of_slot(scales, of_group, at, blocks);
                }
            }
        }
        sync_cube();
        #[unroll]
        for slot in 0..slots {
            let dots = slot_dots(&weight_words, &token_words, slot, steps);
            #[unroll]
            for i in 0..OWN {
                let row = slot * SIDE + unit % STRIDE + i * STRIDE;
                #[unroll]
                for j in 0..OWN {
                    let token = slot * SIDE + unit / STRIDE + j * STRIDE;
                    let dot = f32::cast_from(dots[i * OWN + j]);
                    let mut product = weight_scales[row] * token_scales[token] * dot;
                    if comptime!(blocks.minimum) {
                        product -= weight_minimums[row] * token_sums[token];
                    }
                    sums[i * OWN + j] += product;
                }
            }
        }
        sync_cube();
    }
    #[unroll]
    for i in 0..OWN {
        let row = first_row + unit % STRIDE + i * STRIDE;
        #[unroll]
        for j in 0..OWN {
            let token = first_token + unit / STRIDE + j * STRIDE;
            if row < rows && token < tokens {
                finish(out, token * out_cols + first_col + row, sums[i * OWN + j], outcome);
            }
        }
    }
}

/// The products of a slot's integers with a tile's activations, as far as they are this unit's.
#[cube]
fn slot_dots(
    weight_words: &[u32],
    token_words: &[u32],
    #[comptime] slot: usize,
    #[comptime] steps: usize,
) -> Array<i32> {
    let unit = UNIT_POS as usize;
    let mut dots = Array::<i32>::new(comptime!(OWN * OWN));
    #[unroll]
    for at in 0..comptime!(OWN * OWN) {
        dots[at] = 0i32;
    }
    for step in 0..steps {
        let first = (slot * steps + step) * SIDE;
        let mut tokens = Array::<i32>::new(OWN);
        #[unroll]
        for j in 0..OWN {
            tokens[j] = i32::reinterpret(token_words[first + unit / STRIDE + j * STRIDE]);
        }
        #[unroll]
        for i in 0..OWN {
            let weight = i32::reinterpret(weight_words[first + unit % STRIDE + i * STRIDE]);
            #[unroll]
            for j in 0..OWN {
                let dot = dots[i * OWN + j];
                dots[i * OWN + j] = dp4a(weight, tokens[j], dot);
            }
        }
    }
    dots
}
