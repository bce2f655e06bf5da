//! Encodings: the layout of each block, and the scalar unpack that defines it.
//!
//! Everything here is little-endian. The layouts are those of the ggml block structures, as the
//! `gguf` Python package (`gguf.quants`) dequantises them; kernels elsewhere are faster readers
//! of the same pages. Names in the layouts: `d` scale, `m` minimum, `qs` low bits, `qh` high bits,
//! all of one block; a *sub-block* is 16 or 32 values that share a scale inside a block of 256.

use half::{bf16, f16};

use crate::WeightsError;

/// How a tensor's values are packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Encoding {
    /// 32-bit floats.
    F32,
    /// IEEE 16-bit floats.
    F16,
    /// The upper half of 32-bit floats.
    Bf16,
    /// 8.5 bits a value.
    Q8_0,
    /// 4.5 bits a value.
    Q4_0,
    /// 5 bits a value, with a minimum.
    Q4_1,
    /// 5.5 bits a value.
    Q5_0,
    /// 6 bits a value, with a minimum.
    Q5_1,
    /// 2.625 bits a value.
    Q2K,
    /// 3.4375 bits a value.
    Q3K,
    /// 4.5 bits a value, with minimums.
    Q4K,
    /// 5.5 bits a value, with minimums.
    Q5K,
    /// 6.5625 bits a value.
    Q6K,
    /// 4.5 bits a value, on a curve.
    Iq4Nl,
    /// 4.25 bits a value, on a curve.
    Iq4Xs,
}

/// A row of the table of encodings.
struct Layout {
    name: &'static str,
    /// The number that stands for it in a GGUF tensor table.
    gguf: u32,
    values: usize,
    bytes: usize,
}

const fn layout(name: &'static str, gguf: u32, values: usize, bytes: usize) -> Layout {
    Layout { name, gguf, values, bytes }
}

/// In the order of [`Encoding::ALL`].
const LAYOUTS: [Layout; 15] = [
    layout("F32", 0, 1, 4),
    layout("F16", 1, 1, 2),
    layout("BF16", 30, 1, 2),
    layout("Q8_0", 8, 32, 34),
    layout("Q4_0", 2, 32, 18),
    layout("Q4_1", 3, 32, 20),
    layout("Q5_0", 6, 32, 22),
    layout("Q5_1", 7, 32, 24),
    layout("Q2_K", 10, 256, 84),
    layout("Q3_K", 11, 256, 110),
    layout("Q4_K", 12, 256, 144),
    layout("Q5_K", 13, 256, 176),
    layout("Q6_K", 14, 256, 210),
    layout("IQ4_NL", 20, 32, 18),
    layout("IQ4_XS", 23, 256, 136),
];

/// GGUF types that exist and are not read here, to name them in an error.
const UNREAD_GGUF_TYPES: [(u32, &str); 19] = [
    (9, "Q8_1"),
    (15, "Q8_K"),
    (16, "IQ2_XXS"),
    (17, "IQ2_XS"),
    (18, "IQ3_XXS"),
    (19, "IQ1_S"),
    (21, "IQ3_S"),
    (22, "IQ2_S"),
    (24, "I8"),
    (25, "I16"),
    (26, "I32"),
    (27, "I64"),
    (28, "F64"),
    (29, "IQ1_M"),
    (34, "TQ1_0"),
    (35, "TQ2_0"),
    (39, "MXFP4"),
    (4, "Q4_2, which was removed from the format,"),
    (5, "Q4_3, which was removed from the format,"),
];

impl Encoding {
    /// Every encoding.
    pub const ALL: [Self; 15] = [
        Self::F32,
        Self::F16,
        Self::Bf16,
        Self::Q8_0,
        Self::Q4_0,
        Self::Q4_1,
        Self::Q5_0,
        Self::Q5_1,
        Self::Q2K,
        Self::Q3K,
        Self::Q4K,
        Self::Q5K,
        Self::Q6K,
        Self::Iq4Nl,
        Self::Iq4Xs,
    ];

