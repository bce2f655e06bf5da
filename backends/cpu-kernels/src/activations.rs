//! What a step multiplies with: the vectors of its tokens, as kernels read them.
//!
//! Tokens stand in tiles of 8, 4, 2 or 1, and inside a tile side by side: four columns of one
//! token, the same four of the next. So a kernel has one pointer, whatever the width of its tile.
//! For packed weights activations are 8-bit integers with one scale for each block of the
//! weights, as is the norm for these encodings; the sums over each block are there too, by which
//! kernels take away what their unsigned weights have added.

use std::ops::Range;
#[cfg(target_arch = "x86_64")]
use std::sync::{Mutex, PoisonError};

use crate::simd::{self, Isa, Simd, Work};
use crate::threads;
#[cfg(target_arch = "x86_64")]
use crate::tiles::{LINES, Tile as AmxTile, has_amx, turn};

/// Tokens of the widest tile.
pub const WIDEST: usize = 8;
/// Values of the greatest block.
const BLOCK_MAX: usize = 256;
/// Sums of a block of 256, two in each entry: 4 over 32 values, then 8 over 16.
pub(crate) const SUMS_OF_256: usize = 12;
/// Where the sums over 16 begin.
pub(crate) const SUMS_OVER_16: usize = 4;

/// In which form activations are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// As they are.
    Floats,
    /// 8-bit integers, scaled for each 32; with them, for each 32, their sum times their scale
    /// times `offset`, which is what kernels have added to every weight.
    By32 {
        /// A whole number.
        offset: u16,
    },
    /// 8-bit integers, scaled for each 256.
    By256,
}

/// Some tokens side by side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tile {
    /// Index of the first of its tokens.
    pub(crate) first: usize,
    /// Its tokens.
    pub(crate) tokens: usize,
    /// 1, 2, 4 or 8; what is more than its tokens is zeros.
    pub(crate) width: usize,
}

impl Tile {
    /// Cuts a step's tokens.
    pub(crate) fn cut(tokens: usize) -> impl Iterator<Item = Self> {
        (0..tokens).step_by(WIDEST).map(move |first| {
            let count = (tokens - first).min(WIDEST);
            Self { first, tokens: count, width: count.next_power_of_two() }
        })
    }
}

/// The vectors of a step's tokens in one form.
#[derive(Debug)]
pub(crate) struct Activations {
    form: Form,
    cols: usize,
    tokens: usize,
    /// `[tile][cols][width]` floats, or `[tile][cols / 4][width][4]` integers in their bytes; those are
    /// `[tile][cols / 8][width][8]` for a stage, on a machine that wants pairs.
    values: Vec<f32>,
    /// `[tile][blocks][width]`
    scales: Vec<f32>,
    /// `[tile][blocks][sums][width]` floats, or pairs of 16-bit integers in their bytes.
    sums: Vec<f32>,
    /// The integers once more, where tiles of AMX multiply them: `[32 tokens][cols / 64][2]`.
    #[cfg(target_arch = "x86_64")]
    tiles: Vec<AmxTile>,
}

/// Tokens that tiles are multiplied with at once. Those of a step that do not fill it are multiplied without.
#[cfg(target_arch = "x86_64")]
pub(crate) const TILED_TOKENS: usize = 2 * LINES;

/// Where one tile's activations begin.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TileView {
    pub(crate) values: *const i8,
    pub(crate) scales: *const f32,
    pub(crate) sums: *const f32,
}

impl Form {
    pub(crate) fn block_values(self) -> usize {
        match self {
            Self::Floats => 1,
            Self::By32 { .. } => 32,
            Self::By256 => 256,
        }
    }

    /// Entries of sums for each block.
    pub(crate) fn sums(self) -> usize {
        match self {
            Self::Floats => 0,
            Self::By32 { .. } => 1,
            Self::By256 => SUMS_OF_256,
        }
    }
}

fn are_staged(tokens: usize) -> bool {
    tokens > WIDEST
}

impl Activations {
    /// Brings `x: [tokens, cols]` into a form. `cols` are whole blocks.
    pub(crate) fn new(isa: Isa, form: Form, x: &[f32], cols: usize) -> Self {
        let tokens = x.len() / cols;
        let mut new = Self::empty(form, cols, tokens);
        let tiles = tokens.div_ceil(WIDEST);
        let parts = new.parts();
        threads::for_each(tiles, |index| {
            let Some(tile) = Tile::cut(tokens).nth(index) else { return };
            // SAFETY: each number comes once, and tiles do not overlap.
            let [values, scales, sums] = unsafe { parts.of(&tile) };
            let x = &x[tile.first * cols..(tile.first + tile.tokens) * cols];
            let (width, is_staged) = (tile.width, are_staged(tokens));
            let work = FillTile { form, x, cols, width, is_staged, values, scales, sums };
            // SAFETY: callers choose among the kinds that the machine is.
            unsafe { simd::run(isa, work) }
        });
        #[cfg(target_arch = "x86_64")]
        if isa == Isa::Avx512 && form == Form::By256 && has_amx() {
            new.fill_tiles();
        }
        new
    }

