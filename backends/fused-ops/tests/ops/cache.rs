//! The cache: what is stored, against rotations in f64; what is attended, against a softmax in f64
//! over what is stored.

use burn::tensor::DType;
use fused_ops::{Heads, KvEncoding, KvLayout, KvPool, Rotation};
use half::f16;

use super::*;

const THETA: f64 = 1e4;
const PAIRINGS: [RopePairing; 2] = [RopePairing::Adjacent, RopePairing::HalfSplit];
const ENCODINGS: [KvEncoding; 3] = [KvEncoding::F16, KvEncoding::Int8, KvEncoding::F32];
/// Tokens of a step that fills the cache: no multiple of what shares a word.
const STEP: usize = 53;

/// Sequences whose tokens lie in pages in no order.
#[derive(Clone)]
struct Case {
    kv_heads: usize,
    group: usize,
    head_dim: usize,
    page_tokens: usize,
    encoding: KvEncoding,
    pairing: RopePairing,
    window: Option<usize>,
    /// Tokens in the step and in the context of each sequence.
    sequences: Vec<(usize, usize)>,
}

/// A cache on a device, filled.
struct Filled {
    pool: KvPool,
    heads: Heads,
    rotation: Rotation,
}

impl Case {
    fn new(head_dim: usize, group: usize, page_tokens: usize, encoding: KvEncoding) -> Self {
        Self {
            kv_heads: 2,
            group,
            head_dim,
            page_tokens,
            encoding,
            pairing: RopePairing::Adjacent,
            window: None,
            sequences: vec![(1, 70), (9, 9), (0, 12), (1, 1), (5, 133), (1, 16)],
        }
    }

    fn layout(&self) -> KvLayout {
        let Self { kv_heads, head_dim, page_tokens, encoding, .. } = *self;
        KvLayout { kv_heads, head_dim, page_tokens, encoding }
    }

    fn width(&self) -> usize {
        self.kv_heads * (self.group + 2) * self.head_dim
    }

    fn tokens(&self) -> usize {
        self.sequences.iter().map(|(_, context)| context).sum()
    }

    /// Of all tokens of all sequences, one behind the other. `[tokens, width]`
    fn qkv(&self) -> Vec<f32> {
        noise(77, self.tokens() * self.width())
    }

    /// The tables of pages of all sequences, where each begins, and how many pages there are.
    fn pages(&self) -> (Vec<usize>, Vec<usize>, usize) {
        let counts = || self.sequences.iter().map(|(_, n)| n.div_ceil(self.page_tokens));
        let count = counts().sum::<usize>() + 3;
        let step = (count / 2..).find(|step| gcd(*step, count) == 1).unwrap();
        let pages = (1..count).map(|nth| nth * step % count).collect();
        let firsts = counts().scan(0, |next, pages| {
            *next += pages;
            Some(*next - pages)
        });
        (pages, firsts.collect(), count)
    }

    /// Sequence, position and slot of each token.
    fn places(&self) -> Vec<(usize, usize, usize)> {
        let (pages, firsts, _) = self.pages();
        let of_sequence = |(sequence, (_, context)): (usize, &(usize, usize))| {
            let table = pages[firsts[sequence]..].to_vec();
            let slot = move |p: usize| {
                table[p / self.page_tokens] * self.page_tokens + p % self.page_tokens
            };
            (0..*context).map(move |p| (sequence, p, slot(p))).collect::<Vec<_>>()
        };
        self.sequences.iter().enumerate().flat_map(of_sequence).collect()
    }

    /// A cache with all tokens, stored in steps of a few; `order` are the tokens.
    fn fill(&self, device: &OpenDevice, order: &[usize]) -> Filled {
        let options = AttentionOptions {
            kv_heads: self.kv_heads,
            scale: 2.0 / (self.head_dim as f64).sqrt(),
            window_tokens: self.window,
        };
        let heads = Heads { heads: self.kv_heads * self.group, head_dim: self.head_dim, options };
        let longest = self.sequences.iter().map(|(_, context)| *context).max().unwrap();
        let table = rope_table(longest, self.head_dim, THETA, &device.device);
        let rotation = Rotation { table, pairing: self.pairing };
        let pages = self.pages().2;
        let pool = KvPool::new(device, self.encoding, &heads, pages, self.page_tokens);
        let mut filled = Filled { pool, heads, rotation };
        self.store(&mut filled, device, order);
        filled
    }

