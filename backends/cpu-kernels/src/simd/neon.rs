//! 4 lanes of NEON with the dot product of bytes, and where the machine has it the product of two matrices
//! of bytes.
#![expect(unsafe_op_in_unsafe_fn, reason = "one intrinsic a line, under the trait's one condition")]

use std::arch::aarch64::*;
use std::arch::asm;

use super::Simd;

/// NEON and `sdot`, and `smmla` where `I8MM`.
#[derive(Clone, Copy)]
pub(crate) struct Neon<const I8MM: bool>;

/// `sum` and the products of four bytes in each lane.
///
/// Written as an instruction because stable Rust has no function for it yet.
#[inline(always)]
unsafe fn sdot(mut sum: int32x4_t, a: int32x4_t, b: int32x4_t) -> int32x4_t {
    asm!(
        "sdot {sum:v}.4s, {a:v}.16b, {b:v}.16b",
        sum = inout(vreg) sum,
        a = in(vreg) a,
        b = in(vreg) b,
        options(pure, nomem, nostack, preserves_flags),
    );
    sum
}

/// The same with one lane of `b` for all lanes: no vector of copies has to be made.
#[inline(always)]
unsafe fn sdot_by<const LANE: usize>(mut sum: int32x4_t, a: int32x4_t, b: int32x4_t) -> int32x4_t {
    asm!(
        "sdot {sum:v}.4s, {a:v}.16b, {b:v}.4b[{lane}]",
        sum = inout(vreg) sum,
        a = in(vreg) a,
        b = in(vreg) b,
        lane = const LANE,
        options(pure, nomem, nostack, preserves_flags),
    );
    sum
}

/// `sum: [2, 2]` and the product of `a: [2, 8]` with the transpose of `b: [2, 8]`, bytes.
///
/// Written as an instruction because stable Rust has no function for it yet.
#[inline(always)]
unsafe fn smmla(mut sum: int32x4_t, a: int32x4_t, b: int32x4_t) -> int32x4_t {
    asm!(
        "smmla {sum:v}.4s, {a:v}.16b, {b:v}.16b",
        sum = inout(vreg) sum,
        a = in(vreg) a,
        b = in(vreg) b,
        options(pure, nomem, nostack, preserves_flags),
    );
    sum
}

impl<const I8MM: bool> Simd for Neon<I8MM> {
    const LANES: usize = 4;
    const REGISTERS: usize = 32;
    const SIGNED_OFFSET: i32 = 0;
    const PAIRED: bool = I8MM;
    type Int = int32x4_t;
    type Float = float32x4_t;

