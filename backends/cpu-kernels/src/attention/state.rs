//! What rows have found so far: an unfinished softmax, and the values that it weighs.

use crate::simd::Simd;

/// Numbers of a row beside its values: greatest score and sum of weights, filled up to a cache
/// line.
const EXTRA: usize = 16;
/// A multiple of all vectors.
const LANES_MAX: usize = 16;

/// `head_dim`, filled up to whole vectors of every machine.
pub(super) fn padded(head_dim: usize) -> usize {
    head_dim.next_multiple_of(LANES_MAX)
}

/// Numbers of a row: sums of weighed values, filled up to whole vectors; the greatest score; the
/// sum of weights.
pub(super) fn record(head_dim: usize) -> usize {
    padded(head_dim) + EXTRA
}

/// Rows, each relative to the greatest score that it has seen.
pub(super) struct States<'a> {
    /// `[rows][record]`
    pub(super) numbers: &'a mut [f32],
    /// `head_dim`, filled up.
    pub(super) width: usize,
}

impl<'a> States<'a> {
    /// Rows that have seen nothing.
    pub(super) fn new(numbers: &'a mut [f32], head_dim: usize) -> Self {
        let width = padded(head_dim);
        for row in numbers.chunks_exact_mut(width + EXTRA) {
            row.fill(0.0);
            row[width] = f32::NEG_INFINITY;
        }
        Self { numbers, width }
    }

    /// Numbers from one row to the next.
    pub(super) fn stride(&self) -> usize {
        self.width + EXTRA
    }

    /// One row's greatest score and sum of weights.
    pub(super) fn softmax(&mut self, row: usize) -> &mut [f32] {
        let at = row * self.stride() + self.width;
        &mut self.numbers[at..][..2]
    }

    /// Adds what the same rows have found elsewhere.
    ///
    /// # Safety
    /// The machine has the instructions of `S`.
    #[inline(always)]
    pub(super) unsafe fn merge<S: Simd>(&mut self, other: &[f32]) {
        let (width, stride) = (self.width, self.stride());
        let rows = self.numbers.chunks_exact_mut(stride).zip(other.chunks_exact(stride));
        for (row, other) in rows {
            let (mine, theirs) = (row[width], other[width]);
            if theirs == f32::NEG_INFINITY {
                continue;
            }
            if mine == f32::NEG_INFINITY {
                row.copy_from_slice(other);
                continue;
            }
            let greatest = mine.max(theirs);
            // SAFETY: as this function's own; rows are whole vectors up to `width`.
            unsafe {
                let (a, b) = (factor::<S>(mine - greatest), factor::<S>(theirs - greatest));
                for at in (0..width).step_by(S::LANES) {
                    let to = row.as_mut_ptr().add(at);
                    let theirs = S::mul_f32(S::load_f32(other.as_ptr().add(at)), S::splat_f32(b));
                    S::store_f32(to, S::fma(S::load_f32(to), S::splat_f32(a), theirs));
                }
                row[width + 1] = row[width + 1] * a + other[width + 1] * b;
            }
            row[width] = greatest;
        }
    }
}

/// e to the power of one number.
///
/// # Safety
/// The machine has the instructions of `S`.
#[inline(always)]
pub(super) unsafe fn factor<S: Simd>(power: f32) -> f32 {
    // SAFETY: as this function's own.
    unsafe { S::greatest_f32(S::exp(S::splat_f32(power))) }
}
