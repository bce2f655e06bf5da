//! Causal attention of a step's tokens over the pages of their sequences.
//!
//! A task is one key head and some of the queries that read it, over the whole context or a part of
//! it; threads take tasks as they become free. What a token gets does not depend, to the bit, on
//! which others are in the step: contexts are cut by absolute position, and how the pieces are put
//! together does not depend on which thread had them.

use crate::kv::{KvLayout, Rotation};
use crate::simd::{self, Isa, Simd, Work};
use crate::threads;

mod block;
mod state;
#[cfg(test)]
mod tests;
mod tile;

use block::BLOCK;
use state::States;
use tile::{SCRATCH, Seen, Tile};

/// Rows of a task at most, where a row is one head of one query: enough that keys and values come
/// from memory a few times only, few enough that all that a row needs stays in a cache.
const ROWS: usize = 64;
/// Keys of a part of the context. What rows find in each part is added up in the order of parts, so
/// that threads can share a context.
const PART: usize = 1024;
/// Tasks for each thread at least, before a context is not shared.
const TASKS: usize = 4;

const _: () = assert!(PART.is_multiple_of(BLOCK));

/// One sequence's share of a step; its new tokens are the last of its context.
#[derive(Debug, Clone, Copy)]
pub struct Span {
    /// The first of its tokens in the step.
    pub query_start: usize,
    /// How many tokens it has in the step.
    pub query_tokens: usize,
    /// How many tokens it has in the cache, those of the step included.
    pub context_tokens: usize,
    /// Where its table of pages begins in [`PageMap::pages`].
    pub first_page: usize,
}

/// Where the sequences of a step have their tokens.
pub struct PageMap<'a> {
    /// Tables of pages of all sequences behind each other. Pages that no query sees are not looked
    /// at.
    pub pages: &'a [i32],
    /// Of each token in its own sequence. `[tokens]`
    pub positions: &'a [i32],
    /// In the order of their tokens.
    pub spans: &'a [Span],
}

/// What all layers' attention has in common.
#[derive(Debug, Clone, Copy)]
pub struct Attention {
    /// Heads of queries, a multiple of those of keys.
    pub heads: usize,
    /// What scores are multiplied with.
    pub scale: f32,
    /// How many keys a query sees, itself included.
    pub window_tokens: Option<usize>,
}

/// Rotates the queries and attends over each sequence's own pages.
///
/// Shapes: `qkv: [tokens, (heads + 2 * kv_heads) * head_dim]` → `out: [tokens, heads * head_dim]`.
/// Computed in f32. The query at position `p` sees the keys from `p + 1 - window_tokens` to `p`;
/// tokens of no span are left as they are.
/// Threads: all of the pool. Scratch is a few hundred kB for each thread, and a thousandth of a
/// context that threads share.
/// Panics: when lengths do not match, a page or position is beyond the pool or the table, spans
/// overlap, or positions are not the last of their context.
/// Source: Milakov and Gimelshein 2018, arXiv:1805.02867, algorithm 3; Dao et al. 2022,
/// arXiv:2205.14135.
pub fn attend(
    pool: &[u8],
    layout: KvLayout,
    attention: &Attention,
    qkv: &[f32],
    map: &PageMap<'_>,
    rotation: &Rotation<'_>,
    out: &mut [f32],
) {
    let step = Step { pool, layout, attention: *attention, qkv, map, rotation };
    attend_on(Isa::best(), &step, threads::count(), out);
}

/// What goes in.
struct Step<'a> {
    pool: &'a [u8],
    layout: KvLayout,
    attention: Attention,
    qkv: &'a [f32],
    map: &'a PageMap<'a>,
    rotation: &'a Rotation<'a>,
}