    const fn layout(self) -> &'static Layout {
        &LAYOUTS[self as usize]
    }

    /// The name in use everywhere: `Q4_K`, `BF16`.
    pub fn name(self) -> &'static str {
        self.layout().name
    }

    /// Values in one block; 1 where there are no blocks.
    pub const fn block_values(self) -> usize {
        self.layout().values
    }

    /// Bytes of one block.
    pub fn block_bytes(self) -> usize {
        self.layout().bytes
    }

    /// Bytes of a row of so many values.
    ///
    /// # Errors
    /// `RowLength` if the values are not whole blocks, or their bytes cannot be counted.
    pub fn row_bytes(self, values: usize) -> Result<usize, WeightsError> {
        let wrong = WeightsError::RowLength {
            encoding: self.name(),
            block_values: self.block_values(),
            values,
        };
        if !values.is_multiple_of(self.block_values()) {
            return Err(wrong);
        }
        (values / self.block_values()).checked_mul(self.block_bytes()).ok_or(wrong)
    }

    /// The number that stands for it in a GGUF tensor table.
    pub(crate) fn gguf(self) -> u32 {
        self.layout().gguf
    }

    /// The encoding behind a GGUF type number; else the type's name where it is known.
    pub(crate) fn from_gguf(number: u32) -> Result<Self, Option<&'static str>> {
        let found = Self::ALL.into_iter().find(|encoding| encoding.layout().gguf == number);
        found.ok_or_else(|| {
            UNREAD_GGUF_TYPES.iter().find(|(known, _)| *known == number).map(|(_, name)| *name)
        })
    }

    /// Packs whole blocks; nothing for an encoding that is only read. Q8_0 rounds to the nearest of
    /// 255 steps between plus and minus the largest number of a block.
    pub(crate) fn pack(self, values: &[f32]) -> Option<Vec<u8>> {
        match self {
            Self::F32 => Some(values.iter().flat_map(|value| value.to_le_bytes()).collect()),
            Self::Q8_0 => Some(values.chunks(self.block_values()).flat_map(pack_q8_0).collect()),
            _ => None,
        }
    }

    /// Unpacks whole blocks: the scalar definition of the encoding.
    ///
    /// Shapes: `bytes: [n · block_bytes]`, `out: [n · block_values]`. Computed in f32, each
    /// product rounded before the sum.
    ///
    /// # Errors
    /// `UnpackLength` if the two are not the same whole number of blocks.
    pub fn unpack(self, bytes: &[u8], out: &mut [f32]) -> Result<(), WeightsError> {
        let (block_bytes, block_values) = (self.block_bytes(), self.block_values());
        let whole = bytes.len().is_multiple_of(block_bytes)
            && out.len().is_multiple_of(block_values)
            && bytes.len() / block_bytes == out.len() / block_values;
        if !whole {
            return Err(WeightsError::UnpackLength {
                encoding: self.name(),
                block_bytes,
                block_values,
                bytes: bytes.len(),
                values: out.len(),
            });
        }
        let unpack_block: fn(&[u8], &mut [f32]) = match self {
            Self::F32 => f32_value,
            Self::F16 => f16_value,
            Self::Bf16 => bf16_value,
            Self::Q8_0 => q8_0,
            Self::Q4_0 => q4_0,
            Self::Q4_1 => q4_1,
            Self::Q5_0 => q5_0,
            Self::Q5_1 => q5_1,
            Self::Q2K => q2_k,
            Self::Q3K => q3_k,
            Self::Q4K => q4_k,
            Self::Q5K => q5_k,
            Self::Q6K => q6_k,
            Self::Iq4Nl => iq4_nl,
            Self::Iq4Xs => iq4_xs,
        };
        for (block, values) in
            bytes.chunks_exact(block_bytes).zip(out.chunks_exact_mut(block_values))
        {
            unpack_block(block, values);
        }
        Ok(())
    }
}

