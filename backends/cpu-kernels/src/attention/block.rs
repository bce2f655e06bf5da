//! Some keys of a context, wherever their pages are.

use std::ops::Range;

use crate::kv::{KvEncoding, KvLayout};
use crate::simd::Simd;

/// Keys of a block. Whole vectors of every machine; pages are whole blocks or blocks whole pages.
pub(super) const BLOCK: usize = 64;
/// Vectors of a block at most, on a machine with the shortest.
const VECTORS_MAX: usize = BLOCK / 4;

/// How a number stands in the cache.
pub(super) trait Stored {
    /// Bytes of a number.
    const BYTES: usize;
    /// Whether each token's numbers have a scale.
    const SCALED: bool;
    /// Reads `LANES` numbers.
    unsafe fn load<S: Simd>(from: *const u8) -> S::Float;
}

/// 16-bit floats.
pub(super) struct Halves;
/// Signed bytes.
pub(super) struct Bytes;
/// 32-bit floats.
pub(super) struct Words;

impl Stored for Words {
    const BYTES: usize = 4;
    const SCALED: bool = false;

    #[inline(always)]
    unsafe fn load<S: Simd>(from: *const u8) -> S::Float {
        // SAFETY: the caller's.
        unsafe { S::load_f32(from.cast()) }
    }
}

impl Stored for Halves {
    const BYTES: usize = 2;
    const SCALED: bool = false;

    #[inline(always)]
    unsafe fn load<S: Simd>(from: *const u8) -> S::Float {
        // SAFETY: the caller's.
        unsafe { S::load_f16(from) }
    }
}

impl Stored for Bytes {
    const BYTES: usize = 1;
    const SCALED: bool = true;

    #[inline(always)]
    unsafe fn load<S: Simd>(from: *const u8) -> S::Float {
        // SAFETY: the caller's.
        unsafe { S::to_float(S::load_i8(from.cast())) }
    }
}

/// Where a block's keys and values are. What stands for keys that no query of the tile sees is
/// readable and means nothing.
pub(super) struct Block {
    /// The first dimension of each vector of keys.
    pub(super) keys: [*const u8; VECTORS_MAX],
    /// Bytes from one dimension of keys to the next.
    pub(super) key_stride: usize,
    /// The values of each token that is seen, for whole vectors.
    pub(super) values: [*const u8; BLOCK],
    /// For each token that is seen, some of what the next block reads first.
    pub(super) ahead: [*const u8; BLOCK],
    /// Of each token that is seen, where there are scales.
    pub(super) key_scales: [f32; BLOCK],
    /// Of each token that is seen, where there are scales.
    pub(super) value_scales: [f32; BLOCK],
}

/// One head's cache of one sequence.
pub(super) struct Source<'a> {
    pub(super) pool: &'a [u8],
    pub(super) layout: KvLayout,
    pub(super) head: usize,
    /// The sequence's own table.
    pub(super) pages: &'a [i32],
    /// Position behind the last key that any query sees.
    pub(super) end: usize,
}

/// Copies of what cannot be read where it is: keys of pages that are shorter than a vector, and
/// values that are no whole vectors.
#[derive(Default)]
pub(super) struct Stage {
    /// `[head_dim][BLOCK]`
    keys: Vec<u8>,
    /// `[BLOCK][head_dim, filled up]`
    values: Vec<u8>,
}

impl Block {
    pub(super) fn new() -> Self {
        Self {
            keys: [std::ptr::null(); VECTORS_MAX],
            key_stride: 0,
            values: [std::ptr::null(); BLOCK],
            ahead: [std::ptr::null(); BLOCK],
            key_scales: [0.0; BLOCK],
            value_scales: [0.0; BLOCK],
        }
    }