/// `threads` is how many there are to keep busy.
fn attend_on(isa: Isa, step: &Step<'_>, threads: usize, out: &mut [f32]) {
    step.check(out);
    let plan = Plan::new(step, threads);
    let record = state::record(step.layout.head_dim);
    let mut found = vec![0.0f32; plan.shared_rows * record];
    let found_rows = Rows(found.as_mut_ptr());
    let out = Rows(out.as_mut_ptr());
    threads::for_each(plan.tasks, |task| {
        let (share, tile, part) = plan.task(step, task);
        SCRATCH.with_borrow_mut(|scratch| {
            // SAFETY: a part of a shared context has rows of its own in `found`.
            let found = part.map(|part| unsafe {
                let row = share.found_row(&tile, part);
                found_rows.get(row * record, tile.rows * record)
            });
            // SAFETY: callers choose among the kinds that the machine is; `check` has found all
            // pages and rows to be there, and no other task has these of `out`.
            unsafe { simd::run(isa, tile::Attend { tile: &tile, part, found, scratch, out: &out }) }
        });
    });
    for share in plan.shares.iter().filter(|share| share.parts > 1) {
        for head in 0..step.layout.kv_heads {
            let tile = share.tile(step, head, 0);
            let rows = tile.rows * record;
            let found = &found[share.found_row(&tile, 0) * record..][..share.parts * rows];
            // SAFETY: as above; all tasks are done.
            unsafe { simd::run(isa, Merge { tile: &tile, found, out: &out }) }
        }
    }
}

impl Step<'_> {
    fn width(&self) -> usize {
        (self.attention.heads + 2 * self.layout.kv_heads) * self.layout.head_dim
    }

    /// Everything that reads and writes without looking rely on.
    fn check(&self, out: &[f32]) {
        let Self { layout, attention, map, .. } = self;
        let page_count = layout.pages(self.pool);
        let heads = attention.heads;
        assert!(
            heads > 0 && heads.is_multiple_of(layout.kv_heads),
            "{heads} heads over {}",
            layout.kv_heads
        );
        let (tokens, width) = (map.positions.len(), self.width());
        assert_eq!(self.qkv.len(), tokens * width, "qkv is not [{tokens}, {width}]");
        assert_eq!(out.len(), tokens * heads * layout.head_dim, "out is not that of {tokens}");
        assert!(attention.window_tokens != Some(0), "a window of nothing");
        self.rotation.check(layout.head_dim, map.positions);
        let mut end = 0;
        for span in map.spans {
            assert!(span.query_start >= end, "spans overlap");
            end = span.query_start + span.query_tokens;
            assert!(end <= tokens, "a span ends at {end} of {tokens} tokens");
            assert!(span.query_tokens <= span.context_tokens, "more queries than context");
            let first = span.context_tokens - span.query_tokens;
            let positions = &map.positions[span.query_start..end];
            let is_last = |(index, position): (usize, &i32)| *position as usize == first + index;
            assert!(positions.iter().enumerate().all(is_last), "positions are not the last ones");
            if span.query_tokens > 0 {
                let seen = Seen::of(first, attention.window_tokens).first..span.context_tokens;
                let table = &map.pages[span.first_page..];
                let seen =
                    &table[seen.start / layout.page_tokens..seen.end.div_ceil(layout.page_tokens)];
                let is_there =
                    |page: &i32| usize::try_from(*page).is_ok_and(|page| page < page_count);
                assert!(seen.iter().all(is_there), "a page is beyond the {page_count} of the pool");
            }
        }
    }
}

/// Which tasks there are.
struct Plan {
    shares: Vec<Share>,
    tasks: usize,
    /// Rows of all parts of shared contexts.
    shared_rows: usize,
}

/// The tasks of one span: for each head its tiles, or the parts of its only tile.
struct Share {
    span: Span,
    first_task: usize,
    tiles: usize,
    /// 1 unless threads share the context.
    parts: usize,
    first_part: usize,
    /// The first of its rows among those of shared contexts.
    first_row: usize,
}