    fn store(&self, filled: &mut Filled, device: &OpenDevice, order: &[usize]) {
        let (qkv, places) = (self.qkv(), self.places());
        let width = self.width();
        for tokens in order.chunks(STEP) {
            let row = |token: &usize| &qkv[token * width..][..width];
            let rows: Vec<f32> = tokens.iter().flat_map(row).copied().collect();
            let rows = floats(rows, [tokens.len(), width], device);
            let of = |number: fn(&(usize, usize, usize)) -> usize| {
                let numbers: Vec<usize> = tokens.iter().map(|t| number(&places[*t])).collect();
                words(&numbers, device)
            };
            let map = PageMap::new(of(|_| 0), of(|place| place.1), vec![], self.page_tokens);
            let Filled { pool, heads, rotation } = filled;
            pool.store(&rows, &of(|place| place.2), &map, heads, rotation);
        }
    }

    fn in_order(&self) -> Vec<usize> {
        (0..self.tokens()).collect()
    }

    /// The bytes of all pages.
    fn bytes(&self, filled: &Filled) -> Vec<u8> {
        let mut bytes = Vec::new();
        for page in 0..self.pages().2 {
            filled.pool.read_page(page, &mut bytes).unwrap();
        }
        bytes
    }

    /// What the last tokens of some sequences find.
    fn attend(&self, filled: &Filled, device: &OpenDevice, chosen: &[usize]) -> Vec<f32> {
        let (mut positions, mut spans, mut rows) = (vec![], vec![], vec![]);
        let (qkv, places) = (self.qkv(), self.places());
        let (pages, firsts, _) = self.pages();
        for &sequence in chosen {
            let (query_tokens, context_tokens) = self.sequences[sequence];
            let first_page = firsts[sequence];
            let query_start = positions.len();
            spans.push(PageSpan { query_start, query_tokens, context_tokens, first_page });
            for position in context_tokens - query_tokens..context_tokens {
                let is_it =
                    |place: &(usize, usize, usize)| (place.0, place.1) == (sequence, position);
                let token = places.iter().position(is_it).unwrap();
                rows.extend_from_slice(&qkv[token * self.width()..][..self.width()]);
                positions.push(position);
            }
        }
        let rows = floats(rows, [positions.len(), self.width()], device);
        let map =
            PageMap::new(words(&pages, device), words(&positions, device), spans, self.page_tokens);
        host(filled.pool.attend(rows, &map, &filled.heads, &filled.rotation))
    }

    /// Head `head` of a token, rotated.
    fn rotated(&self, qkv: &[f32], token: usize, position: usize, head: usize) -> Vec<f64> {
        let dim = self.head_dim;
        let x = wide(&qkv[token * self.width() + head * dim..][..dim]);
        let mut y = vec![0.0; dim];
        for pair in 0..dim / 2 {
            let (a, b) = match self.pairing {
                RopePairing::Adjacent => (2 * pair, 2 * pair + 1),
                RopePairing::HalfSplit => (pair, pair + dim / 2),
            };
            let angle = position as f64 * THETA.powf(-2.0 * pair as f64 / dim as f64);
            y[a] = x[a] * angle.cos() - x[b] * angle.sin();
            y[b] = x[b] * angle.cos() + x[a] * angle.sin();
        }
        y
    }

    /// The key or the value of a slot, as the bytes say it, and what one step of its numbers is.
    fn stored(&self, bytes: &[u8], slot: usize, head: usize, is_value: bool) -> (Vec<f64>, f64) {
        let Self { head_dim, page_tokens, .. } = *self;
        let (page, place) = (slot / page_tokens, slot % page_tokens);
        let layout = self.layout();
        let piece = layout.page_bytes() / self.kv_heads;
        let piece = &bytes[page * layout.page_bytes() + head * piece..][..piece];
        let number = |d: usize| match is_value {
            false => d * page_tokens + place,
            true => (page_tokens + place) * head_dim + d,
        };
        let four = |at: usize| f64::from(f32::from_le_bytes(*piece[at..].first_chunk().unwrap()));
        let scale_at =
            2 * page_tokens * head_dim + 4 * (page_tokens * usize::from(is_value) + place);
        let scale = if self.encoding == KvEncoding::Int8 { four(scale_at) } else { 0.0 };
        let numbers = (0..head_dim).map(|d| match self.encoding {
            KvEncoding::F32 => four(4 * number(d)),
            KvEncoding::F16 => {
                f16::from_le_bytes(*piece[2 * number(d)..].first_chunk().unwrap()).to_f64()
            }
            KvEncoding::Int8 => f64::from(piece[number(d)].cast_signed()) * scale,
        });
        (numbers.collect(), scale)
    }

