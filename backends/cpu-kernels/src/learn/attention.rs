//! Attention over the tokens of a step itself, and its slopes.

use weights::RopePairing;

use super::product::Matrix;
use super::rows::{dot, exp_all, greatest};
use crate::attention::Span;
use crate::simd::{self, Isa, Simd, Work};

/// Queries whose scores are computed at once: those of one head stay in a cache, and little is computed of
/// keys that none of them sees.
const QUERIES_MAX: usize = 96;

/// Causal attention of sequences whose keys and values are those of the step: slot `i` is its token `i`.
#[derive(Debug, Clone, Copy)]
pub struct StepAttention<'a> {
    /// Heads of queries, a multiple of those of keys.
    pub heads: usize,
    /// Heads of keys, and of values.
    pub kv_heads: usize,
    /// Numbers of a head, even.
    pub head_dim: usize,
    /// What scores are multiplied with.
    pub scale: f32,
    /// Which numbers of a head are a pair.
    pub pairing: RopePairing,
    /// The cosines, then the sines, of each position. `[context, head_dim]`
    pub angles: &'a [f32],
    /// Of each token in its own sequence. `[tokens]`
    pub positions: &'a [i32],
    /// The slots of all sequences' tokens behind each other.
    pub slots: &'a [i32],
    /// In the order of their tokens; pages are slots. All tokens are in one of them.
    pub spans: &'a [Span],
}

/// What attention found, and what its slopes are computed from.
#[derive(Debug, Clone)]
pub struct Attended {
    /// `[tokens, heads * head_dim]`
    pub out: Vec<f32>,
    /// Queries and keys as they are turned, and values. `[tokens, (heads + 2 * kv_heads) * head_dim]`
    pub turned: Vec<f32>,
    /// The logarithm of the sum of exponentials of each query's scores. `[tokens, heads]`
    pub log_sums: Vec<f32>,
}

/// Slots one behind the other, as part of a context.
#[derive(Debug, Clone, Copy)]
struct Stretch {
    /// Its place in the context.
    start: usize,
    slot: usize,
    length: usize,
}

/// Queries of one span, and how much of its context they see.
#[derive(Debug, Clone, Copy)]
struct Slice {
    /// The first of them in the step.
    first: usize,
    count: usize,
    /// Keys that the last of them sees; each one before sees one less.
    seen: usize,
}

