//! What is computed row by row, and its slopes.

use crate::simd::{self, Isa, Simd, Work};

/// The most lanes of a vector.
const LANES_MAX: usize = 16;

/// Does work with the best instructions that there are.
fn run(work: impl Work) {
    // SAFETY: this is the kind that the machine is; works of this file have no conditions of their own.
    unsafe { simd::run(Isa::best(), work) }
}

/// The sum of products of numbers in the same place.
///
/// # Safety
/// The machine has the instructions of `S`.
#[inline(always)]
pub(super) unsafe fn dot<S: Simd>(a: &[f32], b: &[f32]) -> f32 {
    let length = a.len().min(b.len());
    let whole = length - length % S::LANES;
    let rest: f32 = a[whole..length].iter().zip(&b[whole..length]).map(|(a, b)| a * b).sum();
    // SAFETY: a whole vector is left in both.
    unsafe {
        let mut sum = S::splat_f32(0.0);
        for at in (0..whole).step_by(S::LANES) {
            let (a, b) = (S::load_f32(a.as_ptr().add(at)), S::load_f32(b.as_ptr().add(at)));
            sum = S::fma(a, b, sum);
        }
        S::sum_f32(sum) + rest
    }
}

/// Puts `exp(x - shift)` into the place of each number, and gives their sum.
///
/// # Safety
/// The machine has the instructions of `S`.
#[inline(always)]
pub(super) unsafe fn exp_all<S: Simd>(row: &mut [f32], shift: f32) -> f32 {
    let whole = row.len() - row.len() % S::LANES;
    let (vectors, rest) = row.split_at_mut(whole);
    // SAFETY: a whole vector is left in each.
    let sum = unsafe {
        let shift = S::splat_f32(shift);
        let mut sum = S::splat_f32(0.0);
        for at in (0..whole).step_by(S::LANES) {
            let place = vectors.as_mut_ptr().add(at);
            let value = S::exp(S::sub_f32(S::load_f32(place), shift));
            sum = S::add_f32(sum, value);
            S::store_f32(place, value);
        }
        S::sum_f32(sum)
    };
    if rest.is_empty() {
        return sum;
    }
    let mut last = [shift; LANES_MAX];
    last[..rest.len()].copy_from_slice(rest);
    // SAFETY: `last` has room for a vector.
    unsafe {
        let value = S::exp(S::sub_f32(S::load_f32(last.as_ptr()), S::splat_f32(shift)));
        S::store_f32(last.as_mut_ptr(), value);
    }
    rest.copy_from_slice(&last[..rest.len()]);
    sum + rest.iter().sum::<f32>()
}

/// The greatest of some numbers.
///
/// # Safety
/// The machine has the instructions of `S`.
#[inline(always)]
pub(super) unsafe fn greatest<S: Simd>(row: &[f32]) -> f32 {
    let whole = row.len() - row.len() % S::LANES;
    // SAFETY: a whole vector is left.
    let greatest = unsafe {
        let mut greatest = S::splat_f32(f32::NEG_INFINITY);
        for at in (0..whole).step_by(S::LANES) {
            greatest = S::max_f32(greatest, S::load_f32(row.as_ptr().add(at)));
        }
        S::greatest_f32(greatest)
    };
    row[whole..].iter().copied().fold(greatest, f32::max)
}

/// Normed vectors, and what each was multiplied with.
#[derive(Debug, Clone)]
pub struct Normed {
    /// `[tokens, width]`
    pub values: Vec<f32>,
    /// `[tokens]`
    pub factors: Vec<f32>,
}

/// Scales each token's vector to a mean square of one, then by `gain`.
///
/// Shapes: `x: [tokens, width]`, `gain: [width]`.
/// Source: Zhang and Sennrich 2019, arXiv:1910.07467, eq. 4.
pub fn norm(x: &[f32], gain: &[f32], epsilon: f32) -> Normed {
    struct Norm<'a>(&'a [f32], &'a [f32], f32, &'a mut Normed);

    impl Work for Norm<'_> {
        #[inline(always)]
        unsafe fn run<S: Simd>(self) {
            let Norm(x, gain, epsilon, Normed { values, factors }) = self;
            for x in x.chunks_exact(gain.len()) {
                // SAFETY: as this function's own.
                let mean_square = unsafe { dot::<S>(x, x) } / gain.len() as f32;
                let factor = 1.0 / (mean_square + epsilon).sqrt();
                factors.push(factor);
                values.extend(x.iter().zip(gain).map(|(x, gain)| x * factor * gain));
            }
        }
    }

    let tokens = x.len() / gain.len();
    let mut normed =
        Normed { values: Vec::with_capacity(x.len()), factors: Vec::with_capacity(tokens) };
    run(Norm(x, gain, epsilon, &mut normed));
    normed
}

