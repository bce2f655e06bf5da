//! Logits and greedy continuations against the reference implementations, on tiny checkpoints.
//!
//! Needs the shared data (`ZONDA_SHARED`, or `shared` beside the checkout). The backends are those
//! of `ZONDA_TEST_BACKENDS`, such as `flex,ndarray,wgpu`; without it, the CPU ones. A software GPU leaves
//! the longer prompts of a large vocabulary out, unless `ZONDA_TEST_WHOLE` is set.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test may fail and speak")]

use std::path::{Path, PathBuf};

use engine::{Batch, Forward, Row, RowLogits, Span, Want};
use fused_ops::{OpenDevice, open};
use model::{CacheLimits, KvEncoding, Network, Placement};
use protocol::TokenId;
use serde::Deserialize;

/// Absolute difference of a logit, on logits of scale 10. The references compute in f32
/// (transformers) and f64 (NumPy); rounding to five digits is theirs.
const LOGIT_TOLERANCE: f64 = 2e-4;
/// The same where activations are rounded to 8 bits.
const ROUNDED_LOGIT_TOLERANCE: f64 = 0.4;
/// Tokens of a prompt that a software GPU reads where it computes a logit for each of so many tokens.
const SOFTWARE_PROMPT_MAX: usize = 6;
const LARGE_VOCABULARY: usize = 100_000;
const PAGE_TOKENS: u32 = 16;
const PAGES: u32 = 16;

/// Checkpoints by transformers, each folder with its golden file.
const FOLDERS: [(&str, &str); 7] = [
    ("tiny-random/tiny-v3", "models/tiny-v3.json"),
    ("tiny-random/tiny-v7", "models/tiny-v7.json"),
    ("tiny-random/tiny-swa-v1", "models/tiny-swa-v1.json"),
    ("tiny-random/tiny-nemo", "models/tiny-nemo.json"),
    ("tiny-random/tiny-k", "models/tiny-k.json"),
    ("stories260K/hf-mistral-f32", "models/stories260K.json"),
    ("stories260K/stories260K-f32.gguf", "models/stories260K.json"),
];

#[derive(Deserialize)]
struct Golden {
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    #[serde(alias = "prompt")]
    id: String,
    #[serde(alias = "prompt_tokens")]
    tokens: Vec<u32>,
    logits_last: Option<Summary>,
    last_prompt_logits: Option<Vec<f64>>,
    #[serde(alias = "all_prompt_argmax")]
    argmax: Vec<u32>,
    #[serde(alias = "greedy_tokens")]
    greedy: Vec<u32>,
    margins: Vec<f64>,
}

/// What a golden file keeps of the last logits of a large vocabulary.
#[derive(Deserialize)]
struct Summary {
    top: Vec<(usize, f64)>,
    first16: Vec<f64>,
    abs_mean: f64,
}

impl Case {
    /// The largest difference between the last logits and what was computed.
    fn error(&self, found: &[f32]) -> f64 {
        let mut listed: Vec<(usize, f64)> = Vec::new();
        let mut error = 0.0;
        if let Some(all) = &self.last_prompt_logits {
            assert_eq!(all.len(), found.len());
            listed.extend(all.iter().copied().enumerate());
        }
        if let Some(Summary { top, first16, abs_mean }) = &self.logits_last {
            let sum: f64 = found.iter().map(|v| f64::from(v.abs())).sum();
            error = (sum / found.len() as f64 - abs_mean).abs();
            listed.extend(top.iter().copied().chain(first16.iter().copied().enumerate()));
        }
        assert!(!listed.is_empty());
        let differences =
            listed.into_iter().map(|(id, expected)| (f64::from(found[id]) - expected).abs());
        differences.fold(error, f64::max)
    }
}

fn shared() -> Option<PathBuf> {
    let beside = "../../../shared";
    let root = std::env::var_os("ZONDA_SHARED").map_or_else(|| beside.into(), PathBuf::from);
    let data = root.join("data");
    if data.is_dir() {
        return Some(data);
    }
    println!("skipped: no shared data");
    None
}

fn devices() -> Vec<OpenDevice> {
    let names = std::env::var("ZONDA_TEST_BACKENDS").unwrap_or_else(|_| "flex,ndarray".into());
    names.split(',').map(|name| open(name.parse().unwrap()).unwrap()).collect()
}

/// One sequence alone in the cache.
struct Alone {
    network: Network,
    context: u32,
}

impl Alone {
    fn load(path: &Path, device: &OpenDevice) -> Self {
        let archive = weights::open(path).unwrap();
        let cache = CacheLimits {
            pages: PAGES,
            page_tokens: PAGE_TOKENS,
            batch_tokens_max: 256,
            encoding: KvEncoding::F32,
        };
        let network = Network::load(archive.as_ref(), &whole(device), cache, &mut |_| {}).unwrap();
        Self { network, context: 0 }
    }

