//! `y = x · Wᵀ` with `W` as the blocks of a file.
//!
//! A few rows are unpacked to `f32` once and serve every token of the step, so that decoding and
//! reading a prompt are one function. Sums are `f32` in eight lanes for each row, cut at
//! [`PANEL_COLS`], which keeps the error of a sum over thousands of columns near that of one over
//! hundreds.

use rayon::prelude::*;
use weights::Encoding;

/// Rows that are multiplied side by side: each `x` that is loaded serves all of them.
const TILE_ROWS: usize = 4;
/// Columns of a tile that are multiplied before the next: four such rows fit into an L1 cache.
const PANEL_COLS: usize = 1024;
const LANES: usize = 8;
/// Multiplications below which a task costs more than it brings.
const TASK_PRODUCTS_MIN: usize = 64 * 1024;

/// A weight matrix, row after row, in the encoding of its file.
#[derive(Debug, Clone, Copy)]
pub struct PackedMatrix<'a> {
    /// `rows * encoding.row_bytes(cols)` bytes.
    pub bytes: &'a [u8],
    /// How they stand for numbers.
    pub encoding: Encoding,
    /// Outputs.
    pub rows: usize,
    /// Inputs.
    pub cols: usize,
}

impl<'a> PackedMatrix<'a> {
    fn row(&self, row: usize, row_bytes: usize) -> &'a [u8] {
        &self.bytes[row * row_bytes..(row + 1) * row_bytes]
    }
}

/// Multiplies each token's vector with the matrix.
///
/// Shapes: `weight: [rows, cols]`, `x: [tokens, cols]` → `y: [tokens, rows]`.
/// Threads: spreads over the rayon pool of the caller.
/// Panics: when the slices do not have these lengths, or a row is not whole blocks.
pub fn linear(weight: PackedMatrix<'_>, x: &[f32], y: &mut [f32]) {
    let PackedMatrix { rows, cols, .. } = weight;
    assert!(rows > 0 && cols > 0, "a matrix of {rows} rows and {cols} columns");
    let tokens = x.len() / cols;
    let row_bytes = weight.encoding.row_bytes(cols).expect("rows are whole blocks");
    assert_eq!(x.len(), tokens * cols, "x is not whole rows of {cols}");
    assert_eq!(y.len(), tokens * rows, "y is not [{tokens}, {rows}]");
    assert_eq!(weight.bytes.len(), rows * row_bytes, "weight is not [{rows}, {cols}]");
    match tokens {
        0 => {}
        1 => transposed_linear(weight, row_bytes, x, 1, y),
        _ => {
            let mut transposed = vec![0.0; y.len()]; // [rows, tokens]
            transposed_linear(weight, row_bytes, x, tokens, &mut transposed);
            y.par_chunks_mut(rows).enumerate().for_each(|(token, y)| {
                for (y, row) in y.iter_mut().zip(transposed.chunks_exact(tokens)) {
                    *y = row[token];
                }
            });
        }
    }
}

/// `y: [rows, tokens]`, so that every task owns one run of it.
fn transposed_linear(
    weight: PackedMatrix<'_>,
    row_bytes: usize,
    x: &[f32],
    tokens: usize,
    y: &mut [f32],
) {
    let products = weight.cols * tokens;
    let task_rows = TASK_PRODUCTS_MIN.div_ceil(products).next_multiple_of(TILE_ROWS);
    y.par_chunks_mut(task_rows * tokens).enumerate().for_each_init(
        || vec![0.0; TILE_ROWS * weight.cols],
        |scratch, (task, y)| {
            for (tile, y) in y.chunks_mut(TILE_ROWS * tokens).enumerate() {
                let first_row = task * task_rows + tile * TILE_ROWS;
                let rows = tile_rows(weight, row_bytes, first_row, y.len() / tokens, scratch);
                tile_times_tokens(rows, x, tokens, y);
            }
        },
    );
}

