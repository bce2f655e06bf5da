//! A staged block times 32 tokens at once, by AMX: the same bits as by vectors.
//!
//! A sub-block's integers are multiplied with its scale first, which is one of at most 8 bits. What that gives
//! has 14 bits, and is two planes of bytes: so the integers of a whole block are two products of tiles, and
//! floats are multiplied once for each block, as they are without tiles.

use std::arch::asm;
use std::arch::x86_64::{
    __m512i, _mm512_and_si512, _mm512_load_si512, _mm512_mullo_epi16, _mm512_or_si512,
    _mm512_set1_epi16, _mm512_set1_epi32, _mm512_slli_epi16, _mm512_slli_epi32, _mm512_srai_epi16,
    _mm512_srli_epi16, _mm512_store_si512,
};
use std::mem::MaybeUninit;

use super::{By256, STAGED_FACTORS, STAGED_PAIRS, STAGED_SCALES};
use crate::activations::{Activations, TILED_TOKENS, Tile as Tokens, WIDEST};
use crate::encodings::Packed;
use crate::kernels::{load_sums, store_sums};
use crate::panels::{ROWS, UNIT};
use crate::simd::Simd;
use crate::tiles::{LINES, Tile};

/// Tiles of a block of one plane.
const DEEP: usize = 4;
/// Bits of the low plane.
const LOW_BITS: u32 = 6;

/// Scaled integers of a block, by column: what is left of them above [`LOW_BITS`], with its sign, then these.
#[repr(C)]
struct Planes([[Tile; DEEP]; 2]);

/// Sums of 32 tokens: for each 16 of them those of the high plane, then those of the low one.
/// `[2][2][tokens][16]`
#[repr(C, align(64))]
struct Dots([[[[i32; ROWS]; LINES]; 2]; 2]);

impl<P: Packed> By256<P> {
    /// Multiplies a staged block with all tokens that stand in tiles; gives their number.
    ///
    /// # Safety
    /// As the functions of [`Kernel`](crate::kernels::Kernel); where tokens stand in tiles, the machine has
    /// AVX-512 BW, and [`Registers`](crate::tiles::Registers) of this thread live.
    #[inline(always)]
    pub(super) unsafe fn in_tiles<S: Simd>(
        stage: *const u8,
        activations: &Activations,
        block: usize,
        sums: *mut f32,
    ) -> usize {
        let done = activations.in_tiles();
        if done == 0 {
            return 0;
        }
        let mut planes = MaybeUninit::<Planes>::uninit();
        let mut dots = [const { MaybeUninit::<Dots>::uninit() }; 2];
        let groups = done / TILED_TOKENS;
        // SAFETY: the stage is a block's, and planes are written before they are read.
        unsafe { split(stage, P::SUB / 4, P::SIGNED, planes.as_mut_ptr()) };
        // Tiles are multiplied while what the ones before gave is added: it has left for memory by then.
        for group in 0..=groups {
            if group < groups {
                let tokens = activations.tiles(group * TILED_TOKENS, block);
                let dots = dots[group % 2].as_mut_ptr();
                // SAFETY: as above.
                unsafe { multiply(tokens, planes.as_ptr(), dots) };
            }
            let Some(before) = group.checked_sub(1) else { continue };
            // SAFETY: all of these sums were written in the round before.
            let dots = unsafe { dots[before % 2].assume_init_ref() };
            for at in (0..TILED_TOKENS).step_by(WIDEST) {
                let first = before * TILED_TOKENS + at;
                let tokens = Tokens { first, tokens: WIDEST, width: WIDEST };
                let [high, low] = &dots.0[at / LINES];
                let of = at % LINES..at % LINES + WIDEST;
                let dots = [&high[of.clone()], &low[of]];
                // SAFETY: as this function's own; the sums have these tokens.
                unsafe {
                    let sums = sums.add(first * ROWS);
                    Self::finish::<S>(stage, activations, &tokens, block, dots, sums);
                }
            }
        }
        done
    }

    /// Adds a block's products to the sums of a tile of tokens.
    #[inline(always)]
    unsafe fn finish<S: Simd>(
        stage: *const u8,
        activations: &Activations,
        tokens: &Tokens,
        block: usize,
        [high, low]: [&[[i32; ROWS]]; 2],
        sums: *mut f32,
    ) {
        let view = activations.at(tokens, block);
        for lane in (0..ROWS).step_by(S::LANES) {
            // SAFETY: as the functions of the trait.
            unsafe {
                let stage = stage.add(lane * 4);
                let mut products = [S::splat(0); WIDEST];
                for (product, (high, low)) in products.iter_mut().zip(high.iter().zip(low)) {
                    let [high, low] = [high, low].map(|dots| S::load(dots[lane..].as_ptr().cast()));
                    *product = S::add(S::shl(high, LOW_BITS), low);
                }
                let mut weighted = [S::splat(0); WIDEST];
                // Tiles multiply signed integers as they are.
                if Self::needs_sums(0) {
                    for index in 0..Self::PAIRS {
                        let pair = S::load(stage.add(STAGED_PAIRS + index * UNIT));
                        Self::add_pair::<S, WIDEST>(&mut weighted, pair, index, 0, view);
                    }
                }
                let factors = stage.add(STAGED_FACTORS).cast::<f32>();
                let factors = (S::load_f32(factors), S::load_f32(factors.add(ROWS)));
                let mut totals = load_sums::<S, WIDEST>(sums, lane);
                let offset = Self::offset(0);
                Self::add::<S, WIDEST>(
                    products,
                    weighted,
                    offset,
                    factors,
                    view.scales,
                    &mut totals,
                );
                store_sums::<S, WIDEST>(sums, lane, totals);
            }
        }
    }
}

