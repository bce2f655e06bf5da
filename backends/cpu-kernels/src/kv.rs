//! One layer's cache of keys and values in memory.
//!
//! The cache is pages of a few tokens, in any order. Inside a page each key head has a piece of its
//! own, so that a thread that works on one head reads it from its first byte to its last: keys by
//! dimension (`[head_dim][page_tokens]`), so that one vector holds one dimension of many tokens and
//! a score needs no sum across lanes; then values by token (`[page_tokens][head_dim]`); then, for
//! 8-bit numbers, a scale for each token's key and one for its value.

use half::f16;
use half::slice::HalfFloatSliceExt;
use weights::RopePairing;

use crate::threads;

#[cfg(test)]
mod tests;

/// The most tokens of a page.
pub(crate) const PAGE_TOKENS_MAX: usize = 256;
/// Bytes of the scale of a token's key or value.
const SCALE: usize = size_of::<f32>();
/// Numbers that a thread stores at least: fewer are stored before another thread has woken.
const SHARE: usize = 16 << 10;

/// How keys and values stand in the cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum KvEncoding {
    /// 16-bit floats.
    #[default]
    F16,
    /// Signed bytes, with an `f32` scale for each token and head.
    Int8,
    /// 32-bit floats.
    F32,
}

impl KvEncoding {
    /// Bytes of a number.
    pub(crate) fn bytes(self) -> usize {
        match self {
            Self::F16 => 2,
            Self::Int8 => 1,
            Self::F32 => 4,
        }
    }
}

/// The shape of one layer's cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KvLayout {
    /// Heads of keys, and of values.
    pub kv_heads: usize,
    /// Numbers of a head, even.
    pub head_dim: usize,
    /// Tokens of a page: a power of two, 256 at most.
    pub page_tokens: usize,
    /// How a number stands in memory.
    pub encoding: KvEncoding,
}

impl KvLayout {
    /// Bytes of the keys and values of one page of one layer.
    pub fn page_bytes(&self) -> usize {
        self.kv_heads * self.head_bytes()
    }

    /// Bytes of one head's piece of a page.
    pub(crate) fn head_bytes(&self) -> usize {
        match self.encoding {
            KvEncoding::F16 | KvEncoding::F32 => 2 * self.values_at(),
            KvEncoding::Int8 => self.value_scales_at() + SCALE * self.page_tokens,
        }
    }

    /// Where the values begin in a head's piece, and how long they are.
    pub(crate) fn values_at(&self) -> usize {
        self.page_tokens * self.head_dim * self.encoding.bytes()
    }

    /// Where the scales of keys begin in a head's piece, for 8-bit numbers.
    pub(crate) fn key_scales_at(&self) -> usize {
        2 * self.values_at()
    }

    /// Where the scales of values begin in a head's piece, for 8-bit numbers.
    pub(crate) fn value_scales_at(&self) -> usize {
        self.key_scales_at() + SCALE * self.page_tokens
    }

    /// How many pages the pool has.
    ///
    /// Panics: when the layout is none, or the pool is not whole pages.
    pub(crate) fn pages(&self, pool: &[u8]) -> usize {
        assert!(self.kv_heads > 0, "a cache without heads");
        assert!(self.head_dim > 0 && self.head_dim.is_multiple_of(2), "heads of {}", self.head_dim);
        assert!(
            self.page_tokens.is_power_of_two() && self.page_tokens <= PAGE_TOKENS_MAX,
            "pages of {} tokens",
            self.page_tokens
        );
        let bytes = self.page_bytes();
        assert!(pool.len().is_multiple_of(bytes), "{} bytes are not pages of {bytes}", pool.len());
        pool.len() / bytes
    }
}

/// By which angles heads are rotated, and which numbers of a head are a pair.
///
/// Source: Su et al. 2021, arXiv:2104.09864, eq. 34.
pub struct Rotation<'a> {
    /// `[context, head_dim]`: for each position `head_dim / 2` cosines, then as many sines.
    pub table: &'a [f32],
    /// What the weights were made for.
    pub pairing: RopePairing,
}

