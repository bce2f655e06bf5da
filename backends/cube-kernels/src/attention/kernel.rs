//! What a group of units does for its rows.
//!
//! Memory that the group shares is written and read between barriers: scores in parts, the greatest
//! of each lane, weights of a tile. What a unit owns, its sums, stays with it.

#![allow(clippy::too_many_arguments, reason = "a kernel's arguments are its buffers")]

use cubecl::prelude::*;

use super::parts::{add_part, gather, leave, write};
use super::{LANES, PART, TILE, UNITS};
use crate::kv::{Shape, place_a, place_b, rotated};
use crate::words::{number, pair};

/// Below every score; finite, for drivers that assume no infinity.
pub(super) const LOWEST: f32 = -1e30;
/// Pairs of keys of a tile. A unit takes one of them.
const PAIRS: usize = TILE / 2;
/// Units that share the dimensions of a pair of keys.
const SLICES: usize = UNITS / PAIRS;
/// Keys of a tile that one lane weighs.
const WEIGHED: usize = TILE / LANES;

/// What a kernel is compiled for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Tile {
    pub(super) shape: Shape,
    /// Rows of a group.
    pub(super) rows: usize,
    /// Whether no tile lies between two spans.
    pub(super) is_exact: bool,
    /// Whether a group takes one part of the context.
    pub(super) is_shared: bool,
}

/// What a kernel is told.
#[derive(CubeType, CubeLaunch)]
pub(super) struct Step {
    pub(super) span_count: u32,
    /// Heads of queries for each head of keys.
    pub(super) group: u32,
    pub(super) window: u32,
    pub(super) page_count: u32,
    /// Rows of the table of angles.
    pub(super) positions: u32,
    /// Groups that share a context.
    pub(super) parts: u32,
    pub(super) scale: f32,
}

/// Where a group's rows are.
#[derive(CubeType)]
pub(super) struct Rows {
    /// The first of its rows in the span.
    pub(super) first_row: usize,
    /// How many there are; none where the group has nothing to do.
    pub(super) count: usize,
    /// The span's first token in the step, and its position.
    pub(super) query_start: usize,
    pub(super) first_query: usize,
    /// The table of pages.
    pub(super) first_page: usize,
    /// The first position that a row sees, and the end of those.
    pub(super) first_seen: usize,
    pub(super) end: usize,
}

/// How many tiles are before those of a span. Without a sum over all spans: tiles that do not fit
/// between two spans stay empty, at most one for each.
#[cube]
fn first_tile(spans: &[i32], span: usize, step: &Step, #[comptime] tile: Tile) -> usize {
    let rows = spans[span * 4] as usize * step.group as usize;
    if comptime!(tile.is_exact) { rows / tile.rows } else { rows / tile.rows + span }
}

/// Finds the span of this group, the last whose first tile is not beyond it.
#[cube]
pub(super) fn find_rows(spans: &[i32], step: &Step, #[comptime] tile: Tile) -> Rows {
    let index = CUBE_POS_X as usize;
    let group = step.group as usize;
    let mut low = 0usize;
    let mut high = step.span_count as usize;
    while high - low > 1 {
        let middle = (low + high) / 2;
        if first_tile(spans, middle, step, tile) <= index {
            low = middle;
        } else {
            high = middle;
        }
    }
    let query_tokens = spans[low * 4 + 1] as usize;
    let context_tokens = spans[low * 4 + 2] as usize;
    let first_row = (index - min(first_tile(spans, low, step, tile), index)) * tile.rows;
    let all = query_tokens * group;
    let count = min(all - min(first_row, all), comptime!(tile.rows).runtime());
    let first_query = context_tokens - query_tokens;
    let window = step.window as usize;
    let next = first_query + first_row / group + 1;
    Rows {
        first_row,
        count,
        query_start: spans[low * 4] as usize,
        first_query,
        first_page: spans[low * 4 + 3] as usize,
        first_seen: next - min(next, window),
        end: first_query + (first_row + count - 1) / group + 1,
    }
}