impl StepAttention<'_> {
    /// Attention of all tokens. `qkv: [tokens, (heads + 2 * kv_heads) * head_dim]`
    ///
    /// Panics: when a span, slot or position is beyond its table.
    /// Source: Vaswani et al. 2017, arXiv:1706.03762; Su et al. 2021, arXiv:2104.09864, eq. 34.
    pub fn attend(&self, qkv: &[f32]) -> Attended {
        let tokens = self.positions.len();
        assert_eq!(qkv.len(), tokens * self.width(), "tokens of another width");
        let mut turned = qkv.to_vec();
        self.turn(&mut turned, 1.0);
        let mut out = vec![0.0; tokens * self.heads * self.head_dim];
        let mut log_sums = vec![0.0; tokens * self.heads];
        let mut scores = Vec::new();
        self.each(|stretches, slice, head| {
            self.score(&turned, stretches, slice, head, &mut scores);
            let log_sums = &mut log_sums[slice.first * self.heads..];
            run(Softmax { scores: &mut scores, slice, log_sums, heads: self.heads, head });
            let out = &mut out[self.query(slice.first, self.heads, head)..];
            for stretch in stretches {
                let shares =
                    Matrix::new(&scores[stretch.start..], slice.count, stretch.length, slice.seen);
                let values = self.stretch(&turned, *stretch, self.value_head(head));
                let adds = stretch.start > 0;
                shares.multiply(values, 1.0, adds, out, self.heads * self.head_dim);
            }
        });
        Attended { out, turned, log_sums }
    }

    /// The slopes of `qkv` by those of what [`attend`](Self::attend) gave. `slopes` as `out` → as `qkv`
    pub fn slopes(&self, turned: &[f32], log_sums: &[f32], slopes: &[f32]) -> Vec<f32> {
        let width = self.width();
        let mut of_qkv = vec![0.0; turned.len()];
        let (mut shares, mut of_scores) = (Vec::new(), Vec::new());
        self.each(|stretches, slice, head| {
            self.score(turned, stretches, slice, head, &mut shares);
            let out_width = self.heads * self.head_dim;
            let slopes = &slopes[self.query(slice.first, self.heads, head)..];
            let slopes = Matrix::new(slopes, slice.count, self.head_dim, out_width);
            of_scores.resize(slice.count * slice.seen, 0.0);
            for stretch in stretches {
                let values = self.stretch(turned, *stretch, self.value_head(head)).transposed();
                let of_scores = &mut of_scores[stretch.start..];
                slopes.multiply(values, 1.0, false, of_scores, slice.seen);
            }
            let log_sums = &log_sums[slice.first * self.heads..];
            let (shares, of_scores) = (&mut shares, &mut of_scores);
            run(Back { shares, of_scores, slice, log_sums, heads: self.heads, head });
            let key_head = self.key_head(head);
            let query = self.query(slice.first, width / self.head_dim, head);
            for stretch in stretches {
                let of_scores = Matrix::new(
                    &of_scores[stretch.start..],
                    slice.count,
                    stretch.length,
                    slice.seen,
                );
                let shares =
                    Matrix::new(&shares[stretch.start..], slice.count, stretch.length, slice.seen);
                let queries = Matrix::new(&turned[query..], slice.count, self.head_dim, width);
                let keys = self.stretch(turned, *stretch, key_head);
                let of = &mut of_qkv[query..];
                of_scores.multiply(keys, self.scale, true, of, width);
                let of = &mut of_qkv[stretch.slot * width + key_head * self.head_dim..];
                of_scores.transposed().multiply(queries, self.scale, true, of, width);
                let value_head = self.value_head(head);
                let of = &mut of_qkv[stretch.slot * width + value_head * self.head_dim..];
                shares.transposed().multiply(slopes, 1.0, true, of, width);
            }
        });
        self.turn(&mut of_qkv, -1.0);
        of_qkv
    }

    /// Numbers of a token's queries, keys and values.
    fn width(&self) -> usize {
        (self.heads + 2 * self.kv_heads) * self.head_dim
    }

    /// Which heads of a token's numbers a query head reads.
    fn key_head(&self, head: usize) -> usize {
        self.heads + head * self.kv_heads / self.heads
    }

    fn value_head(&self, head: usize) -> usize {
        self.key_head(head) + self.kv_heads
    }

    /// Where a head of a token begins, in rows of so many heads.
    fn query(&self, token: usize, heads: usize, head: usize) -> usize {
        (token * heads + head) * self.head_dim
    }

    /// One head of the tokens of a stretch.
    fn stretch<'a>(&self, turned: &'a [f32], stretch: Stretch, head: usize) -> Matrix<'a> {
        let width = self.width();
        let first = stretch.slot * width + head * self.head_dim;
        Matrix::new(&turned[first..], stretch.length, self.head_dim, width)
    }

    /// Does something for each head of each slice of queries.
    fn each(&self, mut work: impl FnMut(&[Stretch], Slice, usize)) {
        for span in self.spans {
            let slots = &self.slots[span.first_page..][..span.context_tokens];
            for start in (0..span.query_tokens).step_by(QUERIES_MAX) {
                let count = QUERIES_MAX.min(span.query_tokens - start);
                let seen = span.context_tokens - (span.query_tokens - start - count);
                let stretches = stretches(&slots[..seen]);
                let slice = Slice { first: span.query_start + start, count, seen };
                (0..self.heads).for_each(|head| work(&stretches, slice, head));
            }
        }
    }

    /// The scores of a slice's queries, those of keys that one of them does not see among them.
    /// `[count, seen]`
    fn score(
        &self,
        turned: &[f32],
        stretches: &[Stretch],
        slice: Slice,
        head: usize,
        scores: &mut Vec<f32>,
    ) {
        let width = self.width();
        let queries = &turned[self.query(slice.first, width / self.head_dim, head)..];
        let queries = Matrix::new(queries, slice.count, self.head_dim, width);
        scores.resize(slice.count * slice.seen, 0.0);
        for stretch in stretches {
            let keys = self.stretch(turned, *stretch, self.key_head(head)).transposed();
            let scores = &mut scores[stretch.start..];
            queries.multiply(keys, self.scale, false, scores, slice.seen);
        }
    }

    /// Turns queries and keys by their positions, or back.
    fn turn(&self, qkv: &mut [f32], sign: f32) {
        let turned = (self.heads + self.kv_heads) * self.head_dim;
        let half = self.head_dim / 2;
        for (row, position) in qkv.chunks_exact_mut(self.width()).zip(self.positions) {
            let position = usize::try_from(*position).expect("a position");
            let angles = &self.angles[position * self.head_dim..][..self.head_dim];
            let (cos, sin) = angles.split_at(half);
            for head in row[..turned].chunks_exact_mut(self.head_dim) {
                match self.pairing {
                    RopePairing::Adjacent => {
                        let (pairs, _) = head.as_chunks_mut::<2>();
                        for ((pair, cos), sin) in pairs.iter_mut().zip(cos).zip(sin) {
                            *pair = rotated(*pair, *cos, sign * sin);
                        }
                    }
                    RopePairing::HalfSplit => {
                        let (first, second) = head.split_at_mut(half);
                        let pairs = first.iter_mut().zip(second);
                        for (((a, b), cos), sin) in pairs.zip(cos).zip(sin) {
                            [*a, *b] = rotated([*a, *b], *cos, sign * sin);
                        }
                    }
                }
            }
        }
    }
}

