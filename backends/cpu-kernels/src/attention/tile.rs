//! One key head and some rows of queries, over the context.
//!
//! Rows are taken up to eight at a time, so that each vector of keys and values is read and widened
//! once for all of them, and their sums stay in registers.

use std::cell::RefCell;
use std::ops::Range;

use super::block::{BLOCK, Block, Bytes, Halves, Source, Stage, Stored, Words, fetch};
use super::state::{States, factor, record};
use super::{PART, Rows, Span, Step};
use crate::kv::KvEncoding;
use crate::simd::{Simd, Work};

/// Rows that are taken at once at most.
const ROWS_AT_ONCE: usize = 8;

/// Positions that a query sees.
#[derive(Clone, Copy)]
pub(super) struct Seen {
    pub(super) first: usize,
    pub(super) end: usize,
}

impl Seen {
    /// Of the query at a position.
    pub(super) fn of(position: usize, window: Option<usize>) -> Self {
        let end = position + 1;
        Self { first: window.map_or(0, |window| end.saturating_sub(window)), end }
    }

    /// Those of a block that begins at `start`.
    fn within(self, start: usize, length: usize) -> Range<usize> {
        let clamp = |position: usize| position.clamp(start, start + length) - start;
        clamp(self.first)..clamp(self.end)
    }
}

/// Rows of one key head: one for each of its query heads, for some tokens of one span.
pub(super) struct Tile<'a> {
    pub(super) step: &'a Step<'a>,
    pub(super) span: Span,
    /// Of keys and values.
    pub(super) head: usize,
    /// Query heads of the key head.
    pub(super) group: usize,
    /// Number of the first row in the span, where each token has `group`.
    pub(super) first_row: usize,
    pub(super) rows: usize,
}

/// What a thread needs for a tile; as long as the longest one so far.
#[derive(Default)]
pub(super) struct Scratch {
    /// `[rows, as many at once as fit][head_dim][as many]`
    query: Vec<f32>,
    total: Vec<f32>,
    part: Vec<f32>,
    stage: Stage,
}

thread_local! {
    pub(super) static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// Attends the rows of a tile: over all parts of the context into `out`, or over one into `found`.
pub(super) struct Attend<'a> {
    pub(super) tile: &'a Tile<'a>,
    pub(super) part: Option<usize>,
    pub(super) found: Option<&'a mut [f32]>,
    pub(super) scratch: &'a mut Scratch,
    pub(super) out: &'a Rows,
}

impl Work for Attend<'_> {
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        // SAFETY: as this function's own.
        unsafe {
            match self.tile.step.layout.encoding {
                KvEncoding::F16 => self.over::<S, Halves>(),
                KvEncoding::Int8 => self.over::<S, Bytes>(),
                KvEncoding::F32 => self.over::<S, Words>(),
            }
        }
    }
}

impl Attend<'_> {
    #[inline(always)]
    unsafe fn over<S: Simd, E: Stored>(self) {
        let Self { tile, part, found, scratch, out } = self;
        let head_dim = tile.step.layout.head_dim;
        tile.rotate_queries::<S>(&mut scratch.query);
        let numbers = tile.rows * record(head_dim);
        let (query, stage) = (scratch.query.as_slice(), &mut scratch.stage);
        // SAFETY: as this function's own.
        unsafe {
            if let (Some(part), Some(found)) = (part, found) {
                let mut states = States::new(found, head_dim);
                return tile.attend_part::<S, E>(part, query, stage, &mut states);
            }
            scratch.total.resize(scratch.total.len().max(numbers), 0.0);
            scratch.part.resize(scratch.part.len().max(numbers), 0.0);
            let mut total = States::new(&mut scratch.total[..numbers], head_dim);
            let seen = tile.seen(0..tile.rows);
            for part in seen.first / PART..seen.end.div_ceil(PART) {
                let mut states = States::new(&mut scratch.part[..numbers], head_dim);
                tile.attend_part::<S, E>(part, query, stage, &mut states);
                total.merge::<S>(states.numbers);
            }
            tile.write(&total, out);
        }
    }
}