    /// Every number is the one nearest to the exact one, or its neighbour where f32 cannot tell.
    #[track_caller]
    fn check_stored(&self, device: &OpenDevice, bytes: &[u8]) {
        let qkv = self.qkv();
        let heads = self.kv_heads * self.group;
        for (token, (_, position, slot)) in self.places().into_iter().enumerate() {
            for head in 0..self.kv_heads {
                let key = self.rotated(&qkv, token, position, heads + head);
                let value = token * self.width() + (heads + self.kv_heads + head) * self.head_dim;
                let value = wide(&qkv[value..][..self.head_dim]);
                for (exact, is_value) in [(key, false), (value, true)] {
                    let (found, scale) = self.stored(bytes, slot, head, is_value);
                    for (found, exact) in found.iter().zip(&exact) {
                        let bound = match self.encoding {
                            KvEncoding::F32 => 1e-6,
                            KvEncoding::F16 => exact.abs() * 2f64.powi(-11) + 1e-7,
                            KvEncoding::Int8 => 0.501 * scale,
                        };
                        assert!(
                            (found - exact).abs() <= bound,
                            "{:?} on {}: {found} for {exact} of token {token}, head {head}",
                            self.layout(),
                            device.name,
                        );
                    }
                }
            }
        }
    }

    /// Softmax in f64 over what the bytes say.
    fn expected(&self, bytes: &[u8], chosen: &[usize]) -> Vec<f64> {
        let (qkv, places) = (self.qkv(), self.places());
        let mut out = Vec::new();
        for &sequence in chosen {
            let (queries, context) = self.sequences[sequence];
            let first = places.iter().position(|place| place.0 == sequence).unwrap_or(0);
            let stored = |head, is_value| -> Vec<Vec<f64>> {
                let slots = places[first..first + context].iter().map(|place| place.2);
                slots.map(|slot| self.stored(bytes, slot, head, is_value).0).collect()
            };
            let of_heads = |is_value| -> Vec<Vec<Vec<f64>>> {
                (0..self.kv_heads).map(|head| stored(head, is_value)).collect()
            };
            let (keys, values) = (of_heads(false), of_heads(true));
            for position in context - queries..context {
                let seen =
                    self.window.map_or(0, |w| (position + 1).saturating_sub(w))..position + 1;
                for head in 0..self.kv_heads * self.group {
                    let query = self.rotated(&qkv, first + position, position, head);
                    let kv_head = head / self.group;
                    let scale = 2.0 / (self.head_dim as f64).sqrt();
                    let score = |key: &Vec<f64>| {
                        query.iter().zip(key).map(|(q, k)| q * k).sum::<f64>() * scale
                    };
                    let scores: Vec<f64> = keys[kv_head][seen.clone()].iter().map(score).collect();
                    let top = scores.iter().copied().fold(f64::MIN, f64::max);
                    let sum: f64 = scores.iter().map(|s| (s - top).exp()).sum();
                    let mut row = vec![0.0; self.head_dim];
                    for (value, score) in values[kv_head][seen.clone()].iter().zip(&scores) {
                        let share = (score - top).exp() / sum;
                        row.iter_mut().zip(value).for_each(|(row, v)| *row += share * v);
                    }
                    out.extend(row);
                }
            }
        }
        out
    }

    #[track_caller]
    fn check(&self) {
        let chosen: Vec<usize> = (0..self.sequences.len()).collect();
        for device in &devices() {
            let filled = self.fill(device, &self.in_order());
            let bytes = self.bytes(&filled);
            self.check_stored(device, &bytes);
            let found = self.attend(&filled, device, &chosen);
            let what = format!("{:?}, group {}, {:?}", self.layout(), self.group, self.window);
            assert_close(&what, device, &found, &self.expected(&bytes, &chosen));
        }
    }
}