impl Rotation<'_> {
    /// Panics: when the table has not a row for each of the positions.
    pub(crate) fn check(&self, head_dim: usize, positions: &[i32]) {
        assert!(self.table.len().is_multiple_of(head_dim), "the table is not rows of {head_dim}");
        let rows = self.table.len() / head_dim;
        let is_known = |position: &i32| usize::try_from(*position).is_ok_and(|row| row < rows);
        assert!(positions.iter().all(is_known), "a position is beyond the {rows} of the table");
    }

    /// Rotates one head of the token at `position`. `x`, `out`: `[head_dim]`.
    pub(crate) fn rotate(&self, position: usize, x: &[f32], out: &mut [f32]) {
        let half = x.len() / 2;
        let (cos, sin) = self.table[position * x.len()..][..x.len()].split_at(half);
        match self.pairing {
            RopePairing::HalfSplit => {
                let (a, b) = x.split_at(half);
                let (out_a, out_b) = out.split_at_mut(half);
                for i in 0..half {
                    out_a[i] = a[i] * cos[i] - b[i] * sin[i];
                    out_b[i] = b[i] * cos[i] + a[i] * sin[i];
                }
            }
            RopePairing::Adjacent => {
                let pairs = x.chunks_exact(2).zip(out.chunks_exact_mut(2));
                for ((pair, out), (cos, sin)) in pairs.zip(cos.iter().zip(sin)) {
                    out[0] = pair[0] * cos - pair[1] * sin;
                    out[1] = pair[1] * cos + pair[0] * sin;
                }
            }
        }
    }
}

/// Rotates the keys of a step and writes keys and values into their slots.
///
/// Shapes: `qkv: [tokens, (heads + 2 * kv_heads) * head_dim]`, query, key and value of each token
/// behind each other; `slots: [tokens]`, each `page * page_tokens + place`; `positions: [tokens]`.
/// Numbers beyond the greatest 16-bit float are stored as that. Of two tokens with the same slot
/// the later one stays.
/// Threads: all of the pool, a head at a time.
/// Panics: when lengths do not match, or a slot or position is beyond the pool or the table.
pub fn store(
    pool: &mut [u8],
    layout: KvLayout,
    heads: usize,
    qkv: &[f32],
    slots: &[i32],
    positions: &[i32],
    rotation: &Rotation<'_>,
) {
    let slot_count = layout.pages(pool) * layout.page_tokens;
    let tokens = slots.len();
    let width = (heads + 2 * layout.kv_heads) * layout.head_dim;
    assert_eq!(qkv.len(), tokens * width, "qkv is not [{tokens}, {width}]");
    assert_eq!(positions.len(), tokens, "a position for each of {tokens} tokens");
    rotation.check(layout.head_dim, positions);
    let is_there = |slot: &i32| usize::try_from(*slot).is_ok_and(|slot| slot < slot_count);
    assert!(slots.iter().all(is_there), "a slot is beyond the {slot_count} of the pool");
    let pool = Pool(pool.as_mut_ptr());
    let heads_of_task = (SHARE / (tokens * layout.head_dim).max(1)).clamp(1, layout.kv_heads);
    threads::for_each(layout.kv_heads.div_ceil(heads_of_task), |task| {
        let first = task * heads_of_task;
        let mut row = Row::new(layout.head_dim);
        for (index, token) in qkv.chunks_exact(width).enumerate() {
            // Both were found not to be negative.
            let (slot, position) = (slots[index] as usize, positions[index] as usize);
            for head in first..layout.kv_heads.min(first + heads_of_task) {
                let key = &token[(heads + head) * layout.head_dim..][..layout.head_dim];
                let value = (heads + layout.kv_heads + head) * layout.head_dim;
                let value = &token[value..][..layout.head_dim];
                // SAFETY: the slot is in the pool, and nobody else has this head's pieces.
                let piece = unsafe { pool.piece(&layout, slot / layout.page_tokens, head) };
                let place = slot % layout.page_tokens;
                row.store(&layout, piece, place, |out| rotation.rotate(position, key, out), value);
            }
        }
    });
}

/// Where pages are. Threads take the pieces of different heads.
struct Pool(*mut u8);

// SAFETY: each task writes the pieces of its own heads, and nobody reads before all are done.
unsafe impl Sync for Pool {}

