//! Products for a few tokens: weights are read once, and that is what takes the time.

use cubecl::client::Client;
use cubecl::prelude::*;

use crate::UNITS;
use crate::activations::{GROUP, SCALES};
use crate::blocks::{Blocks, ROWS, group, slot_scales, step_words};
use crate::matrix::{Operands, Outcome, finish};

/// Units that share a row.
const LANES: usize = UNITS / ROWS;

/// The caller has compared all lengths.
pub(crate) fn launch(client: &Client, operands: Operands, (blocks, outcome): (Blocks, Outcome)) {
    let Operands { matrix, words, scales, out, shape } = operands;
    let panels = matrix.rows.div_ceil(ROWS);
    // SAFETY: `linear` has compared the lengths of all four buffers with these numbers.
    unsafe {
        vectors_kernel::launch_unchecked(
            client,
            CubeCount::Static(panels as u32, 1, 1),
            CubeDim::new_2d(ROWS as u32, LANES as u32),
            matrix.panels,
            words,
            scales,
            out,
            matrix.cols,
            matrix.rows,
            shape.out_cols,
            shape.first_col,
            blocks,
            shape.tokens,
            outcome,
        );
    }
}

/// A work-group takes a panel; neighbouring units take neighbouring rows, so that they read
/// neighbouring words, and 16 lanes take the panel's chunks in turns.
#[cube(launch_unchecked)]
fn vectors_kernel(
    panels: &[u32],
    words: &[u32],
    scales: &[f32],
    out: &mut [f32],
    cols: usize,
    rows: usize,
    out_cols: usize,
    first_col: usize,
    #[comptime] blocks: Blocks,
    #[comptime] tokens: usize,
    #[comptime] outcome: Outcome,
) {
    let row = UNIT_POS_X as usize;
    let lane = UNIT_POS_Y as usize;
    let panel = CUBE_POS_X as usize;
    let row_blocks = cols / comptime!(blocks.groups * 4);
    let panel_first = panel * row_blocks * comptime!(blocks.words);
    let mut sums = Array::<f32>::new(tokens);
    #[unroll]
    for token in 0..tokens {
        sums[token] = 0.0f32;
    }
    let chunks = row_blocks * comptime!(blocks.chunks);
    for item in range_stepped(lane, chunks, LANES) {
        let block = item / comptime!(blocks.chunks);
        let chunk = item % comptime!(blocks.chunks);
        let first = panel_first + block * comptime!(blocks.words);
        chunk_products(
            panels, words, scales, first, row, block, chunk, cols, &mut sums, blocks, tokens,
        );
    }
    let mut shared = Shared::<[f32]>::new_slice(comptime!(UNITS * tokens));
    #[unroll]
    for token in 0..tokens {
        shared[(token * comptime!(LANES) + lane) * comptime!(ROWS) + row] = sums[token];
    }
    sync_cube();
    if lane < tokens && panel * comptime!(ROWS) + row < rows {
        let mut sum = 0.0f32;
        #[unroll]
        for other in 0..LANES {
            sum += shared[(lane * comptime!(LANES) + other) * comptime!(ROWS) + row];
        }
        let at = lane * out_cols + first_col + panel * comptime!(ROWS) + row;
        finish(out, at, sum, outcome);
    }
}

/// Adds what a chunk of a row gives with each token's activations.
#[cube]
#[allow(clippy::too_many_arguments, reason = "a kernel's variables are no structure")]
fn chunk_products(
    panels: &[u32],
    words: &[u32],
    scales: &[f32],
    first: usize,
    row: usize,
    block: usize,
    chunk: usize,
    cols: usize,
    sums: &mut Array<f32>,
    #[comptime] blocks: Blocks,
    #[comptime] tokens: usize,
) {
    let slots = comptime!(blocks.slots);
    let before = block * comptime!(blocks.groups);
    let mut dots = Array::<i32>::new(comptime!(tokens * slots));
    #[unroll]
    for at in 0..comptime!(tokens * slots) {
        dots[at] = 0i32;
    }
    let mut integers = Array::<u32>::new(slots);
    #[unroll]
    for step in 0..comptime!(blocks.steps) {
        step_words(panels, first, row, chunk, step, &mut integers, blocks);
        #[unroll]
        for slot in 0..slots {
            let weight = i32::reinterpret(integers[slot]);
            let at = before + group(chunk, step, slot, blocks);
            #[unroll]
            for token in 0..tokens {
                let x = i32::reinterpret(words[token * (cols / 4) + at]);
                let dot = dots[token * slots + slot];
                dots[token * slots + slot] = dp4a(weight, x, dot);
            }
        }
    }
    let mut factors = Array::<f32>::new(2usize);
    #[unroll]
    for slot in 0..slots {
        slot_scales(panels, first, row, chunk, slot, &mut factors, blocks);
        let at = before + group(chunk, 0, slot, blocks);
        #[unroll]
        for token in 0..tokens {
            let of_group = (token * (cols / comptime!(GROUP)) + at / 8) * comptime!(SCALES);
            let dot = f32::cast_from(dots[token * slots + slot]);
            let mut product = factors[0] * scales[of_group] * dot;
            if comptime!(blocks.minimum) {
                product -= factors[1] * sum_of_slot(scales, of_group, at, blocks);
            }
            sums[token] += product;
        }
    }
}

/// The sum of the activations that a slot is multiplied with. `at` is the first of its words.
#[cube]
pub(crate) fn sum_of_slot(
    scales: &[f32],
    of_group: usize,
    at: usize,
    #[comptime] blocks: Blocks,
) -> f32 {
    if comptime!(blocks.sixteen) {
        scales[of_group + 1 + at / 4 % 2]
    } else {
        scales[of_group + 1] + scales[of_group + 2]
    }
}