/// Indices as the model sends them.
fn words(values: &[usize], device: &OpenDevice) -> Tensor<1, Int> {
    let values: Vec<i32> = values.iter().map(|v| i32::try_from(*v).unwrap()).collect();
    let count = values.len();
    Tensor::from_data(TensorData::new(values, [count]), (&device.device, DType::I32))
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[test]
fn all_shapes_of_heads_and_pages_follow_the_definition() {
    for encoding in ENCODINGS {
        for pairing in PAIRINGS {
            for (head_dim, group, page_tokens) in [(64, 4, 16), (128, 6, 32)] {
                Case { pairing, ..Case::new(head_dim, group, page_tokens, encoding) }.check();
            }
        }
        for (head_dim, group, page_tokens) in
            [(8, 12, 4), (16, 1, 1), (36, 3, 2), (80, 5, 128), (256, 8, 8)]
        {
            Case::new(head_dim, group, page_tokens, encoding).check();
        }
    }
}

#[test]
fn a_window_hides_what_is_older_in_the_cache() {
    for encoding in ENCODINGS {
        for window in [1, 63, 64, 65, 132, 1000] {
            let sequences = vec![(1, 70), (1, 200), (90, 133), (40, 40)];
            let window = Some(window);
            Case { window, sequences, ..Case::new(16, 3, 16, encoding) }.check();
        }
    }
}

#[test]
fn long_contexts_are_put_together_from_parts() {
    for encoding in ENCODINGS {
        // Few groups share the contexts; with a long prompt beside it, each takes all of one.
        for queries in [3, 260] {
            let sequences = vec![(1, 1300), (queries, 700), (1, 512), (2, 513)];
            let case = Case { sequences, ..Case::new(64, 4, 16, encoding) };
            case.check();
            Case { window: Some(600), ..case }.check();
        }
    }
}

#[test]
fn many_sequences_decode_in_one_step() {
    let sequences = (0..64).map(|nth| (1, 1 + nth * 7 % 90)).collect();
    Case { sequences, ..Case::new(128, 4, 16, KvEncoding::F16) }.check();
}

#[test]
fn a_sequence_alone_and_among_others_gets_the_same_bits() {
    for encoding in ENCODINGS {
        let mut sequences = vec![(1, 1100), (20, 21), (5, 600)];
        sequences.extend([(1, 9); 150]);
        let all: Vec<usize> = (0..sequences.len()).collect();
        let case = Case { sequences, ..Case::new(16, 4, 16, encoding) };
        for device in &devices() {
            let filled = case.fill(device, &case.in_order());
            let together = case.attend(&filled, device, &all);
            let row = case.kv_heads * case.group * case.head_dim;
            let mut start = 0;
            for sequence in 0..3 {
                let alone = case.attend(&filled, device, &[sequence]);
                let part = &together[start * row..][..alone.len()];
                assert!(part == alone, "{encoding:?}, sequence {sequence} on {}", device.name);
                start += case.sequences[sequence].0;
            }
        }
    }
}

#[test]
fn the_order_in_which_tokens_come_leaves_no_trace() {
    for encoding in ENCODINGS {
        for page_tokens in [1, 2, 16] {
            let case = Case::new(16, 2, page_tokens, encoding);
            let count = case.tokens();
            let step = (count / 3..).find(|step| gcd(*step, count) == 1).unwrap();
            let mixed: Vec<usize> = (0..count).map(|nth| nth * step % count).collect();
            for device in &devices() {
                let once = case.bytes(&case.fill(device, &case.in_order()));
                // What was there before does not shine through.
                let mut filled = case.fill(device, &case.in_order());
                let garbage = vec![0xa5; case.layout().page_bytes()];
                for page in 0..case.pages().2 {
                    filled.pool.write_page(page, &garbage);
                }
                case.store(&mut filled, device, &mixed);
                let found = case.bytes(&filled);
                let used: Vec<usize> = case.places().iter().map(|place| place.2).collect();
                for slot in used {
                    for head in 0..case.kv_heads {
                        for is_value in [false, true] {
                            let was = case.stored(&once, slot, head, is_value);
                            let is = case.stored(&found, slot, head, is_value);
                            assert_eq!(was, is, "{encoding:?} on {}", device.name);
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn pages_are_the_same_bytes_on_every_device() {
    let cpu = open(BackendChoice::Flex).unwrap();
    for encoding in ENCODINGS {
        for pairing in PAIRINGS {
            let case = Case { pairing, ..Case::new(64, 2, 16, encoding) };
            let expected = case.bytes(&case.fill(&cpu, &case.in_order()));
            for device in &devices() {
                let found = case.bytes(&case.fill(device, &case.in_order()));
                let (mut numbers, mut other) = (0, 0);
                let slots = case.pages().2 * case.page_tokens;
                for (slot, head) in (0..slots).flat_map(|s| (0..case.kv_heads).map(move |h| (s, h)))
                {
                    for is_value in [false, true] {
                        let (was, step) = case.stored(&expected, slot, head, is_value);
                        let (is, _) = case.stored(&found, slot, head, is_value);
                        numbers += was.len();
                        for (was, is) in was.iter().zip(&is) {
                            // A rotation may be rounded otherwise by one in the last place of f32,
                            // and rarely so by one step of what is stored.
                            let step = match encoding {
                                KvEncoding::F32 => 2e-7,
                                KvEncoding::F16 => was.abs() * 2f64.powi(-10) + 6e-8,
                                KvEncoding::Int8 => step * 1.001,
                            };
                            assert!((was - is).abs() <= step, "{is} for {was} on {}", device.name);
                            other += usize::from((was - is).abs() > 1e-3 * step);
                        }
                    }
                }
                println!(
                    "{encoding:?}, {pairing:?} on {}: {other} of {numbers} differ",
                    device.name
                );
            }
        }
    }
}
