//! Packing and writing tiles with AVX-512, and multiplying them where there is nothing better.

use std::arch::x86_64::{
    __m512, __m512bh, __m512i, _mm512_add_ps, _mm512_cvtne2ps_pbh, _mm512_dpbf16_ps,
    _mm512_load_si512, _mm512_loadu_ps, _mm512_loadu_si512, _mm512_mask_storeu_ps,
    _mm512_maskz_loadu_ps, _mm512_mul_ps, _mm512_permutexvar_epi16, _mm512_set1_epi32,
    _mm512_set1_ps, _mm512_setzero_ps, _mm512_store_ps, _mm512_store_si512,
};
use std::mem::transmute;
use std::ops::Range;

use super::{Block, DEPTH, Operand, Side, Target};
use crate::tiles::{LINES, Tile, turn};

/// Tiles of all lines, each line's behind each other in their depth; zeros behind an end.
///
/// # Safety
/// The machine has AVX-512 F, BW and BF16.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
pub(super) unsafe fn pack(operand: &Operand<'_>, side: Side, tiles: &mut [Tile]) {
    let [line, number] = operand.strides;
    let [high, deep] = operand.tiles();
    let is_left = side == Side::Left;
    for at in 0..high * deep {
        // In the order of memory.
        let [row, depth] =
            if number == 1 { [at / deep, at % deep] } else { [at % high, at / high] };
        let tile = &mut tiles[row * deep + depth];
        let (values, size) = operand.part(row, depth);
        // Lines or numbers stand side by side; the other way is that of the other side, turned.
        let turns = if number == 1 {
            by_lines(values, size, line, tile);
            !is_left
        } else {
            by_pairs(values, size, number, tile);
            is_left
        };
        if turns {
            turn(tile);
        }
    }
}

/// `count` numbers from `at` on, at most 16, and zeros.
#[inline]
#[target_feature(enable = "avx512f")]
fn read(values: &[f32], at: usize, count: usize) -> __m512 {
    if count == 0 {
        return _mm512_setzero_ps();
    }
    let values = &values[at..at + count];
    let mask = ((1_u32 << count) - 1) as u16;
    // SAFETY: no more is read than there is.
    unsafe { _mm512_maskz_loadu_ps(mask, values.as_ptr()) }
}

/// All 16 numbers from `at` on.
#[inline]
#[target_feature(enable = "avx512f")]
fn read_all(values: &[f32], at: usize) -> __m512 {
    // SAFETY: as many as the slice has.
    unsafe { _mm512_loadu_ps(values[at..at + LINES].as_ptr()) }
}

/// Rounded to 16 bits, the numbers of `low` first.
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
fn rounded(low: __m512, high: __m512) -> __m512i {
    // SAFETY: both are 512 bits of whatever kind.
    unsafe { transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(high, low)) }
}

/// A line in each row of a tile.
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
fn by_lines(values: &[f32], [lines, depth]: [usize; 2], stride: usize, tile: &mut Tile) {
    let is_whole = [lines, depth] == [LINES, DEPTH];
    for (at, row) in tile.0.iter_mut().enumerate() {
        let start = at * stride;
        let both = if is_whole {
            rounded(read_all(values, start), read_all(values, start + LINES))
        } else {
            let depth = if at < lines { depth } else { 0 };
            let low = read(values, start, depth.min(LINES));
            rounded(low, read(values, start + LINES, depth.saturating_sub(LINES)))
        };
        // SAFETY: a row of a tile is 64 bytes, and aligned.
        unsafe { _mm512_store_si512(row.as_mut_ptr().cast(), both) };
    }
}

