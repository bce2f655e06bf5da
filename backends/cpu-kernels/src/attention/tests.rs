use half::f16;
use weights::RopePairing;

use super::*;
use crate::kv::{self, KvEncoding};

fn noise(seed: u64, count: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (0..count)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
        })
        .collect()
}

/// A step over caches that were filled before, with garbage wherever nothing was stored.
#[derive(Clone)]
struct Case {
    layout: KvLayout,
    attention: Attention,
    pairing: RopePairing,
    /// Tokens in the step and in the context of each sequence.
    sequences: Vec<(usize, usize)>,
}

/// Keys, values and queries of all tokens of a sequence, queries and keys rotated.
struct Sequence {
    queries: Vec<f32>,
    keys: Vec<f32>,
    values: Vec<f32>,
}

impl Case {
    fn new(head_dim: usize, group: usize, page_tokens: usize, encoding: KvEncoding) -> Self {
        let layout = KvLayout { kv_heads: 2, head_dim, page_tokens, encoding };
        let scale = 2.0 / (head_dim as f32).sqrt();
        Self {
            layout,
            attention: Attention { heads: 2 * group, scale, window_tokens: None },
            pairing: RopePairing::Adjacent,
            sequences: vec![(1, 70), (9, 9), (1, 1), (5, 133), (1, 16)],
        }
    }

    fn table(&self) -> Vec<f32> {
        let longest = self.sequences.iter().map(|(_, context)| *context).max().unwrap();
        let half = self.layout.head_dim / 2;
        (0..longest)
            .flat_map(|position| {
                let angle = move |i: usize| position as f32 * 0.7f32.powi(i as i32);
                let cos = (0..half).map(move |i| angle(i).cos());
                cos.chain((0..half).map(move |i| angle(i).sin()))
            })
            .collect()
    }

    fn width(&self) -> usize {
        (self.attention.heads + 2 * self.layout.kv_heads) * self.layout.head_dim
    }

    /// Of one sequence. `[context, width]`
    fn qkv(&self, sequence: usize) -> Vec<f32> {
        noise(sequence as u64 + 1, self.sequences[sequence].1 * self.width())
    }

    /// Runs only some of the sequences; all are in the cache.
    fn found(&self, isa: Isa, threads: usize, chosen: &[usize]) -> Vec<f32> {
        let Self { layout, attention, pairing, .. } = self;
        let table = self.table();
        let rotation = Rotation { table: &table, pairing: *pairing };
        let counts: Vec<usize> =
            self.sequences.iter().map(|(_, n)| n.div_ceil(layout.page_tokens)).collect();
        let page_count: usize = counts.iter().sum::<usize>() + 3;
        let mut pool = vec![0xffu8; page_count * layout.page_bytes()];
        // Pages of all sequences in an order that is none.
        let step = (page_count / 2..).find(|step| gcd(*step, page_count) == 1).unwrap();
        let mut next = 0;
        let (mut pages, mut firsts) = (Vec::new(), Vec::new());
        for (sequence, (queries, context)) in self.sequences.iter().enumerate() {
            firsts.push(pages.len());
            for _ in 0..counts[sequence] {
                next = (next + step) % page_count;
                pages.push(next as i32);
            }
            let table = &pages[firsts[sequence]..];
            let positions: Vec<i32> = (0..*context as i32).collect();
            let slots: Vec<i32> = (0..*context)
                .map(|p| {
                    table[p / layout.page_tokens] as usize * layout.page_tokens
                        + p % layout.page_tokens
                })
                .map(|slot| slot as i32)
                .collect();
            let qkv = self.qkv(sequence);
            kv::store(&mut pool, *layout, attention.heads, &qkv, &slots, &positions, &rotation);
            // Pages that no query sees any more belong to others.
            let window = attention.window_tokens.unwrap_or(usize::MAX);
            let unseen = (context - queries + 1).saturating_sub(window) / layout.page_tokens;
            pages[firsts[sequence]..][..unseen].fill(-1);
        }
        let (mut spans, mut positions, mut qkv) = (Vec::new(), Vec::new(), Vec::new());
        for &sequence in chosen {
            let (queries, context) = self.sequences[sequence];
            spans.push(Span {
                query_start: positions.len(),
                query_tokens: queries,
                context_tokens: context,
                first_page: firsts[sequence],
            });
            positions.extend((context - queries..context).map(|p| p as i32));
            qkv.extend(&self.qkv(sequence)[(context - queries) * self.width()..]);
        }
        let map = PageMap { pages: &pages, positions: &positions, spans: &spans };
        let mut out = vec![f32::NAN; positions.len() * attention.heads * layout.head_dim];
        let step = Step {
            pool: &pool,
            layout: *layout,
            attention: *attention,
            qkv: &qkv,
            map: &map,
            rotation: &rotation,
        };
        attend_on(isa, &step, threads, &mut out);
        out
    }