/// Up to [`TILE_ROWS`] rows as `f32`; a tile at the matrix's end repeats its last row.
fn tile_rows<'s>(
    weight: PackedMatrix<'s>,
    row_bytes: usize,
    first_row: usize,
    count: usize,
    scratch: &'s mut [f32],
) -> [&'s [f32]; TILE_ROWS] {
    if weight.encoding == Encoding::F32 {
        let mapped: [Option<&[f32]>; TILE_ROWS] =
            std::array::from_fn(|i| as_floats(weight.row(first_row + i.min(count - 1), row_bytes)));
        if let [Some(a), Some(b), Some(c), Some(d)] = mapped {
            return [a, b, c, d];
        }
    }
    for (i, row) in scratch.chunks_exact_mut(weight.cols).take(count).enumerate() {
        let packed = weight.row(first_row + i, row_bytes);
        weight.encoding.unpack(packed, row).expect("a row's bytes hold a row's values");
    }
    let scratch: &'s [f32] = scratch;
    std::array::from_fn(|i| {
        let i = i.min(count - 1);
        &scratch[i * weight.cols..(i + 1) * weight.cols]
    })
}

/// The bytes as numbers, where the machine's byte order and the address allow it.
fn as_floats(bytes: &[u8]) -> Option<&[f32]> {
    if cfg!(target_endian = "big") {
        return None;
    }
    // SAFETY: every bit pattern is an f32, and align_to leaves misaligned bytes outside.
    let (before, floats, after) = unsafe { bytes.align_to::<f32>() };
    (before.is_empty() && after.is_empty()).then_some(floats)
}

/// `rows: [TILE_ROWS][cols]`, `x: [tokens, cols]` → `y: [rows, tokens]`, by the widest registers
/// that the machine has.
fn tile_times_tokens(rows: [&[f32]; TILE_ROWS], x: &[f32], tokens: usize, y: &mut [f32]) {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
        // SAFETY: the machine has just said that it has both features.
        return unsafe { tile_times_tokens_avx2(rows, x, tokens, y) };
    }
    // Elsewhere the target's own baseline serves; only aarch64's has a fused product and sum.
    tile_times_tokens_with::<{ cfg!(target_arch = "aarch64") }>(rows, x, tokens, y);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn tile_times_tokens_avx2(rows: [&[f32]; TILE_ROWS], x: &[f32], tokens: usize, y: &mut [f32]) {
    tile_times_tokens_with::<true>(rows, x, tokens, y);
}

/// Inlined into each caller, so that it is compiled for that caller's registers.
#[inline(always)]
fn tile_times_tokens_with<const FUSED: bool>(
    rows: [&[f32]; TILE_ROWS],
    x: &[f32],
    tokens: usize,
    y: &mut [f32],
) {
    let cols = rows[0].len();
    y.fill(0.0);
    for start in (0..cols).step_by(PANEL_COLS) {
        let panel = start..cols.min(start + PANEL_COLS);
        let rows = rows.map(|row| &row[panel.clone()]);
        for (token, x) in x.chunks_exact(cols).enumerate() {
            let sums = dot::<FUSED>(rows, &x[panel.clone()]);
            for (row, sum) in sums.into_iter().enumerate().take(y.len() / tokens) {
                y[row * tokens + token] += sum;
            }
        }
    }
}

/// Dot products of a few rows with one vector.
#[inline(always)]
fn dot<const FUSED: bool>(rows: [&[f32]; TILE_ROWS], x: &[f32]) -> [f32; TILE_ROWS] {
    let mut lanes = [[0.0f32; LANES]; TILE_ROWS];
    let (whole, rest) = x.as_chunks::<LANES>();
    let wholes = rows.map(|row| &row.as_chunks::<LANES>().0[..whole.len()]);
    for (chunk, x) in whole.iter().enumerate() {
        for (lanes, row) in lanes.iter_mut().zip(wholes) {
            for ((sum, w), x) in lanes.iter_mut().zip(&row[chunk]).zip(x) {
                *sum = multiply_add::<FUSED>(*w, *x, *sum);
            }
        }
    }
    std::array::from_fn(|i| {
        let row = &rows[i][x.len() - rest.len()..];
        sum_of(lanes[i]) + row.iter().zip(rest).map(|(w, x)| w * x).sum::<f32>()
    })
}

/// One rounding where the machine has the instruction; without it, that would be a library call.
#[inline(always)]
fn multiply_add<const FUSED: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FUSED { a.mul_add(b, c) } else { a * b + c }
}