/// Attends for the rows of tile `CUBE_POS_X` that read head `CUBE_POS_Y`; where groups share a
/// context, over its part `CUBE_POS_Z`, and leaves what it finds in `target:
/// [tiles, kv_heads, parts, rows, record]`.
#[cube(launch_unchecked)]
pub(super) fn attend_kernel(
    pool: &[u32],
    qkv: &[f32],
    pages: &[i32],
    spans: &[i32],
    table: &[f32],
    target: &mut [f32],
    step: &Step,
    #[comptime] tile: Tile,
) {
    let dim = comptime!(tile.shape.head_dim);
    let held = comptime!((tile.rows * tile.shape.head_dim).div_ceil(UNITS));
    let rows = find_rows(spans, step, tile);
    let first_part = rows.first_seen / PART;
    let mut part = first_part;
    let mut parts_end = (rows.end + comptime!(PART - 1)) / PART;
    if comptime!(tile.is_shared) {
        part = first_part + CUBE_POS_Z as usize;
        parts_end = min(parts_end, part + 1);
    }
    if rows.count == 0 || part >= parts_end {
        terminate!();
    }

    let mut memory = Memory {
        queries: Shared::<[f32]>::new_slice(comptime!(tile.rows * tile.shape.head_dim)),
        sums: Shared::<[f32]>::new_slice(comptime!(2 * UNITS * tile.rows)),
        weights: Shared::<[f32]>::new_slice(comptime!(TILE * tile.rows)),
        lanes: Shared::<[f32]>::new_slice(UNITS),
        pieces: Shared::<[u32]>::new_slice(comptime!(2 * TILE)),
        factors: Shared::<[f32]>::new_slice(comptime!(3 * tile.rows)),
    };
    load_queries(qkv, table, &mut memory, &rows, step, tile);
    sync_cube();

    let mut found = Array::<f32>::new(comptime!(2 * tile.rows));
    let mut state = Array::<f32>::new(STATE);
    let mut total = Array::<f32>::new(held);
    state[TOTAL_TOP] = LOWEST;
    state[TOTAL_SUM] = 0.0f32;
    #[unroll]
    for index in 0..held {
        total[index] = 0.0f32;
    }
    while part < parts_end {
        attend_part(pool, pages, &mut memory, &mut found, &mut state, &rows, part, step, tile);
        gather(&mut memory, &found, &mut state, tile);
        if comptime!(tile.is_shared) {
            leave(target, &memory, &state, step, tile);
        } else {
            add_part(&mut memory, &mut total, &mut state, tile);
        }
        part += 1;
    }
    if comptime!(!tile.is_shared) {
        #[unroll]
        for index in 0..held {
            let at = UNIT_POS as usize + comptime!(index * UNITS);
            if at < comptime!(tile.rows * dim) {
                let sum = memory.factors[at / dim + comptime!(2 * tile.rows)];
                write(target, total[index] / sum, at, &rows, step, tile);
            }
        }
    }
}

/// Memory that a group shares.
#[derive(CubeType)]
pub(super) struct Memory {
    /// `[head_dim][rows]`, rotated and scaled.
    pub(super) queries: Shared<[f32]>,
    /// Scores `[SLICES][rows][TILE]`; after the last tile of a part, values
    /// `[slices][rows][head_dim]`.
    pub(super) sums: Shared<[f32]>,
    /// What each row takes of each value. `[TILE][rows]`
    pub(super) weights: Shared<[f32]>,
    /// `[rows][LANES]`
    pub(super) lanes: Shared<[f32]>,
    /// The word at which each key's piece of a page begins, for one tile in two: the next one's are
    /// written while values are taken. `[2][TILE]`
    pub(super) pieces: Shared<[u32]>,
    /// What each row's sums are multiplied with: those so far, those of the part; then its total.
    /// `[3][rows]`
    pub(super) factors: Shared<[f32]>,
}

/// For functions that only read what their caller may write.
impl<'a> From<&'a mut MemoryExpand> for &'a MemoryExpand {
    fn from(memory: &'a mut MemoryExpand) -> Self {
        memory
    }
}

/// The greatest score of a row in the part, known to all of its lanes.
pub(super) const TOP: usize = 0;
/// The sum of what a lane has weighed in the part; after `gather`, of all of the row's lanes, known
/// to the first.
pub(super) const SUM: usize = 1;
/// The greatest score of a row in all parts so far, known to the first of its lanes.
pub(super) const TOTAL_TOP: usize = 2;
/// The sum in all parts so far, known to the first of its lanes.
pub(super) const TOTAL_SUM: usize = 3;
/// Numbers of what a unit knows about a row.
const STATE: usize = 4;

