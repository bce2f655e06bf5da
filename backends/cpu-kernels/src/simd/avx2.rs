//! 8 lanes, with VNNI or without it.
#![expect(unsafe_op_in_unsafe_fn, reason = "one intrinsic a line, under the trait's one condition")]

use std::arch::x86_64::*;

use super::Simd;

/// AVX2, FMA and F16C; with `VNNI`, AVX-VNNI too.
#[derive(Clone, Copy)]
pub(crate) struct Avx2<const VNNI: bool>;

#[inline(always)]
unsafe fn count(bits: u32) -> __m128i {
    _mm_cvtsi32_si128(bits.cast_signed())
}

#[inline(always)]
unsafe fn splat_bytes(activations: *const i8) -> __m256i {
    _mm256_set1_epi32(activations.cast::<i32>().read_unaligned())
}

/// Adds the products of four bytes, those of `unsigned` without a sign.
///
/// Two products go through 16 bits, which 2 · 127 · 127 does not fill.
#[inline(always)]
unsafe fn dot_in_steps(sum: __m256i, unsigned: __m256i, signed: __m256i) -> __m256i {
    let pairs = _mm256_maddubs_epi16(unsigned, signed);
    _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)))
}

/// Nothing, at a place that the compiler moves neither values nor reads across.
///
/// A function of its own, because only one for a certain machine can name a register.
#[cfg(not(miri))]
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn hold(v: &mut __m256i) {
    std::arch::asm!("/* {0} */", inout(ymm_reg) * v, options(nostack, preserves_flags));
}

impl<const VNNI: bool> Simd for Avx2<VNNI> {
    const LANES: usize = 8;
    const REGISTERS: usize = 16;
    // VNNI takes weights without a sign: theirs is flipped, which adds 128. Without it, the sign
    // moves to the activation.
    const SIGNED_OFFSET: i32 = if VNNI { 128 } else { 0 };
    type Int = __m256i;
    type Float = __m256;

