//! What the words of a panel stand for, as `cpu-kernels` has laid them out.
//!
//! A block of 16 rows begins with its fields of two bytes, two rows to a word, then units of a word
//! for each row. A block is read in *chunks*, a chunk in *steps*; a step gives a word of four
//! integers of 8 bits for each *slot*, and the integers of a slot share a scale throughout a chunk.

use cubecl::prelude::*;
use weights::Encoding;

use crate::halves::half_to_float;

/// Rows of a panel.
pub(crate) const ROWS: usize = 16;

/// How the blocks of an encoding are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Blocks {
    pub(crate) encoding: Encoding,
    /// Words of the fields of two bytes.
    pub(crate) half_words: usize,
    /// Words of a block of 16 rows.
    pub(crate) words: usize,
    /// Words of four activations that a block is multiplied with.
    pub(crate) groups: usize,
    pub(crate) chunks: usize,
    pub(crate) steps: usize,
    pub(crate) slots: usize,
    /// Whether a multiple of the sum of activations is taken away.
    pub(crate) minimum: bool,
    /// Whether scales and minimums are those of 16 values, not 32.
    pub(crate) sixteen: bool,
}

impl Blocks {
    /// `None` for floats, which have no blocks.
    pub(crate) fn of(encoding: Encoding) -> Option<Self> {
        let (halves, chunks, steps, slots, minimum, sixteen) = match encoding {
            Encoding::F32 | Encoding::F16 | Encoding::Bf16 => return None,
            Encoding::Q8_0 => (1, 1, 8, 1, false, false),
            Encoding::Q4_0 | Encoding::Q5_0 | Encoding::Iq4Nl => (1, 1, 4, 2, false, false),
            Encoding::Q4_1 | Encoding::Q5_1 => (2, 1, 4, 2, true, true),
            Encoding::Q2K => (2, 4, 4, 4, true, true),
            Encoding::Q3K => (1, 4, 4, 4, false, true),
            Encoding::Q4K | Encoding::Q5K => (2, 4, 8, 2, true, false),
            Encoding::Q6K => (1, 4, 4, 4, false, true),
            Encoding::Iq4Xs => (2, 8, 4, 2, false, true),
        };
        Some(Self {
            encoding,
            half_words: halves * ROWS / 2,
            words: encoding.block_bytes() * ROWS / 4,
            groups: encoding.block_values() / 4,
            chunks,
            steps,
            slots,
            minimum,
            sixteen,
        })
    }

    /// Words that a chunk gives for each row.
    pub(crate) fn chunk_words(&self) -> usize {
        self.steps * self.slots
    }
}

/// Which word of a block's activations belongs to a slot.
#[cube]
pub(crate) fn group(
    chunk: usize,
    step: usize,
    #[comptime] slot: usize,
    #[comptime] blocks: Blocks,
) -> usize {
    if comptime!(blocks.slots == 4) {
        // Four runs of 32 values share bytes; a chunk has half of each.
        (chunk / 2 * 8 + slot * 2 + chunk % 2) * 4 + step
    } else {
        (chunk * comptime!(blocks.slots) + slot) * comptime!(blocks.steps) + step
    }
}

/// In each byte, the bits of `mask` of what stands `shift` bits up.
#[cube]
fn bits(word: u32, shift: u32, #[comptime] mask: u32) -> u32 {
    (word >> shift) & comptime!(mask * 0x0101_0101)
}

/// Takes `amount`, below 128, from each byte, which is below 128.
#[cube]
fn less(word: u32, #[comptime] amount: u32) -> u32 {
    ((word | 0x8080_8080) - comptime!(amount * 0x0101_0101)) ^ 0x8080_8080
}

/// Four consecutive bits from `first` on, each into bit 4 of a byte.
#[cube]
fn fifth_bits(word: u32, first: u32) -> u32 {
    let four = (word >> first) & 15;
    let two = four | (four << 7);
    ((two | (two << 14)) & 0x0101_0101) << 4
}

