//! Products with matrices in panels: which kernel a step gets.

use cubecl::client::Client;
use cubecl::prelude::*;
use weights::Encoding;

use crate::activations::{scale_count, word_count};
use crate::blocks::{Blocks, ROWS};
use crate::cooperative::Tiling;
use crate::{cooperative, floats, tiles, vectors};

/// Tokens up to which a step reads its weights once and computes little.
const VECTORS_MAX: usize = 8;

/// What becomes of a product.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// It stands in its place.
    Store,
    /// It is added to what stands there.
    Add,
    /// What stands there, through `silu`, is multiplied with it.
    Gate,
}

/// A matrix in panels, as words.
pub struct Matrix {
    /// `cpu_kernels::panel_bytes` of each panel, as words of 32 bits.
    pub panels: BufferArg,
    /// The file's encoding.
    pub encoding: Encoding,
    /// Outputs.
    pub rows: usize,
    /// Inputs.
    pub cols: usize,
}

/// Where products go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Tokens of the step.
    pub tokens: usize,
    /// Numbers of each token in the output.
    pub out_cols: usize,
    /// Which of them is the first of this matrix.
    pub first_col: usize,
}

/// What a matrix of blocks is multiplied with, and where to; lengths are compared.
pub(crate) struct Operands {
    pub(crate) matrix: Matrix,
    pub(crate) words: BufferArg,
    pub(crate) scales: BufferArg,
    pub(crate) out: BufferArg,
    pub(crate) shape: Shape,
}

/// Whether activations are multiplied as they are; otherwise they are rounded to 8 bits.
pub fn reads_floats(encoding: Encoding) -> bool {
    Blocks::of(encoding).is_none()
}

/// Multiplies rounded activations with a matrix of blocks.
///
/// Shapes: `words` and `scales` from [`quantize`](crate::quantize), `out: [tokens, out_cols]`.
/// Sums of a slot are exact, those of slots f32. A token's numbers depend on how many tokens stand
/// beside it only as far as that chooses the kernel.
/// Panics: when lengths do not match, or the matrix is one of floats.
pub fn linear(
    client: &Client,
    matrix: Matrix,
    words: BufferArg,
    scales: BufferArg,
    out: BufferArg,
    shape: Shape,
    outcome: Outcome,
) {
    let blocks = Blocks::of(matrix.encoding).expect("a matrix of blocks");
    check(&matrix, &out, shape);
    assert_eq!(words.len(), word_count(shape.tokens, matrix.cols), "words of the activations");
    assert_eq!(scales.len(), scale_count(shape.tokens, matrix.cols), "scales of the activations");
    let operands = Operands { matrix, words, scales, out, shape };
    if shape.tokens <= VECTORS_MAX {
        vectors::launch(client, operands, (blocks, outcome));
    } else if let Some(tiling) = Tiling::of(client, &blocks, shape.tokens) {
        cooperative::launch(client, operands, (blocks, tiling, outcome));
    } else {
        tiles::launch(client, operands, (blocks, outcome));
    }
}

/// Multiplies activations with a matrix of floats.
///
/// Shapes: `x: [tokens, cols]`, `out: [tokens, out_cols]`. Sums in f32.
/// Panics: when lengths do not match, or the matrix is one of blocks.
pub fn linear_floats(
    client: &Client,
    matrix: Matrix,
    x: BufferArg,
    out: BufferArg,
    shape: Shape,
    outcome: Outcome,
) {
    assert!(reads_floats(matrix.encoding), "a matrix of floats");
    check(&matrix, &out, shape);
    assert_eq!(x.len(), shape.tokens * matrix.cols, "activations");
    floats::launch(client, matrix, x, out, shape, outcome);
}

fn check(matrix: &Matrix, out: &BufferArg, shape: Shape) {
    let row_bytes = matrix.encoding.row_bytes(matrix.cols).expect("rows are whole blocks");
    let panels = matrix.rows.div_ceil(ROWS);
    assert_eq!(matrix.panels.len(), panels * row_bytes * ROWS / 4, "words of the panels");
    assert_eq!(out.len(), shape.tokens * shape.out_cols, "numbers of the output");
    assert!(shape.first_col + matrix.rows <= shape.out_cols, "columns beyond the output");
    assert!(shape.tokens > 0, "a step without tokens");
}

/// Puts one product where it belongs.
#[cube]
pub(crate) fn finish(out: &mut [f32], at: usize, product: f32, #[comptime] outcome: Outcome) {
    if comptime!(outcome == Outcome::Store) {
        out[at] = product;
    } else if comptime!(outcome == Outcome::Add) {
        out[at] += product;
    } else {
        let gate = out[at];
        // The exponential stays finite, for drivers that assume no infinity.
        out[at] = gate / (1.0f32 + (-max(gate, -80.0f32)).exp()) * product;
    }
}
