//! `zonda bench`: prefill and decode speed, beside what the memory and the arithmetic of this box
//! can give at that moment.

mod group;
mod plan;
mod probe;
mod report;
mod work;

use std::io::Write;
use std::time::Instant;

use engine::Forward;
use firmware_config::Profile;

use self::group::Group;
use self::plan::{Kind, Test};
use self::probe::{Bandwidth, Probes};
use self::report::{Foot, Head, Limit, Row};
use self::work::Work;
use crate::assemble::{Opened, open_device, open_model};
use crate::cli;
use crate::error::AssembleError;
use crate::model_files::ModelFiles;

/// Measures and prints rows named as llama-bench names them; without rows, the memory alone.
///
/// Errors: the model cannot be loaded, or a row exceeds its context, its cache or its steps.
pub(crate) fn bench(
    profile: &Profile,
    model: &ModelFiles,
    arguments: &cli::Bench,
    output: &mut dyn Write,
) -> Result<(), AssembleError> {
    let tests = plan::tests(arguments);
    let mut probes = Probes::new(profile.device.threads, open_device(profile)?);
    let bandwidth = probes.bandwidth();
    let began = Instant::now();
    let mut opened = open_model(profile, model, &mut crate::progress::bar("loading"))?;
    let load_s = began.elapsed().as_secs_f64();
    let hyper = opened.archive.hyper();
    plan::check(&tests, &opened.network.capacity(), hyper.context_tokens_max)?;
    let name = model.path().display().to_string();
    let head = head(name, &opened, probes.threads(), load_s, bandwidth);
    if !arguments.json {
        report::print_head(&head, output)?;
    }
    let mut rows = Vec::with_capacity(tests.len());
    for test in tests {
        let row =
            measure(test, &mut opened.network, arguments.repetitions, &head.work, &mut probes)?;
        if !arguments.json {
            report::print_row(&row, &head.work, output)?;
        }
        rows.push(row);
    }
    let foot =
        Foot { bandwidth: probes.bandwidth(), peak_resident_bytes: probes.peak_resident_bytes() };
    if !arguments.json {
        return report::print_foot(&foot, output);
    }
    let report = report::json(&head, &rows, &foot);
    serde_json::to_writer(&mut *output, &report).map_err(std::io::Error::from)?;
    Ok(writeln!(output)?)
}

fn head(model: String, opened: &Opened, threads: usize, load_s: f64, bandwidth: Bandwidth) -> Head {
    let capacity = opened.network.capacity();
    let slots = u64::from(capacity.pages) * u64::from(capacity.page_tokens);
    Head {
        model,
        device: opened.device.clone(),
        threads,
        load_s,
        work: Work::of(opened.archive.as_ref()),
        cache_bytes: opened.cache_token_bytes.saturating_mul(slots),
        cache_token_bytes: opened.cache_token_bytes,
        bandwidth,
    }
}

/// Brings the sequences to where the clock starts, warms up, and repeats with a look at the limit
/// before and after each repetition.
fn measure(
    test: Test,
    network: &mut dyn Forward,
    repetitions: u32,
    work: &Work,
    probes: &mut Probes,
) -> Result<Row, AssembleError> {
    let mut limit = match test.kind {
        Kind::Generate { .. } => Limit::Memory(Vec::new()),
        Kind::Prompt { .. } if work.packed => Limit::Int8(Vec::new()),
        Kind::Prompt { .. } => Limit::Unknown,
    };
    let filled = test.filled_tokens();
    let mut group = Group::new(network, test.sequences(), filled + test.tokens_each());
    group.read(filled)?;
    // As llama-bench does: a whole prompt, and one step of writing.
    match test.kind {
        Kind::Prompt { tokens } => group.read(tokens)?,
        Kind::Generate { .. } => group.write(1)?,
    }
    look(&mut limit, probes);
    let mut rates = Vec::with_capacity(repetitions as usize);
    for _ in 0..repetitions {
        group.rewind(filled);
        let began = Instant::now();
        match test.kind {
            Kind::Prompt { tokens } => group.read(tokens)?,
            Kind::Generate { tokens, .. } => group.write(tokens)?,
        }
        rates.push(test.tokens() as f64 / began.elapsed().as_secs_f64());
        look(&mut limit, probes);
    }
    Ok(Row { test, rates, limit })
}

fn look(limit: &mut Limit, probes: &mut Probes) {
    match limit {
        Limit::Memory(readings) => readings.push(probes.bandwidth()),
        Limit::Int8(readings) => readings.extend(probes.int8_peak()),
        Limit::Unknown => {}
    }
}
