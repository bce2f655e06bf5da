//! Encodings without blocks: each column of 16 rows is a vector of floats.

use std::marker::PhantomData;

use super::{Kernel, LINE, load_sums, store_sums};
use crate::activations::{Form, TileView};
use crate::panels::ROWS;
use crate::simd::{self, Simd};

/// How far ahead is fetched, in bytes.
const AHEAD: usize = 2304;

/// One column of 16 rows.
pub(crate) trait Column {
    /// Bytes of a row's value.
    const BYTES: usize;
    unsafe fn load<S: Simd>(from: *const u8) -> S::Float;
}

/// 32-bit floats.
pub(crate) struct F32;
/// 16-bit floats.
pub(crate) struct F16;
/// Upper halves of 32-bit floats.
pub(crate) struct Bf16;

impl Column for F32 {
    const BYTES: usize = 4;

    #[inline(always)]
    unsafe fn load<S: Simd>(from: *const u8) -> S::Float {
        // SAFETY: the panel has the column.
        unsafe { S::as_float(S::load(from)) }
    }
}

impl Column for F16 {
    const BYTES: usize = 2;

    #[inline(always)]
    unsafe fn load<S: Simd>(from: *const u8) -> S::Float {
        // SAFETY: the panel has the column.
        unsafe { S::load_f16(from) }
    }
}

impl Column for Bf16 {
    const BYTES: usize = 2;

    #[inline(always)]
    unsafe fn load<S: Simd>(from: *const u8) -> S::Float {
        // SAFETY: the panel has the column.
        unsafe { S::load_bf16(from) }
    }
}

/// Panels of columns.
pub(crate) struct Floats<C>(PhantomData<C>);

impl<C: Column> Floats<C> {
    /// Adds a run of columns: those of even and those of odd place in sums of their own, which
    /// are independent, and short enough to keep their low bits.
    #[inline(always)]
    unsafe fn run<S: Simd, const T: usize>(
        column: impl Fn(usize) -> S::Float,
        columns: usize,
        values: *const f32,
        totals: &mut [S::Float; T],
    ) {
        // SAFETY: as the trait says; the view has the columns.
        unsafe {
            let mut even = [S::splat_f32(0.0); T];
            let mut odd = even;
            let mut index = 0;
            while index + 2 <= columns {
                let (a, b) = (column(index), column(index + 1));
                for t in 0..T {
                    even[t] = S::fma(a, S::splat_f32(*values.add(index * T + t)), even[t]);
                    odd[t] = S::fma(b, S::splat_f32(*values.add((index + 1) * T + t)), odd[t]);
                }
                index += 2;
            }
            if index < columns {
                let a = column(index);
                for (t, even) in even.iter_mut().enumerate() {
                    *even = S::fma(a, S::splat_f32(*values.add(index * T + t)), *even);
                }
            }
            for (total, (even, odd)) in totals.iter_mut().zip(even.into_iter().zip(odd)) {
                *total = S::add_f32(*total, S::add_f32(even, odd));
            }
        }
    }
}

impl<C: Column> Kernel for Floats<C> {
    const BLOCK: usize = 1;
    const BYTES: usize = C::BYTES * ROWS;

    fn form(_signed_offset: u16) -> Form {
        Form::Floats
    }

    #[inline(always)]
    unsafe fn stage<S: Simd>(panel: *const u8, blocks: usize, stage: *mut u8) {
        for index in 0..blocks {
            for lane in (0..ROWS).step_by(S::LANES) {
                // SAFETY: as the trait says; the stage has 16 floats for each column.
                unsafe {
                    let column = C::load::<S>(panel.add((index * ROWS + lane) * C::BYTES));
                    S::store_f32(stage.cast::<f32>().add(index * ROWS + lane), column);
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
                let column =
                    |index: usize| S::load_f32(stage.cast::<f32>().add(index * ROWS + lane));
                Self::run::<S, T>(column, blocks, view.values.cast(), &mut totals);
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
                let fetches = lane == 0 && simd::reads_as_told();
                let column = |index: usize| {
                    let at = panel.add((index * ROWS + lane) * C::BYTES);
                    if fetches && (index * Self::BYTES).is_multiple_of(LINE) {
                        S::prefetch(at.wrapping_add(AHEAD));
                    }
                    C::load::<S>(at)
                };
                Self::run::<S, T>(column, blocks, view.values.cast(), &mut totals);
                store_sums::<S, T>(sums, lane, totals);
            }
        }
    }
}