/// What the four nibbles of a word, one in each byte, stand for on the curve.
#[cube]
fn curve(nibbles: u32) -> u32 {
    let mut found = 0u32;
    #[unroll]
    for byte in 0..4u32 {
        let nibble = (nibbles >> (byte * 8)) & 15;
        // The table of 16 bytes as four words, the first entry lowest.
        let low = select(nibble < 4, 0xbfad_9881u32, 0xf6ea_ddcfu32);
        let high = select(nibble < 12, 0x2619_0d01u32, 0x7159_4535u32);
        let word = select(nibble < 8, low, high);
        found |= ((word >> ((nibble & 3) * 8)) & 255) << (byte * 8);
    }
    found
}

/// A row's unit.
#[cube]
fn unit(panels: &[u32], units: usize, row: usize, index: usize) -> u32 {
    panels[units + index * comptime!(ROWS) + row]
}

/// The integers of a step, a word of four for each slot. `first` is the block's first word.
#[cube]
pub(crate) fn step_words(
    panels: &[u32],
    first: usize,
    row: usize,
    chunk: usize,
    step: usize,
    found: &mut Array<u32>,
    #[comptime] blocks: Blocks,
) {
    let units = first + comptime!(blocks.half_words);
    if comptime!(blocks.encoding == Encoding::Q8_0) {
        found[0] = unit(panels, units, row, step);
    } else if comptime!(blocks.slots == 4) {
        four_runs(panels, units, row, chunk, step, found, blocks);
    } else {
        two_halves(panels, units, row, chunk, step, found, blocks);
    }
}

/// Low and high nibbles of a unit, with what other units add.
#[cube]
fn two_halves(
    panels: &[u32],
    units: usize,
    row: usize,
    chunk: usize,
    step: usize,
    found: &mut Array<u32>,
    #[comptime] blocks: Blocks,
) {
    let encoding = comptime!(blocks.encoding);
    let before = comptime!(match encoding {
        Encoding::Q5_0 | Encoding::Q5_1 | Encoding::Iq4Xs => 1,
        Encoding::Q4K => 3,
        Encoding::Q5K => 11,
        _ => 0,
    });
    let word = unit(panels, units, row, before + chunk * comptime!(blocks.steps) + step);
    let mut low = bits(word, 0u32, 15u32);
    let mut high = bits(word, 4u32, 15u32);
    if comptime!(encoding == Encoding::Q5K) {
        // The fifth bit of sub-block `s` is bit `s`.
        let fifths = unit(panels, units, row, 3 + step) >> (chunk as u32 * 2);
        low |= bits(fifths, 0u32, 1u32) << 4;
        high |= bits(fifths, 1u32, 1u32) << 4;
    }
    if comptime!(matches!(encoding, Encoding::Q5_0 | Encoding::Q5_1)) {
        let fifths = unit(panels, units, row, 0);
        low |= fifth_bits(fifths, step as u32 * 4);
        high |= fifth_bits(fifths, 16 + step as u32 * 4);
    }
    if comptime!(matches!(encoding, Encoding::Iq4Nl | Encoding::Iq4Xs)) {
        low = curve(low);
        high = curve(high);
    }
    if comptime!(encoding == Encoding::Q4_0) {
        low = less(low, 8u32);
        high = less(high, 8u32);
    }
    if comptime!(encoding == Encoding::Q5_0) {
        low = less(low, 16u32);
        high = less(high, 16u32);
    }
    found[0] = low;
    found[1] = high;
}

/// Pairs of bits of four runs, with what other units add.
#[cube]
fn four_runs(
    panels: &[u32],
    units: usize,
    row: usize,
    chunk: usize,
    step: usize,
    found: &mut Array<u32>,
    #[comptime] blocks: Blocks,
) {
    if comptime!(blocks.encoding == Encoding::Q6K) {
        let at = 4 + (chunk * 4 + step) * 3;
        let a = unit(panels, units, row, at);
        let b = unit(panels, units, row, at + 1);
        let high = unit(panels, units, row, at + 2);
        found[0] = less(bits(a, 0u32, 15u32) | (bits(high, 0u32, 3u32) << 4), 32u32);
        found[1] = less(bits(b, 0u32, 15u32) | (bits(high, 2u32, 3u32) << 4), 32u32);
        found[2] = less(bits(a, 4u32, 15u32) | (bits(high, 4u32, 3u32) << 4), 32u32);
        found[3] = less(bits(b, 4u32, 15u32) | (bits(high, 6u32, 3u32) << 4), 32u32);
    } else if comptime!(blocks.encoding == Encoding::Q2K) {
        let word = unit(panels, units, row, 4 + chunk * 4 + step);
        #[unroll]
        for run in 0..4usize {
            found[run] = bits(word, comptime!(run as u32 * 2), 3u32);
        }
    } else {
        // Of the mask's bytes, each run has its own bit.
        let mask = unit(panels, units, row, 3 + chunk % 2 * 4 + step) >> (chunk as u32 / 2 * 4);
        let word = unit(panels, units, row, 11 + chunk * 4 + step);
        #[unroll]
        for run in 0..4usize {
            let third = bits(mask, comptime!(run as u32), 1u32) << 2;
            found[run] = less(bits(word, comptime!(run as u32 * 2), 3u32) | third, 4u32);
        }
    }
}

