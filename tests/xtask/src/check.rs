//! Everything that must hold, in one command.

use std::process::{Command, Stdio};

use anyhow::Result;

use crate::totals::{Totals, test};
use crate::{aarch64, cargo, gpu, run, tidy};

/// Format, tidy, lints, every test on the CPU backends, documentation; then what can be checked of
/// another architecture, and of GPUs, from here.
pub(crate) fn check() -> Result<()> {
    run(cargo().args(["fmt", "--all", "--check"]))?;
    tidy::tidy()?;
    let workspace = workspace();
    run(cargo()
        .args(["clippy", "--release", "--workspace", "--exclude", gpu::CRATES[1]])
        .args(["--all-targets", "--locked"])
        .args(["--", "-D", "warnings"]))?;
    // The C library and the program first: tests start both.
    run(cargo().args(["build", "--release", "--locked"]).args(&workspace))?;
    let mut totals = test(&workspace, &[])?;
    run(cargo()
        .args(["doc", "--release", "--no-deps", "--locked", "--quiet"])
        .args(&workspace)
        .env("RUSTDOCFLAGS", "-D warnings"))?;
    totals.add(aarch64::check(&workspace)?);
    totals.add(gpu::check()?);
    deny(&mut totals)?;
    totals.close()
}

/// Every crate but those that only a GPU needs.
fn workspace() -> Vec<&'static str> {
    let left_out = gpu::CRATES.iter().flat_map(|name| ["--exclude", name]);
    std::iter::once("--workspace").chain(left_out).collect()
}

/// Licences, sources and versions of dependencies.
fn deny(totals: &mut Totals) -> Result<()> {
    let installed = cargo()
        .args(["deny", "--version"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    if !installed {
        totals.skip("licences of dependencies, no cargo-deny");
        return Ok(());
    }
    run(Command::new("cargo").args(["deny", "--offline", "check", "bans", "licenses", "sources"]))
}