/// Rotates and scales the queries; rows that are not there are zero.
#[cube]
fn load_queries(
    qkv: &[f32],
    table: &[f32],
    memory: &mut Memory,
    rows: &Rows,
    step: &Step,
    #[comptime] tile: Tile,
) {
    let shape = comptime!(tile.shape);
    let dim = comptime!(shape.head_dim);
    let half = comptime!(dim / 2);
    let kv_heads = comptime!(shape.kv_heads);
    let group = step.group as usize;
    let width = (group + 2) * comptime!(kv_heads * dim);
    let mut at = UNIT_POS as usize;
    while at < comptime!(tile.rows * half) {
        let (row, index) = (at / half, at % half);
        let mut a = 0.0f32;
        let mut b = 0.0f32;
        if row < rows.count {
            let of_span = rows.first_row + row;
            let (token, head) = (of_span / group, of_span % group);
            let first =
                (rows.query_start + token) * width + (CUBE_POS_Y as usize * group + head) * dim;
            let position = min(rows.first_query + token, step.positions as usize - 1);
            let (left, right) = rotated(qkv, first, table, position * dim, index, shape);
            a = left * step.scale;
            b = right * step.scale;
        }
        memory.queries[place_a(index, shape) * tile.rows + row] = a;
        memory.queries[place_b(index, shape) * tile.rows + row] = b;
        at += UNITS;
    }
}

/// Walks over the tiles of a part.
#[cube]
fn attend_part(
    pool: &[u32],
    pages: &[i32],
    memory: &mut Memory,
    found: &mut Array<f32>,
    state: &mut Array<f32>,
    rows: &Rows,
    part: usize,
    step: &Step,
    #[comptime] tile: Tile,
) {
    state[TOP] = LOWEST;
    state[SUM] = 0.0f32;
    #[unroll]
    for index in 0..comptime!(2 * tile.rows) {
        found[index] = 0.0f32;
    }
    // Both ends of a part are ends of tiles.
    let mut first = max(part * PART, rows.first_seen) / TILE * TILE;
    let end = min((part + 1) * PART, rows.end);
    while first < end {
        score(pool, pages, memory, rows, first, step, tile);
        sync_cube();
        weigh(pool, memory, state, rows, first, step, tile);
        sync_cube();
        take(pool, memory, found, first, min(end - first, TILE), tile);
        first += TILE;
    }
}

/// Products of all queries with a pair of keys, over a slice of the dimensions.
#[cube]
fn score(
    pool: &[u32],
    pages: &[i32],
    memory: &mut Memory,
    rows: &Rows,
    first: usize,
    step: &Step,
    #[comptime] tile: Tile,
) {
    let shape = comptime!(tile.shape);
    let dim = comptime!(shape.head_dim);
    let slice_dims = comptime!(dim.div_ceil(SLICES));
    let page_tokens = comptime!(shape.page_tokens);
    let unit = UNIT_POS as usize;
    let (column, slice) = (unit % PAIRS * 2, unit / PAIRS);
    let left = piece(pages, rows, first + column, step, shape);
    let mut right = left;
    if comptime!(page_tokens == 1) {
        right = piece(pages, rows, first + column + 1, step, shape);
    }
    if slice == 0 {
        let at = pieces_of(first) + column;
        memory.pieces[at] = left as u32;
        memory.pieces[at + 1] = right as u32;
    }
    let place = (first + column) % page_tokens;
    let mut sums = Array::<f32>::new(comptime!(2 * tile.rows));
    #[unroll]
    for index in 0..comptime!(2 * tile.rows) {
        sums[index] = 0.0f32;
    }
    for nth in 0..slice_dims {
        let index = slice * slice_dims + nth;
        if index < dim {
            let (a, b) = keys(pool, left, right, index * page_tokens + place, shape);
            #[unroll]
            for row in 0..tile.rows {
                let query = memory.queries[index * tile.rows + row];
                sums[row] = fma(query, a, sums[row]);
                sums[row + tile.rows] = fma(query, b, sums[row + tile.rows]);
            }
        }
    }
    #[unroll]
    for row in 0..tile.rows {
        let at = (slice * tile.rows + row) * TILE + column;
        memory.sums[at] = sums[row];
        memory.sums[at + 1] = sums[row + tile.rows];
    }
}

/// Where the pieces of the tile that begins at `first` are.
#[cube]
fn pieces_of(first: usize) -> usize {
    first / TILE % 2 * TILE
}

/// The word at which the piece of a key's page begins; for keys that no row sees, that of the
/// nearest page that one does.
#[cube]
fn piece(
    pages: &[i32],
    rows: &Rows,
    position: usize,
    step: &Step,
    #[comptime] shape: Shape,
) -> usize {
    let seen = min(max(position, rows.first_seen), rows.end - 1);
    let page = pages[rows.first_page + seen / shape.page_tokens] as usize;
    let page = min(page, step.page_count as usize - 1);
    page * shape.page_words + CUBE_POS_Y as usize * shape.head_words
}

