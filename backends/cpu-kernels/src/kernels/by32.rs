//! Blocks of 32 values with a scale each.

use std::marker::PhantomData;

use super::{FETCHED_FROM, Kernel, fetch, is_fetched, load_sums, store_sums, unrolled};
use crate::activations::{Form, TileView};
use crate::encodings::Packed;
use crate::panels::{HALF, ROWS, UNIT};
use crate::simd::Simd;

/// Encodings whose blocks have 32 values.
pub(crate) struct By32<P>(PhantomData<P>);

/// Bytes of a staged block: 8 operands, then scale and minimum as floats.
const STAGED: usize = 10 * UNIT;
const STAGED_FACTORS: usize = 8 * UNIT;

impl<P: Packed> By32<P> {
    /// How far ahead is fetched, in bytes: a run, or more than most runs where a few tokens are soon through.
    const fn ahead(tokens: usize, blocks: usize) -> usize {
        if tokens < FETCHED_FROM { 4096 } else { blocks * P::BYTES }
    }

    /// Scale, and minimum where there is one. `block` is that of the lane's rows.
    #[inline(always)]
    unsafe fn factors<S: Simd>(halves: *const u8) -> (S::Float, S::Float) {
        // SAFETY: as the trait says.
        unsafe {
            let minimum =
                if P::MINIMUM { S::load_f16(halves.add(HALF)) } else { S::splat_f32(0.0) };
            (S::load_f16(halves), minimum)
        }
    }

    /// Adds a block's products to the totals of a tile.
    #[inline(always)]
    unsafe fn add<S: Simd, const T: usize>(
        dots: [S::Int; T],
        (scale, minimum): (S::Float, S::Float),
        block: usize,
        view: TileView,
        totals: &mut [S::Float; T],
    ) {
        for (t, (dot, total)) in dots.into_iter().zip(totals).enumerate() {
            // SAFETY: as the trait says; the view has the block.
            unsafe {
                let own = S::splat_f32(*view.scales.add(block * T + t));
                let sum = S::splat_f32(*view.sums.add(block * T + t));
                let dot = S::mul_f32(S::to_float(dot), own);
                *total = if P::MINIMUM {
                    S::fma(minimum, sum, S::fma(dot, scale, *total))
                } else {
                    S::fma(S::sub_f32(dot, sum), scale, *total)
                };
            }
        }
    }
}

impl<P: Packed> Kernel for By32<P> {
    const BLOCK: usize = 32;
    const BYTES: usize = P::BYTES;

    fn form(signed_offset: u16) -> Form {
        let offset = match (P::MINIMUM, P::SIGNED) {
            (true, _) => 1,
            (false, true) => signed_offset,
            (false, false) => P::OFFSET,
        };
        Form::By32 { offset }
    }

    #[inline(always)]
    unsafe fn stage<S: Simd>(panel: *const u8, blocks: usize, stage: *mut u8) {
        for block in 0..blocks {
            for lane in (0..ROWS).step_by(S::LANES) {
                // SAFETY: as the trait says; a stage has `STAGED` bytes for each block.
                unsafe {
                    let from = panel.add(block * P::BYTES);
                    let to = stage.add(block * STAGED + lane * 4);
                    let (scale, minimum) = Self::factors::<S>(from.add(lane * 2));
                    let units = from.add(P::HALVES + lane * 4);
                    for step in 0..P::STEPS {
                        let operands = P::step::<S>(units, 0, step);
                        for (slot, operand) in operands.as_ref().iter().enumerate() {
                            S::store(to.add(P::group(0, step, slot) * UNIT), *operand);
                        }
                    }
                    for pair in 0..4 {
                        S::pair([2 * pair, 2 * pair + 1].map(|group| to.add(group * UNIT)));
                    }
                    let factors = to.add(STAGED_FACTORS).cast::<f32>();
                    S::store_f32(factors, scale);
                    S::store_f32(factors.add(ROWS), minimum);
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn staged<S: Simd, const T: usize>(
        stage: *const u8,
        blocks: usize,
        view: TileView,
        sums: *mut f32,
    ) {
        for lane in (0..ROWS).step_by(S::LANES) {
            // SAFETY: as the trait says.
            unsafe {
                let mut totals = load_sums::<S, T>(sums, lane);
                for block in 0..blocks {
                    let stage = stage.add(block * STAGED + lane * 4);
                    let values = view.values.add(block * 32 * T);
                    let mut dots = [S::splat(0); T];
                    unrolled!(pair < 4, {
                        let operands = [2 * pair, 2 * pair + 1].map(|at| stage.add(at * UNIT));
                        let values = values.add(2 * pair * T * 4);
                        S::dot_tile_pair::<T>(&mut dots, operands, P::SIGNED, values);
                    });
                    S::settle::<T>(&mut dots);
                    let factors = stage.add(STAGED_FACTORS).cast::<f32>();
                    let factors = (S::load_f32(factors), S::load_f32(factors.add(ROWS)));
                    Self::add::<S, T>(dots, factors, block, view, &mut totals);
                }
                store_sums::<S, T>(sums, lane, totals);
            }
        }
    }

    #[inline(always)]
    unsafe fn direct<S: Simd, const T: usize>(
        panel: *const u8,
        blocks: usize,
        view: TileView,
        sums: *mut f32,
    ) {
        for lane in (0..ROWS).step_by(S::LANES) {
            // SAFETY: as the trait says.
            unsafe {
                let mut totals = load_sums::<S, T>(sums, lane);
                for block in 0..blocks {
                    let from = panel.add(block * P::BYTES);
                    let values = view.values.add(block * 32 * T);
                    let factors = Self::factors::<S>(from.add(lane * 2));
                    let units = from.add(P::HALVES + lane * 4);
                    let mut dots = [S::splat(0); T];
                    unrolled!(step < P::STEPS, {
                        let operands = P::step::<S>(units, 0, step);
                        for (slot, operand) in operands.as_ref().iter().enumerate() {
                            let values = values.add(P::group(0, step, slot) * T * 4);
                            S::dot_tile::<T>(&mut dots, *operand, P::SIGNED, values);
                        }
                        if lane == 0 && is_fetched::<T>() {
                            let next = from.wrapping_add(Self::ahead(T, blocks));
                            fetch::<S>(next, P::BYTES, step, P::STEPS);
                        }
                    });
                    Self::add::<S, T>(dots, factors, block, view, &mut totals);
                }
                store_sums::<S, T>(sums, lane, totals);
            }
        }
    }
}
