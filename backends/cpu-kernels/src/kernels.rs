//! A panel times a tile of tokens: the innermost loops, for three families of encodings.
//!
//! Each family multiplies in two ways that give the same bits. *Direct* unpacks as it multiplies:
//! for one tile, when the weights' way from memory is what takes time. *Staged* unpacks
//! [`RUN`] columns once into some kilobytes that stay in the nearest cache, for any number of
//! tiles. Sums of a token do not depend on the tokens beside it, so that an answer does not either.

mod by256;
mod by32;
mod floats;

#[cfg(target_arch = "x86_64")]
use crate::activations::Activations;
use crate::activations::{Form, TileView};
use crate::panels::ROWS;
use crate::simd::{self, Simd};

pub(crate) use by32::By32;
pub(crate) use by256::By256;
pub(crate) use floats::{Bf16, F16, F32, Floats};

/// Repeats with a number that is a constant: what follows from it costs nothing, and no loop of a
/// few rounds is left whose end the processor has to guess.
macro_rules! unrolled {
    ($index:ident < $count:expr, $body:block) => {
        $crate::kernels::unrolled!(@ $index, $count, $body, 0 1 2 3 4 5 6 7)
    };
    (@ $index:ident, $count:expr, $body:block, $($number:literal)*) => {
        $(if $number < $count {
            let $index: usize = $number;
            $body
        })*
    };
}
use unrolled;

/// Columns that are staged at once; whole blocks of every encoding.
pub(crate) const RUN: usize = 256;
/// Bytes of the greatest stage: [`RUN`] columns of 16 floats.
pub(crate) const STAGE_BYTES: usize = RUN * ROWS * 4;

/// Tokens from which on a run is fetched while the one before it is multiplied. With fewer, memory is
/// what takes the time, and some processors read ahead by themselves better than they are told to.
pub(crate) const FETCHED_FROM: usize = 4;

/// Whether what follows is fetched while `T` tokens are multiplied.
#[inline(always)]
pub(crate) fn is_fetched<const T: usize>() -> bool {
    T >= FETCHED_FROM || simd::reads_as_told()
}

/// Bytes of a cache line.
pub(crate) const LINE: usize = 64;

/// Fetches one of `parts` equal parts of the lines of `bytes` bytes.
#[inline(always)]
pub(crate) unsafe fn fetch<S: Simd>(from: *const u8, bytes: usize, part: usize, parts: usize) {
    let lines = bytes.div_ceil(LINE);
    for line in part * lines / parts..(part + 1) * lines / parts {
        // SAFETY: every address is right.
        unsafe { S::prefetch(from.wrapping_add(line * LINE)) }
    }
}

/// How one encoding's panels are multiplied.
///
/// `sums: [T][16]` is added to. Conditions of all functions: the machine has the instructions of
/// `S`; panel, stage and view hold `blocks` blocks, which are at most [`RUN`] columns.
pub(crate) trait Kernel {
    /// Values of a block.
    const BLOCK: usize;
    /// Bytes of a block of 16 rows.
    const BYTES: usize;

    /// What it multiplies with.
    fn form(signed_offset: u16) -> Form;
    /// Unpacks.
    unsafe fn stage<S: Simd>(panel: *const u8, blocks: usize, stage: *mut u8);
    /// Multiplies what [`stage`](Self::stage) left.
    unsafe fn staged<S: Simd, const T: usize>(
        stage: *const u8,
        blocks: usize,
        view: TileView,
        sums: *mut f32,
    );
    /// Multiplies what [`stage`](Self::stage) left with tokens that stand in tiles of AMX, from block `block`
    /// on, and gives their number: none where there are no such tiles. `sums: [tokens][16]`
    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    unsafe fn tiled<S: Simd>(
        _stage: *const u8,
        _activations: &Activations,
        _block: usize,
        _sums: *mut f32,
    ) -> usize {
        0
    }
    /// Unpacks and multiplies. Fetches what lies behind the blocks where that is worth it.
    unsafe fn direct<S: Simd, const T: usize>(
        panel: *const u8,
        blocks: usize,
        view: TileView,
        sums: *mut f32,
    );
}

#[inline(always)]
unsafe fn load_sums<S: Simd, const T: usize>(sums: *const f32, lane: usize) -> [S::Float; T] {
    // SAFETY: as this function's own; `sums` has `[T][16]`.
    unsafe {
        let mut totals = [S::splat_f32(0.0); T];
        for (t, total) in totals.iter_mut().enumerate() {
            *total = S::load_f32(sums.add(t * ROWS + lane));
        }
        totals
    }
}

#[inline(always)]
unsafe fn store_sums<S: Simd, const T: usize>(sums: *mut f32, lane: usize, totals: [S::Float; T]) {
    for (t, total) in totals.into_iter().enumerate() {
        // SAFETY: as this function's own; `sums` has `[T][16]`.
        unsafe { S::store_f32(sums.add(t * ROWS + lane), total) }
    }
}