    fn sequence(&self, sequence: usize, is_rounded: bool) -> Sequence {
        let (heads, kv_heads) = (self.attention.heads, self.layout.kv_heads);
        let head_dim = self.layout.head_dim;
        let table = self.table();
        let rotation = Rotation { table: &table, pairing: self.pairing };
        let round = |x: &mut f32| {
            if is_rounded {
                *x = f16::from_f32(*x).to_f32();
            }
        };
        let mut all = Sequence { queries: Vec::new(), keys: Vec::new(), values: Vec::new() };
        for (position, token) in self.qkv(sequence).chunks(self.width()).enumerate() {
            for (head, x) in token.chunks(head_dim).enumerate() {
                let mut rotated = vec![0.0; head_dim];
                rotation.rotate(position, x, &mut rotated);
                if head < heads {
                    all.queries.extend(rotated);
                } else if head < heads + kv_heads {
                    rotated.iter_mut().for_each(round);
                    all.keys.extend(rotated);
                } else {
                    let mut x = x.to_vec();
                    x.iter_mut().for_each(round);
                    all.values.extend(x);
                }
            }
        }
        all
    }

    /// Softmax in f64.
    fn expected(&self, is_rounded: bool, chosen: &[usize]) -> Vec<f64> {
        let (heads, kv_heads) = (self.attention.heads, self.layout.kv_heads);
        let head_dim = self.layout.head_dim;
        let mut out = Vec::new();
        for &index in chosen {
            let (queries, context) = self.sequences[index];
            let all = self.sequence(index, is_rounded);
            let kv = |of: &[f32], position: usize, head: usize, d: usize| {
                f64::from(of[(position * kv_heads + head) * head_dim + d])
            };
            for (position, head) in
                (context - queries..context).flat_map(|p| (0..heads).map(move |h| (p, h)))
            {
                let query = &all.queries[(position * heads + head) * head_dim..][..head_dim];
                let head = head * kv_heads / heads;
                let window = self.attention.window_tokens.unwrap_or(usize::MAX);
                let seen = (position + 1).saturating_sub(window)..position + 1;
                let score = |key: usize| -> f64 {
                    let products =
                        (0..head_dim).map(|d| f64::from(query[d]) * kv(&all.keys, key, head, d));
                    products.sum::<f64>() * f64::from(self.attention.scale)
                };
                let scores: Vec<f64> = seen.clone().map(score).collect();
                let greatest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let weights: Vec<f64> = scores.iter().map(|s| (s - greatest).exp()).collect();
                let total: f64 = weights.iter().sum();
                out.extend((0..head_dim).map(|d| {
                    let weighed = seen.clone().zip(&weights);
                    weighed.map(|(key, w)| w * kv(&all.values, key, head, d)).sum::<f64>() / total
                }));
            }
        }
        out
    }

