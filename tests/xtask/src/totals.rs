//! Test programs, and what they count.

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use anyhow::{Context as _, Result, bail};

use crate::{cargo, python, root};

/// Counts over all test programs.
#[derive(Debug, Default)]
pub(crate) struct Totals {
    passed: u64,
    failed: u64,
    skipped: Vec<String>,
    /// Programs that ended with an error, whether they counted a failed test or not.
    errors: u64,
}

impl Totals {
    /// Counts what could not run, with the reason.
    pub(crate) fn skip(&mut self, reason: &str) {
        self.skipped.push(format!("skipped: {reason}"));
    }

    /// Counts the other's too.
    pub(crate) fn add(&mut self, other: Self) {
        let Self { passed, failed, skipped, errors } = other;
        self.passed += passed;
        self.failed += failed;
        self.skipped.extend(skipped);
        self.errors += errors;
    }

    /// Prints the sum; an error if anything failed, or nothing ran.
    pub(crate) fn close(self) -> Result<()> {
        for reason in &self.skipped {
            println!("{reason}");
        }
        let Self { passed, failed, skipped, errors } = self;
        println!("{passed} passed, {failed} failed, {} skipped", skipped.len());
        if failed > 0 || errors > 0 {
            bail!("tests failed");
        }
        if passed == 0 {
            bail!("no test ran");
        }
        Ok(())
    }

    /// Reads one line of the test programs' output.
    fn read(&mut self, line: &str) {
        if line.trim_start().starts_with("skipped: ") {
            self.skipped.push(line.trim().to_owned());
        }
        let Some(counts) = line.strip_prefix("test result: ") else {
            return;
        };
        for part in counts.split(['.', ';']) {
            let mut words = part.split_whitespace();
            if let (Some(count), Some(what)) = (words.next(), words.next()) {
                let count = count.parse().unwrap_or(0);
                match what {
                    "passed" => self.passed += count,
                    "failed" => self.failed += count,
                    _ => {}
                }
            }
        }
    }
}

/// Runs the selected tests and counts them.
pub(crate) fn test(selection: &[&str], environment: &[(&str, String)]) -> Result<Totals> {
    let mut command = cargo();
    command
        .args(["test", "--release", "--locked", "--no-fail-fast"])
        .args(selection)
        .args(["--", "--show-output"])
        .envs(environment.iter().map(|(name, value)| (name, value)))
        .current_dir(root())
        .stdout(Stdio::piped());
    let python = python()?;
    if python.is_file() {
        command.env("ZONDA_PYTHON", python);
    }
    eprintln!("xtask: {}", format!("{command:?}").replace('"', ""));
    let mut child = command.spawn().context("cannot start cargo test")?;
    let output = child.stdout.take().context("cargo test has no output")?;
    let mut totals = Totals::default();
    for line in BufReader::new(output).lines() {
        let line = line?;
        totals.read(&line);
        println!("{line}");
    }
    totals.errors = u64::from(!child.wait()?.success());
    Ok(totals)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_and_skips_are_counted_over_programs() {
        let mut totals = Totals::default();
        for line in [
            "test result: ok. 6 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.01s",
            "    skipped: no shared data",
            "test result: FAILED. 2 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.01s",
        ] {
            totals.read(line);
        }
        assert_eq!((totals.passed, totals.failed, totals.skipped.len()), (8, 1, 1));
    }
}
