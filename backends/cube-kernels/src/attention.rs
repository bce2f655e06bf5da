//! Causal attention of a step's tokens over the pages of their sequences.
//!
//! A group of units takes some rows, where a row is one head of one query, that read the same key
//! head, and walks over their context a tile of keys at a time. Contexts are cut into parts by
//! absolute position; what rows find in each part is added up in the order of parts, by the group
//! itself or, where there are few groups, by a second kernel over what groups of one part each have
//! left. So what a token gets does not depend on which others are in the step.

use cubecl::prelude::*;
use cubecl::server::Handle;

use crate::kv::{GROUPS_MAX, KvLayout, Rotation, Shape};

mod kernel;
mod parts;

use kernel::{StepLaunch, Tile, attend_kernel};
use parts::merge_kernel;

/// Units of a group.
const UNITS: usize = 128;
/// Keys of a tile.
const TILE: usize = 64;
/// Units that share the softmax of a row.
const LANES: usize = 16;
/// Keys of a part of the context.
const PART: usize = 512;
/// Rows that groups may have: few kernels, and few rows of nothing.
const ROWS: [usize; 5] = [1, 2, 4, 6, 8];
/// Numbers in the memory that a group shares: 16 KiB, which every device has.
const SHARED: usize = 4 << 10;
/// Groups below which a context is shared among some.
const GROUPS_FEW: usize = 256;
/// Numbers of all that the groups of shared contexts leave, at most: 32 MiB.
const FOUND_MAX: usize = 8 << 20;

const _: () = assert!(PART.is_multiple_of(TILE) && TILE.is_multiple_of(LANES));
const _: () = assert!(UNITS.is_multiple_of(TILE / 2));

/// One sequence's share of a step; its new tokens are the last of its context.
#[derive(Debug, Clone, Copy)]
pub struct Span {
    /// The first of its tokens in the step.
    pub query_start: usize,
    /// How many tokens it has in the step.
    pub query_tokens: usize,
    /// How many tokens it has in the cache, those of the step included.
    pub context_tokens: usize,
    /// Where its table of pages begins in [`Queries::pages`].
    pub first_page: usize,
}

/// The queries of a step, and where their sequences have their tokens.
pub struct Queries<'a> {
    /// `[tokens, (heads + 2 * kv_heads) * head_dim]`: query, key and value of each token behind
    /// each other.
    pub qkv: BufferArg,
    /// Tables of pages of all sequences behind each other. Pages that no query sees are not looked
    /// at.
    pub pages: BufferArg,
    /// The same as `spans` on the device, each as four `i32` in the order of its fields.
    pub span_table: Handle,
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
/// Shapes: `pool: [words]`, `qkv: [tokens, (heads + 2 * kv_heads) * head_dim]` →
/// `out: [tokens, heads * head_dim]`. Computed in f32. The query at position `p` sees the keys from
/// `p + 1 - window_tokens` to `p`; tokens of no span are left as they are. A page beyond the pool
/// is taken for the pool's last, a position beyond the table for the table's last.
/// Panics: when lengths do not match, spans overlap, or a span has more queries than context or
/// fewer pages than tokens.
/// Source: Milakov and Gimelshein 2018, arXiv:1805.02867, algorithm 3; Dao et al. 2022,
/// arXiv:2205.14135.
pub fn attend(
    client: &Client,
    cache: Cache,
    attention: &Attention,
    queries: Queries<'_>,
    rotation: Rotation,
    out: BufferArg,
) {
    let Cache { pool, layout } = cache;
    let page_count = layout.pages(pool.len());
    let positions = rotation.positions(layout.head_dim);
    check(&layout, attention, &queries, &out);
    let Some(plan) = Plan::new(&layout, attention, queries.spans) else {
        return;
    };
    let tile = Tile {
        shape: Shape::new(&layout, rotation.pairing),
        rows: plan.rows,
        is_exact: plan.is_exact,
        is_shared: plan.parts > 1,
    };
    let window = attention.window_tokens.and_then(|window| u32::try_from(window).ok());
    let step = || {
        StepLaunch::new(
            queries.spans.len() as u32,
            (attention.heads / layout.kv_heads) as u32,
            window.unwrap_or(u32::MAX),
            page_count as u32,
            positions as u32,
            plan.parts as u32,
            attention.scale,
        )
    };
    // SAFETY: `check` has found the table to be as long.
    let spans = || unsafe {
        BufferArg::from_raw_parts(queries.span_table.clone(), 4 * queries.spans.len())
    };
    let groups =
        |parts: usize| CubeCount::Static(plan.tiles as u32, layout.kv_heads as u32, parts as u32);
    let units = CubeDim::new_1d(UNITS as u32);
    let found_numbers = plan.found_numbers(&layout);
    let found = (plan.parts > 1).then(|| client.empty(found_numbers * size_of::<f32>()));
    // SAFETY: it was made as long.
    let found = || {
        found
            .as_ref()
            // SAFETY: it is as long as that, or there is none and nothing is read.
            .map(|found| unsafe { BufferArg::from_raw_parts(found.clone(), found_numbers) })
    };
    let (target, out) = match found() {
        None => (out, None),
        Some(found) => (found, Some(out)),
    };
    // SAFETY: all lengths were compared above. Rows, tiles and parts come from spans that were
    // checked; the kernel bounds pages by the pool, places in the table of pages by its length and
    // positions by the table of angles.
    unsafe {
        attend_kernel::launch_unchecked(
            client,
            groups(plan.parts),
            units,
            pool,
            queries.qkv,
            queries.pages,
            spans(),
            rotation.table,
            target,
            step(),
            tile,
        );
    }
    if let (Some(out), Some(found)) = (out, found()) {
        // SAFETY: as above; it reads what the first kernel has written, and nothing else.
        unsafe {
            merge_kernel::launch_unchecked(
                client,
                groups(1),
                units,
                found,
                spans(),
                out,
                step(),
                tile,
            );
        }
    }
}

