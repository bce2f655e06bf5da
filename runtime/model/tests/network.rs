//! The network on made-up weights against a plain computation in f64.
//!
//! `ZONDA_TEST_BACKENDS=flex,ndarray,wgpu` names the backends; without it, the CPU ones.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test may fail and speak"
)]

use std::collections::HashMap;
use std::path::Path;

use engine::{Batch, Forward, ForwardError, Row, RowLogits, Span, Want};
use fused_ops::{OpenDevice, open};
use model::{CacheLimits, LoadError, Network};
use protocol::TokenId;
use weights::{
    Archive, Container, Encoding, Hyper, Part, RawTensor, RopePairing, TensorName, TensorSummary,
    Vocabulary, WeightsError,
};

/// Absolute difference of a logit, on logits of scale 1.
const LOGIT_TOLERANCE: f64 = 2e-5;
const PAGE_TOKENS: u32 = 4;
const CACHE: CacheLimits = CacheLimits {
    pages: 32,
    page_tokens: PAGE_TOKENS,
    batch_tokens_max: 64,
};

fn devices() -> Vec<OpenDevice> {
    let names = std::env::var("ZONDA_TEST_BACKENDS").unwrap_or_else(|_| "flex,ndarray".into());
    names
        .split(',')
        .map(|name| open(name.parse().unwrap()).unwrap())
        .collect()
}

/// A model in memory.
struct Made {
    hyper: Hyper,
    tensors: HashMap<TensorName, RawTensor>,
}

impl Made {
    fn new(hyper: Hyper) -> Self {
        let (hidden, vocabulary) = (hyper.hidden as usize, hyper.vocabulary as usize);
        let mut made = Self {
            hyper,
            tensors: HashMap::new(),
        };
        made.add(TensorName::Embedding, vec![vocabulary, hidden]);
        made.add(TensorName::OutputNorm, vec![hidden]);
        if !made.hyper.tied_embeddings {
            made.add(TensorName::Output, vec![vocabulary, hidden]);
        }
        for layer in 0..made.hyper.layers as u16 {
            for part in Part::ALL {
                made.add(TensorName::Block { layer, part }, made.shape(part));
            }
        }
        made
    }

    fn shape(&self, part: Part) -> Vec<usize> {
        let hyper = &self.hyper;
        let (hidden, dim) = (hyper.hidden as usize, hyper.head_dim as usize);
        let (query, kv) = (hyper.heads as usize * dim, hyper.kv_heads as usize * dim);
        let feed_forward = hyper.feed_forward as usize;
        match part {
            Part::AttentionNorm | Part::FeedForwardNorm => vec![hidden],
            Part::Query => vec![query, hidden],
            Part::Key | Part::Value => vec![kv, hidden],
            Part::AttentionOutput => vec![hidden, query],
            Part::Gate | Part::Up => vec![feed_forward, hidden],
            Part::Down => vec![hidden, feed_forward],
        }
    }

    /// Noise of a scale that keeps activations near 1; gains of norms lie around 1.
    fn add(&mut self, name: TensorName, shape: Vec<usize>) {
        let mut state = self.tensors.len() as u64 + 1;
        let (offset, scale) = if shape.len() == 1 {
            (1.0, 0.3)
        } else {
            (0.0, 2.0 / (shape[1] as f32).sqrt())
        };
        let values = (0..shape.iter().product()).flat_map(|_| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(99_991);
            let noise = (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0;
            (offset + scale * noise).to_le_bytes()
        });
        let bytes: Vec<u8> = values.collect();
        self.tensors.insert(
            name,
            RawTensor {
                shape,
                encoding: Encoding::F32,
                bytes: bytes.into(),
            },
        );
    }

    fn numbers(&self, name: TensorName) -> Vec<f64> {
        let raw = self.tensor(name).unwrap();
        raw.bytes
            .chunks_exact(4)
            .map(|b| f64::from(f32::from_le_bytes(b.try_into().unwrap())))
            .collect()
    }

    fn network(&self, device: &OpenDevice) -> Network {
        Network::load(self, device, CACHE, &mut |_| {}).unwrap()
    }
}

