//! 16 lanes in plain Rust: what runs where no better kind is known, and what the others are tested
//! against.

use half::{bf16, f16};

use super::Simd;

const LANES: usize = 16;

/// Arrays; the compiler finds the vectors that the target always has.
#[derive(Clone, Copy)]
pub(crate) struct Portable;

type Ints = [i32; LANES];
type Floats = [f32; LANES];

#[inline(always)]
fn zip<T: Copy, U: Copy, R>(a: [T; LANES], b: [U; LANES], f: impl Fn(T, U) -> R) -> [R; LANES] {
    std::array::from_fn(|i| f(a[i], b[i]))
}

/// Each lane's bytes, lowest first.
#[inline(always)]
fn by_bytes(v: Ints, f: impl Fn([i8; 4]) -> i32) -> Ints {
    v.map(|lane| f(lane.to_le_bytes().map(u8::cast_signed)))
}

#[inline(always)]
fn halves(low: i8, high: i8) -> i32 {
    i32::from(low) & 0xffff | i32::from(high) << 16
}

impl Simd for Portable {
    const LANES: usize = LANES;
    const REGISTERS: usize = 16;
    const SIGNED_OFFSET: i32 = 0;
    type Int = Ints;
    type Float = Floats;

    #[inline(always)]
    unsafe fn load(from: *const u8) -> Ints {
        // SAFETY: the caller's; 64 bytes, aligned or not.
        let bytes = unsafe { from.cast::<[[u8; 4]; LANES]>().read_unaligned() };
        bytes.map(i32::from_le_bytes)
    }
    #[inline(always)]
    unsafe fn store(to: *mut u8, v: Ints) {
        // SAFETY: the caller's; 64 bytes, aligned or not.
        unsafe { to.cast::<[[u8; 4]; LANES]>().write_unaligned(v.map(i32::to_le_bytes)) }
    }
    #[inline(always)]
    unsafe fn load_i8(from: *const i8) -> Ints {
        // SAFETY: the caller's; 16 bytes.
        unsafe { from.cast::<[i8; LANES]>().read() }.map(i32::from)
    }
    #[inline(always)]
    unsafe fn load_u16(from: *const u8) -> Ints {
        // SAFETY: the caller's; 32 bytes.
        let bytes = unsafe { from.cast::<[[u8; 2]; LANES]>().read() };
        bytes.map(|bytes| i32::from(u16::from_le_bytes(bytes)))
    }
    #[inline(always)]
    unsafe fn splat(value: i32) -> Ints {
        [value; LANES]
    }
    #[inline(always)]
    unsafe fn and(a: Ints, b: Ints) -> Ints {
        zip(a, b, |a, b| a & b)
    }
    #[inline(always)]
    unsafe fn or(a: Ints, b: Ints) -> Ints {
        zip(a, b, |a, b| a | b)
    }
    #[inline(always)]
    unsafe fn shr(v: Ints, bits: u32) -> Ints {
        v.map(|v| (v.cast_unsigned() >> bits).cast_signed())
    }
    #[inline(always)]
    unsafe fn shl(v: Ints, bits: u32) -> Ints {
        v.map(|v| v << bits)
    }
    #[inline(always)]
    unsafe fn sar(v: Ints, bits: u32) -> Ints {
        v.map(|v| v >> bits)
    }
    #[inline(always)]
    unsafe fn add(a: Ints, b: Ints) -> Ints {
        zip(a, b, i32::wrapping_add)
    }
    #[inline(always)]
    unsafe fn sub_bytes(a: Ints, b: Ints) -> Ints {
        zip(a, b, |a, b| {
            let (a, b) = (a.to_le_bytes(), b.to_le_bytes());
            i32::from_le_bytes(std::array::from_fn(|i| a[i].wrapping_sub(b[i])))
        })
    }
    #[inline(always)]
    unsafe fn mul_add(sum: Ints, a: Ints, b: Ints) -> Ints {
        std::array::from_fn(|i| sum[i].wrapping_add(a[i].wrapping_mul(b[i])))
    }
    #[inline(always)]
    unsafe fn dot_unsigned(sum: Ints, weights: Ints, activations: *const i8) -> Ints {
        // SAFETY: the same condition; weights to 127 are the same number with and without a sign.
        unsafe { Self::dot_signed(sum, weights, activations) }
    }
    #[inline(always)]
    unsafe fn dot_signed(sum: Ints, weights: Ints, activations: *const i8) -> Ints {
        // SAFETY: the caller's; 4 bytes.
        let activations = unsafe { activations.cast::<[i8; 4]>().read() }.map(i32::from);
        let products = by_bytes(weights, |w| {
            (0..4).map(|i| i32::from(w[i]) * activations[i]).fold(0, i32::wrapping_add)
        });
        zip(sum, products, i32::wrapping_add)
    }
    #[inline(always)]
    unsafe fn dot_pairs(sum: Ints, a: Ints, b: i32) -> Ints {
        let (low, high) = (i32::from(b as i16), b >> 16);
        zip(sum, a, |sum, a| {
            sum.wrapping_add(i32::from(a as i16) * low).wrapping_add((a >> 16) * high)
        })
    }
    #[inline(always)]
    unsafe fn even_i8(v: Ints) -> Ints {
        by_bytes(v, |bytes| halves(bytes[0], bytes[2]))
    }
    #[inline(always)]
    unsafe fn odd_i8(v: Ints) -> Ints {
        by_bytes(v, |bytes| halves(bytes[1], bytes[3]))
    }
    #[inline(always)]
    unsafe fn lookup(table: &[i8; 16], bytes: Ints) -> Ints {
        bytes.map(|lane| {
            i32::from_le_bytes(
                lane.to_le_bytes().map(|byte| table[usize::from(byte & 15)].cast_unsigned()),
            )
        })
    }
    #[inline(always)]
    unsafe fn to_float(v: Ints) -> Floats {
        v.map(|v| v as f32)
    }
    #[inline(always)]
    unsafe fn as_float(v: Ints) -> Floats {
        v.map(|v| f32::from_bits(v.cast_unsigned()))
    }
    #[inline(always)]
    unsafe fn round(v: Floats) -> Ints {
        v.map(|v| v.round_ties_even() as i32)
    }
    #[inline(always)]
    unsafe fn load_f32(from: *const f32) -> Floats {
        // SAFETY: the caller's; 64 bytes, aligned or not.
        unsafe { from.cast::<Floats>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store_f32(to: *mut f32, v: Floats) {
        // SAFETY: the caller's; 64 bytes, aligned or not.
        unsafe { to.cast::<Floats>().write_unaligned(v) }
    }
    #[inline(always)]
    unsafe fn load_f16(from: *const u8) -> Floats {
        // SAFETY: the caller's; 32 bytes.
        let bytes = unsafe { from.cast::<[[u8; 2]; LANES]>().read() };
        bytes.map(|bytes| f16::from_le_bytes(bytes).to_f32())
    }
    #[inline(always)]
    unsafe fn load_bf16(from: *const u8) -> Floats {
        // SAFETY: the caller's; 32 bytes.
        let bytes = unsafe { from.cast::<[[u8; 2]; LANES]>().read() };
        bytes.map(|bytes| bf16::from_le_bytes(bytes).to_f32())
    }
    #[inline(always)]
    unsafe fn splat_f32(value: f32) -> Floats {
        [value; LANES]
    }
    #[inline(always)]
    unsafe fn add_f32(a: Floats, b: Floats) -> Floats {
        zip(a, b, |a, b| a + b)
    }
    #[inline(always)]
    unsafe fn sub_f32(a: Floats, b: Floats) -> Floats {
        zip(a, b, |a, b| a - b)
    }
    #[inline(always)]
    unsafe fn mul_f32(a: Floats, b: Floats) -> Floats {
        zip(a, b, |a, b| a * b)
    }
    #[inline(always)]
    unsafe fn div_f32(a: Floats, b: Floats) -> Floats {
        zip(a, b, |a, b| a / b)
    }
    #[inline(always)]
    unsafe fn fma(a: Floats, b: Floats, c: Floats) -> Floats {
        // Without the instruction, one rounding would be a call of a library for each lane.
        std::array::from_fn(|i| a[i] * b[i] + c[i])
    }
    #[inline(always)]
    unsafe fn max_f32(a: Floats, b: Floats) -> Floats {
        zip(a, b, |a, b| if a > b { a } else { b })
    }
    #[inline(always)]
    unsafe fn min_f32(a: Floats, b: Floats) -> Floats {
        zip(a, b, |a, b| if a < b { a } else { b })
    }
    #[inline(always)]
    unsafe fn sum_f32(v: Floats) -> f32 {
        v.into_iter().sum()
    }
    #[inline(always)]
    unsafe fn greatest_f32(v: Floats) -> f32 {
        v.into_iter().fold(f32::NEG_INFINITY, f32::max)
    }
}