/// A cache and how it lies.
pub struct Cache {
    /// `[words]`
    pub pool: BufferArg,
    /// Of its pages.
    pub layout: KvLayout,
}

/// Everything that reading and writing without looking rely on.
fn check(layout: &KvLayout, attention: &Attention, queries: &Queries<'_>, out: &BufferArg) {
    let heads = attention.heads;
    assert!(
        heads > 0 && heads.is_multiple_of(layout.kv_heads),
        "{heads} heads over {}",
        layout.kv_heads
    );
    let width = (heads + 2 * layout.kv_heads) * layout.head_dim;
    assert!(queries.qkv.len().is_multiple_of(width), "qkv is not rows of {width}");
    assert!(u32::try_from(queries.qkv.len()).is_ok(), "{} numbers in one step", queries.qkv.len());
    let tokens = queries.qkv.len() / width;
    assert_eq!(out.len(), tokens * heads * layout.head_dim, "out is not that of {tokens}");
    assert!(attention.window_tokens != Some(0), "a window of nothing");
    let table_bytes = (queries.spans.len() * 4 * size_of::<i32>()) as u64;
    assert!(
        queries.span_table.size_in_used() >= table_bytes,
        "a table of {} spans",
        queries.spans.len()
    );
    let mut end = 0;
    for span in queries.spans {
        assert!(span.query_start >= end, "spans overlap");
        end = span.query_start + span.query_tokens;
        assert!(end <= tokens, "a span ends at {end} of {tokens} tokens");
        assert!(span.query_tokens <= span.context_tokens, "more queries than context");
        assert!(i32::try_from(span.context_tokens).is_ok(), "a context of {}", span.context_tokens);
        let pages = span.first_page + span.context_tokens.div_ceil(layout.page_tokens);
        let is_read = span.query_tokens > 0;
        assert!(
            !is_read || pages <= queries.pages.len(),
            "{pages} pages of {}",
            queries.pages.len()
        );
    }
}

/// How one step's attention is cut into groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Plan {
    /// Rows of a tile.
    rows: usize,
    /// Whether tiles lie in one token each, so that none is between the last of a span and the
    /// first of the next.
    is_exact: bool,
    tiles: usize,
    /// Parts of contexts that groups share; 1 where each takes all of a context.
    parts: usize,
}