    #[inline(always)]
    unsafe fn load(from: *const u8) -> __m256i {
        _mm256_loadu_si256(from.cast())
    }
    #[inline(always)]
    unsafe fn store(to: *mut u8, v: __m256i) {
        _mm256_storeu_si256(to.cast(), v);
    }
    #[inline(always)]
    unsafe fn load_i8(from: *const i8) -> __m256i {
        _mm256_cvtepi8_epi32(_mm_loadl_epi64(from.cast()))
    }
    #[inline(always)]
    unsafe fn load_u16(from: *const u8) -> __m256i {
        _mm256_cvtepu16_epi32(_mm_loadu_si128(from.cast()))
    }
    #[inline(always)]
    unsafe fn splat(value: i32) -> __m256i {
        _mm256_set1_epi32(value)
    }
    #[inline(always)]
    unsafe fn and(a: __m256i, b: __m256i) -> __m256i {
        _mm256_and_si256(a, b)
    }
    #[inline(always)]
    unsafe fn or(a: __m256i, b: __m256i) -> __m256i {
        _mm256_or_si256(a, b)
    }
    #[inline(always)]
    unsafe fn shr(v: __m256i, bits: u32) -> __m256i {
        _mm256_srl_epi32(v, count(bits))
    }
    #[inline(always)]
    unsafe fn shl(v: __m256i, bits: u32) -> __m256i {
        _mm256_sll_epi32(v, count(bits))
    }
    #[inline(always)]
    unsafe fn sar(v: __m256i, bits: u32) -> __m256i {
        _mm256_sra_epi32(v, count(bits))
    }
    #[inline(always)]
    unsafe fn add(a: __m256i, b: __m256i) -> __m256i {
        _mm256_add_epi32(a, b)
    }
    #[inline(always)]
    unsafe fn sub_bytes(a: __m256i, b: __m256i) -> __m256i {
        _mm256_sub_epi8(a, b)
    }
    #[cfg(not(miri))]
    #[inline(always)]
    unsafe fn hold(v: &mut __m256i) {
        hold(v);
    }
    #[inline(always)]
    unsafe fn prefetch(line: *const u8) {
        _mm_prefetch::<_MM_HINT_T0>(line.cast());
    }
    #[inline(always)]
    unsafe fn mul_add(sum: __m256i, a: __m256i, b: __m256i) -> __m256i {
        _mm256_add_epi32(sum, _mm256_mullo_epi32(a, b))
    }
    #[inline(always)]
    unsafe fn dot_unsigned(sum: __m256i, weights: __m256i, activations: *const i8) -> __m256i {
        let activations = splat_bytes(activations);
        if VNNI {
            _mm256_dpbusd_avx_epi32(sum, weights, activations)
        } else {
            dot_in_steps(sum, weights, activations)
        }
    }
    #[inline(always)]
    unsafe fn dot_signed(sum: __m256i, weights: __m256i, activations: *const i8) -> __m256i {
        let activations = splat_bytes(activations);
        if VNNI {
            let weights = _mm256_xor_si256(weights, _mm256_set1_epi8(-128));
            _mm256_dpbusd_avx_epi32(sum, weights, activations)
        } else {
            let activations = _mm256_sign_epi8(activations, weights);
            dot_in_steps(sum, _mm256_abs_epi8(weights), activations)
        }
    }
    #[inline(always)]
    unsafe fn dot_pairs(sum: __m256i, a: __m256i, b: i32) -> __m256i {
        let b = _mm256_set1_epi32(b);
        if VNNI {
            _mm256_dpwssd_avx_epi32(sum, a, b)
        } else {
            _mm256_add_epi32(sum, _mm256_madd_epi16(a, b))
        }
    }
    #[inline(always)]
    unsafe fn even_i8(v: __m256i) -> __m256i {
        _mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(v))
    }
    #[inline(always)]
    unsafe fn odd_i8(v: __m256i) -> __m256i {
        _mm256_srai_epi16::<8>(v)
    }
    #[inline(always)]
    unsafe fn lookup(table: &[i8; 16], bytes: __m256i) -> __m256i {
        let table = _mm256_broadcastsi128_si256(_mm_loadu_si128(table.as_ptr().cast()));
        _mm256_shuffle_epi8(table, bytes)
    }
    #[inline(always)]
    unsafe fn to_float(v: __m256i) -> __m256 {
        _mm256_cvtepi32_ps(v)
    }
    #[inline(always)]
    unsafe fn as_float(v: __m256i) -> __m256 {
        _mm256_castsi256_ps(v)
    }
    #[inline(always)]
    unsafe fn round(v: __m256) -> __m256i {
        _mm256_cvtps_epi32(v)
    }
    #[inline(always)]
    unsafe fn load_f32(from: *const f32) -> __m256 {
        _mm256_loadu_ps(from)
    }
    #[inline(always)]
    unsafe fn store_f32(to: *mut f32, v: __m256) {
        _mm256_storeu_ps(to, v);
    }
    #[inline(always)]
    unsafe fn load_f16(from: *const u8) -> __m256 {
        _mm256_cvtph_ps(_mm_loadu_si128(from.cast()))
    }
    #[inline(always)]
    unsafe fn load_bf16(from: *const u8) -> __m256 {
        _mm256_castsi256_ps(_mm256_slli_epi32::<16>(Self::load_u16(from)))
    }
    #[inline(always)]
    unsafe fn splat_f32(value: f32) -> __m256 {
        _mm256_set1_ps(value)
    }
    #[inline(always)]
    unsafe fn add_f32(a: __m256, b: __m256) -> __m256 {
        _mm256_add_ps(a, b)
    }
    #[inline(always)]
    unsafe fn sub_f32(a: __m256, b: __m256) -> __m256 {
        _mm256_sub_ps(a, b)
    }
    #[inline(always)]
    unsafe fn mul_f32(a: __m256, b: __m256) -> __m256 {
        _mm256_mul_ps(a, b)
    }
    #[inline(always)]
    unsafe fn div_f32(a: __m256, b: __m256) -> __m256 {
        _mm256_div_ps(a, b)
    }
    #[inline(always)]
    unsafe fn fma(a: __m256, b: __m256, c: __m256) -> __m256 {
        _mm256_fmadd_ps(a, b, c)
    }
    #[inline(always)]
    unsafe fn max_f32(a: __m256, b: __m256) -> __m256 {
        _mm256_max_ps(a, b)
    }
    #[inline(always)]
    unsafe fn min_f32(a: __m256, b: __m256) -> __m256 {
        _mm256_min_ps(a, b)
    }
    #[inline(always)]
    unsafe fn sum_f32(v: __m256) -> f32 {
        let four = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
        let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
        _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
    }
    #[inline(always)]
    unsafe fn greatest_f32(v: __m256) -> f32 {
        let four = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
        let two = _mm_max_ps(four, _mm_movehl_ps(four, four));
        _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)))
    }
}