/// Two keys that stand side by side, or, in pages of one token, in two pages.
#[cube]
fn keys(
    pool: &[u32],
    left: usize,
    right: usize,
    index: usize,
    #[comptime] shape: Shape,
) -> (f32, f32) {
    if comptime!(shape.page_tokens == 1) {
        (number(pool, left, index, shape.bytes), number(pool, right, index, shape.bytes))
    } else {
        pair(pool, left, index, shape.bytes)
    }
}

/// Turns scores into weights, and tells what sums of earlier tiles are multiplied with.
#[cube]
fn weigh(
    pool: &[u32],
    memory: &mut Memory,
    state: &mut Array<f32>,
    rows: &Rows,
    first: usize,
    step: &Step,
    #[comptime] tile: Tile,
) {
    let shape = comptime!(tile.shape);
    let unit = UNIT_POS as usize;
    let (row, lane) = (unit / LANES, unit % LANES);
    let is_row = row < tile.rows;
    let position = rows.first_query + (rows.first_row + row) / step.group as usize;
    let first_seen = position + 1 - min(position + 1, step.window as usize);
    let mut scores = Array::<f32>::new(WEIGHED);
    let mut top = LOWEST.runtime();
    if is_row {
        #[unroll]
        for index in 0..WEIGHED {
            let column = lane + comptime!(index * LANES);
            let mut score = 0.0f32;
            #[unroll]
            for slice in 0..SLICES {
                score += memory.sums[(slice * tile.rows + row) * TILE + column];
            }
            if comptime!(shape.bytes == 1) {
                let place = (first + column) % shape.page_tokens;
                let scale =
                    memory.pieces[pieces_of(first) + column] as usize + shape.key_scales_at + place;
                score *= f32::reinterpret(pool[scale]);
            }
            let is_seen = first + column >= first_seen && first + column <= position;
            scores[index] = select(is_seen, score, LOWEST);
            top = max(top, scores[index]);
        }
        memory.lanes[unit] = top;
    }
    sync_cube();
    if is_row {
        #[unroll]
        for other in 0..LANES {
            top = max(top, memory.lanes[row * LANES + other]);
        }
        top = max(top, state[TOP]);
        let kept = (state[TOP] - top).exp();
        let mut sum = state[SUM] * kept;
        #[unroll]
        for index in 0..WEIGHED {
            let column = lane + comptime!(index * LANES);
            let is_seen = first + column >= first_seen && first + column <= position;
            let weight = select(is_seen, (scores[index] - top).exp(), 0.0f32);
            sum += weight;
            let mut taken = weight;
            if comptime!(shape.bytes == 1) {
                let place = (first + column) % shape.page_tokens;
                let scale = memory.pieces[pieces_of(first) + column] as usize
                    + shape.value_scales_at
                    + place;
                taken = select(is_seen, weight * f32::reinterpret(pool[scale]), 0.0f32);
            }
            memory.weights[column * tile.rows + row] = taken;
        }
        state[TOP] = top;
        state[SUM] = sum;
        if lane == 0 {
            memory.factors[row] = kept;
        }
    }
}

/// Adds the values of a tile, each by its weight. A unit takes a pair of dimensions, and every
/// so many tokens.
#[cube]
fn take(
    pool: &[u32],
    memory: &Memory,
    found: &mut Array<f32>,
    first: usize,
    count: usize,
    #[comptime] tile: Tile,
) {
    let shape = comptime!(tile.shape);
    let columns = comptime!(shape.head_dim / 2);
    let slices = comptime!(UNITS / (tile.shape.head_dim / 2));
    let unit = UNIT_POS as usize;
    let (column, slice) = (unit % columns, unit / columns);
    #[unroll]
    for row in 0..tile.rows {
        let kept = memory.factors[row];
        found[row] *= kept;
        found[row + tile.rows] *= kept;
    }
    let mut token = slice;
    if slice >= slices {
        token = count;
    }
    while token < count {
        let place = (first + token) % shape.page_tokens;
        let values = memory.pieces[pieces_of(first) + token] as usize + shape.values_at;
        let index = place * shape.head_dim + column * 2;
        let (a, b) = pair(pool, values, index, shape.bytes);
        #[unroll]
        for row in 0..tile.rows {
            let weight = memory.weights[token * tile.rows + row];
            found[row] = fma(weight, a, found[row]);
            found[row + tile.rows] = fma(weight, b, found[row + tile.rows]);
        }
        token += slices;
    }
}