/// The slopes of `x` and of `gain` by those of the normed vectors.
///
/// Shapes: `x, slopes: [tokens, width]`, `gain: [width]`, `factors: [tokens]` → as `x`, as `gain`.
pub fn norm_slopes(
    x: &[f32],
    gain: &[f32],
    factors: &[f32],
    slopes: &[f32],
) -> (Vec<f32>, Vec<f32>) {
    struct Slopes<'a> {
        x: &'a [f32],
        gain: &'a [f32],
        factors: &'a [f32],
        slopes: &'a [f32],
        of_x: &'a mut Vec<f32>,
        of_gain: &'a mut [f32],
    }

    impl Work for Slopes<'_> {
        #[inline(always)]
        unsafe fn run<S: Simd>(self) {
            let width = self.gain.len();
            let mut scaled = vec![0.0; width];
            let rows = self.x.chunks_exact(width).zip(self.slopes.chunks_exact(width));
            for ((x, slopes), factor) in rows.zip(self.factors) {
                for ((scaled, slope), gain) in scaled.iter_mut().zip(slopes).zip(self.gain) {
                    *scaled = slope * gain;
                }
                for ((of_gain, slope), x) in self.of_gain.iter_mut().zip(slopes).zip(x) {
                    *of_gain += slope * x * factor;
                }
                // SAFETY: as this function's own.
                let along = unsafe { dot::<S>(&scaled, x) } * factor * factor / width as f32;
                let pairs = scaled.iter().zip(x);
                self.of_x.extend(pairs.map(|(scaled, x)| factor * (scaled - along * x)));
            }
        }
    }

    let (mut of_x, mut of_gain) = (Vec::with_capacity(x.len()), vec![0.0; gain.len()]);
    run(Slopes { x, gain, factors, slopes, of_x: &mut of_x, of_gain: &mut of_gain });
    (of_x, of_gain)
}

/// `silu(first) · second`, where each row has the first half, then the second.
///
/// Shapes: `both: [tokens, 2 · width]` → `[tokens, width]`.
/// Source: Shazeer 2020, arXiv:2002.05202, `SwiGLU`.
pub fn gate(both: &[f32], width: usize) -> Vec<f32> {
    struct Gate<'a>(&'a [f32], usize, &'a mut Vec<f32>);

    impl Work for Gate<'_> {
        #[inline(always)]
        unsafe fn run<S: Simd>(self) {
            let Gate(both, width, out) = self;
            let mut open = vec![0.0; width];
            for both in both.chunks_exact(2 * width) {
                let (first, second) = both.split_at(width);
                // SAFETY: as this function's own.
                unsafe { shares_open::<S>(first, &mut open) };
                let pairs = first.iter().zip(second).zip(&open);
                out.extend(pairs.map(|((first, second), open)| first * open * second));
            }
        }
    }

    let mut out = Vec::with_capacity(both.len() / 2);
    run(Gate(both, width, &mut out));
    out
}

/// `1 / (1 + exp(-x))`
///
/// # Safety
/// The machine has the instructions of `S`.
#[inline(always)]
unsafe fn shares_open<S: Simd>(x: &[f32], open: &mut [f32]) {
    for (open, x) in open.iter_mut().zip(x) {
        *open = -x;
    }
    // SAFETY: as this function's own.
    unsafe { exp_all::<S>(open, 0.0) };
    for open in open {
        *open = 1.0 / (1.0 + *open);
    }
}