impl Archive for Made {
    fn hyper(&self) -> &Hyper {
        &self.hyper
    }

    fn tensor(&self, name: TensorName) -> Result<RawTensor, WeightsError> {
        let name = match name {
            TensorName::Output if self.hyper.tied_embeddings => TensorName::Embedding,
            name => name,
        };
        self.tensors
            .get(&name)
            .cloned()
            .ok_or_else(|| WeightsError::MissingTensor {
                path: "made".into(),
                tensor: format!("{name:?}"),
            })
    }

    fn vocabulary(&self) -> Option<&Vocabulary> {
        None
    }

    fn tokenizer_path(&self) -> Option<&Path> {
        None
    }

    fn container(&self) -> Container {
        Container::HuggingFace
    }

    fn tensors(&self) -> Vec<TensorSummary> {
        Vec::new()
    }

    fn file_bytes(&self) -> u64 {
        self.tensors
            .values()
            .map(|raw| raw.bytes.len() as u64)
            .sum()
    }

    fn modified_unix(&self) -> u64 {
        0
    }
}

/// Head size apart from hidden / heads, and every other quirk by choice.
fn hyper(pairing: RopePairing, kv_heads: u32, window: Option<u32>, tied: bool) -> Hyper {
    Hyper {
        name: None,
        license: None,
        vocabulary: 50,
        hidden: 24,
        feed_forward: 36,
        layers: 2,
        heads: 12,
        kv_heads,
        head_dim: 8,
        context_tokens_max: 100,
        rope_theta: 1e4,
        rms_epsilon: 1e-5,
        sliding_window: window,
        tied_embeddings: tied,
        pairing,
    }
}

fn variants() -> Vec<Made> {
    use RopePairing::{Adjacent, HalfSplit};
    [
        hyper(Adjacent, 4, None, false),
        hyper(HalfSplit, 1, None, true),
        hyper(HalfSplit, 12, Some(5), false),
        hyper(Adjacent, 2, Some(3), true),
    ]
    .map(Made::new)
    .into()
}

/// `[out, in]` times `[in]`.
fn times(matrix: &[f64], x: &[f64]) -> Vec<f64> {
    matrix
        .chunks_exact(x.len())
        .map(|row| row.iter().zip(x).map(|(w, x)| w * x).sum())
        .collect()
}

fn normed(x: &[f64], gain: &[f64], epsilon: f64) -> Vec<f64> {
    let root = (x.iter().map(|v| v * v).sum::<f64>() / x.len() as f64 + epsilon).sqrt();
    x.iter().zip(gain).map(|(v, g)| v / root * g).collect()
}

/// One sequence's logits behind every token, from the definition.
struct Plain<'a> {
    made: &'a Made,
    keys: Vec<Vec<Vec<f64>>>,
    values: Vec<Vec<Vec<f64>>>,
}

impl<'a> Plain<'a> {
    fn logits(made: &'a Made, tokens: &[u32]) -> Vec<Vec<f64>> {
        let layers = made.hyper.layers as usize;
        let mut plain = Self {
            made,
            keys: vec![vec![]; layers],
            values: vec![vec![]; layers],
        };
        tokens
            .iter()
            .map(|token| plain.step(*token as usize))
            .collect()
    }