    /// Brings the integers of whole groups of tokens into tiles.
    #[cfg(target_arch = "x86_64")]
    fn fill_tiles(&mut self) {
        let (groups, deep) = (self.tokens / TILED_TOKENS, self.cols / 64);
        let mut tiles = vec![AmxTile::ZERO; groups * 2 * deep];
        let (values, cols) = (&self.values, self.cols);
        let parts: Vec<Mutex<&mut [AmxTile]>> =
            tiles.chunks_mut(2 * deep).map(Mutex::new).collect();
        threads::for_each(parts.len(), |group| {
            let mut part = parts[group].lock().unwrap_or_else(PoisonError::into_inner);
            for (at, tile) in part.iter_mut().enumerate() {
                let (column, first) = (at / 2 * LINES, group * TILED_TOKENS + at % 2 * LINES);
                for (row, units) in tile.0.iter_mut().enumerate() {
                    for (half, units) in units.chunks_exact_mut(WIDEST).enumerate() {
                        let from = (first + half * WIDEST) * cols / 4 + (column + row) * WIDEST;
                        let from = &values[from..from + WIDEST];
                        units.iter_mut().zip(from).for_each(|(to, unit)| *to = unit.to_bits());
                    }
                }
                // SAFETY: a machine that has AMX has AVX-512.
                unsafe { turn(tile) }
            }
        });
        drop(parts);
        self.tiles = tiles;
    }

    /// How many tokens stand in tiles, the first of all.
    #[cfg(target_arch = "x86_64")]
    pub(crate) fn in_tiles(&self) -> usize {
        if self.tiles.is_empty() { 0 } else { self.tokens / TILED_TOKENS * TILED_TOKENS }
    }

    /// The tiles of [`TILED_TOKENS`] tokens, from block `block` on.
    #[cfg(target_arch = "x86_64")]
    pub(crate) fn tiles(&self, first: usize, block: usize) -> &[AmxTile] {
        let of_group = 2 * self.cols / 64;
        let group = first / TILED_TOKENS * of_group;
        &self.tiles[group + block * self.form.block_values() / 32..group + of_group]
    }

    fn empty(form: Form, cols: usize, tokens: usize) -> Self {
        let columns: usize = Tile::cut(tokens).map(|tile| tile.width).sum();
        let blocks = cols / form.block_values();
        let (values, scaled) = match form {
            Form::Floats => (cols, 0),
            Form::By32 { .. } | Form::By256 => (cols / 4, blocks),
        };
        Self {
            form,
            cols,
            tokens,
            values: vec![0.0; columns * values],
            scales: vec![0.0; columns * scaled],
            sums: vec![0.0; columns * scaled * form.sums()],
            #[cfg(target_arch = "x86_64")]
            tiles: Vec::new(),
        }
    }

    pub(crate) fn form(&self) -> Form {
        self.form
    }

    pub(crate) fn tokens(&self) -> usize {
        self.tokens
    }

    /// Whether weights are unpacked before they are multiplied with these, because there are more tokens than
    /// have their sums in registers.
    pub(crate) fn are_staged(&self) -> bool {
        are_staged(self.tokens)
    }

    /// One tile's activations from block `block` on.
    pub(crate) fn at(&self, tile: &Tile, block: usize) -> TileView {
        // Only the last tile is narrower than the others.
        let blocks = self.cols / self.form.block_values();
        let before = tile.first * blocks + block * tile.width;
        let unit = match self.form {
            Form::Floats => self.form.block_values(),
            Form::By32 { .. } | Form::By256 => self.form.block_values() / 4,
        };
        TileView {
            values: self.values[before * unit..].as_ptr().cast(),
            scales: self.scales.get(before..).unwrap_or_default().as_ptr(),
            sums: self.sums.get(before * self.form.sums()..).unwrap_or_default().as_ptr(),
        }
    }

    fn parts(&mut self) -> Parts {
        Parts {
            form: self.form,
            cols: self.cols,
            values: self.values.as_mut_ptr(),
            scales: self.scales.as_mut_ptr(),
            sums: self.sums.as_mut_ptr(),
        }
    }
}

/// The same memory, for threads that each write their own tiles.
struct Parts {
    form: Form,
    cols: usize,
    values: *mut f32,
    scales: *mut f32,
    sums: *mut f32,
}

// SAFETY: `of` gives disjoint slices for disjoint tiles, which is its condition.
unsafe impl Sync for Parts {}

