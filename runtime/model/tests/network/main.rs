//! The network on made-up weights against a plain computation in f64.
//!
//! `ZONDA_TEST_BACKENDS=flex,ndarray,wgpu` names the backends; without it, the CPU ones.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test may fail and speak")]

mod made;
mod plain;

use burn::tensor::{Tensor, TensorData};
use engine::{Batch, Forward, ForwardError, Row, RowLogits, Span, Want, Weighing};
use fused_ops::{BackendChoice, OpenDevice, open};
use model::{CacheLimits, KvEncoding, Learner, LoadError, Network, Placement, PlainWeights};
use protocol::TokenId;
use weights::{Archive as _, Hyper, Part, RopePairing, TensorName};

use crate::made::{Made, hyper, variants};
use crate::plain::Plain;

/// Absolute difference of a logit, on logits of scale 1.
const LOGIT_TOLERANCE: f64 = 2e-5;
const PAGE_TOKENS: u32 = 4;
const CACHE: CacheLimits = CacheLimits {
    pages: 32,
    page_tokens: PAGE_TOKENS,
    batch_tokens_max: 64,
    encoding: KvEncoding::F32,
};

fn devices() -> Vec<OpenDevice> {
    let names = std::env::var("ZONDA_TEST_BACKENDS").unwrap_or_else(|_| "flex,ndarray".into());
    names.split(',').map(|name| open(name.parse().unwrap()).unwrap()).collect()
}

fn network(made: &Made, device: &OpenDevice) -> Network {
    Network::load(made, &whole(device), CACHE, &mut |_| {}).unwrap()
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
    for (sequence, count) in sequences.iter_mut().zip(counts).filter(|(_, count)| **count > 0) {
        let (start, end) = (sequence.read, sequence.read + count);
        batch.spans.push(Span {
            query_start: batch.tokens.len() as u32,
            query_tokens: *count as u32,
            context_tokens: end as u32,
            first_page: batch.pages.len() as u32,
        });
        for position in start as u32..end as u32 {
            let token = batch.tokens.len() as u32;
            batch.tokens.push(TokenId(sequence.tokens[position as usize]));
            batch.positions.push(position);
            let page = sequence.pages[(position / PAGE_TOKENS) as usize];
            batch.slots.push(page * PAGE_TOKENS + position % PAGE_TOKENS);
            batch.rows.push(Row { token, want });
        }
        batch.pages.extend(&sequence.pages[..(end as u32).div_ceil(PAGE_TOKENS) as usize]);
        sequence.read = end;
    }
    batch
}

/// Three sequences whose pages lie in and out of order.
fn three() -> Vec<Sequence> {
    let tokens = |seed: u32, count: u32| (0..count).map(|i| (i * 7 + seed * 13) % 50).collect();
    vec![
        Sequence { tokens: tokens(1, 21), pages: vec![31, 3, 4, 0, 17, 8], read: 0 },
        Sequence { tokens: tokens(2, 9), pages: vec![1, 2, 30], read: 0 },
        Sequence { tokens: tokens(3, 14), pages: vec![12, 11, 10, 9], read: 0 },
    ]
}

/// Prompts, answers and chunks of prompts side by side, in a few steps.
const PLAN: [[usize; 3]; 5] = [[12, 0, 5], [1, 6, 5], [1, 1, 1], [6, 1, 2], [1, 1, 1]];

fn all(row: RowLogits) -> Vec<f32> {
    match row {
        RowLogits::All(logits) => logits,
        _ => panic!("logits were asked for"),
    }
}

#[track_caller]
fn assert_near(found: &[f32], expected: &[f64], at: &str) {
    assert_within(found, expected, LOGIT_TOLERANCE, at);
}

#[track_caller]
fn assert_within(found: &[f32], expected: &[f64], tolerance: f64, at: &str) {
    assert_eq!(found.len(), expected.len(), "{at}");
    let error =
        found.iter().zip(expected).map(|(f, e)| (f64::from(*f) - e).abs()).fold(0.0, f64::max);
    assert!(error < tolerance, "{at}: a logit is {error:e} off");
}

