//! Everything that must hold, in one command.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::Result;

use crate::totals::{Totals, test};
use crate::{aarch64, cargo, run, tidy};

/// Format, tidy, lints, every test on the CPU backends, documentation; then what can be checked of
/// another architecture from here.
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
    totals.add(aarch64::check()?);
    deny(&mut totals)?;
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