fn rotated([a, b]: [f32; 2], cos: f32, sin: f32) -> [f32; 2] {
    [a * cos - b * sin, b * cos + a * sin]
}

/// Slots as stretches of such as lie one behind the other.
fn stretches(slots: &[i32]) -> Vec<Stretch> {
    let mut start = 0;
    let chunks = slots.chunk_by(|one, next| one.checked_add(1) == Some(*next));
    let stretch = |slots: &[i32]| {
        let slot = usize::try_from(slots[0]).expect("a slot");
        let stretch = Stretch { start, slot, length: slots.len() };
        start += slots.len();
        stretch
    };
    chunks.map(stretch).collect()
}

fn run(work: impl Work) {
    // SAFETY: this is the kind that the machine is; works of this file have no conditions of their own.
    unsafe { simd::run(Isa::best(), work) }
}

impl Slice {
    /// Keys that each of its queries sees.
    #[inline(always)]
    fn sees(self) -> impl Iterator<Item = usize> {
        (0..self.count).map(move |at| self.seen + 1 + at - self.count)
    }
}

/// From scores to shares, row by row.
struct Softmax<'a> {
    scores: &'a mut [f32],
    slice: Slice,
    log_sums: &'a mut [f32],
    heads: usize,
    head: usize,
}

impl Work for Softmax<'_> {
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let rows = self.scores.chunks_exact_mut(self.slice.seen).zip(self.slice.sees());
        for ((row, sees), log_sums) in rows.zip(self.log_sums.chunks_exact_mut(self.heads)) {
            let (row, unseen) = row.split_at_mut(sees);
            unseen.fill(0.0);
            // SAFETY: as this function's own.
            let (highest, sum) = unsafe {
                let highest = greatest::<S>(row);
                (highest, exp_all::<S>(row, highest))
            };
            log_sums[self.head] = highest + sum.ln();
            let share = 1.0 / sum;
            row.iter_mut().for_each(|value| *value *= share);
        }
    }
}

/// From scores to shares again, and from the slopes of shares to those of scores.
struct Back<'a> {
    shares: &'a mut [f32],
    of_scores: &'a mut [f32],
    slice: Slice,
    log_sums: &'a [f32],
    heads: usize,
    head: usize,
}

impl Work for Back<'_> {
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let seen = self.slice.seen;
        let rows = self.shares.chunks_exact_mut(seen).zip(self.of_scores.chunks_exact_mut(seen));
        let rows = rows.zip(self.slice.sees()).zip(self.log_sums.chunks_exact(self.heads));
        for (((shares, of_scores), sees), log_sums) in rows {
            let (shares, unseen) = shares.split_at_mut(sees);
            unseen.fill(0.0);
            let (of_scores, unseen) = of_scores.split_at_mut(sees);
            unseen.fill(0.0);
            // SAFETY: as this function's own.
            let mean = unsafe {
                exp_all::<S>(shares, log_sums[self.head]);
                dot::<S>(shares, of_scores)
            };
            for (of_score, share) in of_scores.iter_mut().zip(shares) {
                *of_score = *share * (*of_score - mean);
            }
        }
    }
}
