//! One layer's cache of keys and values: the bytes of the CPU's pages, as words of 32 bits.
//!
//! A page holds for each head keys by dimension (`[head_dim][page_tokens]`), values by token
//! (`[page_tokens][head_dim]`), then, for 8-bit numbers, a scale for each key and one for each
//! value. So a page that a GPU has written can be read by a CPU, and one from a disk by either.
#![allow(clippy::too_many_arguments, reason = "a kernel's arguments are its buffers")]

use cubecl::prelude::*;
use weights::RopePairing;

use crate::words::pack;

/// The most tokens of a page.
const PAGE_TOKENS_MAX: usize = 256;
/// Tokens that a group of units stores, so that neighbours in a word come from one group.
const BLOCK: usize = 4;
/// Units of a group.
const UNITS: usize = 128;
/// Units of a group that look for the greatest number of one token.
const LANES: usize = UNITS / BLOCK;
/// The most numbers of a head.
pub(crate) const HEAD_DIM_MAX: usize = 256;
/// Groups in one dimension that every device can start.
pub(crate) const GROUPS_MAX: usize = 65_535;

/// How keys and values stand in the cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum KvEncoding {
    /// 16-bit floats.
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct KvLayout {
    /// Heads of keys, and of values.
    pub kv_heads: usize,
    /// Numbers of a head: even, for 8-bit numbers a multiple of 4, 256 at most.
    pub head_dim: usize,
    /// Tokens of a page: a power of two, 256 at most.
    pub page_tokens: usize,
    /// How a number stands in memory.
    pub encoding: KvEncoding,
}

impl KvLayout {
    /// Words of the keys and values of one page of one layer.
    pub fn page_words(&self) -> usize {
        self.kv_heads * self.head_words()
    }

    /// Words of one head's piece of a page.
    pub(crate) fn head_words(&self) -> usize {
        match self.encoding {
            KvEncoding::F16 | KvEncoding::F32 => 2 * self.values_at(),
            KvEncoding::Int8 => self.value_scales_at() + self.page_tokens,
        }
    }

    /// Where the values begin in a head's piece, and how long they are.
    pub(crate) fn values_at(&self) -> usize {
        self.page_tokens * self.head_dim * self.encoding.bytes() / 4
    }

    /// Where the scales of keys begin in a head's piece, for 8-bit numbers.
    pub(crate) fn key_scales_at(&self) -> usize {
        2 * self.values_at()
    }

    /// Where the scales of values begin in a head's piece, for 8-bit numbers.
    pub(crate) fn value_scales_at(&self) -> usize {
        self.key_scales_at() + self.page_tokens
    }

    /// How many pages a pool of so many words has.
    ///
    /// Panics: when the layout is none, or the pool is not whole pages that 32 bits can count.
    pub(crate) fn pages(&self, words: usize) -> usize {
        let Self { kv_heads, head_dim, page_tokens, encoding } = *self;
        assert!(0 < kv_heads && kv_heads <= GROUPS_MAX, "a cache of {kv_heads} heads");
        let whole_words = head_dim.is_multiple_of(2.max(4 / encoding.bytes()));
        assert!(0 < head_dim && whole_words, "heads of {head_dim} in {encoding:?}");
        assert!(head_dim <= HEAD_DIM_MAX, "heads of {head_dim}");
        assert!(
            page_tokens.is_power_of_two() && page_tokens <= PAGE_TOKENS_MAX,
            "pages of {page_tokens} tokens"
        );
        let page = self.page_words();
        assert!(words.is_multiple_of(page), "{words} words are not pages of {page}");
        assert!(u32::try_from(words).is_ok(), "{words} words in one pool");
        words / page
    }
}

/// By which angles heads are rotated, and which numbers of a head are a pair.
///
/// Source: Su et al. 2021, arXiv:2104.09864, eq. 34.
pub struct Rotation {
    /// `[context, head_dim]`: for each position `head_dim / 2` cosines, then as many sines.
    pub table: BufferArg,
    /// What the weights were made for.
    pub pairing: RopePairing,
}

impl Rotation {
    /// How many positions the table has.
    ///
    /// Panics: when it has none, or is not whole rows.
    pub(crate) fn positions(&self, head_dim: usize) -> usize {
        let numbers = self.table.len();
        assert!(
            numbers >= head_dim && numbers.is_multiple_of(head_dim),
            "the table is not rows of {head_dim}"
        );
        numbers / head_dim
    }
}

