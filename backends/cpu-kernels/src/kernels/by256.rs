//! Blocks of 256 values in sub-blocks with integer scales.

#[cfg(target_arch = "x86_64")]
mod tiled;

use std::marker::PhantomData;

use super::{FETCHED_FROM, Kernel, fetch, is_fetched, load_sums, store_sums, unrolled};
#[cfg(target_arch = "x86_64")]
use crate::activations::Activations;
use crate::activations::{Form, SUMS_OF_256, SUMS_OVER_16, TileView};
use crate::encodings::{Packed, SubScales};
use crate::panels::{HALF, ROWS, UNIT};
use crate::simd::Simd;

/// Encodings whose blocks have 256 values.
pub(crate) struct By256<P>(PhantomData<P>);

/// Bytes of what a staged block holds, one behind the other: 64 operands, up to 16 scales, up to 8
/// pairs of what the sums of activations are multiplied with, two factors.
const STAGED_SCALES: usize = 64 * UNIT;
const STAGED_PAIRS: usize = STAGED_SCALES + 16 * UNIT;
const STAGED_FACTORS: usize = STAGED_PAIRS + 8 * UNIT;
/// Slots of a step at most.
const SLOTS_MAX: usize = 4;

/// The block's scale, and that of its minimums.
type Factors<S> = (<S as Simd>::Float, <S as Simd>::Float);

impl<P: Packed> By256<P> {
    /// Sub-blocks of a block.
    const SUBS: usize = 256 / P::SUB;
    /// Groups that are unpacked together.
    const SLOTS: usize = 64 / (P::CHUNKS * P::STEPS);
    /// Pairs of sums that it needs.
    const PAIRS: usize = 128 / P::SUB;

    /// Slots whose sums fill half of the registers at most; those of the rest are a pass of their
    /// own, which unpacks again.
    const fn slots_at_once(registers: usize, tokens: usize) -> usize {
        let most = registers / 2 / tokens;
        if most > Self::SLOTS {
            Self::SLOTS
        } else if most == 0 {
            1
        } else {
            most
        }
    }

    /// What is taken from each integer, in units of its sub-block's scale.
    const fn offset(signed_offset: i32) -> i32 {
        P::OFFSET as i32 + if P::SIGNED { signed_offset } else { 0 }
    }

    /// How far ahead is fetched, in bytes: a few tokens are soon through a block, and a line that comes too
    /// early is gone again.
    const fn ahead(tokens: usize) -> usize {
        if tokens < FETCHED_FROM { P::BYTES / 2 } else { P::BYTES }
    }

    #[inline(always)]
    unsafe fn factors<S: Simd>(halves: *const u8) -> Factors<S> {
        // SAFETY: as the trait says.
        unsafe {
            let minimum =
                if P::MINIMUM { S::load_f16(halves.add(HALF)) } else { S::splat_f32(0.0) };
            (S::load_f16(halves), minimum)
        }
    }

    /// A sub-block's scale, in each lane.
    #[inline(always)]
    unsafe fn scale<S: Simd>(sub_scales: &SubScales<S>, sub: usize) -> S::Int {
        let four = sub_scales.scales[sub / 4];
        // SAFETY: as this function's own.
        unsafe {
            if P::SCALES_SIGNED {
                S::sar(S::shl(four, (3 - sub % 4) as u32 * 8), 24)
            } else {
                S::and(S::shr(four, (sub % 4) as u32 * 8), S::splat(255))
            }
        }
    }

    /// What the pair of sums `index` is multiplied with: minimums, or else scales.
    #[inline(always)]
    unsafe fn pair<S: Simd>(sub_scales: &SubScales<S>, index: usize) -> S::Int {
        let SubScales { scales, minimums } = sub_scales;
        let four = if P::MINIMUM { minimums[index / 2] } else { scales[index / 2] };
        // SAFETY: as this function's own. Scales and minimums without a sign are below 64.
        unsafe { if index.is_multiple_of(2) { S::even_i8(four) } else { S::odd_i8(four) } }
    }

    /// Adds the pair of sums `index` of a tile, times what it is multiplied with.
    #[inline(always)]
    unsafe fn add_pair<S: Simd, const T: usize>(
        weighted: &mut [S::Int; T],
        pair: S::Int,
        index: usize,
        block: usize,
        view: TileView,
    ) {
        let first = if P::SUB == 16 { SUMS_OVER_16 } else { 0 };
        for (t, weighted) in weighted.iter_mut().enumerate() {
            // SAFETY: as the trait says; the view has the block.
            unsafe {
                let sums = view.sums.add((block * SUMS_OF_256 + first + index) * T + t);
                *weighted = S::dot_pairs(*weighted, pair, *sums.cast::<i32>());
            }
        }
    }

