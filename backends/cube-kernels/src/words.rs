//! Numbers of 8 and 16 bits inside words of 32: not every device has types for them.

use cubecl::prelude::*;

/// What a finite half cannot hold rounds to: the bits of the greatest one.
const HALF_MAX: u32 = 0x7bff;
/// Bits of the smallest `f32` that rounds to an infinity of 16 bits.
const ROUNDS_TO_INFINITY: u32 = 0x477f_f000;
/// Bits of 2⁻¹⁴, the smallest half that is not subnormal.
const HALF_NORMAL: u32 = 0x3880_0000;
/// Bits of an infinity.
const INFINITY: u32 = 0x7f80_0000;
/// What is added to the bits of a half, moved to the places of an `f32`, for its exponent.
const EXPONENT_SHIFT: u32 = 112 << 23;
/// An exponent of 1.
const EXPONENT_ONE: u32 = 1 << 23;
/// 2⁻¹⁴
const SMALLEST_NORMAL: f32 = 6.103_515_6e-5;
/// One half, whose last bit is worth 2⁻²⁴, as that of a subnormal half.
const ONE_HALF: u32 = 0x3f00_0000;

/// The 16 bits of the half nearest to a number, the even one of two. What is too great stays
/// finite, as on the CPU.
#[cube]
pub(crate) fn half_bits(number: f32) -> u32 {
    let bits = u32::reinterpret(number);
    let magnitude = bits & 0x7fff_ffffu32;
    let odd = (magnitude >> 13u32) & 1u32;
    let normal = (magnitude - EXPONENT_SHIFT + 0xfffu32 + odd) >> 13u32;
    // The sum has no room for what is below 2⁻²⁴ and rounds it.
    let subnormal = u32::reinterpret(f32::reinterpret(magnitude) + 0.5f32) - ONE_HALF;
    let rounded = select(magnitude < HALF_NORMAL, subnormal, normal);
    let finite = select(magnitude >= ROUNDS_TO_INFINITY, HALF_MAX, rounded);
    let half = select(magnitude > INFINITY, 0x7e00u32, finite);
    half | ((bits >> 16u32) & 0x8000u32)
}

/// The number that a finite half in the low 16 bits stands for. No product of a subnormal number
/// is needed, which a device may take for zero.
#[cube]
pub(crate) fn half_value(bits: u32) -> f32 {
    let magnitude = (bits & 0x7fffu32) << 13u32;
    let shifted = magnitude + EXPONENT_SHIFT;
    let subnormal = f32::reinterpret(shifted + EXPONENT_ONE) - SMALLEST_NORMAL;
    let value = select(magnitude < EXPONENT_ONE, subnormal, f32::reinterpret(shifted));
    f32::reinterpret(u32::reinterpret(value) | ((bits & 0x8000u32) << 16u32))
}

/// The number that a signed byte in the low 8 bits stands for.
#[cube]
pub(crate) fn byte_value(bits: u32) -> f32 {
    f32::cast_from((bits & 255u32) ^ 128u32) - 128.0f32
}

/// The signed byte nearest to a number of at most 127, the even one of two, by a sum that has no
/// room for fractions.
#[cube]
pub(crate) fn byte_bits(number: f32) -> u32 {
    u32::reinterpret(number + 12_582_912.0f32) & 255u32
}

/// The bits of a number of so many bytes.
#[cube]
pub(crate) fn pack(number: f32, #[comptime] bytes: usize) -> u32 {
    if comptime!(bytes == 4) {
        u32::reinterpret(number)
    } else if comptime!(bytes == 2) {
        half_bits(number)
    } else {
        byte_bits(number)
    }
}

/// The number whose bits are the lowest of a word.
#[cube]
pub(crate) fn unpack(bits: u32, #[comptime] bytes: usize) -> f32 {
    if comptime!(bytes == 4) {
        f32::reinterpret(bits)
    } else if comptime!(bytes == 2) {
        half_value(bits)
    } else {
        byte_value(bits)
    }
}

/// The number at `index` behind word `first`.
#[cube]
pub(crate) fn number(words: &[u32], first: usize, index: usize, #[comptime] bytes: usize) -> f32 {
    let per_word = comptime!(4 / bytes);
    let bits = comptime!(8 * bytes as u32);
    let word = words[first + index / per_word];
    unpack(word >> (u32::cast_from(index % per_word) * bits), bytes)
}

/// The two numbers from an even `index` behind word `first`.
#[cube]
pub(crate) fn pair(
    words: &[u32],
    first: usize,
    index: usize,
    #[comptime] bytes: usize,
) -> (f32, f32) {
    if comptime!(bytes == 4) {
        let at = first + index;
        (f32::reinterpret(words[at]), f32::reinterpret(words[at + 1]))
    } else if comptime!(bytes == 2) {
        let word = words[first + index / 2];
        (half_value(word), half_value(word >> 16u32))
    } else {
        let word = words[first + index / 4] >> (u32::cast_from(index & 2) * 8u32);
        (byte_value(word), byte_value(word >> 8u32))
    }
}