/// What a step brings to the cache.
pub struct Tokens {
    /// `[tokens, (heads + 2 * kv_heads) * head_dim]`: query, key and value of each token behind
    /// each other.
    pub qkv: BufferArg,
    /// `[tokens]`: each `page * page_tokens + place`, all different.
    pub slots: BufferArg,
    /// `[tokens]`: each token's place in its own sequence.
    pub positions: BufferArg,
}

/// Rotates the keys of a step and writes keys and values into their slots of `pool: [words]`.
///
/// Numbers beyond the greatest 16-bit float are stored as that. A token whose slot is beyond the
/// pool is not stored, and a position beyond the table is the table's last.
/// Panics: when lengths do not match.
pub fn store(
    client: &Client,
    pool: BufferArg,
    layout: KvLayout,
    heads: usize,
    step: Tokens,
    rotation: Rotation,
) {
    let slots = layout.pages(pool.len()) * layout.page_tokens;
    let context = rotation.positions(layout.head_dim);
    let tokens = step.slots.len();
    let width = (heads + 2 * layout.kv_heads) * layout.head_dim;
    assert_eq!(step.qkv.len(), tokens * width, "qkv is not [{tokens}, {width}]");
    assert!(u32::try_from(tokens * width).is_ok(), "{tokens} tokens in one step");
    assert_eq!(step.positions.len(), tokens, "a position for each of {tokens} tokens");
    let blocks = tokens.div_ceil(BLOCK);
    assert!(blocks <= GROUPS_MAX, "{tokens} tokens in one step");
    if tokens == 0 {
        return;
    }
    let shape = Shape::new(&layout, rotation.pairing);
    // SAFETY: all lengths were compared above; the kernel reads rows of `qkv` below `tokens`, rows
    // of the table below `context`, and writes to slots below `slots` only.
    unsafe {
        store_kernel::launch_unchecked(
            client,
            CubeCount::Static(blocks as u32, layout.kv_heads as u32, 1),
            CubeDim::new_1d(UNITS as u32),
            pool,
            step.qkv,
            step.slots,
            step.positions,
            rotation.table,
            tokens as u32,
            heads as u32,
            slots as u32,
            context as u32,
            shape,
        );
    }
}

/// What a kernel is compiled for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Shape {
    pub(crate) kv_heads: usize,
    pub(crate) head_dim: usize,
    pub(crate) page_tokens: usize,
    /// Bytes of a number.
    pub(crate) bytes: usize,
    /// Whether the numbers of a pair stand side by side, not half a head apart.
    pub(crate) adjacent: bool,
    pub(crate) page_words: usize,
    pub(crate) head_words: usize,
    pub(crate) values_at: usize,
    pub(crate) key_scales_at: usize,
    pub(crate) value_scales_at: usize,
}

impl Shape {
    pub(crate) fn new(layout: &KvLayout, pairing: RopePairing) -> Self {
        Self {
            kv_heads: layout.kv_heads,
            head_dim: layout.head_dim,
            page_tokens: layout.page_tokens,
            bytes: layout.encoding.bytes(),
            adjacent: pairing == RopePairing::Adjacent,
            page_words: layout.page_words(),
            head_words: layout.head_words(),
            values_at: layout.values_at(),
            key_scales_at: layout.key_scales_at(),
            value_scales_at: layout.value_scales_at(),
        }
    }
}

/// Rotates pair `index` of the head that begins at `first`; gives both numbers. `angles` is the row
/// of the table.
#[cube]
pub(crate) fn rotated(
    qkv: &[f32],
    first: usize,
    table: &[f32],
    angles: usize,
    index: usize,
    #[comptime] shape: Shape,
) -> (f32, f32) {
    let half = comptime!(shape.head_dim / 2);
    let a = qkv[first + place_a(index, shape)];
    let b = qkv[first + place_b(index, shape)];
    let cos = table[angles + index];
    let sin = table[angles + half + index];
    (a * cos - b * sin, b * cos + a * sin)
}

/// Where the first number of a pair stands in its head.
#[cube]
pub(crate) fn place_a(index: usize, #[comptime] shape: Shape) -> usize {
    if comptime!(shape.adjacent) { index * 2 } else { index }
}

/// Where the second number of a pair stands in its head.
#[cube]
pub(crate) fn place_b(index: usize, #[comptime] shape: Shape) -> usize {
    let half = comptime!(shape.head_dim / 2);
    if comptime!(shape.adjacent) { index * 2 + 1 } else { index + half }
}