    /// Whether sums of activations play a part.
    const fn needs_sums(signed_offset: i32) -> bool {
        P::MINIMUM || Self::offset(signed_offset) != 0
    }

    /// Adds a block's products to the totals of a tile; `offset` is what was added to each integer.
    #[inline(always)]
    unsafe fn add<S: Simd, const T: usize>(
        products: [S::Int; T],
        weighted: [S::Int; T],
        offset: i32,
        (scale, minimum): Factors<S>,
        scales: *const f32,
        totals: &mut [S::Float; T],
    ) {
        for (t, total) in totals.iter_mut().enumerate() {
            // SAFETY: as the trait says; the view has the block.
            unsafe {
                let own = S::splat_f32(*scales.add(t));
                let part = if P::MINIMUM {
                    let below = S::mul_f32(S::to_float(weighted[t]), minimum);
                    S::sub_f32(S::mul_f32(S::to_float(products[t]), scale), below)
                } else {
                    let offset = S::splat(-offset);
                    let product = S::mul_add(products[t], weighted[t], offset);
                    S::mul_f32(S::to_float(product), scale)
                };
                *total = S::fma(part, own, *total);
            }
        }
    }

    /// One chunk of a block, unpacked as it is multiplied. The next block is fetched in between, a
    /// line or two with each step: all at once they would stand in the way of what is read now.
    #[inline(always)]
    unsafe fn direct_chunk<S: Simd, const T: usize>(
        units: *const u8,
        sub_scales: &SubScales<S>,
        chunk: usize,
        values: *const i8,
        products: &mut [S::Int; T],
        next: Option<*const u8>,
    ) {
        // SAFETY: as the trait says; the values are the block's.
        unsafe {
            let at_once = const { Self::slots_at_once(S::REGISTERS, T) };
            for slots in (0..Self::SLOTS).step_by(at_once) {
                let mut dots = [[S::splat(0); T]; SLOTS_MAX];
                unrolled!(step < P::STEPS, {
                    let operands = P::step::<S>(units, chunk, step);
                    for (slot, dots) in (slots..slots + at_once).zip(&mut dots) {
                        let values = values.add(P::group(chunk, step, slot) * T * 4);
                        S::dot_tile::<T>(dots, operands.as_ref()[slot], P::SIGNED, values);
                    }
                    if slots == 0
                        && let Some(next) = next
                    {
                        fetch::<S>(next, P::BYTES, chunk * P::STEPS + step, P::CHUNKS * P::STEPS);
                    }
                });
                for (slot, dots) in (slots..slots + at_once).zip(dots) {
                    let sub = P::group(chunk, 0, slot) * 4 / P::SUB;
                    let scale = Self::scale::<S>(sub_scales, sub);
                    add_scaled::<S, T>(products, dots, scale);
                }
            }
        }
    }
}

/// Adds a sub-block's sums, times its scale.
#[inline(always)]
unsafe fn add_scaled<S: Simd, const T: usize>(
    products: &mut [S::Int; T],
    dots: [S::Int; T],
    scale: S::Int,
) {
    for (product, dot) in products.iter_mut().zip(dots) {
        // SAFETY: as this function's own.
        unsafe {
            *product = S::mul_add(*product, dot, scale);
            S::hold(product);
        }
    }
}

impl<P: Packed> Kernel for By256<P> {
    const BLOCK: usize = 256;
    const BYTES: usize = P::BYTES;

    fn form(_signed_offset: u16) -> Form {
        Form::By256
    }

    #[inline(always)]
    unsafe fn stage<S: Simd>(panel: *const u8, _blocks: usize, stage: *mut u8) {
        for lane in (0..ROWS).step_by(S::LANES) {
            // SAFETY: as the trait says; one block is a whole run.
            unsafe {
                let (halves, units) = (panel.add(lane * 2), panel.add(P::HALVES + lane * 4));
                let to = stage.add(lane * 4);
                let (scale, minimum) = Self::factors::<S>(halves);
                let sub_scales = P::sub_scales::<S>(units, halves);
                unrolled!(chunk < P::CHUNKS, {
                    for step in 0..P::STEPS {
                        let operands = P::step::<S>(units, chunk, step);
                        for (slot, operand) in operands.as_ref().iter().enumerate() {
                            S::store(to.add(P::group(chunk, step, slot) * UNIT), *operand);
                        }
                    }
                });
                for pair in 0..32 {
                    S::pair([2 * pair, 2 * pair + 1].map(|group| to.add(group * UNIT)));
                }
                for sub in 0..Self::SUBS {
                    let scale = Self::scale::<S>(&sub_scales, sub);
                    S::store(to.add(STAGED_SCALES + sub * UNIT), scale);
                }
                for index in 0..Self::PAIRS {
                    let pair = Self::pair::<S>(&sub_scales, index);
                    S::store(to.add(STAGED_PAIRS + index * UNIT), pair);
                }
                let factors = to.add(STAGED_FACTORS).cast::<f32>();
                S::store_f32(factors, scale);
                S::store_f32(factors.add(ROWS), minimum);
            }
        }
    }