/// Field `index` of two bytes.
#[cube]
fn half_bits(panels: &[u32], first: usize, row: usize, #[comptime] index: usize) -> u32 {
    (panels[first + comptime!(index * ROWS / 2) + row / 2] >> (row as u32 % 2 * 16)) & 0xffff
}

/// Byte `index` of a row's units.
#[cube]
fn unit_byte(panels: &[u32], units: usize, row: usize, index: usize) -> u32 {
    (unit(panels, units, row, index / 4) >> (index as u32 % 4 * 8)) & 255
}

/// What the integers of a slot are multiplied with, and what of the sum of activations is taken
/// away then: `found[0]`, `found[1]`.
#[cube]
pub(crate) fn slot_scales(
    panels: &[u32],
    first: usize,
    row: usize,
    chunk: usize,
    #[comptime] slot: usize,
    found: &mut Array<f32>,
    #[comptime] blocks: Blocks,
) {
    let encoding = comptime!(blocks.encoding);
    let units = first + comptime!(blocks.half_words);
    let scale = half_to_float(half_bits(panels, first, row, 0usize));
    if comptime!(matches!(encoding, Encoding::Q4K | Encoding::Q5K)) {
        let minimum = half_to_float(half_bits(panels, first, row, 1usize));
        let sub = (chunk * 2 + slot) as u32;
        // Eight scales and eight minimums of six bits in twelve bytes.
        let shift = sub % 4 * 8;
        let a = (unit(panels, units, row, 0) >> shift) & 255;
        let b = (unit(panels, units, row, 1) >> shift) & 255;
        let c = (unit(panels, units, row, 2) >> shift) & 255;
        let early = sub < 4;
        let scales = select(early, a & 63, (c & 15) | (a >> 6 << 4));
        let minimums = select(early, b & 63, (c >> 4) | (b >> 6 << 4));
        found[0] = scale * f32::cast_from(scales);
        found[1] = minimum * f32::cast_from(minimums);
    } else if comptime!(blocks.slots == 4) {
        let sub = chunk / 2 * 8 + slot * 2 + chunk % 2;
        if comptime!(encoding == Encoding::Q6K) {
            let byte = unit_byte(panels, units, row, sub);
            found[0] = scale * (f32::cast_from(byte ^ 128) - 128.0);
        } else if comptime!(encoding == Encoding::Q2K) {
            let minimum = half_to_float(half_bits(panels, first, row, 1usize));
            let byte = unit_byte(panels, units, row, sub);
            found[0] = scale * f32::cast_from(byte & 15);
            found[1] = minimum * f32::cast_from(byte >> 4);
        } else {
            let low = unit_byte(panels, units, row, sub % 8) >> (sub as u32 / 8 * 4) & 15;
            let high = unit_byte(panels, units, row, 8 + sub % 4) >> (sub as u32 / 4 * 2) & 3;
            found[0] = scale * (f32::cast_from(low | (high << 4)) - 32.0);
        }
    } else if comptime!(encoding == Encoding::Iq4Xs) {
        let sub = chunk as u32;
        let low = unit(panels, units, row, 0) >> (sub * 4) & 15;
        let high = half_bits(panels, first, row, 1usize) >> (sub * 2) & 3;
        found[0] = scale * (f32::cast_from(low | (high << 4)) - 32.0);
    } else {
        found[0] = scale;
        if comptime!(blocks.minimum) {
            found[1] = -half_to_float(half_bits(panels, first, row, 1usize));
        }
    }
}