impl Pool {
    /// One head's piece of a page.
    ///
    /// # Safety
    /// The pool has the page and the head, and nobody else uses the piece.
    #[expect(clippy::mut_from_ref, reason = "pieces of different heads are borrowed at once")]
    unsafe fn piece(&self, layout: &KvLayout, page: usize, head: usize) -> &mut [u8] {
        let first = page * layout.page_bytes() + head * layout.head_bytes();
        // SAFETY: the caller's.
        unsafe { std::slice::from_raw_parts_mut(self.0.add(first), layout.head_bytes()) }
    }
}

/// One head of one token on its way into the cache.
struct Row {
    rotated: Vec<f32>,
    halves: Vec<f16>,
}

impl Row {
    fn new(head_dim: usize) -> Self {
        Self { rotated: vec![0.0; head_dim], halves: vec![f16::ZERO; head_dim] }
    }

    fn store(
        &mut self,
        layout: &KvLayout,
        piece: &mut [u8],
        place: usize,
        rotate: impl FnOnce(&mut [f32]),
        value: &[f32],
    ) {
        rotate(&mut self.rotated);
        let (keys, rest) = piece.split_at_mut(layout.values_at());
        let row = layout.head_dim * layout.encoding.bytes();
        match layout.encoding {
            KvEncoding::F16 => {
                let column = keys.chunks_exact_mut(2 * layout.page_tokens);
                for (bytes, key) in column.zip(to_halves(&self.rotated, &mut self.halves)) {
                    bytes[2 * place..][..2].copy_from_slice(&key.to_le_bytes());
                }
                let values = rest[place * row..][..row].chunks_exact_mut(2);
                for (bytes, value) in values.zip(to_halves(value, &mut self.halves)) {
                    bytes.copy_from_slice(&value.to_le_bytes());
                }
            }
            KvEncoding::F32 => {
                let column = keys.chunks_exact_mut(4 * layout.page_tokens);
                for (bytes, key) in column.zip(&self.rotated) {
                    bytes[4 * place..][..4].copy_from_slice(&key.to_le_bytes());
                }
                let values = rest[place * row..][..row].chunks_exact_mut(4);
                for (bytes, value) in values.zip(value) {
                    bytes.copy_from_slice(&value.to_le_bytes());
                }
            }
            KvEncoding::Int8 => {
                let (key_scale, inverse) = scales(&self.rotated);
                let column = keys.chunks_exact_mut(layout.page_tokens);
                for (bytes, key) in column.zip(&self.rotated) {
                    bytes[place] = to_byte(key * inverse);
                }
                let (value_scale, inverse) = scales(value);
                for (byte, value) in rest[place * row..][..row].iter_mut().zip(value) {
                    *byte = to_byte(value * inverse);
                }
                let mut write = |at: usize, scale: f32| {
                    piece[at + SCALE * place..][..SCALE].copy_from_slice(&scale.to_le_bytes());
                };
                write(layout.key_scales_at(), key_scale);
                write(layout.value_scales_at(), value_scale);
            }
        }
    }
}

/// Rounds to 16 bits. What is too great stays finite: an infinity in the cache would be multiplied
/// with the zeros that stand for keys that a query does not see.
fn to_halves<'a>(numbers: &[f32], halves: &'a mut [f16]) -> impl Iterator<Item = &'a f16> {
    halves.convert_from_f32_slice(numbers);
    for half in halves.iter_mut().filter(|half| half.is_infinite()) {
        *half = if half.is_sign_negative() { f16::MIN } else { f16::MAX };
    }
    halves.iter()
}

/// What stands for 1 in the bytes of these numbers, and its inverse.
fn scales(numbers: &[f32]) -> (f32, f32) {
    let greatest = numbers.iter().fold(0.0f32, |greatest, number| greatest.max(number.abs()));
    let scale = greatest / 127.0;
    // The inverse of a scale that is hardly a number would be none.
    if scale < f32::MIN_POSITIVE { (0.0, 0.0) } else { (scale, 1.0 / scale) }
}

/// Rounds to the nearest of −127 to 127, the even one of two, by an addition whose sum has no bits
/// for fractions: not every target rounds with one instruction.
fn to_byte(scaled: f32) -> u8 {
    const SHIFT: f32 = 12_582_912.0;
    (scaled + SHIFT).to_bits() as u8
}