    /// Finds the keys at `first + seen` of a context, where `first` is a multiple of [`BLOCK`] and
    /// `seen` is not empty. Pages without any of them are not looked at.
    #[inline(always)]
    pub(super) fn find<S: Simd>(
        &mut self,
        source: &Source<'_>,
        first: usize,
        seen: Range<usize>,
        stage: &mut Stage,
    ) {
        let layout = &source.layout;
        let (bytes, page_tokens) = (layout.encoding.bytes(), layout.page_tokens);
        let run = page_tokens.min(BLOCK);
        let is_direct = page_tokens >= S::LANES;
        self.key_stride = if is_direct { page_tokens } else { BLOCK } * bytes;
        if !is_direct {
            stage.keys.resize(layout.head_dim * BLOCK * bytes, 0);
        }
        // Vectors of pages that are not looked at are those of one that is.
        let place = first + seen.start;
        let any = source.piece(place)[place % page_tokens / S::LANES * S::LANES * bytes..].as_ptr();
        self.keys = [if is_direct { any } else { stage.keys.as_ptr() }; VECTORS_MAX];
        for start in (seen.start / run * run..seen.end).step_by(run) {
            let piece = source.piece(first + start);
            let place = (first + start) % page_tokens;
            if is_direct {
                for vector in (0..run).step_by(S::LANES) {
                    let from = &piece[(place + vector) * bytes..];
                    self.keys[(start + vector) / S::LANES] = from.as_ptr();
                }
            } else {
                let dims = piece[..layout.values_at()].chunks_exact(run * bytes);
                for (dim, to) in dims.zip(stage.keys.chunks_exact_mut(BLOCK * bytes)) {
                    to[start * bytes..][..run * bytes].copy_from_slice(dim);
                }
            }
            let tokens = seen.start.max(start)..seen.end.min(start + run);
            let place = place + tokens.start - start;
            self.find_values(layout, piece, tokens.clone(), place);
            self.look_ahead(source, first + tokens.start, tokens, place);
        }
        if !is_direct {
            let vectors = stage.keys.chunks_exact(S::LANES * bytes).take(BLOCK / S::LANES);
            for (key, from) in self.keys.iter_mut().zip(vectors) {
                *key = from.as_ptr();
            }
        }
        if !layout.head_dim.is_multiple_of(S::LANES) {
            self.stage_values::<S>(layout, seen, stage);
        }
    }

    /// Those of `tokens`, the first of which is at `place` of its page.
    #[inline(always)]
    fn find_values(&mut self, layout: &KvLayout, piece: &[u8], tokens: Range<usize>, place: usize) {
        let row = layout.head_dim * layout.encoding.bytes();
        let values = &piece[layout.values_at() + place * row..][..tokens.len() * row];
        for (to, row) in self.values[tokens.clone()].iter_mut().zip(values.chunks_exact(row)) {
            *to = row.as_ptr();
        }
        if layout.encoding == KvEncoding::Int8 {
            let read = |to: &mut [f32], at: usize| {
                let scales = &piece[at + 4 * place..][..4 * tokens.len()];
                for (to, scale) in to.iter_mut().zip(scales.chunks_exact(4)) {
                    *to = f32::from_le_bytes([scale[0], scale[1], scale[2], scale[3]]);
                }
            };
            read(&mut self.key_scales[tokens.clone()], layout.key_scales_at());
            read(&mut self.value_scales[tokens.clone()], layout.value_scales_at());
        }
    }

    /// Keys of the next block are as long as values of this one, so each token fetches a row of
    /// them.
    #[inline(always)]
    fn look_ahead(
        &mut self,
        source: &Source<'_>,
        position: usize,
        tokens: Range<usize>,
        place: usize,
    ) {
        let next = if position + BLOCK < source.end { position + BLOCK } else { position };
        let piece = source.piece(next);
        let row = source.layout.head_dim * source.layout.encoding.bytes();
        // In a page of several blocks the next keys stand beside these, which come with them.
        for (index, to) in self.ahead[tokens].iter_mut().enumerate() {
            *to = piece[(place + index) * row..].as_ptr();
        }
    }

    /// Copies values to where zeros follow them.
    #[inline(always)]
    fn stage_values<S: Simd>(&mut self, layout: &KvLayout, seen: Range<usize>, stage: &mut Stage) {
        let bytes = layout.encoding.bytes();
        let row = layout.head_dim * bytes;
        let width = layout.head_dim.next_multiple_of(S::LANES) * bytes;
        stage.values.resize(BLOCK * width, 0);
        for (from, to) in
            self.values[seen.clone()].iter_mut().zip(stage.values.chunks_exact_mut(width))
        {
            // SAFETY: `find_values` took the pointer from a slice of this length.
            let values = unsafe { std::slice::from_raw_parts(*from, row) };
            to[..row].copy_from_slice(values);
            to[row..].fill(0);
            *from = to.as_ptr();
        }
    }
}

impl<'a> Source<'a> {
    /// The head's piece of the page that has this position.
    #[inline(always)]
    fn piece(&self, position: usize) -> &'a [u8] {
        // Pages that a query sees were found not to be negative.
        let page = self.pages[position / self.layout.page_tokens] as usize;
        let first = page * self.layout.page_bytes() + self.head * self.layout.head_bytes();
        &self.pool[first..][..self.layout.head_bytes()]
    }
}

/// Asks for memory that is read soon. The heads of a page lie apart, in pages that lie anywhere, and
/// processors that fetch ahead by themselves stop at the end of each piece. Into the second cache:
/// the pieces of several pages take the same places of the first one, and would drive each other
/// out before they are read.
#[inline(always)]
pub(super) fn fetch(from: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a hint, which reads nothing, from wherever it points.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T1>(from.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = from;
}