/// The slopes of both halves by those of what [`gate`] gives.
///
/// Shapes: `both: [tokens, 2 · width]`, `slopes: [tokens, width]` → as `both`.
pub fn gate_slopes(both: &[f32], slopes: &[f32], width: usize) -> Vec<f32> {
    struct Slopes<'a>(&'a [f32], &'a [f32], usize, &'a mut Vec<f32>);

    impl Work for Slopes<'_> {
        #[inline(always)]
        unsafe fn run<S: Simd>(self) {
            let Slopes(both, slopes, width, out) = self;
            let mut open = vec![0.0; width];
            for (both, slopes) in both.chunks_exact(2 * width).zip(slopes.chunks_exact(width)) {
                let (first, second) = both.split_at(width);
                // SAFETY: as this function's own.
                unsafe { shares_open::<S>(first, &mut open) };
                let pairs = first.iter().zip(second).zip(&open).zip(slopes);
                out.extend(pairs.map(|(((first, second), open), slope)| {
                    slope * second * open * (1.0 + first * (1.0 - open))
                }));
                let pairs = first.iter().zip(&open).zip(slopes);
                out.extend(pairs.map(|((first, open), slope)| slope * first * open));
            }
        }
    }

    let mut out = Vec::with_capacity(both.len());
    run(Slopes(both, slopes, width, &mut out));
    out
}

/// What a row shall say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// The token.
    pub token: u32,
    /// The only tokens that may be said, where they are few; the wanted one is among them.
    pub among: Option<Vec<u32>>,
}

/// How likely rows say what they shall.
#[derive(Debug, Clone)]
pub struct Likelihoods {
    /// In nats. `[rows]`
    pub values: Vec<f32>,
    /// The logarithm of the sum of exponentials that each was measured by. `[rows]`
    pub log_sums: Vec<f32>,
}

/// How likely each row of logits says what it shall, among all tokens or those that it may say.
///
/// Shapes: `logits: [rows, width]`, `wanted: [rows]`.
/// Panics: on a token beyond the width.
pub fn log_likelihoods(logits: &[f32], width: usize, wanted: &[Wanted]) -> Likelihoods {
    struct Likely<'a>(&'a [f32], usize, &'a [Wanted], &'a mut Likelihoods);

    impl Work for Likely<'_> {
        #[inline(always)]
        unsafe fn run<S: Simd>(self) {
            let Likely(logits, width, wanted, Likelihoods { values, log_sums }) = self;
            let mut row = Vec::with_capacity(width);
            for (logits, wanted) in logits.chunks_exact(width).zip(wanted) {
                row.clear();
                match &wanted.among {
                    None => row.extend_from_slice(logits),
                    Some(few) => row.extend(few.iter().map(|token| logits[*token as usize])),
                }
                // SAFETY: as this function's own.
                let log_sum = unsafe {
                    let highest = greatest::<S>(&row);
                    highest + exp_all::<S>(&mut row, highest).ln()
                };
                log_sums.push(log_sum);
                values.push(logits[wanted.token as usize] - log_sum);
            }
        }
    }

    let rows = wanted.len();
    let (values, log_sums) = (Vec::with_capacity(rows), Vec::with_capacity(rows));
    let mut likely = Likelihoods { values, log_sums };
    run(Likely(logits, width, wanted, &mut likely));
    likely
}

/// The slopes of the logits by those of their likelihoods.
///
/// Shapes: as [`log_likelihoods`], `log_sums, slopes: [rows]` → as `logits`.
pub fn log_likelihoods_slopes(
    logits: &[f32],
    width: usize,
    wanted: &[Wanted],
    log_sums: &[f32],
    slopes: &[f32],
) -> Vec<f32> {
    struct Slopes<'a> {
        logits: &'a [f32],
        width: usize,
        wanted: &'a [Wanted],
        log_sums: &'a [f32],
        slopes: &'a [f32],
        out: &'a mut Vec<f32>,
    }

    impl Work for Slopes<'_> {
        #[inline(always)]
        unsafe fn run<S: Simd>(self) {
            let rows = self.logits.chunks_exact(self.width).zip(self.wanted);
            for ((logits, wanted), (log_sum, slope)) in
                rows.zip(self.log_sums.iter().zip(self.slopes))
            {
                let first = self.out.len();
                match &wanted.among {
                    None => {
                        self.out.extend_from_slice(logits);
                        let row = &mut self.out[first..];
                        // SAFETY: as this function's own.
                        unsafe { exp_all::<S>(row, *log_sum) };
                        row.iter_mut().for_each(|share| *share *= -slope);
                    }
                    Some(few) => {
                        self.out.resize(first + self.width, 0.0);
                        for token in few {
                            let token = *token as usize;
                            self.out[first + token] = -slope * (logits[token] - log_sum).exp();
                        }
                    }
                }
                self.out[first + wanted.token as usize] += slope;
            }
        }
    }

    let mut out = Vec::with_capacity(logits.len());
    run(Slopes { logits, width, wanted, log_sums, slopes, out: &mut out });
    out
}