    fn step(&mut self, token: usize) -> Vec<f64> {
        let Hyper {
            hidden,
            layers,
            rms_epsilon,
            ..
        } = self.made.hyper;
        let hidden = hidden as usize;
        let embedding = self.made.numbers(TensorName::Embedding);
        let mut x = embedding[token * hidden..(token + 1) * hidden].to_vec();
        for layer in 0..layers as u16 {
            let numbers = |part| self.made.numbers(TensorName::Block { layer, part });
            let h = normed(&x, &numbers(Part::AttentionNorm), rms_epsilon);
            let mut query = times(&numbers(Part::Query), &h);
            let mut key = times(&numbers(Part::Key), &h);
            let value = times(&numbers(Part::Value), &h);
            let position = self.keys[layer as usize].len();
            self.rotate(&mut query, position);
            self.rotate(&mut key, position);
            self.keys[layer as usize].push(key);
            self.values[layer as usize].push(value);
            let seen = self.attend(&query, layer as usize);
            let added = times(&numbers(Part::AttentionOutput), &seen);
            x.iter_mut().zip(added).for_each(|(x, a)| *x += a);
            let h = normed(&x, &numbers(Part::FeedForwardNorm), rms_epsilon);
            let up = times(&numbers(Part::Up), &h);
            let inner: Vec<f64> = times(&numbers(Part::Gate), &h)
                .iter()
                .zip(up)
                .map(|(g, u)| g / (1.0 + (-g).exp()) * u)
                .collect();
            let added = times(&numbers(Part::Down), &inner);
            x.iter_mut().zip(added).for_each(|(x, a)| *x += a);
        }
        let h = normed(&x, &self.made.numbers(TensorName::OutputNorm), rms_epsilon);
        times(&self.made.numbers(TensorName::Output), &h)
    }

    fn rotate(&self, x: &mut [f64], position: usize) {
        let dim = self.made.hyper.head_dim as usize;
        for head in x.chunks_exact_mut(dim) {
            for pair in 0..dim / 2 {
                let (a, b) = match self.made.hyper.pairing {
                    RopePairing::Adjacent => (2 * pair, 2 * pair + 1),
                    RopePairing::HalfSplit => (pair, pair + dim / 2),
                };
                let turn = self
                    .made
                    .hyper
                    .rope_theta
                    .powf(-2.0 * pair as f64 / dim as f64);
                let (sin, cos) = (position as f64 * turn).sin_cos();
                (head[a], head[b]) = (head[a] * cos - head[b] * sin, head[b] * cos + head[a] * sin);
            }
        }
    }

    fn attend(&self, query: &[f64], layer: usize) -> Vec<f64> {
        let hyper = &self.made.hyper;
        let (dim, group) = (
            hyper.head_dim as usize,
            (hyper.heads / hyper.kv_heads) as usize,
        );
        let (keys, values) = (&self.keys[layer], &self.values[layer]);
        let first = hyper
            .sliding_window
            .map_or(0, |window| keys.len().saturating_sub(window as usize));
        let mut output = Vec::new();
        for (head, query) in query.chunks_exact(dim).enumerate() {
            let at = head / group * dim;
            let shares: Vec<f64> = keys[first..]
                .iter()
                .map(|key| {
                    let product: f64 = key[at..at + dim]
                        .iter()
                        .zip(query)
                        .map(|(k, q)| k * q)
                        .sum();
                    (product / (dim as f64).sqrt()).exp()
                })
                .collect();
            let whole: f64 = shares.iter().sum();
            output.extend((at..at + dim).map(|i| {
                let sum: f64 = values[first..]
                    .iter()
                    .zip(&shares)
                    .map(|(v, s)| v[i] * s)
                    .sum();
                sum / whole
            }));
        }
        output
    }
}

/// A sequence on its own pages.
struct Sequence {
    tokens: Vec<u32>,
    pages: Vec<u32>,
    read: usize,
}

/// One step for several sequences: how many further tokens each reads.
fn batch(sequences: &mut [Sequence], counts: &[usize], want: Want) -> Batch {
    let mut batch = Batch::default();
    for (sequence, count) in sequences
        .iter_mut()
        .zip(counts)
        .filter(|(_, count)| **count > 0)
    {
        let (start, end) = (sequence.read, sequence.read + count);
        batch.spans.push(Span {
            query_start: batch.tokens.len() as u32,
            query_tokens: *count as u32,
            context_tokens: end as u32,
            first_page: batch.pages.len() as u32,
        });
        for position in start as u32..end as u32 {
            let token = batch.tokens.len() as u32;
            batch
                .tokens
                .push(TokenId(sequence.tokens[position as usize]));
            batch.positions.push(position);
            let page = sequence.pages[(position / PAGE_TOKENS) as usize];
            batch
                .slots
                .push(page * PAGE_TOKENS + position % PAGE_TOKENS);
            batch.rows.push(Row { token, want });
        }
        batch
            .pages
            .extend(&sequence.pages[..(end as u32).div_ceil(PAGE_TOKENS) as usize]);
        sequence.read = end;
    }
    batch
}