/// A group takes [`BLOCK`] tokens and one head.
#[cube(launch_unchecked)]
fn store_kernel(
    // Declared as written, so that a launch that fails is told by who reads it.
    pool: &mut [Atomic<u32>],
    qkv: &[f32],
    slots: &[i32],
    positions: &[i32],
    table: &[f32],
    tokens: u32,
    heads: u32,
    slot_count: u32,
    context: u32,
    #[comptime] shape: Shape,
) {
    let unit = UNIT_POS as usize;
    let head = CUBE_POS_Y as usize;
    let first_token = CUBE_POS_X as usize * BLOCK;
    let dim = comptime!(shape.head_dim);
    let kv_heads = comptime!(shape.kv_heads);
    let half = comptime!(dim / 2);
    let width = (heads as usize + comptime!(2 * kv_heads)) * dim;
    let key_at = (heads as usize + head) * dim;
    let value_at = key_at + comptime!(kv_heads * dim);

    let mut keys = Shared::<[f32]>::new_slice(comptime!(BLOCK * shape.head_dim));
    let mut chosen = Shared::<[u32]>::new_slice(BLOCK);
    let mut scales = Shared::<[f32]>::new_slice(comptime!(4 * BLOCK));

    if unit < BLOCK {
        let token = first_token + unit;
        // Beyond every slot: what it names is not stored.
        let mut slot = u32::MAX.runtime();
        if token < tokens as usize {
            slot = u32::cast_from(slots[token]);
        }
        chosen[unit] = select(slot < slot_count, slot, u32::MAX);
        scales[unit] = 1.0f32;
        scales[BLOCK + unit] = 1.0f32;
    }
    let mut at = unit;
    while at < comptime!(BLOCK * half) {
        let (place, index) = (at / half, at % half);
        let token = first_token + place;
        let row = clamp_max(token, tokens);
        let position = clamp_max(positions[row] as usize, context);
        let (a, b) = rotated(qkv, row * width + key_at, table, position * dim, index, shape);
        keys[place * dim + place_a(index, shape)] = a;
        keys[place * dim + place_b(index, shape)] = b;
        at += UNITS;
    }
    sync_cube();
    if comptime!(shape.bytes == 1) {
        find_scales(qkv, first_token, tokens, width, value_at, &keys, &mut scales, shape);
    }
    store_keys(pool, &keys, &chosen, &scales, head, shape);
    store_values(pool, qkv, first_token, width, value_at, &chosen, &scales, head, shape);
}

/// `index`, or the last of `count`.
#[cube]
fn clamp_max(index: usize, count: u32) -> usize {
    min(index, count as usize - 1)
}

/// What stands for 1 in the bytes of each token's key and value, behind the inverses of both:
/// `scales: [inverse of key, inverse of value, key, value][BLOCK]`.
#[cube]
fn find_scales(
    qkv: &[f32],
    first_token: usize,
    tokens: u32,
    width: usize,
    value_at: usize,
    keys: &Shared<[f32]>,
    scales: &mut Shared<[f32]>,
    #[comptime] shape: Shape,
) {
    let dim = comptime!(shape.head_dim);
    let unit = UNIT_POS as usize;
    let mut greatest = Shared::<[f32]>::new_slice(comptime!(2 * UNITS));
    let (place, lane) = (unit / LANES, unit % LANES);
    let value = clamp_max(first_token + place, tokens) * width + value_at;
    let mut key_max = 0.0f32;
    let mut value_max = 0.0f32;
    let mut at = lane;
    while at < dim {
        key_max = max(key_max, keys[place * dim + at].abs());
        value_max = max(value_max, qkv[value + at].abs());
        at += LANES;
    }
    greatest[unit] = key_max;
    greatest[UNITS + unit] = value_max;
    sync_cube();
    // Keys' first, then values'.
    if unit < comptime!(2 * BLOCK) {
        let first = unit * LANES;
        let mut most = 0.0f32;
        for lane in 0..LANES {
            most = max(most, greatest[first + lane]);
        }
        let scale = most / 127.0f32;
        // The inverse of a scale that is hardly a number would be none.
        let is_none = scale < f32::MIN_POSITIVE;
        scales[unit] = select(is_none, 0.0f32, 1.0f32 / scale);
        scales[comptime!(2 * BLOCK) + unit] = select(is_none, 0.0f32, scale);
    }
    sync_cube();
}