fn half_at(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

fn signed(byte: u8) -> f32 {
    f32::from(byte.cast_signed())
}

fn f32_value(block: &[u8], out: &mut [f32]) {
    out[0] = f32::from_le_bytes([block[0], block[1], block[2], block[3]]);
}

fn f16_value(block: &[u8], out: &mut [f32]) {
    out[0] = half_at(block, 0);
}

fn bf16_value(block: &[u8], out: &mut [f32]) {
    out[0] = bf16::from_le_bytes([block[0], block[1]]).to_f32();
}

/// `d: f16, qs: [i8; 32]`; value = d · q. Source: ggml `block_q8_0`.
fn pack_q8_0(block: &[f32]) -> Vec<u8> {
    let largest = block.iter().fold(0.0_f32, |largest, value| largest.max(value.abs()));
    let scale = largest / 127.0;
    let factor = if scale > 0.0 { scale.recip() } else { 0.0 };
    let rounded = block.iter().map(|value| (value * factor).round() as i8 as u8);
    f16::from_f32(scale).to_le_bytes().into_iter().chain(rounded).collect()
}

fn q8_0(block: &[u8], out: &mut [f32]) {
    let d = half_at(block, 0);
    for (value, &q) in out.iter_mut().zip(&block[2..]) {
        *value = d * signed(q);
    }
}

/// `d: f16, qs: [u8; 16]`; low nibbles are values 0..16, high ones 16..32; value = d · (q − 8).
/// Source: ggml `block_q4_0`.
fn q4_0(block: &[u8], out: &mut [f32]) {
    let d = half_at(block, 0);
    for (j, &q) in block[2..].iter().enumerate() {
        out[j] = d * (f32::from(q & 15) - 8.0);
        out[j + 16] = d * (f32::from(q >> 4) - 8.0);
    }
}

/// `d: f16, m: f16, qs: [u8; 16]`; nibbles as in [`q4_0`]; value = d · q + m.
/// Source: ggml `block_q4_1`.
fn q4_1(block: &[u8], out: &mut [f32]) {
    let (d, m) = (half_at(block, 0), half_at(block, 2));
    for (j, &q) in block[4..].iter().enumerate() {
        out[j] = d * f32::from(q & 15) + m;
        out[j + 16] = d * f32::from(q >> 4) + m;
    }
}

/// The fifth bit of 32 values, value `j` at bit `j`, moved to bit 4.
fn fifth_bit(qh: u32, j: usize) -> u8 {
    if (qh >> j) & 1 == 1 { 16 } else { 0 }
}

fn u32_at(block: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([block[at], block[at + 1], block[at + 2], block[at + 3]])
}

/// `d: f16, qh: u32, qs: [u8; 16]`; value = d · (q − 16). Source: ggml `block_q5_0`.
fn q5_0(block: &[u8], out: &mut [f32]) {
    let (d, qh) = (half_at(block, 0), u32_at(block, 2));
    for (j, &q) in block[6..].iter().enumerate() {
        out[j] = d * (f32::from((q & 15) | fifth_bit(qh, j)) - 16.0);
        out[j + 16] = d * (f32::from((q >> 4) | fifth_bit(qh, j + 16)) - 16.0);
    }
}

/// `d: f16, m: f16, qh: u32, qs: [u8; 16]`; value = d · q + m. Source: ggml `block_q5_1`.
fn q5_1(block: &[u8], out: &mut [f32]) {
    let (d, m, qh) = (half_at(block, 0), half_at(block, 2), u32_at(block, 4));
    for (j, &q) in block[8..].iter().enumerate() {
        out[j] = d * f32::from((q & 15) | fifth_bit(qh, j)) + m;
        out[j + 16] = d * f32::from((q >> 4) | fifth_bit(qh, j + 16)) + m;
    }
}

/// `scales: [u8; 16], qs: [u8; 64], d: f16, dmin: f16`; 16 sub-blocks of 16.
///
/// Each half of 128 values has 32 bytes of `qs`, read four times at shifts 0, 2, 4, 6.
/// A scale byte is scale (low nibble) and minimum (high nibble):
/// value = (d · scale) · q − dmin · minimum. Source: ggml `block_q2_K`.
fn q2_k(block: &[u8], out: &mut [f32]) {
    let (scales, qs) = (&block[..16], &block[16..80]);
    let (d, dmin) = (half_at(block, 80), half_at(block, 82));
    for (sub, values) in out.chunks_exact_mut(16).enumerate() {
        let scale = d * f32::from(scales[sub] & 15);
        let minimum = dmin * f32::from(scales[sub] >> 4);
        let (half, shift, side) = (sub / 8, sub % 8 / 2 * 2, sub % 2);
        let bytes = &qs[half * 32 + side * 16..][..16];
        for (value, &q) in values.iter_mut().zip(bytes) {
            *value = scale * f32::from((q >> shift) & 3) - minimum;
        }
    }
}

/// `hmask: [u8; 32], qs: [u8; 64], scales: [u8; 12], d: f16`; 16 sub-blocks of 16.
///
/// Low bits as in [`q2_k`]. Values `32 · b ..` have their third bit at bit `b` of `hmask`; one
/// that is *not* set takes 4 away. A scale has 6 bits, offset by 32: four in the nibbles of
/// `scales[0..8]`, two in `scales[8..12]`. value = d · scale · q. Source: ggml `block_q3_K`.
fn q3_k(block: &[u8], out: &mut [f32]) {
    let (hmask, qs, scales) = (&block[..32], &block[32..96], &block[96..108]);
    let d = half_at(block, 108);
    for (sub, values) in out.chunks_exact_mut(16).enumerate() {
        let low = (scales[sub % 8] >> (sub / 8 * 4)) & 15;
        let high = (scales[8 + sub % 4] >> (sub / 4 * 2)) & 3;
        let scale = d * (f32::from(low | (high << 4)) - 32.0);
        let (half, shift, side) = (sub / 8, sub % 8 / 2 * 2, sub % 2);
        let bytes = &qs[half * 32 + side * 16..][..16];
        let masks = &hmask[side * 16..][..16];
        for ((value, &q), &mask) in values.iter_mut().zip(bytes).zip(masks) {
            let below = if (mask >> (sub / 2)) & 1 == 1 { 0.0 } else { 4.0 };
            *value = scale * (f32::from((q >> shift) & 3) - below);
        }
    }
}

/// Scale and minimum of sub-block `sub` out of the 12 bytes that hold eight 6-bit pairs.
///
/// The first four pairs are the low six bits of bytes `sub` and `sub + 4`; the last four have
/// their low four bits in byte `sub + 4` and their high two atop bytes `sub − 4` and `sub`.
/// Source: ggml `get_scale_min_k4`.
fn scale_and_minimum(packed: &[u8], sub: usize) -> (f32, f32) {
    let (scale, minimum) = if sub < 4 {
        (packed[sub] & 63, packed[sub + 4] & 63)
    } else {
        (
            (packed[sub + 4] & 15) | (packed[sub - 4] >> 6 << 4),
            (packed[sub + 4] >> 4) | (packed[sub] >> 6 << 4),
        )
    };
    (f32::from(scale), f32::from(minimum))
}

/// `d: f16, dmin: f16, scales: [u8; 12], qs: [u8; 128]`; 8 sub-blocks of 32.
///
/// 32 bytes of `qs` hold two sub-blocks, low nibbles first.
/// value = (d · scale) · q − dmin · minimum. Source: ggml `block_q4_K`.
fn q4_k(block: &[u8], out: &mut [f32]) {
    let (d, dmin) = (half_at(block, 0), half_at(block, 2));
    let (scales, qs) = (&block[4..16], &block[16..144]);
    for (sub, values) in out.chunks_exact_mut(32).enumerate() {
        let (scale, minimum) = scale_and_minimum(scales, sub);
        let (scale, minimum) = (d * scale, dmin * minimum);
        let bytes = &qs[sub / 2 * 32..][..32];
        for (value, &q) in values.iter_mut().zip(bytes) {
            *value = scale * f32::from((q >> (sub % 2 * 4)) & 15) - minimum;
        }
    }
}

/// `d: f16, dmin: f16, scales: [u8; 12], qh: [u8; 32], qs: [u8; 128]`; 8 sub-blocks of 32.
///
/// As [`q4_k`]; the fifth bit of sub-block `s` is bit `s` of `qh`. Source: ggml `block_q5_K`.
fn q5_k(block: &[u8], out: &mut [f32]) {
    let (d, dmin) = (half_at(block, 0), half_at(block, 2));
    let (scales, qh, qs) = (&block[4..16], &block[16..48], &block[48..176]);
    for (sub, values) in out.chunks_exact_mut(32).enumerate() {
        let (scale, minimum) = scale_and_minimum(scales, sub);
        let (scale, minimum) = (d * scale, dmin * minimum);
        let bytes = &qs[sub / 2 * 32..][..32];
        for ((value, &q), &high) in values.iter_mut().zip(bytes).zip(qh) {
            let q = ((q >> (sub % 2 * 4)) & 15) | (((high >> sub) & 1) << 4);
            *value = scale * f32::from(q) - minimum;
        }
    }
}

/// `ql: [u8; 128], qh: [u8; 64], scales: [i8; 16], d: f16`; 16 sub-blocks of 16.
///
/// Each half of 128 values is four runs of 32: runs 0 and 1 are the low nibbles of its 64 bytes
/// of `ql`, runs 2 and 3 the high ones; run `r` takes its upper two bits from its 32 bytes of
/// `qh` at shift `2 · r`. value = (d · scale) · (q − 32). Source: ggml `block_q6_K`.
fn q6_k(block: &[u8], out: &mut [f32]) {
    let (ql, qh, scales) = (&block[..128], &block[128..192], &block[192..208]);
    let d = half_at(block, 208);
    for (sub, values) in out.chunks_exact_mut(16).enumerate() {
        let scale = d * signed(scales[sub]);
        let (half, run, side) = (sub / 8, sub % 8 / 2, sub % 2);
        let lows = &ql[half * 64 + run % 2 * 32 + side * 16..][..16];
        let highs = &qh[half * 32 + side * 16..][..16];
        for ((value, &low), &high) in values.iter_mut().zip(lows).zip(highs) {
            let q = ((low >> (run / 2 * 4)) & 15) | (((high >> (run * 2)) & 3) << 4);
            *value = scale * (f32::from(q) - 32.0);
        }
    }
}

/// What the nibbles of the two curved encodings stand for. Source: ggml `kvalues_iq4nl`.
const CURVE: [f32; 16] = [
    -127.0, -104.0, -83.0, -65.0, -49.0, -35.0, -22.0, -10.0, 1.0, 13.0, 25.0, 38.0, 53.0, 69.0,
    89.0, 113.0,
];

fn curve(nibble: u8) -> f32 {
    CURVE[usize::from(nibble & 15)]
}

/// As [`q4_0`], with value = d · curve(q). Source: ggml `block_iq4_nl`.
fn iq4_nl(block: &[u8], out: &mut [f32]) {
    let d = half_at(block, 0);
    for (j, &q) in block[2..].iter().enumerate() {
        out[j] = d * curve(q);
        out[j + 16] = d * curve(q >> 4);
    }
}

/// `d: f16, scales_h: u16, scales_l: [u8; 4], qs: [u8; 128]`; 8 sub-blocks of 32.
///
/// A scale has 6 bits, offset by 32: four in `scales_l`, two in `scales_h`. Each sub-block has
/// 16 bytes, low nibbles first. value = (d · scale) · curve(q). Source: ggml `block_iq4_xs`.
fn iq4_xs(block: &[u8], out: &mut [f32]) {
    let d = half_at(block, 0);
    let scales_high = u16::from_le_bytes([block[2], block[3]]);
    let (scales_low, qs) = (&block[4..8], &block[8..136]);
    for (sub, values) in out.chunks_exact_mut(32).enumerate() {
        let low = u16::from((scales_low[sub / 2] >> (sub % 2 * 4)) & 15);
        let high = (scales_high >> (sub * 2)) & 3;
        let scale = d * (f32::from(low | (high << 4)) - 32.0);
        for (j, &q) in qs[sub * 16..][..16].iter().enumerate() {
            values[j] = scale * curve(q);
            values[j + 16] = scale * curve(q >> 4);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_in_the_order_of_the_enum() {
        for (index, encoding) in Encoding::ALL.into_iter().enumerate() {
            assert_eq!(encoding as usize, index);
            assert_eq!(Encoding::from_gguf(encoding.layout().gguf), Ok(encoding));
        }
    }

    #[test]
    fn a_row_that_is_not_whole_blocks_has_no_bytes() {
        assert_eq!(Encoding::Q4K.row_bytes(512).unwrap(), 288);
        assert!(matches!(Encoding::Q4K.row_bytes(128), Err(WeightsError::RowLength { .. })));
        assert!(Encoding::F32.row_bytes(usize::MAX).is_err());
    }

    #[test]
    fn bytes_and_values_must_be_as_many_blocks() {
        let mut out = [0.0; 64];
        assert!(Encoding::Q8_0.unpack(&[0; 68], &mut out).is_ok());
        for bytes in [0, 34, 67, 102] {
            assert!(Encoding::Q8_0.unpack(&vec![0; bytes], &mut out).is_err(), "{bytes}");
        }
    }

    #[test]
    fn known_types_that_are_not_read_are_named() {
        assert_eq!(Encoding::from_gguf(16), Err(Some("IQ2_XXS")));
        assert_eq!(Encoding::from_gguf(999), Err(None));
    }
}