    #[inline(always)]
    unsafe fn staged<S: Simd, const T: usize>(
        stage: *const u8,
        _blocks: usize,
        view: TileView,
        sums: *mut f32,
    ) {
        for lane in (0..ROWS).step_by(S::LANES) {
            // SAFETY: as the trait says.
            unsafe {
                let stage = stage.add(lane * 4);
                let mut products = [S::splat(0); T];
                for sub in 0..Self::SUBS {
                    let mut dots = [S::splat(0); T];
                    unrolled!(index < P::SUB / 8, {
                        let group = sub * P::SUB / 4 + 2 * index;
                        let operands = [stage.add(group * UNIT), stage.add((group + 1) * UNIT)];
                        let values = view.values.add(group * T * 4);
                        S::dot_tile_pair::<T>(&mut dots, operands, P::SIGNED, values);
                    });
                    S::settle::<T>(&mut dots);
                    let scale = S::load(stage.add(STAGED_SCALES + sub * UNIT));
                    add_scaled::<S, T>(&mut products, dots, scale);
                }
                let mut weighted = [S::splat(0); T];
                if Self::needs_sums(S::SIGNED_OFFSET) {
                    for index in 0..Self::PAIRS {
                        let pair = S::load(stage.add(STAGED_PAIRS + index * UNIT));
                        Self::add_pair::<S, T>(&mut weighted, pair, index, 0, view);
                    }
                }
                let factors = stage.add(STAGED_FACTORS).cast::<f32>();
                let factors = (S::load_f32(factors), S::load_f32(factors.add(ROWS)));
                let mut totals = load_sums::<S, T>(sums, lane);
                let offset = Self::offset(S::SIGNED_OFFSET);
                Self::add::<S, T>(products, weighted, offset, factors, view.scales, &mut totals);
                store_sums::<S, T>(sums, lane, totals);
            }
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    unsafe fn tiled<S: Simd>(
        stage: *const u8,
        activations: &Activations,
        block: usize,
        sums: *mut f32,
    ) -> usize {
        // SAFETY: as the trait says.
        unsafe { Self::in_tiles::<S>(stage, activations, block, sums) }
    }

    #[inline(always)]
    unsafe fn direct<S: Simd, const T: usize>(
        panel: *const u8,
        _blocks: usize,
        view: TileView,
        sums: *mut f32,
    ) {
        for lane in (0..ROWS).step_by(S::LANES) {
            // SAFETY: as the trait says; one block is a whole run.
            unsafe {
                let (halves, units) = (panel.add(lane * 2), panel.add(P::HALVES + lane * 4));
                let factors = Self::factors::<S>(halves);
                let sub_scales = P::sub_scales::<S>(units, halves);
                let mut products = [S::splat(0); T];
                let ahead = panel.wrapping_add(Self::ahead(T));
                let next = (lane == 0 && is_fetched::<T>()).then_some(ahead);
                unrolled!(chunk < P::CHUNKS, {
                    let (values, products) = (view.values, &mut products);
                    Self::direct_chunk::<S, T>(units, &sub_scales, chunk, values, products, next);
                });
                let mut weighted = [S::splat(0); T];
                if Self::needs_sums(S::SIGNED_OFFSET) {
                    for index in 0..Self::PAIRS {
                        let pair = Self::pair::<S>(&sub_scales, index);
                        Self::add_pair::<S, T>(&mut weighted, pair, index, 0, view);
                    }
                }
                let mut totals = load_sums::<S, T>(sums, lane);
                let offset = Self::offset(S::SIGNED_OFFSET);
                Self::add::<S, T>(products, weighted, offset, factors, view.scales, &mut totals);
                store_sums::<S, T>(sums, lane, totals);
            }
        }
    }
}
