//! What was measured, as a table for people and as JSON for programs.

use std::io::Write;

use serde_json::{Value, json};

use super::plan::Test;
use super::probe::Bandwidth;
use super::work::Work;
use crate::error::AssembleError;

/// Readings of one limit that differ by more than this share make the row's own share doubtful.
const STEADY_SHARE: f64 = 0.1;

/// What holds for the whole run.
#[derive(Debug)]
pub(super) struct Head {
    pub(super) model: String,
    pub(super) device: String,
    pub(super) threads: usize,
    pub(super) load_s: f64,
    pub(super) work: Work,
    /// Bytes of the cache of keys and values, and of one token's share.
    pub(super) cache_bytes: u64,
    pub(super) cache_token_bytes: u64,
    pub(super) bandwidth: Bandwidth,
}

/// What is known only when all rows are done.
#[derive(Debug)]
pub(super) struct Foot {
    pub(super) peak_resident_bytes: Option<u64>,
    pub(super) bandwidth: Bandwidth,
}

/// A limit of the box, read before and after each repetition of a row.
#[derive(Debug)]
pub(super) enum Limit {
    /// Memory that is read.
    Memory(Vec<Bandwidth>),
    /// 8-bit operations per second; empty where the kernels do not say.
    Int8(Vec<f64>),
    /// None that is measured.
    Unknown,
}

impl Limit {
    /// The highest figures of all readings, in their order.
    fn readings(&self) -> Vec<f64> {
        match self {
            Self::Memory(readings) => readings.iter().map(|reading| reading.best).collect(),
            Self::Int8(readings) => readings.clone(),
            Self::Unknown => Vec::new(),
        }
    }
}

/// One row of the table.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) test: Test,
    /// Tokens per second of all sequences together, one for each repetition, at least one.
    pub(super) rates: Vec<f64>,
    pub(super) limit: Limit,
}

impl Row {
    fn json(&self, work: &Work) -> Value {
        let (min, median, max) = spread(&self.rates);
        let mut row = json!({
            "name": self.test.to_string(),
            "depth": self.test.depth_tokens,
            "sequences": self.test.sequences(),
            "filled_tokens": self.test.filled_tokens(),
            "tokens_per_s": { "min": min, "median": median, "max": max },
            "samples": self.rates,
        });
        let readings = self.limit.readings();
        let (Some(before), Some(after)) = (readings.first(), readings.last()) else {
            return row;
        };
        let limit = readings.iter().sum::<f64>() / readings.len() as f64;
        match &self.limit {
            Limit::Memory(all) => {
                let medians: Vec<f64> = all.iter().map(|reading| reading.median).collect();
                let share = work.bandwidth_share(median, self.test.sequences(), limit);
                row["bandwidth_share"] = json!(share);
                row["bandwidth_before_bytes_per_s"] = json!(before);
                row["bandwidth_after_bytes_per_s"] = json!(after);
                row["bandwidth_readings_bytes_per_s"] = json!(readings);
                row["bandwidth_medians_bytes_per_s"] = json!(medians);
            }
            _ => {
                row["int8_share"] = json!(work.arithmetic_share(median, limit));
                row["int8_peak_before_ops_per_s"] = json!(before);
                row["int8_peak_after_ops_per_s"] = json!(after);
                row["int8_peak_readings_ops_per_s"] = json!(readings);
            }
        }
        let (least, _, most) = spread(&readings);
        row["steady"] = json!(most - least <= STEADY_SHARE * most);
        row
    }
}

/// Everything as one object.
pub(super) fn json(head: &Head, rows: &[Row], foot: &Foot) -> Value {
    json!({
        "model": head.model,
        "device": head.device,
        "threads": head.threads,
        "load_s": head.load_s,
        "peak_resident_bytes": foot.peak_resident_bytes,
        "weight_bytes": head.work.weight_bytes,
        "weight_bytes_per_token": head.work.step_bytes,
        "parameters_per_token": head.work.parameters,
        "cache_bytes": head.cache_bytes,
        "cache_bytes_per_token": head.cache_token_bytes,
        "bandwidth_before_bytes_per_s": head.bandwidth.best,
        "bandwidth_before_median_bytes_per_s": head.bandwidth.median,
        "bandwidth_after_bytes_per_s": foot.bandwidth.best,
        "bandwidth_after_median_bytes_per_s": foot.bandwidth.median,
        "rows": rows.iter().map(|row| row.json(&head.work)).collect::<Vec<_>>(),
    })
}

/// What stands above the rows.
pub(super) fn print_head(head: &Head, output: &mut dyn Write) -> Result<(), AssembleError> {
    let Head { model, device, threads, load_s, work, .. } = head;
    writeln!(output, "{model} on {device}, {threads} threads, loaded in {load_s:.2} s")?;
    writeln!(
        output,
        "weights {:.1} MB, {:.1} MB read for each token; cache {:.1} MB; memory reads {} GB/s",
        work.weight_bytes as f64 / 1e6,
        work.step_bytes as f64 / 1e6,
        head.cache_bytes as f64 / 1e6,
        gigabytes(head.bandwidth),
    )?;
    writeln!(
        output,
        "{:<20}{:>11}{:>12}{:>11}{:>11}{:>12}  limit while measured",
        "test", "min t/s", "median t/s", "max t/s", "bus share", "int8 share"
    )?;
    Ok(output.flush()?)
}

