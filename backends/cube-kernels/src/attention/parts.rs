//! What groups find in parts of a context, and how it is put together.
#![allow(clippy::too_many_arguments, reason = "a kernel's arguments are its buffers")]

use cubecl::prelude::*;

use super::kernel::{LOWEST, Memory, Rows, SUM, Step, TOP, TOTAL_SUM, TOTAL_TOP, Tile, find_rows};
use super::{LANES, PART, UNITS, record};

/// Puts together what the units of a row have in the part.
#[cube]
pub(super) fn gather(
    memory: &mut Memory,
    found: &Array<f32>,
    state: &mut Array<f32>,
    #[comptime] tile: Tile,
) {
    let dim = comptime!(tile.shape.head_dim);
    let columns = comptime!(dim / 2);
    let slices = comptime!(UNITS / columns);
    let unit = UNIT_POS as usize;
    let (column, slice) = (unit % columns, unit / columns);
    if slice < slices {
        #[unroll]
        for row in 0..tile.rows {
            let at = (slice * tile.rows + row) * dim + column * 2;
            memory.sums[at] = found[row];
            memory.sums[at + 1] = found[row + tile.rows];
        }
    }
    memory.lanes[unit] = state[SUM];
    sync_cube();
    let mut sum = 0.0f32;
    #[unroll]
    for lane in 0..LANES {
        sum += memory.lanes[unit / LANES * LANES + lane];
    }
    state[SUM] = sum;
}

/// One of the values that a part gives to the rows. `at` is in `[rows][head_dim]`.
#[cube]
fn gathered(memory: &Memory, at: usize, #[comptime] tile: Tile) -> f32 {
    let slices = comptime!(UNITS / (tile.shape.head_dim / 2));
    let mut value = 0.0f32;
    for slice in 0..slices {
        value += memory.sums[slice * comptime!(tile.rows * tile.shape.head_dim) + at];
    }
    value
}

/// Adds a part to the parts before it.
#[cube]
pub(super) fn add_part(
    memory: &mut Memory,
    total: &mut Array<f32>,
    state: &mut Array<f32>,
    #[comptime] tile: Tile,
) {
    let dim = comptime!(tile.shape.head_dim);
    let held = comptime!((tile.rows * tile.shape.head_dim).div_ceil(UNITS));
    let unit = UNIT_POS as usize;
    let row = unit / LANES;
    if unit % LANES == 0 && row < tile.rows {
        let top = max(state[TOTAL_TOP], state[TOP]);
        let kept = (state[TOTAL_TOP] - top).exp();
        let added = (state[TOP] - top).exp();
        state[TOTAL_TOP] = top;
        state[TOTAL_SUM] = fma(state[TOTAL_SUM], kept, state[SUM] * added);
        memory.factors[row] = kept;
        memory.factors[row + tile.rows] = added;
        memory.factors[row + comptime!(2 * tile.rows)] = state[TOTAL_SUM];
    }
    sync_cube();
    #[unroll]
    for index in 0..held {
        let at = unit + comptime!(index * UNITS);
        if at < comptime!(tile.rows * dim) {
            let value = gathered(memory, at, tile) * memory.factors[at / dim + tile.rows];
            total[index] = fma(total[index], memory.factors[at / dim], value);
        }
    }
    sync_cube();
}

/// Leaves what a part gives to the rows for [`merge_kernel`].
#[cube]
pub(super) fn leave(
    target: &mut [f32],
    memory: &Memory,
    state: &Array<f32>,
    step: &Step,
    #[comptime] tile: Tile,
) {
    let dim = comptime!(tile.shape.head_dim);
    let row_numbers = comptime!(record(tile.shape.head_dim));
    let first = first_record(CUBE_POS_Z as usize, step, tile);
    let unit = UNIT_POS as usize;
    let mut at = unit;
    while at < comptime!(tile.rows * dim) {
        target[first + at / dim * row_numbers + at % dim] = gathered(memory, at, tile);
        at += UNITS;
    }
    let row = unit / LANES;
    if unit % LANES == 0 && row < tile.rows {
        let behind = first + row * row_numbers + dim;
        target[behind] = state[TOP];
        target[behind + 1] = state[SUM];
    }
}

/// Where what this tile and head find in a part begins.
#[cube]
fn first_record(part: usize, step: &Step, #[comptime] tile: Tile) -> usize {
    let kv_heads = comptime!(tile.shape.kv_heads);
    let all = comptime!(tile.rows * record(tile.shape.head_dim));
    let group = CUBE_POS_X as usize * kv_heads + CUBE_POS_Y as usize;
    (group * step.parts as usize + part) * all
}

/// Writes one number of a row's result; `at` is in `[rows][head_dim]`.
#[cube]
pub(super) fn write(
    out: &mut [f32],
    value: f32,
    at: usize,
    rows: &Rows,
    step: &Step,
    #[comptime] tile: Tile,
) {
    let dim = comptime!(tile.shape.head_dim);
    let kv_heads = comptime!(tile.shape.kv_heads);
    let group = step.group as usize;
    let row = at / dim;
    if row < rows.count {
        let of_span = rows.first_row + row;
        let token = rows.query_start + of_span / group;
        let head = CUBE_POS_Y as usize * group + of_span % group;
        out[(token * group * kv_heads + head) * dim + at % dim] = value;
    }
}

/// Adds up what groups that share a context have left in
/// `found: [tiles, kv_heads, parts, rows, record]`, in the order of parts.
#[cube(launch_unchecked)]
pub(super) fn merge_kernel(
    found: &[f32],
    spans: &[i32],
    out: &mut [f32],
    step: &Step,
    #[comptime] tile: Tile,
) {
    let dim = comptime!(tile.shape.head_dim);
    let row_numbers = comptime!(record(tile.shape.head_dim));
    let stride = comptime!(tile.rows * record(tile.shape.head_dim));
    let rows = find_rows(spans, step, tile);
    let parts = (rows.end + comptime!(PART - 1)) / PART - rows.first_seen / PART;
    if rows.count == 0 {
        terminate!();
    }
    let mut at = UNIT_POS as usize;
    while at < comptime!(tile.rows * dim) {
        let mut first = first_record(0usize, step, tile) + at / dim * row_numbers;
        let mut total = 0.0f32;
        let mut total_sum = 0.0f32;
        let mut total_top = LOWEST.runtime();
        for _ in 0..parts {
            let part_top = found[first + dim];
            let top = max(total_top, part_top);
            let kept = (total_top - top).exp();
            let added = (part_top - top).exp();
            total_top = top;
            total_sum = fma(total_sum, kept, found[first + dim + 1] * added);
            total = fma(total, kept, found[first + at % dim] * added);
            first += stride;
        }
        write(out, total / total_sum, at, &rows, step, tile);
        at += UNITS;
    }
}