    #[inline(always)]
    unsafe fn load(from: *const u8) -> int32x4_t {
        vreinterpretq_s32_u8(vld1q_u8(from))
    }
    #[inline(always)]
    unsafe fn store(to: *mut u8, v: int32x4_t) {
        vst1q_u8(to, vreinterpretq_u8_s32(v));
    }
    #[inline(always)]
    unsafe fn load_i8(from: *const i8) -> int32x4_t {
        let four = vdup_n_s32(from.cast::<i32>().read_unaligned());
        vmovl_s16(vget_low_s16(vmovl_s8(vreinterpret_s8_s32(four))))
    }
    #[inline(always)]
    unsafe fn load_u16(from: *const u8) -> int32x4_t {
        vreinterpretq_s32_u32(vmovl_u16(vreinterpret_u16_u8(vld1_u8(from))))
    }
    #[inline(always)]
    unsafe fn splat(value: i32) -> int32x4_t {
        vdupq_n_s32(value)
    }
    #[inline(always)]
    unsafe fn and(a: int32x4_t, b: int32x4_t) -> int32x4_t {
        vandq_s32(a, b)
    }
    #[inline(always)]
    unsafe fn or(a: int32x4_t, b: int32x4_t) -> int32x4_t {
        vorrq_s32(a, b)
    }
    #[inline(always)]
    unsafe fn shr(v: int32x4_t, bits: u32) -> int32x4_t {
        let left = vdupq_n_s32(-bits.cast_signed());
        vreinterpretq_s32_u32(vshlq_u32(vreinterpretq_u32_s32(v), left))
    }
    #[inline(always)]
    unsafe fn shl(v: int32x4_t, bits: u32) -> int32x4_t {
        vshlq_s32(v, vdupq_n_s32(bits.cast_signed()))
    }
    #[inline(always)]
    unsafe fn sar(v: int32x4_t, bits: u32) -> int32x4_t {
        vshlq_s32(v, vdupq_n_s32(-bits.cast_signed()))
    }
    #[inline(always)]
    unsafe fn add(a: int32x4_t, b: int32x4_t) -> int32x4_t {
        vaddq_s32(a, b)
    }
    #[inline(always)]
    unsafe fn sub_bytes(a: int32x4_t, b: int32x4_t) -> int32x4_t {
        vreinterpretq_s32_s8(vsubq_s8(vreinterpretq_s8_s32(a), vreinterpretq_s8_s32(b)))
    }
    #[cfg(not(miri))]
    #[inline(always)]
    unsafe fn hold(v: &mut int32x4_t) {
        asm!("/* {0:v} */", inout(vreg) * v, options(nostack, preserves_flags));
    }
    #[inline(always)]
    unsafe fn mul_add(sum: int32x4_t, a: int32x4_t, b: int32x4_t) -> int32x4_t {
        vmlaq_s32(sum, a, b)
    }
    #[inline(always)]
    unsafe fn dot_unsigned(
        sum: int32x4_t,
        weights: int32x4_t,
        activations: *const i8,
    ) -> int32x4_t {
        // Weights to 127 are the same number with and without a sign.
        Self::dot_signed(sum, weights, activations)
    }
    #[inline(always)]
    unsafe fn dot_signed(sum: int32x4_t, weights: int32x4_t, activations: *const i8) -> int32x4_t {
        sdot(sum, weights, vdupq_n_s32(activations.cast::<i32>().read_unaligned()))
    }
    #[inline(always)]
    unsafe fn dot_tile<const T: usize>(
        sums: &mut [int32x4_t; T],
        weights: int32x4_t,
        _is_signed: bool,
        x: *const i8,
    ) {
        // Weights to 127 are the same number with and without a sign.
        if !T.is_multiple_of(4) {
            for (t, sum) in sums.iter_mut().enumerate() {
                *sum = Self::dot_signed(*sum, weights, x.add(t * 4));
                Self::hold(sum);
            }
            return;
        }
        for (four, sums) in sums.as_chunks_mut::<4>().0.iter_mut().enumerate() {
            let x = Self::load(x.add(four * 16).cast());
            sums[0] = sdot_by::<0>(sums[0], weights, x);
            sums[1] = sdot_by::<1>(sums[1], weights, x);
            sums[2] = sdot_by::<2>(sums[2], weights, x);
            sums[3] = sdot_by::<3>(sums[3], weights, x);
            sums.iter_mut().for_each(|sum| Self::hold(sum));
        }
    }
    // Two operands of four rows and four columns are two of two rows and eight columns then.
    #[inline(always)]
    unsafe fn pair([first, second]: [*mut u8; 2]) {
        if I8MM {
            let (a, b) = (Self::load(first), Self::load(second));
            Self::store(first, vzip1q_s32(a, b));
            Self::store(second, vzip2q_s32(a, b));
        }
    }
    // Sums of two tokens are two matrices until they are settled: the first two rows times both tokens,
    // the last two times both.
    #[inline(always)]
    unsafe fn dot_tile_pair<const T: usize>(
        sums: &mut [int32x4_t; T],
        operands: [*const u8; 2],
        is_signed: bool,
        x: *const i8,
    ) {
        let [first, second] = [Self::load(operands[0]), Self::load(operands[1])];
        if !I8MM {
            Self::dot_tile::<T>(sums, first, is_signed, x);
            return Self::dot_tile::<T>(sums, second, is_signed, x.add(T * 4));
        }
        if T == 1 {
            let x = vreinterpretq_s32_s64(vdupq_n_s64(x.cast::<i64>().read_unaligned()));
            let (upper, lower) = (sdot(vdupq_n_s32(0), first, x), sdot(vdupq_n_s32(0), second, x));
            sums[0] = vaddq_s32(sums[0], vpaddq_s32(upper, lower));
            return;
        }
        for (pair, sums) in sums.as_chunks_mut::<2>().0.iter_mut().enumerate() {
            let x = Self::load(x.add(pair * 16).cast());
            sums[0] = smmla(sums[0], first, x);
            sums[1] = smmla(sums[1], second, x);
            sums.iter_mut().for_each(|sum| Self::hold(sum));
        }
    }
    #[inline(always)]
    unsafe fn settle<const T: usize>(sums: &mut [int32x4_t; T]) {
        if I8MM {
            for [upper, lower] in sums.as_chunks_mut::<2>().0 {
                (*upper, *lower) = (vuzp1q_s32(*upper, *lower), vuzp2q_s32(*upper, *lower));
            }
        }
    }
    #[inline(always)]
    unsafe fn dot_pairs(sum: int32x4_t, a: int32x4_t, b: i32) -> int32x4_t {
        let (a, b) = (vreinterpretq_s16_s32(a), vreinterpretq_s16_s32(vdupq_n_s32(b)));
        let low = vmull_s16(vget_low_s16(a), vget_low_s16(b));
        vaddq_s32(sum, vpaddq_s32(low, vmull_high_s16(a, b)))
    }
    #[inline(always)]
    unsafe fn even_i8(v: int32x4_t) -> int32x4_t {
        let high = vshlq_n_s16::<8>(vreinterpretq_s16_s32(v));
        vreinterpretq_s32_s16(vshrq_n_s16::<8>(high))
    }
    #[inline(always)]
    unsafe fn odd_i8(v: int32x4_t) -> int32x4_t {
        vreinterpretq_s32_s16(vshrq_n_s16::<8>(vreinterpretq_s16_s32(v)))
    }
    #[inline(always)]
    unsafe fn lookup(table: &[i8; 16], bytes: int32x4_t) -> int32x4_t {
        let found = vqtbl1q_s8(vld1q_s8(table.as_ptr()), vreinterpretq_u8_s32(bytes));
        vreinterpretq_s32_s8(found)
    }
    #[inline(always)]
    unsafe fn to_float(v: int32x4_t) -> float32x4_t {
        vcvtq_f32_s32(v)
    }
    #[inline(always)]
    unsafe fn as_float(v: int32x4_t) -> float32x4_t {
        vreinterpretq_f32_s32(v)
    }
    #[inline(always)]
    unsafe fn round(v: float32x4_t) -> int32x4_t {
        vcvtnq_s32_f32(v)
    }
    #[inline(always)]
    unsafe fn load_f32(from: *const f32) -> float32x4_t {
        vreinterpretq_f32_u8(vld1q_u8(from.cast()))
    }
    #[inline(always)]
    unsafe fn store_f32(to: *mut f32, v: float32x4_t) {
        vst1q_u8(to.cast(), vreinterpretq_u8_f32(v));
    }
    #[inline(always)]
    unsafe fn load_f16(from: *const u8) -> float32x4_t {
        vcvt_f32_f16(vreinterpret_f16_u8(vld1_u8(from)))
    }
    #[inline(always)]
    unsafe fn load_bf16(from: *const u8) -> float32x4_t {
        let wide = vshll_n_u16::<16>(vreinterpret_u16_u8(vld1_u8(from)));
        vreinterpretq_f32_u32(wide)
    }
    #[inline(always)]
    unsafe fn splat_f32(value: f32) -> float32x4_t {
        vdupq_n_f32(value)
    }
    #[inline(always)]
    unsafe fn add_f32(a: float32x4_t, b: float32x4_t) -> float32x4_t {
        vaddq_f32(a, b)
    }
    #[inline(always)]
    unsafe fn sub_f32(a: float32x4_t, b: float32x4_t) -> float32x4_t {
        vsubq_f32(a, b)
    }
    #[inline(always)]
    unsafe fn mul_f32(a: float32x4_t, b: float32x4_t) -> float32x4_t {
        vmulq_f32(a, b)
    }
    #[inline(always)]
    unsafe fn div_f32(a: float32x4_t, b: float32x4_t) -> float32x4_t {
        vdivq_f32(a, b)
    }
    #[inline(always)]
    unsafe fn fma(a: float32x4_t, b: float32x4_t, c: float32x4_t) -> float32x4_t {
        vfmaq_f32(c, a, b)
    }
    #[inline(always)]
    unsafe fn max_f32(a: float32x4_t, b: float32x4_t) -> float32x4_t {
        // The instruction for it would give neither where they do not compare.
        vbslq_f32(vcgtq_f32(a, b), a, b)
    }
    #[inline(always)]
    unsafe fn min_f32(a: float32x4_t, b: float32x4_t) -> float32x4_t {
        vbslq_f32(vcltq_f32(a, b), a, b)
    }
    #[inline(always)]
    unsafe fn sum_f32(v: float32x4_t) -> f32 {
        vaddvq_f32(v)
    }
    #[inline(always)]
    unsafe fn greatest_f32(v: float32x4_t) -> f32 {
        vmaxnmvq_f32(v)
    }
}
