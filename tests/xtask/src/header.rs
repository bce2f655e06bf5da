//! The C header and the package around it.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::{cache, cargo, package_c, root, run};

/// The version that writes the header as it is kept.
const CBINDGEN_VERSION: &str = "0.29.4";

/// Writes `zonda.h` from the source of the C ABI.
pub(crate) fn write() -> Result<()> {
    let program = folder()?.join("bin/cbindgen");
    if !program.is_file() {
        bail!("there is no cbindgen: cargo xtask setup installs it");
    }
    let folder = root().join("plugins/c-abi");
    run(Command::new(program)
        .args(["--quiet", "--config"])
        .arg(folder.join("cbindgen.toml"))
        .arg("--output")
        .arg(folder.join("include/zonda.h"))
        .arg(folder))
}

/// Installs cbindgen into the cache.
pub(crate) fn setup() -> Result<()> {
    let folder = folder()?;
    let program = folder.join("bin/cbindgen");
    let found = Command::new(&program).arg("--version").output();
    if found.is_ok_and(|found| found.stdout.ends_with(format!(" {CBINDGEN_VERSION}\n").as_bytes()))
    {
        return Ok(());
    }
    let version = format!("={CBINDGEN_VERSION}");
    run(cargo()
        .args(["install", "cbindgen", "--quiet", "--locked", "--force", "--version", &version])
        .arg("--root")
        .arg(folder))
}

/// Builds libzonda and installs it under `prefix`.
pub(crate) fn package(prefix: &str) -> Result<()> {
    // Where the caller stands, not where this program runs.
    let prefix = std::path::absolute(prefix)?;
    run(cargo().args(["build", "--release", "--locked", "-p", "daemon", "-p", "c-abi"]))?;
    let target =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| "target".into(), PathBuf::from);
    let built = root().join(target).join("release");
    let headers = root().join("plugins/c-abi/include");
    package_c::package(&built, &headers, &prefix)
        .with_context(|| format!("cannot install into {}", prefix.display()))?;
    eprintln!("xtask: libzonda {} is in {}", package_c::VERSION, prefix.display());
    Ok(())
}

fn folder() -> Result<PathBuf> {
    Ok(cache()?.join("cbindgen"))
}