/// How many of the rows that are left are taken at once: as many as leave registers for keys.
#[inline(always)]
fn at_once<S: Simd>(rows: usize) -> usize {
    let most = if S::LANES == 8 { 4 } else { ROWS_AT_ONCE };
    match rows {
        8.. if most == 8 => 8,
        4.. => 4,
        2.. => 2,
        _ => 1,
    }
}

impl Tile<'_> {
    fn token(&self, row: usize) -> usize {
        (self.first_row + row) / self.group
    }

    /// What one of the rows sees, or several together.
    #[inline(always)]
    fn seen(&self, rows: Range<usize>) -> Seen {
        let first_query = self.span.context_tokens - self.span.query_tokens;
        let window = self.step.attention.window_tokens;
        let first = Seen::of(first_query + self.token(rows.start), window).first;
        Seen { first, end: first_query + self.token(rows.end - 1) + 1 }
    }

    /// Rotates and scales the queries; those of rows that are taken at once stand side by side.
    #[inline(always)]
    fn rotate_queries<S: Simd>(&self, query: &mut Vec<f32>) {
        let step = self.step;
        let head_dim = step.layout.head_dim;
        query.resize((self.rows + 1) * head_dim, 0.0);
        let (query, rotated) = query.split_at_mut(self.rows * head_dim);
        let mut first = 0;
        while first < self.rows {
            let count = at_once::<S>(self.rows - first);
            for row in first..first + count {
                let token = self.span.query_start + self.token(row);
                let head = self.head * self.group + (self.first_row + row) % self.group;
                let x = &step.qkv[token * step.width() + head * head_dim..][..head_dim];
                step.rotation.rotate(step.map.positions[token] as usize, x, rotated);
                let to = query[first * head_dim..][..count * head_dim].chunks_exact_mut(count);
                for (to, x) in to.zip(&*rotated) {
                    to[row - first] = x * step.attention.scale;
                }
            }
            first += count;
        }
    }

    /// Adds what the rows see of one part of the context.
    #[inline(always)]
    unsafe fn attend_part<S: Simd, E: Stored>(
        &self,
        part: usize,
        query: &[f32],
        stage: &mut Stage,
        states: &mut States<'_>,
    ) {
        let source = Source {
            pool: self.step.pool,
            layout: self.step.layout,
            head: self.head,
            pages: &self.step.map.pages[self.span.first_page..],
            end: self.seen(0..self.rows).end,
        };
        let mut block = Block::new();
        let seen = self.seen(0..self.rows).within(part * PART, PART);
        for start in (seen.start / BLOCK * BLOCK..seen.end).step_by(BLOCK) {
            let start = part * PART + start;
            let seen = self.seen(0..self.rows).within(start, BLOCK);
            block.find::<S>(&source, start, seen, stage);
            let mut first = 0;
            while first < self.rows {
                let count = at_once::<S>(self.rows - first);
                let rows = AtOnce { tile: self, first, query, start, block: &block };
                // SAFETY: as this function's own.
                unsafe {
                    match (count, S::LANES) {
                        (8, _) => rows.attend::<S, E, 8, 2>(states),
                        (4, 8) => rows.attend::<S, E, 4, 2>(states),
                        (4, _) => rows.attend::<S, E, 4, 4>(states),
                        (2, _) => rows.attend::<S, E, 2, 4>(states),
                        _ => rows.attend::<S, E, 1, 4>(states),
                    }
                }
                first += count;
            }
        }
    }

    /// Divides by the sums of weights.
    ///
    /// # Safety
    /// `out` has the rows, and nobody else writes them.
    pub(super) unsafe fn write(&self, states: &States<'_>, out: &Rows) {
        let (head_dim, heads) = (self.step.layout.head_dim, self.step.attention.heads);
        for (row, numbers) in states.numbers.chunks_exact(states.stride()).enumerate() {
            let token = self.span.query_start + self.token(row);
            let head = self.head * self.group + (self.first_row + row) % self.group;
            // SAFETY: the caller's.
            let out = unsafe { out.get((token * heads + head) * head_dim, head_dim) };
            let sum = numbers[states.width + 1];
            out.iter_mut().zip(numbers).for_each(|(out, number)| *out = number / sum);
        }
    }
}

