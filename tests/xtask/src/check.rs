//! Everything that must hold, in one command.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

use crate::{cargo, root, run, setup, tidy};

/// Format, tidy, lints, every test on the CPU backends, documentation.
pub(crate) fn check() -> Result<()> {
    run(cargo().args(["fmt", "--all", "--check"]))?;
    tidy::tidy()?;
    run(cargo().args([
        "clippy",
        "--release",
        "--workspace",
        "--all-targets",
        "--locked",
        "--",
        "-D",
        "warnings",
    ]))?;
    // The C library and the program first: tests start both.
    run(cargo().args(["build", "--release", "--workspace", "--locked"]))?;
    let mut totals = test(&["--workspace"], &[])?;
    run(cargo()
        .args(["doc", "--release", "--workspace", "--no-deps", "--locked", "--quiet"])
        .env("RUSTDOCFLAGS", "-D warnings"))?;
    totals.skipped.extend(deny()?);
    totals.close()
}

/// The tensor tests on a Vulkan device; a software one counts.
pub(crate) fn check_gpu() -> Result<()> {
    let driver = PathBuf::from("/usr/lib/chromium/vk_swiftshader_icd.json");
    let mut environment = vec![("ZONDA_TEST_BACKENDS", "wgpu".to_owned())];
    if std::env::var_os("VK_DRIVER_FILES").is_none() && driver.is_file() {
        environment.push(("VK_DRIVER_FILES", driver.display().to_string()));
        environment.push(("VK_ICD_FILENAMES", driver.display().to_string()));
    }
    // The program is named so that Burn's dependencies get the features that it gives them, and
    // nothing is built twice.
    let selection = [
        ["-p", "daemon"],
        ["-p", "model"],
        ["-p", "fused-ops"],
        ["--features", "model/wgpu"],
        ["--test", "ops"],
        ["--test", "network"],
        ["--test", "parity"],
    ];
    test(&selection.concat(), &environment)?.close()
}

/// Counts over all test programs.
#[derive(Debug, Default)]
struct Totals {
    passed: u64,
    failed: u64,
    skipped: Vec<String>,
    success: bool,
}

impl Totals {
    fn close(self) -> Result<()> {
        for reason in &self.skipped {
            println!("{reason}");
        }
        let Self { passed, failed, skipped, success } = self;
        println!("{passed} passed, {failed} failed, {} skipped", skipped.len());
        if failed > 0 || !success {
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

fn test(selection: &[&str], environment: &[(&str, String)]) -> Result<Totals> {
    let mut command = cargo();
    command
        .args(["test", "--release", "--locked", "--no-fail-fast"])
        .args(selection)
        .args(["--", "--show-output"])
        .envs(environment.iter().map(|(name, value)| (name, value)))
        .current_dir(root())
        .stdout(Stdio::piped());
    let python = setup::python()?;
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
    totals.success = child.wait()?.success();
    Ok(totals)
}

/// Licences, sources and versions of dependencies; the reason where it cannot run.
fn deny() -> Result<Option<String>> {
    let installed = cargo()
        .args(["deny", "--version"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    if !installed {
        return Ok(Some("skipped: licences of dependencies, no cargo-deny".to_owned()));
    }
    run(Command::new("cargo").args(["deny", "--offline", "check", "bans", "licenses", "sources"]))?;
    Ok(None)
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