#[test]
fn mixed_steps_give_each_sequence_what_the_definition_gives_it_alone() {
    for made in &variants() {
        let expected: Vec<_> = three().iter().map(|s| Plain::logits(made, &s.tokens)).collect();
        for device in devices() {
            let mut network = network(made, &device);
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

/// The same weights as tensors that may learn.
fn weights_of(made: &Made, device: &OpenDevice) -> PlainWeights {
    let hyper = made.hyper();
    let layers = u16::try_from(hyper.layers).unwrap();
    let blocks = (0..layers)
        .flat_map(|layer| Part::ALL.into_iter().map(move |part| TensorName::Block { layer, part }));
    let mut weights = PlainWeights::default();
    for name in blocks.chain([TensorName::Embedding, TensorName::OutputNorm, TensorName::Output]) {
        let values: Vec<f32> = made.numbers(name).into_iter().map(|value| value as f32).collect();
        let data = TensorData::new(values, hyper.shape_of(name));
        if hyper.shape_of(name).len() == 1 {
            weights.gains.insert(name, Tensor::from_data(data, &device.device));
        } else {
            weights.matrices.insert(name, Tensor::from_data(data, &device.device));
        }
    }
    weights
}

#[test]
fn weights_that_learn_give_what_the_definition_gives_and_beginnings_may_be_shared() {
    for made in &variants() {
        let tokens: Vec<u32> = (0..17).map(|i| (i * 7 + 13) % 50).collect();
        // Eight tokens, and behind them two ends of nine and of three.
        let ends = [tokens[8..].to_vec(), vec![1, 2, 3]];
        let mut batch = Batch::default();
        let mut span = |tokens: &[u32], before: &[u32]| {
            let start = batch.tokens.len() as u32;
            let slots: Vec<u32> = (start..start + tokens.len() as u32).collect();
            let context = (before.len() + tokens.len()) as u32;
            batch.spans.push(Span {
                query_start: start,
                query_tokens: tokens.len() as u32,
                context_tokens: context,
                first_page: batch.pages.len() as u32,
            });
            batch.tokens.extend(tokens.iter().map(|token| TokenId(*token)));
            batch.positions.extend(before.len() as u32..context);
            batch.rows.extend(slots.iter().map(|slot| Row { token: *slot, want: Want::Logits }));
            batch.slots.extend(&slots);
            batch.pages.extend(before.iter().chain(&slots));
            slots
        };
        let shared = span(&tokens[..8], &[]);
        ends.iter().for_each(|end| {
            span(end, &shared);
        });
        let whole = |end: &[u32]| Plain::logits(made, &[&tokens[..8], end].concat());
        let mut expected = whole(&[]);
        for end in &ends {
            expected.extend(whole(end).split_off(8));
        }
        for device in devices() {
            let weights = weights_of(made, &device);
            let learner = Learner::new(made.hyper(), &weights, &device, 64).unwrap();
            // The first blocks of the same weights are a network too, and every third row is theirs.
            let half = Hyper { layers: made.hyper().layers.div_ceil(2), ..made.hyper().clone() };
            let half = Learner::new(&half, &weights, &device, 64).unwrap();
            let late = vec![false; batch.rows.len()];
            let early: Vec<bool> = (0..batch.rows.len()).map(|row| row % 3 == 0).collect();
            let rows = |learner: &Learner, early: &[bool]| -> Vec<Vec<f32>> {
                let logits = learner.logits(&batch, early).unwrap();
                let width = logits.dims()[1];
                let logits = logits.into_data().try_into_vec::<f32>().unwrap();
                logits.chunks_exact(width).map(<[f32]>::to_vec).collect()
            };
            let (found, mixed, half) =
                (rows(&learner, &late), rows(&learner, &early), rows(&half, &late));
            assert_eq!(found.len(), expected.len());
            for (at, (found, expected)) in found.iter().zip(&expected).enumerate() {
                // Burn multiplies f32 with the 11 bits of TF32 on CUDA.
                let bits = if device.choice == BackendChoice::Cuda { 500.0 } else { 1.0 };
                let tolerance = LOGIT_TOLERANCE * bits;
                assert_within(found, expected, tolerance, &format!("{} row {at}", device.name));
            }
            for (at, mixed) in mixed.iter().enumerate() {
                assert_eq!(mixed, if early[at] { &half[at] } else { &found[at] }, "row {at}");
            }
            assert!(learner.logits(&batch, &early[1..]).unwrap_err().contains("early"));
            let mut moved = batch.clone();
            moved.slots.swap(0, 1);
            assert!(learner.logits(&moved, &late).unwrap_err().contains("slots"));
        }
    }
}

#[test]
fn blocks_of_two_devices_give_what_those_of_one_give() {
    let made = &variants()[0];
    let cpu = open(BackendChoice::Flex).unwrap();
    for device in devices() {
        for blocks in 0..=made.hyper().layers {
            let placement = Placement::split(device.clone(), blocks, cpu.clone());
            let mut network = Network::load(made, &placement, CACHE, &mut |_| {}).unwrap();
            let mut sequences = three();
            for counts in [[12, 9, 3], [1, 0, 1]] {
                let before: Vec<usize> = sequences.iter().map(|s| s.read).collect();
                let batch = batch(&mut sequences, &counts, Want::Logits);
                let mut rows = network.forward(&batch).unwrap().rows.into_iter();
                for (sequence, before) in sequences.iter().zip(before) {
                    let expected = Plain::logits(made, &sequence.tokens);
                    for expected in &expected[before..sequence.read] {
                        let at = placement.describe(made.hyper().layers);
                        assert_near(&all(rows.next().unwrap()), expected, &at);
                    }
                }
            }
        }
    }
}

#[test]
fn a_device_gets_the_blocks_that_its_memory_holds() {
    let made = &variants()[0];
    let device = open(BackendChoice::Flex).unwrap();
    let layers = made.hyper().layers;
    let on = |bytes| {
        let placement = Placement::fitting(device.clone(), bytes, device.clone(), made, CACHE);
        placement.unwrap().describe(layers)
    };
    assert_eq!(on(1), "flex");
    assert_eq!(on(1 << 30), "flex");
    // From nothing to everything, a block at a time.
    let mut seen: Vec<String> = (0..2000).map(|share| on(share * 256)).collect();
    seen.dedup();
    let expected =
        (1..=layers).map(|blocks| format!("{blocks} of {layers} blocks on flex, the rest on flex"));
    let ends = ["flex".to_owned()];
    assert_eq!(seen, ends.iter().cloned().chain(expected).chain(ends.clone()).collect::<Vec<_>>());
}

/// A GPU with so much memory of its own, as far as placing and loading can tell.
fn with_memory_of(bytes: u64) -> OpenDevice {
    let device = open(BackendChoice::Flex).unwrap();
    let name = "a card".into();
    OpenDevice { name, shares_memory: false, memory_bytes: Some(bytes), ..device }
}

#[test]
fn a_card_that_says_how_much_it_holds_is_filled_to_that() {
    let made = &variants()[0];
    let cpu = open(BackendChoice::Flex).unwrap();
    assert_eq!(Placement::room(&cpu, made, CACHE).unwrap(), None);
    let rooms = [0, 1 << 20, 1 << 26, 1 << 36].map(|bytes| {
        let device = with_memory_of(bytes);
        let room = Placement::room(&device, made, CACHE).unwrap().unwrap();
        // A sixteenth is others', and a step wants some.
        assert!(bytes == 0 || room < bytes - bytes / 16, "{room} of {bytes}");
        let placement = Placement::fitting(device, room, cpu.clone(), made, CACHE).unwrap();
        Network::load(made, &placement, CACHE, &mut |_| {}).unwrap();
        placement.describe(made.hyper().layers)
    });
    assert_eq!([&rooms[0], &rooms[3]], ["flex", "a card"]);
}

#[test]
fn a_model_beyond_the_memory_of_a_card_is_refused_by_its_name() {
    let made = &variants()[0];
    let placement = whole(&with_memory_of(1 << 10));
    let error = Network::load(made, &placement, CACHE, &mut |_| {}).unwrap_err().to_string();
    for words in ["memory of a card", "device.gpu_layers", "Not even a cache of one token"] {
        assert!(error.contains(words), "{error}");
    }
    // What the rest of the blocks need is compared with the box's memory, not with the card's.
    let placement =
        Placement::split(with_memory_of(1 << 10), 0, open(BackendChoice::Flex).unwrap());
    Network::load(made, &placement, CACHE, &mut |_| {}).unwrap();
}

#[test]
fn a_cache_beyond_a_buffer_is_refused_with_the_tokens_that_a_buffer_holds() {
    let made = &variants()[0];
    let device = OpenDevice { buffer_bytes_max: 1 << 12, ..devices().remove(0) };
    let error = Network::load(made, &whole(&device), CACHE, &mut |_| {}).unwrap_err();
    let LoadError::Limit { what, found, limit } = error else { panic!("{error}") };
    assert_eq!(what, "tokens of the cache");
    assert!(found > limit && limit > 0, "{found} {limit}");
}

#[test]
fn argmax_is_the_highest_of_the_logits() {
    let made = &variants()[0];
    for device in devices() {
        let mut network = network(made, &device);
        let whole = network.forward(&batch(&mut three(), &[12, 9, 3], Want::Logits)).unwrap();
        let best = network.forward(&batch(&mut three(), &[12, 9, 3], Want::Argmax)).unwrap();
        for (logits, best) in whole.rows.into_iter().zip(best.rows) {
            let RowLogits::Argmax(best, row) = best else { panic!("the argmax was asked for") };
            let logits = all(logits);
            assert!(logits.iter().all(|logit| *logit <= logits[best.0 as usize]));
            assert_eq!(row.fetch().unwrap(), logits, "{}", device.name);
        }
    }
}

#[test]
fn heads_are_the_highest_of_the_logits_and_weigh_the_others() {
    let made = &variants()[0];
    let (first, end) = (TokenId(10), TokenId(40));
    for device in devices() {
        let mut network = network(made, &device);
        let whole = network.forward(&batch(&mut three(), &[12, 9, 3], Want::Logits)).unwrap();
        let mut mixed = batch(&mut three(), &[12, 9, 3], Want::Argmax);
        mixed.rows[0].want = Want::Likeliest(Weighing { temperature: 0.5, first, end });
        mixed.rows[2].want = Want::Logits;
        let mixed = network.forward(&mixed).unwrap().rows.into_iter().take(3).collect::<Vec<_>>();
        let [head, RowLogits::Argmax(..), RowLogits::All(last)] =
            <[RowLogits; 3]>::try_from(mixed).unwrap()
        else {
            panic!("each row is what was asked for")
        };
        let mut whole = whole.rows.into_iter().map(all);
        let logits = whole.next().unwrap();
        assert_eq!(whole.nth(1).unwrap(), last);
        let RowLogits::Likeliest(head) = head else {
            assert!(device.is_cpu(), "{} gives heads", device.name);
            assert_eq!(all(head), logits);
            continue;
        };
        // A vocabulary of 50 has room in the head.
        let mut tokens = head.tokens;
        tokens.sort_by_key(|(token, _)| *token);
        let expected: Vec<_> = (0..).map(TokenId).zip(logits.iter().copied()).collect();
        assert_eq!((tokens, head.rest), (expected, 0.0), "{}", device.name);
        assert_eq!(head.row.fetch().unwrap(), logits);
    }
}

#[test]
fn step_that_wants_no_row_still_fills_the_cache() {
    let made = &variants()[0];
    let expected = Plain::logits(made, &three()[0].tokens);
    for device in devices() {
        let mut network = network(made, &device);
        let mut sequences = three();
        let mut silent = batch(&mut sequences, &[20], Want::Logits);
        silent.rows.clear();
        assert!(network.forward(&silent).unwrap().rows.is_empty());
        let rows = network.forward(&batch(&mut sequences, &[1], Want::Logits)).unwrap().rows;
        assert_near(&all(rows.into_iter().next().unwrap()), &expected[20], &device.name);
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
        let mut network = network(made, &device);
        let sound = batch(&mut three(), &[12, 9, 3], Want::Argmax);
        for (break_it, word) in BREAKAGES {
            let mut broken = sound.clone();
            break_it(&mut broken);
            let error = network.forward(&broken).unwrap_err();
            let ForwardError::Rejected { reason, .. } = &error else { panic!("{error}") };
            assert!(reason.contains(word), "{reason}");
        }
        assert_eq!(network.forward(&sound).unwrap().rows.len(), 24);
    }
}

#[test]
fn capacity_is_the_lesser_of_model_and_cache() {
    let made = &variants()[0];
    let device = &devices()[0];
    let capacity = network(made, device).capacity();
    assert_eq!((capacity.vocabulary, capacity.context_tokens_max), (50, 100));
    let small = CacheLimits { pages: 3, page_tokens: 4, batch_tokens_max: 8, ..CACHE };
    let network = Network::load(made, &whole(device), small, &mut |_| {}).unwrap();
    assert_eq!(network.capacity().context_tokens_max, 12);
}

#[test]
fn cache_beyond_the_memory_is_refused_with_the_context_that_fits() {
    if model::available_bytes().is_none() {
        println!("skipped: this system does not say how much memory it has");
        return;
    }
    let device = &OpenDevice { buffer_bytes_max: u64::MAX, ..devices().remove(0) };
    let huge = CacheLimits { pages: 1 << 30, page_tokens: 1, batch_tokens_max: 8, ..CACHE };
    let mut hyper = hyper(RopePairing::Adjacent, 12, None, true);
    hyper.context_tokens_max = 1 << 20;
    let error = Network::load(&Made::new(hyper), &whole(device), huge, &mut |_| {}).unwrap_err();
    let words = error.to_string();
    let LoadError::DoesNotFit { context_tokens_max, footprint, available_bytes, .. } = error else {
        panic!("{words}")
    };
    assert!(footprint.total_bytes() > available_bytes);
    assert!(words.contains(&format!("at most {context_tokens_max} tokens")), "{words}");
}

#[test]
fn cache_without_room_for_a_token_is_refused() {
    let device = &devices()[0];
    for limits in [
        CacheLimits { pages: 0, ..CACHE },
        CacheLimits { page_tokens: 0, ..CACHE },
        CacheLimits { batch_tokens_max: 0, ..CACHE },
        CacheLimits { pages: u32::MAX, page_tokens: u32::MAX, batch_tokens_max: 1, ..CACHE },
    ] {
        let error = Network::load(&variants()[0], &whole(device), limits, &mut |_| {}).unwrap_err();
        assert!(matches!(error, LoadError::Limit { .. }), "{error}");
    }
}

#[test]
fn progress_rises_to_one() {
    let mut shares = Vec::new();
    Network::load(&variants()[0], &whole(&devices()[0]), CACHE, &mut |share| shares.push(share))
        .unwrap();
    assert!(shares.is_sorted() && shares.len() > 5);
    let last = *shares.last().unwrap();
    assert!((0.9..=1.0).contains(&last), "{last}");
}

fn whole(device: &OpenDevice) -> Placement {
    Placement::whole(device.clone())
}
