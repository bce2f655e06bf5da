//! The norm in front of each block of a model.

use crate::simd::{self, Isa, Simd, Work};
use crate::threads;

#[cfg(test)]
mod tests;

/// Numbers of a task at least: fewer are done before another thread has woken.
const TASK: usize = 32 << 10;
/// Sums that are independent, so that they do not wait for each other.
const SUMS: usize = 4;

/// Divides each token's vector by the root of its mean square and multiplies it with a gain.
///
/// Shapes: `x, out: [tokens, width]`, `gain: [width]`. Computed in f32.
/// Threads: all of the pool, where there are enough tokens.
/// Panics: when the slices do not have these lengths.
/// Source: Zhang and Sennrich 2019, arXiv:1910.07467, eq. 4.
pub fn rms_norm(x: &[f32], gain: &[f32], epsilon: f32, out: &mut [f32]) {
    rms_norm_on(Isa::best(), x, gain, epsilon, out);
}

pub(crate) fn rms_norm_on(isa: Isa, x: &[f32], gain: &[f32], epsilon: f32, out: &mut [f32]) {
    let width = gain.len();
    assert!(width > 0, "a vector of nothing");
    assert!(x.len().is_multiple_of(width), "x is not rows of {width}");
    assert_eq!(out.len(), x.len(), "as much comes out as goes in");
    let tokens = x.len() / width;
    let task_tokens = (TASK / width).max(1);
    let out = Output(out.as_mut_ptr());
    threads::for_each(tokens.div_ceil(task_tokens), |task| {
        let first = task * task_tokens;
        let count = task_tokens.min(tokens - first);
        let x = &x[first * width..][..count * width];
        // SAFETY: `out` is as long as all of `x`, and these rows are this task's.
        let out = unsafe { out.rows(first * width, x.len()) };
        let norm = Norm { x, gain, epsilon, out };
        // SAFETY: callers choose among the kinds that the machine is.
        unsafe { simd::run(isa, norm) };
    });
}

/// Where the results go. Threads write different rows.
struct Output(*mut f32);

// SAFETY: each task writes its own rows, and nobody reads before all are done.
unsafe impl Sync for Output {}

impl Output {
    /// # Safety
    /// These numbers are there, and nobody else uses them.
    #[expect(clippy::mut_from_ref, reason = "different rows are borrowed at once")]
    unsafe fn rows(&self, first: usize, count: usize) -> &mut [f32] {
        // SAFETY: the caller's.
        unsafe { std::slice::from_raw_parts_mut(self.0.add(first), count) }
    }
}

/// Rows of one task.
struct Norm<'a> {
    x: &'a [f32],
    gain: &'a [f32],
    epsilon: f32,
    out: &'a mut [f32],
}

impl Work for Norm<'_> {
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let Norm { x, gain, epsilon, out } = self;
        let width = gain.len();
        for (x, out) in x.chunks_exact(width).zip(out.chunks_exact_mut(width)) {
            // SAFETY: as this function's own.
            let mean_square = unsafe { sum_of_squares::<S>(x) } / width as f32;
            let factor = 1.0 / (mean_square + epsilon).sqrt();
            let whole = width - width % S::LANES;
            for at in (0..whole).step_by(S::LANES) {
                // SAFETY: a whole vector is left in each of the three, which are as long.
                unsafe {
                    let scaled = S::mul_f32(S::load_f32(x.as_ptr().add(at)), S::splat_f32(factor));
                    let scaled = S::mul_f32(scaled, S::load_f32(gain.as_ptr().add(at)));
                    S::store_f32(out.as_mut_ptr().add(at), scaled);
                }
            }
            for at in whole..width {
                out[at] = x[at] * factor * gain[at];
            }
        }
    }
}

/// # Safety
/// The machine has the instructions of `S`.
#[inline(always)]
unsafe fn sum_of_squares<S: Simd>(x: &[f32]) -> f32 {
    let step = SUMS * S::LANES;
    let runs = x.chunks_exact(step);
    let rest: f32 = runs.remainder().iter().map(|x| x * x).sum();
    // SAFETY: each run has `SUMS` vectors.
    unsafe {
        let mut sums = [S::splat_f32(0.0); SUMS];
        for run in runs {
            for (index, sum) in sums.iter_mut().enumerate() {
                let x = S::load_f32(run.as_ptr().add(index * S::LANES));
                *sum = S::fma(x, x, *sum);
            }
        }
        let halves = [S::add_f32(sums[0], sums[1]), S::add_f32(sums[2], sums[3])];
        S::sum_f32(S::add_f32(halves[0], halves[1])) + rest
    }
}