impl Parts {
    /// # Safety
    /// The tile is one of the step's, and nobody else has it.
    #[expect(clippy::mut_from_ref, reason = "disjoint by the condition")]
    unsafe fn of(&self, tile: &Tile) -> [&mut [f32]; 3] {
        let blocks = self.cols / self.form.block_values();
        let (values, scaled) = match self.form {
            Form::Floats => (self.cols, 0),
            Form::By32 { .. } | Form::By256 => (self.cols / 4, blocks),
        };
        let cut =
            |per: usize| Range { start: tile.first * per, end: (tile.first + tile.width) * per };
        let (values, scales, sums) = (cut(values), cut(scaled), cut(scaled * self.form.sums()));
        // SAFETY: the vectors hold this much for each token of each tile, padding included.
        unsafe {
            [
                std::slice::from_raw_parts_mut(self.values.add(values.start), values.len()),
                std::slice::from_raw_parts_mut(self.scales.add(scales.start), scales.len()),
                std::slice::from_raw_parts_mut(self.sums.add(sums.start), sums.len()),
            ]
        }
    }
}

/// The vectors of a tile's tokens, brought into a form.
struct FillTile<'a> {
    form: Form,
    x: &'a [f32],
    cols: usize,
    width: usize,
    is_staged: bool,
    values: &'a mut [f32],
    scales: &'a mut [f32],
    sums: &'a mut [f32],
}

impl Work for FillTile<'_> {
    // Plain loops, for which the compiler finds the machine's vectors.
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let Self { form, x, cols, width, is_staged, values, scales, sums } = self;
        let is_paired = S::PAIRED && is_staged;
        match form {
            Form::Floats => interleave(x, cols, width, values),
            Form::By32 { offset } => {
                quantise::<32>(x, cols, width, is_paired, offset, [values, scales, sums]);
            }
            Form::By256 => {
                quantise::<256>(x, cols, width, is_paired, 0, [values, scales, sums]);
            }
        }
    }
}

/// `x: [tokens, cols]` → `[cols][width]`
#[inline(always)]
fn interleave(x: &[f32], cols: usize, width: usize, values: &mut [f32]) {
    for (token, x) in x.chunks_exact(cols).enumerate() {
        for (value, out) in x.iter().zip(values[token..].iter_mut().step_by(width)) {
            *out = *value;
        }
    }
}

/// `x: [tokens, cols]` → `[cols / 4][width]` or, paired, `[cols / 8][width][2]` units, `[blocks][width]` scales, `[blocks][sums][width]`
#[inline(always)]
fn quantise<const BLOCK: usize>(
    x: &[f32],
    cols: usize,
    width: usize,
    is_paired: bool,
    offset: u16,
    [values, scales, sums]: [&mut [f32]; 3],
) {
    let sums_of_block = if BLOCK == 32 { 1 } else { SUMS_OF_256 };
    for (token, x) in x.chunks_exact(cols).enumerate() {
        for (block, x) in x.as_chunks::<BLOCK>().0.iter().enumerate() {
            let mut bytes = [0u8; BLOCK_MAX];
            let mut over_16 = [0i32; BLOCK_MAX / 16];
            scales[block * width + token] = quantise_block(x, &mut bytes, &mut over_16);
            let units = &mut values[block * BLOCK / 4 * width..][..BLOCK / 4 * width];
            let unit = |bytes: &[u8; 4]| f32::from_bits(u32::from_le_bytes(*bytes));
            if is_paired {
                let (pairs, (bytes, _)) =
                    (units[2 * token..].chunks_mut(2 * width), bytes.as_chunks::<4>());
                for (pair, bytes) in pairs.zip(bytes.as_chunks::<2>().0) {
                    pair[..2].copy_from_slice(&bytes.each_ref().map(unit));
                }
            } else {
                let outs = units[token..].iter_mut().step_by(width);
                for (bytes, out) in bytes.as_chunks::<4>().0.iter().zip(outs) {
                    *out = unit(bytes);
                }
            }
            let sums = &mut sums[block * sums_of_block * width..][..sums_of_block * width];
            if BLOCK == 32 {
                let sum = (over_16[0] + over_16[1]) * i32::from(offset);
                sums[token] = sum as f32 * scales[block * width + token];
                continue;
            }
            let over_32: [i32; 8] = std::array::from_fn(|i| over_16[2 * i] + over_16[2 * i + 1]);
            for (index, pair) in pairs(&over_32).chain(pairs(&over_16)).enumerate() {
                sums[index * width + token] = f32::from_bits(pair.cast_unsigned());
            }
        }
    }
}