/// Keys of several tokens share a word. One unit writes a word whose tokens are all here; where
/// they are not, each adds the difference that it makes, which other units' tokens do not feel.
#[cube]
#[allow(clippy::needless_pass_by_ref_mut, reason = "as the kernel has it")]
fn store_keys(
    pool: &mut [Atomic<u32>],
    keys: &Shared<[f32]>,
    chosen: &Shared<[u32]>,
    scales: &Shared<[f32]>,
    head: usize,
    #[comptime] shape: Shape,
) {
    let dim = comptime!(shape.head_dim);
    let bytes = comptime!(shape.bytes);
    let page_tokens = comptime!(shape.page_tokens);
    let per_word = comptime!(4 / bytes);
    let bits = comptime!(8 * bytes as u32);
    let mut at = UNIT_POS as usize;
    while at < comptime!(BLOCK * dim) {
        let (place, index) = (at % BLOCK, at / BLOCK);
        let slot = chosen[place];
        if slot != u32::MAX {
            let page = slot as usize / page_tokens;
            let inside = slot as usize % page_tokens;
            let piece = page * shape.page_words + head * shape.head_words;
            let number = index * page_tokens + inside;
            let word = piece + number / per_word;
            let lane = number % per_word;
            let is_whole = has_neighbours(chosen, place, lane, shape);
            if is_whole {
                if lane == 0 {
                    let mut packed = 0u32;
                    #[unroll]
                    for next in 0..per_word {
                        let key = keys[(place + next) * dim + index] * scales[place + next];
                        packed |= pack(key, bytes) << comptime!(next as u32 * bits);
                    }
                    pool[word].store(packed);
                }
            } else {
                let key = pack(keys[place * dim + index] * scales[place], bytes);
                let shift = u32::cast_from(lane) * bits;
                let mask = comptime!(u32::MAX >> (32 - bits));
                let old = (pool[word].load() >> shift) & mask;
                pool[word].fetch_add((key - old) << shift);
            }
        }
        at += UNITS;
    }
}

/// Whether all tokens of a word are in this block; `lane` is this one's place in it.
#[cube]
fn has_neighbours(
    chosen: &Shared<[u32]>,
    place: usize,
    lane: usize,
    #[comptime] shape: Shape,
) -> bool {
    let per_word = comptime!(4 / shape.bytes);
    let mut found = 0u32;
    if comptime!(shape.page_tokens >= per_word) {
        if place >= lane && place + per_word <= lane + BLOCK {
            let first = place - lane;
            let slot = chosen[place] - u32::cast_from(lane);
            #[unroll]
            for next in 0..per_word {
                if chosen[first + next] == slot + comptime!(next as u32) {
                    found += 1u32;
                }
            }
        }
    }
    found == comptime!(per_word as u32)
}

/// A word holds values of one token only. With them, the scales of a token.
#[cube]
#[allow(clippy::needless_pass_by_ref_mut, reason = "as the kernel has it")]
fn store_values(
    pool: &mut [Atomic<u32>],
    qkv: &[f32],
    first_token: usize,
    width: usize,
    value_at: usize,
    chosen: &Shared<[u32]>,
    scales: &Shared<[f32]>,
    head: usize,
    #[comptime] shape: Shape,
) {
    let bytes = comptime!(shape.bytes);
    let page_tokens = comptime!(shape.page_tokens);
    let per_word = comptime!(4 / bytes);
    let bits = comptime!(8 * bytes as u32);
    let words = comptime!(shape.head_dim / per_word);
    let unit = UNIT_POS as usize;
    let mut at = unit;
    while at < comptime!(BLOCK * words) {
        let (place, index) = (at / words, at % words);
        let slot = chosen[place];
        if slot != u32::MAX {
            let inside = slot as usize % page_tokens;
            let piece = slot as usize / page_tokens * shape.page_words + head * shape.head_words;
            let value = (first_token + place) * width + value_at + index * per_word;
            let scale = scales[BLOCK + place];
            let mut packed = 0u32;
            #[unroll]
            for next in 0..per_word {
                let number = qkv[value + next] * scale;
                packed |= pack(number, bytes) << comptime!(next as u32 * bits);
            }
            pool[piece + shape.values_at + inside * words + index].store(packed);
        }
        at += UNITS;
    }
    if comptime!(shape.bytes == 1) {
        if unit < BLOCK {
            let slot = chosen[unit];
            if slot != u32::MAX {
                let inside = slot as usize % page_tokens;
                let piece =
                    slot as usize / page_tokens * shape.page_words + head * shape.head_words;
                let key = u32::reinterpret(scales[comptime!(2 * BLOCK) + unit]);
                let value = u32::reinterpret(scales[comptime!(3 * BLOCK) + unit]);
                pool[piece + shape.key_scales_at + inside].store(key);
                pool[piece + shape.value_scales_at + inside].store(value);
            }
        }
    }
}