/// A pair of each line's numbers in each row of a tile.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
fn by_pairs(values: &[f32], [lines, depth]: [usize; 2], stride: usize, tile: &mut Tile) {
    /// The first of both halves, then the second of both.
    const PAIRED: [u16; 32] = {
        let mut order = [0; 32];
        let mut at = 0;
        while at < 32 {
            order[at] = (at / 2 + at % 2 * 16) as u16;
            at += 1;
        }
        order
    };
    // SAFETY: 64 bytes, aligned or not.
    let order = unsafe { _mm512_loadu_si512(PAIRED.as_ptr().cast()) };
    let is_whole = [lines, depth] == [LINES, DEPTH];
    for (pair, row) in tile.0.iter_mut().enumerate() {
        let [first, second] = [2 * pair, 2 * pair + 1];
        let both = if is_whole {
            rounded(read_all(values, first * stride), read_all(values, second * stride))
        } else {
            let count = |at| if at < depth { lines } else { 0 };
            let low = read(values, first * stride, count(first));
            rounded(low, read(values, second * stride, count(second)))
        };
        let paired = _mm512_permutexvar_epi16(order, both);
        // SAFETY: a row of a tile is 64 bytes, and aligned.
        unsafe { _mm512_store_si512(row.as_mut_ptr().cast(), paired) };
    }
}

/// As [`super::amx::block`], by vectors.
///
/// # Safety
/// The machine has AVX-512 F and BF16.
#[target_feature(enable = "avx512f,avx512bf16")]
pub(super) unsafe fn block(left: &[Tile], right: &[Tile], sums: &mut Block) {
    /// Lines whose sums stay in registers, for both tiles of the right side.
    const HELD: usize = 8;
    let (first, second) = right.split_at(right.len() / 2);
    let lines = left.len() / 2;
    for (at, rows) in sums.0.chunks_exact_mut(HELD).enumerate() {
        let (part, line) = (at * HELD / LINES, at * HELD % LINES);
        let left = &left[part * lines..][..lines];
        let mut held = [[_mm512_setzero_ps(); 2]; HELD];
        for ((left, first), second) in left.iter().zip(first).zip(second) {
            for (pair, (first, second)) in first.0.iter().zip(&second.0).enumerate() {
                let (first, second) = (pairs(first), pairs(second));
                for (held, left) in held.iter_mut().zip(&left.0[line..][..HELD]) {
                    // SAFETY: both are 512 bits of whatever kind.
                    let left: __m512bh =
                        unsafe { transmute(_mm512_set1_epi32(left[pair].cast_signed())) };
                    held[0] = _mm512_dpbf16_ps(held[0], left, first);
                    held[1] = _mm512_dpbf16_ps(held[1], left, second);
                }
            }
        }
        for (row, held) in rows.iter_mut().zip(held) {
            // SAFETY: a row of sums is two vectors, and aligned.
            unsafe {
                _mm512_store_ps(row.as_mut_ptr(), held[0]);
                _mm512_store_ps(row[LINES..].as_mut_ptr(), held[1]);
            }
        }
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
fn pairs(row: &[u32; LINES]) -> __m512bh {
    // SAFETY: a row of a tile is 64 bytes, and aligned, of whatever kind.
    unsafe { transmute(_mm512_load_si512(row.as_ptr().cast())) }
}

/// Sums of a block into their place in the product.
///
/// # Safety
/// The machine has AVX-512 F. Rows and columns are inside the target.
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn write(
    sums: &Block,
    rows: &Range<usize>,
    cols: &Range<usize>,
    target: &Target,
) {
    let factor = _mm512_set1_ps(target.factor);
    for (row, sums) in rows.clone().zip(&sums.0) {
        for (col, sums) in cols.clone().step_by(LINES).zip(sums.chunks_exact(LINES)) {
            let mask = ((1_u32 << LINES.min(cols.end - col)) - 1) as u16;
            // SAFETY: the mask ends with the columns, and the caller says where they are.
            unsafe {
                let out = target.out.add(row * target.stride + col);
                let mut sum = _mm512_mul_ps(_mm512_maskz_loadu_ps(!0, sums.as_ptr()), factor);
                if target.adds {
                    sum = _mm512_add_ps(sum, _mm512_maskz_loadu_ps(mask, out));
                }
                _mm512_mask_storeu_ps(out, mask, sum);
            }
        }
    }
}