    /// Normalised mean square error, against keys and values as the cache rounds them for floats
    /// and as they were for bytes.
    fn check(&self, isa: Isa, bound: f64) {
        let chosen: Vec<usize> = (0..self.sequences.len()).collect();
        let found = self.found(isa, 1, &chosen);
        let expected = self.expected(self.layout.encoding == KvEncoding::F16, &chosen);
        assert_eq!(found.len(), expected.len());
        let square = |v: f64| v * v;
        let wrong: f64 = found.iter().zip(&expected).map(|(f, e)| square(f64::from(*f) - e)).sum();
        let error = wrong / expected.iter().copied().map(square).sum::<f64>();
        let Self { layout, attention, .. } = self;
        assert!(error < bound, "{isa:?}, {layout:?}, {attention:?}: {error:e}");
    }
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// Against f64 over the same rounded keys and values.
const F16_BOUND: f64 = 1e-12;
/// Against f64 over keys and values before they were rounded to bytes.
const INT8_BOUND: f64 = 1e-4;

const ALL: [(KvEncoding, f64); 3] =
    [(KvEncoding::F16, F16_BOUND), (KvEncoding::Int8, INT8_BOUND), (KvEncoding::F32, F16_BOUND)];

#[test]
fn all_shapes_are_as_the_definition_says_on_every_machine() {
    for isa in Isa::available() {
        for (encoding, bound) in ALL {
            for head_dim in [2, 8, 16, 32, 48, 64, 80, 128] {
                for page_tokens in [1, 4, 8, 16, 64, 256] {
                    Case::new(head_dim, 4, page_tokens, encoding).check(isa, bound);
                }
            }
            for group in [1, 2, 3, 6, 7, 12] {
                let case = Case::new(32, group, 16, encoding);
                case.check(isa, bound);
                Case { pairing: RopePairing::HalfSplit, ..case }.check(isa, bound);
            }
        }
    }
}

#[test]
fn a_window_hides_what_is_older() {
    for isa in Isa::available() {
        for (encoding, bound) in ALL {
            for window in [1, 3, 16, 63, 64, 65, 132, 1000] {
                for page_tokens in [1, 16, 128] {
                    let mut case = Case::new(16, 3, page_tokens, encoding);
                    case.attention.window_tokens = Some(window);
                    case.sequences = vec![(1, 70), (1, 200), (90, 133), (40, 40)];
                    case.check(isa, bound);
                }
            }
        }
    }
}

#[test]
fn long_contexts_keep_the_bound() {
    for isa in Isa::available() {
        for (encoding, bound) in ALL {
            let mut case = Case::new(32, 4, 16, encoding);
            case.sequences = vec![(1, 2 * PART + 77), (70, PART + 30)];
            case.check(isa, bound);
            case.attention.window_tokens = Some(PART + 100);
            case.check(isa, bound);
        }
    }
}

#[test]
fn a_sequence_alone_and_among_others_gives_the_same_bits() {
    for isa in Isa::available() {
        for (encoding, _) in ALL {
            for (window, group) in [(None, 4), (Some(50), 3), (Some(PART + 5), 12)] {
                let mut case = Case::new(16, group, 16, encoding);
                case.attention.window_tokens = window;
                case.sequences = vec![(1, PART * 2 + 9), (20, 21), (77, PART + 40), (1, 5)];
                let all = case.found(isa, 1, &[0, 1, 2, 3]);
                let row = case.attention.heads * case.layout.head_dim;
                let mut start = 0;
                for (sequence, (queries, _)) in case.sequences.iter().enumerate() {
                    let together = &all[start * row..][..queries * row];
                    // Many threads share what few tasks there are.
                    for threads in [1, 100] {
                        let alone = case.found(isa, threads, &[sequence]);
                        assert!(alone == together, "{isa:?}, {encoding:?}, {sequence}, {threads}");
                    }
                    start += queries;
                }
            }
        }
    }
}

#[test]
fn a_prompt_in_one_step_and_token_by_token_gives_the_same_bits() {
    for isa in Isa::available() {
        for (encoding, _) in ALL {
            for window in [None, Some(33)] {
                let mut case = Case::new(48, 4, 4, encoding);
                case.attention.window_tokens = window;
                case.sequences = vec![(150, 150)];
                let all = case.found(isa, 1, &[0]);
                let row = case.attention.heads * case.layout.head_dim;
                for context in [1, 2, 63, 64, 65, 100, 128, 150] {
                    for queries in [1, 7.min(context)] {
                        case.sequences = vec![(queries, context)];
                        let found = case.found(isa, 1, &[0]);
                        let together = &all[(context - queries) * row..context * row];
                        assert!(found == together, "{isa:?}, {encoding:?}, {queries} of {context}");
                    }
                }
            }
        }
    }
}

#[test]
fn great_scores_do_not_overflow() {
    for isa in Isa::available() {
        let mut case = Case::new(64, 4, 16, KvEncoding::F16);
        case.attention.scale = 60.0;
        // Scores in the hundreds: their rounding alone is some 1e-5 of a weight.
        case.check(isa, 1e-8);
    }
}

#[test]
fn a_step_without_tokens_is_nothing() {
    let mut case = Case::new(8, 1, 16, KvEncoding::F16);
    case.sequences = vec![(0, 5)];
    assert!(case.found(Isa::best(), 1, &[0]).is_empty());
    assert!(case.found(Isa::best(), 1, &[]).is_empty());
}

/// A step of one token whose table has one page.
fn with_page(page: i32, position: i32) {
    let layout = KvLayout { kv_heads: 1, head_dim: 2, page_tokens: 4, encoding: KvEncoding::F16 };
    let span = Span { query_start: 0, query_tokens: 1, context_tokens: 3, first_page: 0 };
    attend(
        &vec![0; 2 * layout.page_bytes()],
        layout,
        &Attention { heads: 1, scale: 1.0, window_tokens: None },
        &[1.0; 6],
        &PageMap { pages: &[page], positions: &[position], spans: &[span] },
        &Rotation { table: &[1.0; 8], pairing: RopePairing::Adjacent },
        &mut [0.0; 2],
    );
}

#[test]
#[should_panic(expected = "beyond the 2 of the pool")]
fn a_page_beyond_the_pool_is_a_mistake() {
    with_page(2, 2);
}

#[test]
#[should_panic(expected = "not the last ones")]
fn a_position_that_is_not_the_last_is_a_mistake() {
    with_page(1, 1);
}
