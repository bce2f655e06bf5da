//! Products with matrices of floats.

use cubecl::client::Client;
use cubecl::prelude::*;
use weights::Encoding;

use crate::UNITS;
use crate::blocks::ROWS;
use crate::halves::half_to_float;
use crate::matrix::{Matrix, Outcome, Shape, finish};

/// Units that share a row.
const LANES: usize = UNITS / ROWS;
/// Tokens that share what is read of a matrix.
const TOKENS: usize = 8;

/// The caller has compared all lengths.
pub(crate) fn launch(
    client: &Client,
    matrix: Matrix,
    x: BufferArg,
    out: BufferArg,
    shape: Shape,
    outcome: Outcome,
) {
    let panels = matrix.rows.div_ceil(ROWS);
    let together = shape.tokens.min(TOKENS);
    let count = CubeCount::Static(panels as u32, shape.tokens.div_ceil(together) as u32, 1);
    // SAFETY: `linear_floats` has compared the lengths of all three buffers with these numbers.
    unsafe {
        floats_kernel::launch_unchecked(
            client,
            count,
            CubeDim::new_2d(ROWS as u32, LANES as u32),
            matrix.panels,
            x,
            out,
            matrix.cols,
            matrix.rows,
            shape.tokens,
            shape.out_cols,
            shape.first_col,
            matrix.encoding,
            together,
            outcome,
        );
    }
}

/// A work-group takes a panel for some tokens; 16 lanes take its columns in turns.
#[cube(launch_unchecked)]
fn floats_kernel(
    panels: &[u32],
    x: &[f32],
    out: &mut [f32],
    cols: usize,
    rows: usize,
    tokens: usize,
    out_cols: usize,
    first_col: usize,
    #[comptime] encoding: Encoding,
    #[comptime] together: usize,
    #[comptime] outcome: Outcome,
) {
    let row = UNIT_POS_X as usize;
    let lane = UNIT_POS_Y as usize;
    let panel = CUBE_POS_X as usize;
    let first_token = CUBE_POS_Y as usize * together;
    let mut sums = Array::<f32>::new(together);
    #[unroll]
    for token in 0..together {
        sums[token] = 0.0f32;
    }
    for col in range_stepped(lane, cols, LANES) {
        let weight = weight(panels, panel * cols + col, row, encoding);
        #[unroll]
        for token in 0..together {
            // Of tokens that are not there the last one is read, and nothing is written.
            let token_read = min(first_token + token, tokens - 1);
            sums[token] += weight * x[token_read * cols + col];
        }
    }
    let mut shared = Shared::<[f32]>::new_slice(comptime!(UNITS * together));
    #[unroll]
    for token in 0..together {
        shared[(token * comptime!(LANES) + lane) * comptime!(ROWS) + row] = sums[token];
    }
    sync_cube();
    let token = first_token + lane;
    if lane < together && token < tokens && panel * comptime!(ROWS) + row < rows {
        let mut sum = 0.0f32;
        #[unroll]
        for other in 0..LANES {
            sum += shared[(lane * comptime!(LANES) + other) * comptime!(ROWS) + row];
        }
        let at = token * out_cols + first_col + panel * comptime!(ROWS) + row;
        finish(out, at, sum, outcome);
    }
}

/// A row's number in column `col` of all panels' columns.
#[cube]
fn weight(panels: &[u32], col: usize, row: usize, #[comptime] encoding: Encoding) -> f32 {
    if comptime!(encoding == Encoding::F32) {
        f32::reinterpret(panels[col * comptime!(ROWS) + row])
    } else {
        // Two rows to a word.
        let word = panels[col * comptime!(ROWS / 2) + row / 2];
        let bits = (word >> (row as u32 % 2 * 16)) & 0xffff;
        if comptime!(encoding == Encoding::F16) {
            half_to_float(bits)
        } else {
            f32::reinterpret(bits << 16)
        }
    }
}