/// Sums by two, as kernels find the scales that they belong to: of each four, the first with the
/// third and the second with the fourth.
#[inline(always)]
fn pairs(sums: &[i32]) -> impl Iterator<Item = i32> {
    let pair = |low: i32, high: i32| low & 0xffff | high << 16;
    sums.as_chunks::<4>().0.iter().flat_map(move |s| [pair(s[0], s[2]), pair(s[1], s[3])])
}

/// Rounds a block to integers from −127 to 127; gives the scale, and the sums over each 16.
///
/// A value that is not finite makes the scale so, and with it everything that is computed from
/// the block.
#[inline(always)]
fn quantise_block<const BLOCK: usize>(
    x: &[f32; BLOCK],
    bytes: &mut [u8; BLOCK_MAX],
    over_16: &mut [i32; BLOCK_MAX / 16],
) -> f32 {
    /// Adding this rounds to the nearest integer, which then stands in the lowest bits.
    const ROUNDER: f32 = 12_582_912.0;
    // As integers, because the order of positive floats is that of their bits, with those that
    // are not finite above all.
    let mut greatest = 0u32;
    for v in x {
        greatest = greatest.max(v.to_bits() & 0x7fff_ffff);
    }
    let scale = f32::from_bits(greatest) / 127.0;
    let inverse = if greatest == 0 { 0.0 } else { 127.0 / f32::from_bits(greatest) };
    // One plain loop for each step: so they become vectors.
    let mut rounded = [0i32; BLOCK];
    for (rounded, v) in rounded.iter_mut().zip(x) {
        let bits = (v * inverse + ROUNDER).to_bits();
        *rounded = bits.wrapping_sub(ROUNDER.to_bits()).cast_signed();
    }
    for (byte, rounded) in bytes.iter_mut().zip(rounded) {
        *byte = rounded as u8;
    }
    for (sum, bytes) in over_16.iter_mut().zip(bytes.as_chunks().0).take(BLOCK / 16) {
        *sum = sum_of_16(bytes);
    }
    scale
}

/// The sum of bytes with a sign.
///
/// In places of 16 bits inside whole words: of a loop over bytes, compilers make gathers.
#[inline(always)]
fn sum_of_16(bytes: &[u8; 16]) -> i32 {
    const EVEN: u64 = 0x00ff_00ff_00ff_00ff;
    let mut places = 0;
    for word in bytes.as_chunks().0 {
        let unsigned = u64::from_le_bytes(*word) ^ 0x8080_8080_8080_8080;
        places += (unsigned & EVEN) + (unsigned >> 8 & EVEN);
    }
    // Four sums below 2^10, added into the highest place.
    let sum = places.wrapping_mul(0x0001_0001_0001_0001) >> 48;
    sum as i32 - 16 * 128
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_cover_the_tokens() {
        let widths = |tokens| Tile::cut(tokens).map(|tile| (tile.tokens, tile.width)).collect();
        let expected: [(usize, Vec<(usize, usize)>); 5] = [
            (0, vec![]),
            (1, vec![(1, 1)]),
            (3, vec![(3, 4)]),
            (8, vec![(8, 8)]),
            (22, vec![(8, 8), (8, 8), (6, 8)]),
        ];
        for (tokens, expected) in expected {
            let found: Vec<_> = widths(tokens);
            assert_eq!(found, expected);
        }
    }

    #[test]
    fn integers_and_scale_give_the_values_back() {
        let x: [f32; 256] = std::array::from_fn(|i| (i as f32 * 0.7).sin() * 3.0);
        let (mut bytes, mut sums) = ([0; BLOCK_MAX], [0; 16]);
        let scale = quantise_block(&x, &mut bytes, &mut sums);
        for (x, byte) in x.iter().zip(bytes) {
            let back = f32::from(byte.cast_signed()) * scale;
            assert!((x - back).abs() <= 0.501 * scale, "{x} became {back}");
        }
        for (sum, bytes) in sums.iter().zip(bytes.as_chunks::<16>().0) {
            let found: i32 = bytes.iter().map(|byte| i32::from(byte.cast_signed())).sum();
            assert_eq!(*sum, found);
        }
        let whole: i32 = bytes.iter().map(|byte| i32::from(byte.cast_signed())).sum();
        assert_eq!(sums.iter().sum::<i32>(), whole);
    }

    #[test]
    fn zeros_stay_zeros_and_infinity_is_not_hidden() {
        let (mut bytes, mut sums) = ([1; BLOCK_MAX], [0; 16]);
        assert_eq!(quantise_block(&[0.0; 32], &mut bytes, &mut sums), 0.0);
        assert_eq!(bytes[..32], [0; 32]);
        for value in [f32::INFINITY, f32::NAN, -f32::NAN] {
            let mut x = [1.0; 32];
            x[7] = value;
            assert!(!quantise_block(&x, &mut bytes, &mut sums).is_finite());
        }
    }
}