/// The scaled integers of a staged block as planes; `units` share a scale.
///
/// # Safety
/// The machine has AVX-512 BW. The stage is that of a block, and aligned, as `planes` is.
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn split(stage: *const u8, units: usize, signed: bool, planes: *mut Planes) {
    let [high, low] = [0, 1].map(|plane| {
        // SAFETY: there are two planes.
        unsafe { planes.cast::<[Tile; DEEP]>().add(plane).cast::<__m512i>() }
    });
    let of = |at: usize| {
        // SAFETY: what is asked for is inside the stage.
        unsafe { _mm512_load_si512(stage.add(at).cast()) }
    };
    let low_bits = _mm512_set1_epi16((1 << LOW_BITS) - 1);
    let (bytes, low_half) = (_mm512_set1_epi16(0xff), _mm512_set1_epi32(0xffff));
    for unit in 0..DEEP * LINES {
        let (values, scale) = (of(unit * UNIT), of(STAGED_SCALES + unit / units * UNIT));
        // In both halves of a lane.
        let scale =
            _mm512_or_si512(_mm512_slli_epi32::<16>(scale), _mm512_and_si512(scale, low_half));
        let (even, odd) = if signed {
            (_mm512_srai_epi16::<8>(_mm512_slli_epi16::<8>(values)), _mm512_srai_epi16::<8>(values))
        } else {
            (_mm512_and_si512(values, bytes), _mm512_srli_epi16::<8>(values))
        };
        let (even, odd) = (_mm512_mullo_epi16(even, scale), _mm512_mullo_epi16(odd, scale));
        let low_plane = _mm512_or_si512(
            _mm512_and_si512(even, low_bits),
            _mm512_slli_epi16::<8>(_mm512_and_si512(odd, low_bits)),
        );
        let (even, odd) = (_mm512_srai_epi16::<LOW_BITS>(even), _mm512_srai_epi16::<LOW_BITS>(odd));
        let high_plane =
            _mm512_or_si512(_mm512_and_si512(even, bytes), _mm512_slli_epi16::<8>(odd));
        // SAFETY: a plane has this unit.
        unsafe {
            _mm512_store_si512(high.add(unit).cast(), high_plane);
            _mm512_store_si512(low.add(unit).cast(), low_plane);
        }
    }
}

/// The sums of 32 tokens over a block, `tokens: [4][2]` tiles.
///
/// # Safety
/// [`Registers`](crate::tiles::Registers) of this thread live. Both planes are there.
unsafe fn multiply(tokens: &[Tile], planes: *const Planes, dots: *mut Dots) {
    assert!(tokens.len() >= 2 * DEEP, "tokens of a whole block");
    // SAFETY: that many tiles of tokens there are, four of each plane, and four of sums.
    unsafe {
        asm!(
            "tilezero tmm0", "tilezero tmm1", "tilezero tmm2", "tilezero tmm3",
            "2:",
            "tileloadd tmm4, [{tokens} + {line}]", "tileloadd tmm6, [{planes} + {line}]",
            "tdpbssd tmm0, tmm4, tmm6",
            "tileloadd tmm7, [{planes} + {line} + 4096]",
            "tdpbsud tmm1, tmm4, tmm7",
            "tileloadd tmm5, [{tokens} + {line} + 1024]",
            "tdpbssd tmm2, tmm5, tmm6", "tdpbsud tmm3, tmm5, tmm7",
            "add {tokens}, 2048", "add {planes}, 1024",
            "dec {deep}", "jnz 2b",
            "tilestored [{dots} + {line}], tmm0", "tilestored [{dots} + {line} + 1024], tmm1",
            "tilestored [{dots} + {line} + 2048], tmm2", "tilestored [{dots} + {line} + 3072], tmm3",
            tokens = inout(reg) tokens.as_ptr() => _, planes = inout(reg) planes => _,
            dots = in(reg) dots, deep = inout(reg) DEEP => _, line = in(reg) 64_usize,
            options(nostack),
        );
    }
}