/// Scores of one row over a block, and then weights.
#[derive(Clone, Copy)]
#[repr(align(64))]
struct Weights([f32; BLOCK]);

/// Some rows of a tile over one block.
struct AtOnce<'a> {
    tile: &'a Tile<'a>,
    first: usize,
    query: &'a [f32],
    /// Position of the block's first key.
    start: usize,
    block: &'a Block,
}

impl AtOnce<'_> {
    /// `R` rows, and `V` vectors of keys or values at a time.
    #[inline(always)]
    unsafe fn attend<S: Simd, E: Stored, const R: usize, const V: usize>(
        &self,
        states: &mut States<'_>,
    ) {
        let rows = self.first..self.first + R;
        let seen = self.tile.seen(rows.clone()).within(self.start, BLOCK);
        if seen.is_empty() {
            return;
        }
        let mut weights = [Weights([0.0; BLOCK]); R];
        let mut factors = [1.0; R];
        // SAFETY: as this function's own.
        unsafe {
            self.score::<S, E, R, V>(&seen, &mut weights);
            for (row, (weights, factor)) in rows.zip(weights.iter_mut().zip(&mut factors)) {
                let seen = self.tile.seen(row..row + 1).within(self.start, BLOCK);
                *factor = self.weigh::<S, E>(seen, weights, states.softmax(row));
            }
            let stride = states.stride();
            let mut sums = states.numbers[self.first * stride..].as_mut_ptr();
            let mut offset = 0;
            let mut left = self.tile.step.layout.head_dim.div_ceil(S::LANES);
            while left > 0 {
                let values = Values { seen: &seen, weights: &weights, factors: &factors, offset };
                let count = if left >= V { V } else { 1 };
                if left >= V {
                    self.sum::<S, E, R, V>(&values, sums, stride);
                } else {
                    self.sum::<S, E, R, 1>(&values, sums, stride);
                }
                left -= count;
                offset += count * S::LANES * E::BYTES;
                sums = sums.add(count * S::LANES);
            }
        }
    }

    /// Products of queries and keys, for whole vectors around `seen`.
    #[inline(always)]
    unsafe fn score<S: Simd, E: Stored, const R: usize, const V: usize>(
        &self,
        seen: &Range<usize>,
        weights: &mut [Weights; R],
    ) {
        let head_dim = self.tile.step.layout.head_dim;
        // Of the same tokens in the same place of a piece.
        let values = self.tile.step.layout.values_at();
        let step = V * S::LANES;
        for at in (seen.start / step * step..seen.end).step_by(step) {
            // SAFETY: as this function's own; the block has `head_dim` dimensions of whole vectors,
            // and the query as many of `R` rows.
            unsafe {
                let mut keys: [*const u8; V] = [std::ptr::null(); V];
                keys.copy_from_slice(&self.block.keys[at / S::LANES..][..V]);
                let mut query = self.query[self.first * head_dim..][..R * head_dim].as_ptr();
                let mut sums = [[S::splat_f32(0.0); V]; R];
                for _ in 0..head_dim {
                    let mut key = [S::splat_f32(0.0); V];
                    for v in 0..V {
                        key[v] = E::load::<S>(keys[v]);
                        fetch(keys[v].wrapping_add(values));
                        keys[v] = keys[v].wrapping_add(self.block.key_stride);
                    }
                    for (r, sums) in sums.iter_mut().enumerate() {
                        let query = S::splat_f32(*query.add(r));
                        for v in 0..V {
                            sums[v] = S::fma(key[v], query, sums[v]);
                        }
                    }
                    query = query.wrapping_add(R);
                }
                for (sums, weights) in sums.iter().zip(weights.iter_mut()) {
                    for (v, sum) in sums.iter().enumerate() {
                        let at = at + v * S::LANES;
                        let scored = if E::SCALED {
                            S::mul_f32(*sum, S::load_f32(self.block.key_scales[at..].as_ptr()))
                        } else {
                            *sum
                        };
                        S::store_f32(weights.0[at..].as_mut_ptr(), scored);
                    }
                }
            }
        }
    }

    /// Turns one row's scores into weights relative to the greatest score so far. Returns what the
    /// row's sums are to be multiplied with.
    #[inline(always)]
    unsafe fn weigh<S: Simd, E: Stored>(
        &self,
        seen: Range<usize>,
        weights: &mut Weights,
        softmax: &mut [f32],
    ) -> f32 {
        let weights = &mut weights.0;
        if seen.is_empty() {
            weights.fill(0.0);
            return 1.0;
        }
        weights[..seen.start].fill(f32::NEG_INFINITY);
        weights[seen.end..].fill(f32::NEG_INFINITY);
        let vectors = seen.start / S::LANES * S::LANES..seen.end;
        // SAFETY: as this function's own; all vectors are within the block.
        unsafe {
            let mut greatest = S::splat_f32(f32::NEG_INFINITY);
            for at in vectors.clone().step_by(S::LANES) {
                greatest = S::max_f32(greatest, S::load_f32(weights[at..].as_ptr()));
            }
            let before = softmax[0];
            let greatest = S::greatest_f32(greatest).max(before);
            let mut sum = S::splat_f32(0.0);
            for at in vectors.step_by(S::LANES) {
                let score = S::load_f32(weights[at..].as_ptr());
                let weight = S::exp(S::sub_f32(score, S::splat_f32(greatest)));
                sum = S::add_f32(sum, weight);
                let weight = if E::SCALED {
                    S::mul_f32(weight, S::load_f32(self.block.value_scales[at..].as_ptr()))
                } else {
                    weight
                };
                S::store_f32(weights[at..].as_mut_ptr(), weight);
            }
            // The exponential of a key that is not seen is hardly more than zero; it is to be zero.
            weights[..seen.start].fill(0.0);
            weights[seen.end..].fill(0.0);
            let factor = if greatest > before { factor::<S>(before - greatest) } else { 1.0 };
            softmax[0] = greatest;
            softmax[1] = softmax[1] * factor + S::sum_f32(sum);
            factor
        }
    }

    /// Adds `V` vectors of weighed values to the sums of `R` rows.
    #[inline(always)]
    unsafe fn sum<S: Simd, E: Stored, const R: usize, const V: usize>(
        &self,
        values: &Values<'_, R>,
        to: *mut f32,
        stride: usize,
    ) {
        // SAFETY: as this function's own; values and sums have these vectors.
        unsafe {
            let mut sums = [[S::splat_f32(0.0); V]; R];
            for (r, sums) in sums.iter_mut().enumerate() {
                let factor = S::splat_f32(values.factors[r]);
                for (v, sum) in sums.iter_mut().enumerate() {
                    *sum = S::mul_f32(S::load_f32(to.add(r * stride + v * S::LANES)), factor);
                }
            }
            let mut weight = values.weights.as_ptr().cast::<f32>().add(values.seen.start);
            let ahead = &self.block.ahead[values.seen.clone()];
            for (from, ahead) in self.block.values[values.seen.clone()].iter().zip(ahead) {
                let from = from.add(values.offset);
                for line in (0..V * S::LANES * E::BYTES).step_by(64) {
                    fetch(ahead.wrapping_add(values.offset + line));
                }
                let mut value = [S::splat_f32(0.0); V];
                for (v, value) in value.iter_mut().enumerate() {
                    *value = E::load::<S>(from.add(v * S::LANES * E::BYTES));
                }
                for (r, sums) in sums.iter_mut().enumerate() {
                    let weight = S::splat_f32(*weight.add(r * BLOCK));
                    for v in 0..V {
                        sums[v] = S::fma(value[v], weight, sums[v]);
                    }
                }
                weight = weight.add(1);
            }
            for (r, sums) in sums.iter().enumerate() {
                for (v, sum) in sums.iter().enumerate() {
                    S::store_f32(to.add(r * stride + v * S::LANES), *sum);
                }
            }
        }
    }
}

/// What is weighed how.
struct Values<'a, const R: usize> {
    seen: &'a Range<usize>,
    weights: &'a [Weights; R],
    factors: &'a [f32; R],
    /// Bytes of each token's values before the first vector.
    offset: usize,
}
