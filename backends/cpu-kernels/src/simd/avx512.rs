//! 16 lanes with VNNI.
#![expect(unsafe_op_in_unsafe_fn, reason = "one intrinsic a line, under the trait's one condition")]

use std::arch::x86_64::*;

use super::Simd;

/// AVX-512 F, BW, VL and VNNI.
#[derive(Clone, Copy)]
pub(crate) struct Avx512;

#[inline(always)]
unsafe fn count(bits: u32) -> __m128i {
    _mm_cvtsi32_si128(bits.cast_signed())
}

/// Nothing, at a place that the compiler moves neither values nor reads across.
///
/// A function of its own, because only one for a certain machine can name a register.
#[cfg(not(miri))]
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn hold(v: &mut __m512i) {
    std::arch::asm!("/* {0} */", inout(zmm_reg) * v, options(nostack, preserves_flags));
}

impl Simd for Avx512 {
    const LANES: usize = 16;
    const REGISTERS: usize = 32;
    // The instruction takes weights without a sign: theirs is flipped, which adds 128.
    const SIGNED_OFFSET: i32 = 128;
    type Int = __m512i;
    type Float = __m512;

    #[inline(always)]
    unsafe fn load(from: *const u8) -> __m512i {
        _mm512_loadu_si512(from.cast())
    }
    #[inline(always)]
    unsafe fn store(to: *mut u8, v: __m512i) {
        _mm512_storeu_si512(to.cast(), v);
    }
    #[inline(always)]
    unsafe fn load_i8(from: *const i8) -> __m512i {
        _mm512_cvtepi8_epi32(_mm_loadu_si128(from.cast()))
    }
    #[inline(always)]
    unsafe fn load_u16(from: *const u8) -> __m512i {
        _mm512_cvtepu16_epi32(_mm256_loadu_si256(from.cast()))
    }
    #[inline(always)]
    unsafe fn splat(value: i32) -> __m512i {
        _mm512_set1_epi32(value)
    }
    #[inline(always)]
    unsafe fn and(a: __m512i, b: __m512i) -> __m512i {
        _mm512_and_si512(a, b)
    }
    #[inline(always)]
    unsafe fn or(a: __m512i, b: __m512i) -> __m512i {
        _mm512_or_si512(a, b)
    }
    #[inline(always)]
    unsafe fn shr(v: __m512i, bits: u32) -> __m512i {
        _mm512_srl_epi32(v, count(bits))
    }
    #[inline(always)]
    unsafe fn shl(v: __m512i, bits: u32) -> __m512i {
        _mm512_sll_epi32(v, count(bits))
    }
    #[inline(always)]
    unsafe fn sar(v: __m512i, bits: u32) -> __m512i {
        _mm512_sra_epi32(v, count(bits))
    }
    #[inline(always)]
    unsafe fn add(a: __m512i, b: __m512i) -> __m512i {
        _mm512_add_epi32(a, b)
    }
    #[inline(always)]
    unsafe fn sub_bytes(a: __m512i, b: __m512i) -> __m512i {
        _mm512_sub_epi8(a, b)
    }
    #[cfg(not(miri))]
    #[inline(always)]
    unsafe fn hold(v: &mut __m512i) {
        hold(v);
    }
    #[inline(always)]
    unsafe fn prefetch(line: *const u8) {
        _mm_prefetch::<_MM_HINT_T0>(line.cast());
    }
    #[inline(always)]
    unsafe fn mul_add(sum: __m512i, a: __m512i, b: __m512i) -> __m512i {
        _mm512_add_epi32(sum, _mm512_mullo_epi32(a, b))
    }
    #[inline(always)]
    unsafe fn dot_unsigned(sum: __m512i, weights: __m512i, activations: *const i8) -> __m512i {
        _mm512_dpbusd_epi32(
            sum,
            weights,
            _mm512_set1_epi32(activations.cast::<i32>().read_unaligned()),
        )
    }
    #[inline(always)]
    unsafe fn dot_signed(sum: __m512i, weights: __m512i, activations: *const i8) -> __m512i {
        Self::dot_unsigned(sum, _mm512_xor_si512(weights, _mm512_set1_epi8(-128)), activations)
    }
    #[inline(always)]
    unsafe fn dot_pairs(sum: __m512i, a: __m512i, b: i32) -> __m512i {
        _mm512_dpwssd_epi32(sum, a, _mm512_set1_epi32(b))
    }
    #[inline(always)]
    unsafe fn even_i8(v: __m512i) -> __m512i {
        _mm512_srai_epi16::<8>(_mm512_slli_epi16::<8>(v))
    }
    #[inline(always)]
    unsafe fn odd_i8(v: __m512i) -> __m512i {
        _mm512_srai_epi16::<8>(v)
    }
    #[inline(always)]
    unsafe fn lookup(table: &[i8; 16], bytes: __m512i) -> __m512i {
        let table = _mm512_broadcast_i32x4(_mm_loadu_si128(table.as_ptr().cast()));
        _mm512_shuffle_epi8(table, bytes)
    }
    #[inline(always)]
    unsafe fn to_float(v: __m512i) -> __m512 {
        _mm512_cvtepi32_ps(v)
    }
    #[inline(always)]
    unsafe fn as_float(v: __m512i) -> __m512 {
        _mm512_castsi512_ps(v)
    }
    #[inline(always)]
    unsafe fn round(v: __m512) -> __m512i {
        _mm512_cvtps_epi32(v)
    }
    #[inline(always)]
    unsafe fn load_f32(from: *const f32) -> __m512 {
        _mm512_loadu_ps(from)
    }
    #[inline(always)]
    unsafe fn store_f32(to: *mut f32, v: __m512) {
        _mm512_storeu_ps(to, v);
    }
    #[inline(always)]
    unsafe fn load_f16(from: *const u8) -> __m512 {
        _mm512_cvtph_ps(_mm256_loadu_si256(from.cast()))
    }
    #[inline(always)]
    unsafe fn load_bf16(from: *const u8) -> __m512 {
        let wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(from.cast()));
        _mm512_castsi512_ps(_mm512_slli_epi32::<16>(wide))
    }
    #[inline(always)]
    unsafe fn splat_f32(value: f32) -> __m512 {
        _mm512_set1_ps(value)
    }
    #[inline(always)]
    unsafe fn add_f32(a: __m512, b: __m512) -> __m512 {
        _mm512_add_ps(a, b)
    }
    #[inline(always)]
    unsafe fn sub_f32(a: __m512, b: __m512) -> __m512 {
        _mm512_sub_ps(a, b)
    }
    #[inline(always)]
    unsafe fn mul_f32(a: __m512, b: __m512) -> __m512 {
        _mm512_mul_ps(a, b)
    }
    #[inline(always)]
    unsafe fn div_f32(a: __m512, b: __m512) -> __m512 {
        _mm512_div_ps(a, b)
    }
    #[inline(always)]
    unsafe fn fma(a: __m512, b: __m512, c: __m512) -> __m512 {
        _mm512_fmadd_ps(a, b, c)
    }
    #[inline(always)]
    unsafe fn max_f32(a: __m512, b: __m512) -> __m512 {
        _mm512_max_ps(a, b)
    }
    #[inline(always)]
    unsafe fn min_f32(a: __m512, b: __m512) -> __m512 {
        _mm512_min_ps(a, b)
    }
    #[inline(always)]
    unsafe fn sum_f32(v: __m512) -> f32 {
        _mm512_reduce_add_ps(v)
    }
    #[inline(always)]
    unsafe fn greatest_f32(v: __m512) -> f32 {
        _mm512_reduce_max_ps(v)
    }
}
