//! `zonda bench`: prefill and decode speed, beside what the memory of this box can give.

use std::io::Write;
use std::time::Instant;

use engine::{Forward, Want};
use firmware_config::Profile;
use protocol::TokenId;
use serde_json::{Value, json};

use crate::assemble::open_model;
use crate::cli;
use crate::error::AssembleError;
use crate::model_files::ModelFiles;
use crate::single::Single;

/// Measures and prints rows named as llama-bench names them.
pub(crate) fn bench(
    profile: &Profile,
    model: &ModelFiles,
    arguments: &cli::Bench,
    output: &mut dyn Write,
) -> Result<(), AssembleError> {
    let bandwidth_before = bandwidth(profile.device.threads);
    let began = Instant::now();
    let mut opened = open_model(profile, model, &mut crate::progress::bar("loading"))?;
    let load_s = began.elapsed().as_secs_f64();
    let vocabulary = opened.network.capacity().vocabulary;
    // Any ids do: the work does not depend on them. Those of control tokens are left out.
    let token = |index: u32| TokenId(index.wrapping_mul(2_654_435_761) % vocabulary);
    let mut rows = Vec::new();
    if arguments.prompt_tokens > 0 {
        let prompt: Vec<TokenId> = (0..arguments.prompt_tokens).map(token).collect();
        let rates = repeat(arguments.repetitions, arguments.prompt_tokens, || {
            Single::new(&mut opened.network).feed(&prompt, Want::Argmax).map(drop)
        })?;
        rows.push((format!("pp{}", arguments.prompt_tokens), rates));
    }
    if arguments.generated_tokens > 0 {
        let rates = repeat(arguments.repetitions, arguments.generated_tokens, || {
            let mut sequence = Single::new(&mut opened.network);
            (0..arguments.generated_tokens)
                .try_for_each(|index| sequence.feed(&[token(index)], Want::Argmax).map(drop))
        })?;
        rows.push((format!("tg{}", arguments.generated_tokens), rates));
    }
    let bandwidth_after = bandwidth(profile.device.threads);
    let decode_bytes = decode_bytes(opened.archive.as_ref());
    let mut report = json!({
        "model": model.path().display().to_string(),
        "device": opened.device,
        "threads": threads(profile.device.threads),
        "load_s": load_s,
        "peak_resident_bytes": peak_resident_bytes(),
        "weight_bytes_per_token": decode_bytes,
        "bandwidth_before_bytes_per_s": bandwidth_before,
        "bandwidth_after_bytes_per_s": bandwidth_after,
    });
    let bandwidth = (bandwidth_before + bandwidth_after) / 2.0;
    report["rows"] =
        rows.iter().map(|(name, rates)| row(name, rates, decode_bytes, bandwidth)).collect();
    if arguments.json {
        serde_json::to_writer(&mut *output, &report).map_err(std::io::Error::from)?;
        return Ok(writeln!(output)?);
    }
    print(&report, output)
}

/// Tokens per second of each repetition, after one that warms up.
fn repeat(
    repetitions: u32,
    tokens: u32,
    mut once: impl FnMut() -> Result<(), AssembleError>,
) -> Result<Vec<f64>, AssembleError> {
    once()?;
    (0..repetitions)
        .map(|_| {
            let began = Instant::now();
            once()?;
            Ok(f64::from(tokens) / began.elapsed().as_secs_f64())
        })
        .collect()
}

fn row(name: &str, rates: &[f64], decode_bytes: u64, bandwidth: f64) -> Value {
    let mut sorted = rates.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    let median = if sorted.len() % 2 == 1 {
        sorted[middle]
    } else {
        (sorted[middle - 1] + sorted[middle]) / 2.0
    };
    let mut row = json!({
        "name": name,
        "tokens_per_s": { "min": sorted[0], "median": median, "max": sorted[sorted.len() - 1] },
    });
    // Decode reads every weight once for each token; prefill does not, so its share says nothing.
    if name.starts_with("tg") && bandwidth > 0.0 {
        row["bandwidth_share"] = json!(median * decode_bytes as f64 / bandwidth);
    }
    row
}

fn print(report: &Value, output: &mut dyn Write) -> Result<(), AssembleError> {
    let number = |value: &Value| value.as_f64().unwrap_or(f64::NAN);
    writeln!(
        output,
        "{} on {}, {} threads, loaded in {:.2} s, peak resident {:.1} MB, memory reads {:.1} and {:.1} GB/s",
        report["model"].as_str().unwrap_or_default(),
        report["device"].as_str().unwrap_or_default(),
        report["threads"],
        number(&report["load_s"]),
        number(&report["peak_resident_bytes"]) / 1e6,
        number(&report["bandwidth_before_bytes_per_s"]) / 1e9,
        number(&report["bandwidth_after_bytes_per_s"]) / 1e9,
    )?;
    writeln!(
        output,
        "{:<10}{:>12}{:>12}{:>12}{:>12}",
        "test", "min t/s", "median t/s", "max t/s", "bus share"
    )?;
    for row in report["rows"].as_array().into_iter().flatten() {
        let rates = &row["tokens_per_s"];
        let share =
            row["bandwidth_share"].as_f64().map_or(String::new(), |share| format!("{share:.2}"));
        writeln!(
            output,
            "{:<10}{:>12.2}{:>12.2}{:>12.2}{share:>12}",
            row["name"].as_str().unwrap_or_default(),
            number(&rates["min"]),
            number(&rates["median"]),
            number(&rates["max"]),
        )?;
    }
    Ok(())
}

/// Bytes of weights that one decoded token reads: all but the embedding, of which it reads a row.
fn decode_bytes(archive: &dyn weights::Archive) -> u64 {
    let all: u64 = archive.tensors().iter().map(|tensor| tensor.bytes).sum();
    let embedding =
        archive.tensor(weights::TensorName::Embedding).map_or(0, |t| t.bytes.len() as u64);
    if archive.hyper().tied_embeddings { all } else { all.saturating_sub(embedding) }
}

fn threads(configured: u32) -> usize {
    match configured {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        count => count as usize,
    }
}

/// Bytes per second that all threads together read from memory: the best of five passes over a
/// buffer that no cache holds.
fn bandwidth(configured: u32) -> f64 {
    const WORDS: usize = 32 << 20; // 256 MiB
    let buffer = vec![1u64; WORDS];
    let share = WORDS.div_ceil(threads(configured));
    let mut best = 0.0f64;
    for _ in 0..5 {
        let began = Instant::now();
        let total: u64 = std::thread::scope(|scope| {
            let sums: Vec<_> = buffer
                .chunks(share)
                .map(|part| {
                    scope.spawn(move || part.iter().fold(0u64, |sum, word| sum.wrapping_add(*word)))
                })
                .collect();
            sums.into_iter().map(|sum| sum.join().unwrap_or(0)).sum()
        });
        // The sum is used, so that the reads cannot be left out.
        assert_eq!(
            std::hint::black_box(total),
            WORDS as u64,
            "memory does not hold what was written"
        );
        best = best.max((WORDS * 8) as f64 / began.elapsed().as_secs_f64());
    }
    best
}

/// The most memory that this process ever held, in bytes; `None` where the system does not say.
fn peak_resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kilobytes: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kilobytes * 1024)
}