impl Plan {
    fn new(step: &Step<'_>, threads: usize) -> Self {
        let kv_heads = step.layout.kv_heads;
        let group = step.attention.heads / kv_heads;
        let tiles_of = |span: &Span| (span.query_tokens * group).div_ceil(ROWS);
        let spans = || step.map.spans.iter().filter(|span| span.query_tokens > 0);
        let few = spans().map(tiles_of).sum::<usize>() * kv_heads < TASKS * threads;
        let mut plan = Self { shares: Vec::new(), tasks: 0, shared_rows: 0 };
        for span in spans() {
            let tiles = tiles_of(span);
            let first_query = span.context_tokens - span.query_tokens;
            let first_part = Seen::of(first_query, step.attention.window_tokens).first / PART;
            let parts = if few && tiles == 1 && threads > 1 {
                span.context_tokens.div_ceil(PART) - first_part
            } else {
                1
            };
            let first_row = plan.shared_rows;
            if parts > 1 {
                plan.shared_rows += kv_heads * parts * span.query_tokens * group;
            }
            let first_task = plan.tasks;
            plan.tasks += kv_heads * tiles * parts;
            plan.shares.push(Share {
                span: *span,
                first_task,
                tiles,
                parts,
                first_part,
                first_row,
            });
        }
        plan
    }

    /// Share, tile and, where the context is shared, part of a task.
    fn task<'a>(&self, step: &'a Step<'a>, task: usize) -> (&Share, Tile<'a>, Option<usize>) {
        let index = self.shares.partition_point(|share| share.first_task <= task) - 1;
        let share = &self.shares[index];
        let task = task - share.first_task;
        let (head, index) =
            (task / (share.tiles * share.parts), task % (share.tiles * share.parts));
        if share.parts > 1 {
            return (share, share.tile(step, head, 0), Some(share.first_part + index));
        }
        // The last tile has the longest context: begun last, it would keep all waiting.
        (share, share.tile(step, head, share.tiles - 1 - index), None)
    }
}

impl Share {
    fn tile<'a>(&self, step: &'a Step<'a>, head: usize, index: usize) -> Tile<'a> {
        let group = step.attention.heads / step.layout.kv_heads;
        let first_row = index * ROWS;
        Tile {
            step,
            span: self.span,
            head,
            group,
            first_row,
            rows: ROWS.min(self.span.query_tokens * group - first_row),
        }
    }

    /// Where among the rows of shared contexts those of one tile and part begin.
    fn found_row(&self, tile: &Tile<'_>, part: usize) -> usize {
        let part = part.saturating_sub(self.first_part);
        self.first_row + (tile.head * self.parts + part) * tile.rows
    }
}

/// Where results go. Threads write different rows.
struct Rows(*mut f32);

// SAFETY: each task writes its own rows, and nobody reads before all are done.
unsafe impl Sync for Rows {}

impl Rows {
    /// # Safety
    /// These numbers are there, and nobody else uses them.
    #[expect(clippy::mut_from_ref, reason = "different rows are borrowed at once")]
    unsafe fn get(&self, first: usize, count: usize) -> &mut [f32] {
        // SAFETY: the caller's.
        unsafe { std::slice::from_raw_parts_mut(self.0.add(first), count) }
    }
}

/// Puts the parts of a shared context together.
struct Merge<'a> {
    tile: &'a Tile<'a>,
    /// `[parts][rows][record]`
    found: &'a [f32],
    out: &'a Rows,
}

impl Work for Merge<'_> {
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let head_dim = self.tile.step.layout.head_dim;
        let mut numbers = vec![0.0; self.tile.rows * state::record(head_dim)];
        let mut total = States::new(&mut numbers, head_dim);
        // SAFETY: as this function's own; the parts have as many rows.
        unsafe {
            for part in self.found.chunks_exact(total.numbers.len()) {
                total.merge::<S>(part);
            }
            self.tile.write(&total, self.out);
        }
    }
}