    /// Reads tokens behind those read before; gives the logits behind each of them.
    fn read(&mut self, tokens: &[u32]) -> Vec<Vec<f32>> {
        let count = tokens.len() as u32;
        let positions: Vec<u32> = (self.context..self.context + count).collect();
        self.context += count;
        let batch = Batch {
            tokens: tokens.iter().map(|t| TokenId(*t)).collect(),
            slots: positions.clone(),
            positions,
            spans: vec![Span {
                query_start: 0,
                query_tokens: count,
                context_tokens: self.context,
                first_page: 0,
            }],
            pages: (0..self.context.div_ceil(PAGE_TOKENS)).collect(),
            rows: (0..count).map(|token| Row { token, want: Want::Logits }).collect(),
        };
        let rows = self.network.forward(&batch).unwrap().rows;
        rows.into_iter()
            .map(|row| match row {
                RowLogits::All(logits) => logits,
                _ => panic!("logits were asked for"),
            })
            .collect()
    }
}

fn argmax(logits: &[f32]) -> u32 {
    let best = logits
        .iter()
        .enumerate()
        .fold(0, |best, (id, v)| if *v > logits[best] { id } else { best });
    best as u32
}

/// What was compared, and how far apart it was at most.
#[derive(Default)]
struct Seen {
    error: f64,
    positions: usize,
    greedy: usize,
    /// Cases that would take a quarter of an hour.
    left_out: usize,
}

/// What a logit may be off: where weights are packed, activations are rounded to 8 bits, as in every
/// program that multiplies integers. The golden logits are those of unrounded activations.
fn tolerance(path: &str) -> f64 {
    let floats = ["f32", "f16", "bf16", "tiny-nemo", "tiny-v3", "tiny-mistral"];
    let is_packed = path.ends_with(".gguf") && !floats.iter().any(|name| path.contains(name));
    if is_packed { ROUNDED_LOGIT_TOLERANCE } else { LOGIT_TOLERANCE }
}

fn check(data: &Path, device: &OpenDevice, path: &str, golden: &str) -> Seen {
    let tolerance = tolerance(path);
    let text = std::fs::read_to_string(data.join("golden").join(golden)).unwrap();
    let golden: Golden = serde_json::from_str(&text).unwrap();
    let mut alone = Alone::load(&data.join("models").join(path), device);
    let mut seen = Seen::default();
    let vocabulary = alone.network.capacity().vocabulary as usize;
    // CUDA's kernels on this processor: `tests/pretended-cuda`.
    let is_software = device.software || std::env::var_os("PRETENDED_KERNELS").is_some();
    let is_whole = std::env::var_os("ZONDA_TEST_WHOLE").is_some();
    let is_slow = is_software && vocabulary > LARGE_VOCABULARY && !is_whole;
    for case in golden.cases {
        if is_slow && case.tokens.len() > SOFTWARE_PROMPT_MAX {
            seen.left_out += 1;
            continue;
        }
        let at = format!("{path} on {}, {}", device.name, case.id);
        alone.context = 0;
        let logits = alone.read(&case.tokens);
        let error = case.error(logits.last().unwrap());
        seen.error = seen.error.max(error);
        assert!(error < tolerance, "{at}: a logit is {error:e} off");
        for (position, (row, expected)) in logits.iter().zip(&case.argmax).enumerate() {
            let found = argmax(row);
            let margin = row[found as usize] - row[*expected as usize];
            assert!(f64::from(margin) < 2.0 * tolerance, "{at}: position {position} gives {found}");
            seen.positions += 1;
        }
        let mut last = argmax(logits.last().unwrap());
        for (step, (expected, margin)) in case.greedy.iter().zip(&case.margins).enumerate() {
            if *margin < 2.0 * tolerance {
                break;
            }
            assert_eq!(last, *expected, "{at}: greedy token {step}");
            last = argmax(&alone.read(&[last])[0]);
            seen.greedy += 1;
        }
    }
    seen
}

fn check_all(pairs: impl Iterator<Item = (String, String)> + Clone) {
    let Some(data) = shared() else { return };
    let mut compared = 0;
    for device in devices() {
        for (path, golden) in pairs.clone() {
            let Seen { error, positions, greedy, left_out } = check(&data, &device, &path, &golden);
            println!(
                "{}: {path}: largest error {error:.1e}, {positions} positions, {greedy} greedy tokens",
                device.name
            );
            if left_out > 0 {
                println!("skipped: {left_out} longer prompts of {path}, slow on a software GPU");
            }
            assert!(positions > 0);
            compared += greedy;
        }
    }
    assert!(compared > 0, "no greedy token was compared");
}

#[test]
fn checkpoints_give_the_logits_of_transformers() {
    check_all(FOLDERS.into_iter().map(|(path, golden)| (path.into(), golden.into())));
}

#[test]
fn gguf_files_give_the_logits_of_their_dequantised_weights() {
    let Some(data) = shared() else { return };
    let mut names: Vec<String> = std::fs::read_dir(data.join("golden/gguf"))
        .unwrap()
        .filter_map(|entry| entry.unwrap().file_name().into_string().ok())
        .filter_map(|name| name.strip_suffix(".exact.json").map(String::from))
        .collect();
    names.sort();
    assert!(!names.is_empty());
    check_all(names.iter().map(|name| {
        let family = if name.starts_with("tiny") { "tiny-random" } else { "stories260K" };
        (format!("{family}/{name}.gguf"), format!("gguf/{name}.exact.json"))
    }));
}

fn whole(device: &OpenDevice) -> Placement {
    Placement::whole(device.clone())
}