impl Plan {
    /// `None` when there is nothing to do.
    fn new(layout: &KvLayout, attention: &Attention, spans: &[Span]) -> Option<Self> {
        let group = attention.heads / layout.kv_heads;
        let busy = || spans.iter().filter(|span| span.query_tokens > 0);
        let longest = busy().map(|span| span.query_tokens).max()?;
        let end = spans.last().map(|span| span.query_start + span.query_tokens)?;
        let most = most_rows(layout.head_dim);
        // A token's rows in as few tiles as can be, none of them emptier than the others.
        let wanted =
            if longest == 1 { group.div_ceil(group.div_ceil(most)) } else { longest * group };
        let rows = *ROWS.iter().find(|rows| **rows >= wanted.min(most))?;
        let is_exact = group.is_multiple_of(rows);
        // As `first_tile` counts them.
        let tiles = end * group / rows + if is_exact { 0 } else { spans.len() };
        assert!(tiles <= GROUPS_MAX, "{end} tokens of {} heads in one step", attention.heads);
        let parts_of = |span: &Span| {
            let first_query = span.context_tokens - span.query_tokens;
            let window = attention.window_tokens.unwrap_or(usize::MAX);
            let first = (first_query + 1).saturating_sub(window) / PART;
            span.context_tokens.div_ceil(PART) - first
        };
        let mut plan = Self { rows, is_exact, tiles, parts: busy().map(parts_of).max()? };
        let are_few = tiles * layout.kv_heads < GROUPS_FEW && plan.parts <= GROUPS_MAX;
        if !are_few || plan.found_numbers(layout) > FOUND_MAX {
            plan.parts = 1;
        }
        Some(plan)
    }

    /// Numbers of what groups that share contexts leave.
    fn found_numbers(&self, layout: &KvLayout) -> usize {
        self.tiles * layout.kv_heads * self.parts * self.rows * record(layout.head_dim)
    }
}

/// Numbers of what a row finds in a part: its values, its greatest score, and its sum.
const fn record(head_dim: usize) -> usize {
    head_dim + 2
}

/// The greatest of [`ROWS`] whose tile fits into the memory that a group shares.
fn most_rows(head_dim: usize) -> usize {
    let numbers = |rows: usize| rows * (head_dim + 2 * UNITS + TILE + 3) + UNITS + 2 * TILE;
    let fits = ROWS.iter().rev().find(|rows| numbers(**rows) <= SHARED);
    *fits.expect("one row of the greatest head fits")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kv::{HEAD_DIM_MAX, KvEncoding};

    fn layout(head_dim: usize) -> KvLayout {
        KvLayout { kv_heads: 2, head_dim, page_tokens: 16, encoding: KvEncoding::F16 }
    }

    fn plan(group: usize, spans: &[(usize, usize)]) -> Option<Plan> {
        let attention = Attention { heads: 2 * group, scale: 1.0, window_tokens: None };
        let mut query_start = 0;
        let spans: Vec<Span> = spans
            .iter()
            .map(|&(query_tokens, context_tokens)| {
                let first = query_start;
                query_start += query_tokens;
                Span { query_start: first, query_tokens, context_tokens, first_page: 0 }
            })
            .collect();
        Plan::new(&layout(128), &attention, &spans)
    }

    #[test]
    fn every_head_has_rows_that_fit() {
        for head_dim in (2..=HEAD_DIM_MAX).step_by(2) {
            assert!(most_rows(head_dim) >= 6, "{head_dim}");
        }
        assert_eq!(most_rows(128), 8);
    }

    #[test]
    fn a_token_has_tiles_of_its_own() {
        for (group, rows, tiles) in [(1, 1, 1), (4, 4, 1), (6, 6, 1), (8, 8, 1), (12, 6, 2)] {
            let found = plan(group, &[(1, 100), (1, 7), (1, 1)]).unwrap();
            assert_eq!(found, Plan { rows, is_exact: true, tiles: 3 * tiles, parts: 1 });
        }
    }

    #[test]
    fn few_groups_share_long_contexts_and_many_do_not() {
        assert_eq!(plan(4, &[(1, 512)]).unwrap().parts, 1);
        assert_eq!(plan(4, &[(1, 513), (1, 7)]).unwrap().parts, 2);
        assert_eq!(plan(4, &[(512, 4096)]).unwrap().parts, 1);
    }

    #[test]
    fn nothing_is_nothing_to_do() {
        assert_eq!(plan(4, &[]), None);
        assert_eq!(plan(4, &[(0, 0), (0, 9)]), None);
    }
}