/// Three sequences whose pages lie in and out of order.
fn three() -> Vec<Sequence> {
    let tokens = |seed: u32, count: u32| (0..count).map(|i| (i * 7 + seed * 13) % 50).collect();
    vec![
        Sequence {
            tokens: tokens(1, 21),
            pages: vec![31, 3, 4, 0, 17, 8],
            read: 0,
        },
        Sequence {
            tokens: tokens(2, 9),
            pages: vec![1, 2, 30],
            read: 0,
        },
        Sequence {
            tokens: tokens(3, 14),
            pages: vec![12, 11, 10, 9],
            read: 0,
        },
    ]
}

/// Prompts, answers and chunks of prompts side by side, in a few steps.
const PLAN: [[usize; 3]; 5] = [[12, 0, 5], [1, 6, 5], [1, 1, 1], [6, 1, 2], [1, 1, 1]];

fn all(row: RowLogits) -> Vec<f32> {
    match row {
        RowLogits::All(logits) => logits,
        RowLogits::Argmax(_) => panic!("logits were asked for"),
    }
}

#[track_caller]
fn assert_near(found: &[f32], expected: &[f64], at: &str) {
    assert_eq!(found.len(), expected.len(), "{at}");
    let error = found
        .iter()
        .zip(expected)
        .map(|(f, e)| (f64::from(*f) - e).abs())
        .fold(0.0, f64::max);
    assert!(error < LOGIT_TOLERANCE, "{at}: a logit is {error:e} off");
}

#[test]
fn mixed_steps_give_each_sequence_what_the_definition_gives_it_alone() {
    for made in variants() {
        let expected: Vec<_> = three()
            .iter()
            .map(|s| Plain::logits(&made, &s.tokens))
            .collect();
        for device in devices() {
            let mut network = made.network(&device);
            let mut sequences = three();
            for (step, counts) in PLAN.iter().enumerate() {
                let before: Vec<usize> = sequences.iter().map(|s| s.read).collect();
                let batch = batch(&mut sequences, counts, Want::Logits);
                let mut rows = network.forward(&batch).unwrap().rows.into_iter();
                for (index, sequence) in sequences.iter().enumerate() {
                    for expected in &expected[index][before[index]..sequence.read] {
                        let at = format!("{} step {step} sequence {index}", device.name);
                        let found = all(rows.next().unwrap());
                        assert_near(&found, expected, &at);
                    }
                }
            }
        }
    }
}

#[test]
fn argmax_is_the_highest_of_the_logits() {
    let made = &variants()[0];
    for device in devices() {
        let mut network = made.network(&device);
        let whole = network
            .forward(&batch(&mut three(), &[12, 9, 3], Want::Logits))
            .unwrap();
        let best = network
            .forward(&batch(&mut three(), &[12, 9, 3], Want::Argmax))
            .unwrap();
        for (logits, best) in whole.rows.into_iter().zip(best.rows) {
            let RowLogits::Argmax(best) = best else {
                panic!("the argmax was asked for")
            };
            let logits = all(logits);
            assert!(logits.iter().all(|logit| *logit <= logits[best.0 as usize]));
        }
    }
}

#[test]
fn step_that_wants_no_row_still_fills_the_cache() {
    let made = &variants()[0];
    let expected = Plain::logits(made, &three()[0].tokens);
    for device in devices() {
        let mut network = made.network(&device);
        let mut sequences = three();
        let mut silent = batch(&mut sequences, &[20], Want::Logits);
        silent.rows.clear();
        assert!(network.forward(&silent).unwrap().rows.is_empty());
        let rows = network
            .forward(&batch(&mut sequences, &[1], Want::Logits))
            .unwrap()
            .rows;
        assert_near(
            &all(rows.into_iter().next().unwrap()),
            &expected[20],
            &device.name,
        );
    }
}