/// One row, as soon as it is done.
pub(super) fn print_row(
    row: &Row,
    work: &Work,
    output: &mut dyn Write,
) -> Result<(), AssembleError> {
    let facts = row.json(work);
    let share =
        |key: &str| facts[key].as_f64().map_or_else(String::new, |share| format!("{share:.2}"));
    let (min, median, max) = spread(&row.rates);
    let readings = row.limit.readings();
    let limit = match (&row.limit, readings.is_empty()) {
        (_, true) => String::new(),
        (Limit::Memory(_), _) => range(&readings, 1e9, "GB/s"),
        _ => range(&readings, 1e12, "TOP/s"),
    };
    let doubt = if facts["steady"] == json!(false) { ", unsteady" } else { "" };
    let line = format!(
        "{:<20}{min:>11.2}{median:>12.2}{max:>11.2}{:>11}{:>12}  {limit}{doubt}",
        row.test.to_string(),
        share("bandwidth_share"),
        share("int8_share"),
    );
    writeln!(output, "{}", line.trim_end())?;
    Ok(output.flush()?)
}

/// What stands below the rows.
pub(super) fn print_foot(foot: &Foot, output: &mut dyn Write) -> Result<(), AssembleError> {
    let peak = match foot.peak_resident_bytes {
        Some(bytes) => format!("{:.1} MB", bytes as f64 / 1e6),
        None => "not known".into(),
    };
    writeln!(output, "peak resident {peak}; memory reads {} GB/s", gigabytes(foot.bandwidth))?;
    Ok(())
}

fn gigabytes(bandwidth: Bandwidth) -> String {
    format!("{:.1} (median {:.1})", bandwidth.best / 1e9, bandwidth.median / 1e9)
}

fn range(readings: &[f64], unit: f64, name: &str) -> String {
    let (least, _, most) = spread(readings);
    format!("{:.2} to {:.2} {name}", least / unit, most / unit)
}

/// The least, the middle and the most of at least one rate.
fn spread(rates: &[f64]) -> (f64, f64, f64) {
    let mut sorted = rates.to_vec();
    sorted.sort_by(f64::total_cmp);
    let (middle, last) = (sorted.len() / 2, sorted.len() - 1);
    let median = if sorted.len() % 2 == 1 {
        sorted[middle]
    } else {
        f64::midpoint(sorted[middle - 1], sorted[middle])
    };
    (sorted[0], median, sorted[last])
}

#[cfg(test)]
mod tests {
    use super::super::plan::Kind;
    use super::*;

    const WORK: Work =
        Work { weight_bytes: 5_000, step_bytes: 4_000, parameters: 8_000, packed: true };

    fn bandwidth(best: f64) -> Bandwidth {
        Bandwidth { best, median: best / 2.0 }
    }

    #[test]
    fn a_decode_row_has_the_share_of_the_memory_around_it() {
        let row = Row {
            test: Test { kind: Kind::Generate { tokens: 4, sequences: 2 }, depth_tokens: 0 },
            rates: vec![12.0, 8.0, 10.0, 10.0],
            limit: Limit::Memory(vec![
                bandwidth(30_000.0),
                bandwidth(40_000.0),
                bandwidth(50_000.0),
            ]),
        };
        let facts = row.json(&WORK);
        assert_eq!(facts["name"], "tg4 x2");
        assert_eq!(facts["tokens_per_s"]["median"], json!(10.0));
        assert_eq!(facts["bandwidth_share"], json!(0.5));
        assert_eq!(facts["steady"], json!(false));
        assert_eq!(facts["int8_share"], Value::Null);
    }

    #[test]
    fn a_prompt_row_has_the_share_of_int8_where_it_is_known() {
        let mut row = Row {
            test: Test { kind: Kind::Prompt { tokens: 4 }, depth_tokens: 8 },
            rates: vec![20.0],
            limit: Limit::Int8(vec![640_000.0, 640_000.0]),
        };
        assert_eq!(row.json(&WORK)["int8_share"], json!(0.5));
        for silent in [Limit::Int8(Vec::new()), Limit::Unknown] {
            row.limit = silent;
            let facts = row.json(&WORK);
            assert_eq!(facts["int8_share"], Value::Null);
            assert_eq!(facts["bandwidth_share"], Value::Null);
        }
    }

    #[test]
    fn a_printed_row_names_its_limit_and_doubts_it_where_it_moved() {
        let mut printed = Vec::new();
        let row = Row {
            test: Test { kind: Kind::Generate { tokens: 4, sequences: 1 }, depth_tokens: 8 },
            rates: vec![5e6],
            limit: Limit::Memory(vec![bandwidth(50e9), bandwidth(30e9)]),
        };
        print_row(&row, &WORK, &mut printed).unwrap();
        let printed = String::from_utf8(printed).unwrap();
        assert!(printed.starts_with("tg4 @ d8 "), "{printed}");
        assert!(printed.ends_with("  30.00 to 50.00 GB/s, unsteady\n"), "{printed}");
    }
}