/// Pairwise, so that the order of addition is the same on every machine.
fn sum_of(lanes: [f32; LANES]) -> f32 {
    let [a, b, c, d, e, f, g, h] = lanes;
    ((a + b) + (c + d)) + ((e + f) + (g + h))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(seed: u64, count: usize) -> Vec<f32> {
        let mut state = seed;
        (0..count)
            .map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
            })
            .collect()
    }

    /// Bytes that are blocks of the encoding with small scales, whatever else they hold.
    fn blocks(encoding: Encoding, seed: u64, values: usize) -> Vec<u8> {
        let numbers = noise(seed, values);
        match encoding {
            Encoding::F32 => numbers.iter().flat_map(|v| v.to_le_bytes()).collect(),
            Encoding::F16 => {
                numbers.iter().flat_map(|v| half::f16::from_f32(*v).to_le_bytes()).collect()
            }
            Encoding::Bf16 => {
                numbers.iter().flat_map(|v| half::bf16::from_f32(*v).to_le_bytes()).collect()
            }
            // 0x24 in every byte keeps half-precision scales near 0.016.
            _ => (0..encoding.row_bytes(values).unwrap())
                .map(|i| 0x20 | (numbers[i % values].to_bits() as u8 & 0x07))
                .collect(),
        }
    }

    /// Normalised mean square error against a sum in f64 over the encoding's own unpack.
    fn error_of(encoding: Encoding, rows: usize, cols: usize, tokens: usize, skew: usize) -> f64 {
        let mut file = vec![0; skew];
        file.extend(blocks(encoding, 7, rows * cols));
        let bytes = &file[skew..];
        let x = noise(11, tokens * cols);
        let mut y = vec![f32::NAN; tokens * rows];
        linear(PackedMatrix { bytes, encoding, rows, cols }, &x, &mut y);
        let mut dense = vec![0.0; rows * cols];
        encoding.unpack(bytes, &mut dense).unwrap();
        let (mut wrong, mut whole) = (0.0, 0.0);
        for token in 0..tokens {
            for row in 0..rows {
                let expected: f64 = (0..cols)
                    .map(|c| f64::from(dense[row * cols + c]) * f64::from(x[token * cols + c]))
                    .sum();
                wrong += (f64::from(y[token * rows + row]) - expected).powi(2);
                whole += expected.powi(2);
            }
        }
        wrong / whole
    }

    #[test]
    fn every_encoding_multiplies_as_its_unpack_says() {
        for encoding in Encoding::ALL {
            for tokens in [1, 3] {
                let error = error_of(encoding, 37, 512, tokens, 0);
                assert!(error < 1e-12, "{encoding:?}, {tokens} tokens: {error:e}");
            }
        }
    }

    #[test]
    fn odd_shapes_and_long_rows_keep_the_bound() {
        for (rows, cols, tokens) in [(1, 5, 1), (3, 1, 2), (5, 17, 4), (2, 4099, 3), (700, 40, 9)] {
            let error = error_of(Encoding::F32, rows, cols, tokens, 0);
            assert!(error < 1e-12, "[{rows}, {cols}], {tokens} tokens: {error:e}");
        }
    }

    #[test]
    fn misaligned_floats_are_read_from_their_bytes() {
        for skew in 1..4 {
            let error = error_of(Encoding::F32, 6, 33, 2, skew);
            assert!(error < 1e-12, "skew {skew}: {error:e}");
        }
    }

    #[test]
    fn a_token_alone_and_among_others_gives_the_same_bits() {
        let (rows, cols, tokens) = (50, 1500, 5);
        let bytes = &blocks(Encoding::F32, 3, rows * cols)[..];
        let matrix = PackedMatrix { bytes, encoding: Encoding::F32, rows, cols };
        let x = noise(5, tokens * cols);
        let mut together = vec![0.0; tokens * rows];
        linear(matrix, &x, &mut together);
        for (x, expected) in x.chunks_exact(cols).zip(together.chunks_exact(rows)) {
            let mut alone = vec![0.0; rows];
            linear(matrix, x, &mut alone);
            assert_eq!(alone, expected);
        }
    }
}