/// One way to break a batch, and a word of the reason.
type Breakage = (fn(&mut Batch), &'static str);

const BREAKAGES: [Breakage; 10] = [
    (|b| *b = Batch::default(), "empty"),
    (|b| b.tokens[2] = TokenId(50), "vocabulary"),
    (|b| b.slots[0] = 32 * PAGE_TOKENS, "slot"),
    (|b| b.pages[0] = 32, "page"),
    (|b| b.rows[0].token = 24, "row"),
    (|b| b.positions[3] = 9, "positions"),
    (|b| b.spans[1].query_start = 3, "begins"),
    (|b| b.spans[2].first_page = 50, "pages"),
    (|b| b.spans[0].context_tokens = u32::MAX, "context"),
    (|b| b.spans.truncate(2), "cover"),
];

#[test]
fn broken_batch_is_rejected_and_the_next_one_runs() {
    let made = &variants()[0];
    for device in devices() {
        let mut network = made.network(&device);
        let sound = batch(&mut three(), &[12, 9, 3], Want::Argmax);
        for (break_it, word) in BREAKAGES {
            let mut broken = sound.clone();
            break_it(&mut broken);
            let error = network.forward(&broken).unwrap_err();
            let ForwardError::Rejected { reason, .. } = &error else {
                panic!("{error}")
            };
            assert!(reason.contains(word), "{reason}");
        }
        assert_eq!(network.forward(&sound).unwrap().rows.len(), 24);
    }
}

#[test]
fn capacity_is_the_lesser_of_model_and_cache() {
    let made = &variants()[0];
    let device = &devices()[0];
    let capacity = made.network(device).capacity();
    assert_eq!(
        (capacity.vocabulary, capacity.context_tokens_max),
        (50, 100)
    );
    let small = CacheLimits {
        pages: 3,
        page_tokens: 4,
        batch_tokens_max: 8,
    };
    let network = Network::load(made, device, small, &mut |_| {}).unwrap();
    assert_eq!(network.capacity().context_tokens_max, 12);
}

#[test]
fn cache_beyond_the_memory_is_refused_with_the_context_that_fits() {
    if model::available_bytes().is_none() {
        println!("skipped: this system does not say how much memory it has");
        return;
    }
    let device = &devices()[0];
    let huge = CacheLimits {
        pages: 1 << 30,
        page_tokens: 1,
        batch_tokens_max: 8,
    };
    let mut hyper = hyper(RopePairing::Adjacent, 12, None, true);
    hyper.context_tokens_max = 1 << 20;
    let error = Network::load(&Made::new(hyper), device, huge, &mut |_| {}).unwrap_err();
    let words = error.to_string();
    let LoadError::DoesNotFit {
        context_tokens_max,
        footprint,
        available_bytes,
        ..
    } = error
    else {
        panic!("{words}")
    };
    assert!(footprint.total_bytes() > available_bytes);
    assert!(
        words.contains(&format!("at most {context_tokens_max} tokens")),
        "{words}"
    );
}

#[test]
fn cache_without_room_for_a_token_is_refused() {
    let device = &devices()[0];
    for limits in [
        CacheLimits { pages: 0, ..CACHE },
        CacheLimits {
            page_tokens: 0,
            ..CACHE
        },
        CacheLimits {
            batch_tokens_max: 0,
            ..CACHE
        },
        CacheLimits {
            pages: u32::MAX,
            page_tokens: u32::MAX,
            batch_tokens_max: 1,
        },
    ] {
        let error = Network::load(&variants()[0], device, limits, &mut |_| {}).unwrap_err();
        assert!(matches!(error, LoadError::Limit { .. }), "{error}");
    }
}

#[test]
fn progress_rises_to_one() {
    let mut shares = Vec::new();
    Network::load(&variants()[0], &devices()[0], CACHE, &mut |share| {
        shares.push(share)
    })
    .unwrap();
    assert!(shares.is_sorted() && shares.len() > 10);
    let last = *shares.last().unwrap();
    assert!((0.9..=1.0).contains(&last), "{last}");
}
