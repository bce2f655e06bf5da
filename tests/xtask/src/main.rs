//! The project's own commands. `cargo xtask setup` installs what the tests need, `cargo xtask
//! check` runs everything that must hold.

#![allow(clippy::print_stdout, reason = "a program prints")]

mod aarch64;
mod check;
mod cuda;
mod gpu;
mod header;
mod package_c;
mod packages;
mod setup;
mod tidy;
mod totals;

use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result, bail};
use totals::Totals;

const USAGE: &str = "\
cargo xtask setup          install what the tests need: mosquitto, Python packages in a venv, aarch64 tools, a software Vulkan driver, CUDA's compiler
cargo xtask setup --clients   LangChain, LiteLLM, schemathesis, Home Assistant, in venvs of their own (700 MB)
cargo xtask check          format, tidy, lints, every test, documentation; kernels on an emulated aarch64, and on a Vulkan device
cargo xtask check --gpu    the last of these alone
cargo xtask tidy           limits of files and functions, names in the documents
cargo xtask header         write plugins/c-abi/include/zonda.h from its source
cargo xtask package-c DIR  build libzonda and install it with headers, pkg-config and CMake files
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let outcome = match words.as_slice() {
        ["setup"] => setup::setup(),
        ["setup", "--clients"] => setup::setup_clients(),
        ["check"] => check::check(),
        ["check", "--gpu"] => gpu::check().and_then(Totals::close),
        ["tidy"] => tidy::tidy(),
        ["header"] => header::write(),
        ["package-c", prefix] => header::package(prefix),
        _ => {
            eprint!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The root of the checkout.
fn root() -> PathBuf {
    // Of this run, not of the build: checkouts that share a target folder share this program.
    let built_in = env!("CARGO_MANIFEST_DIR");
    let here = std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| built_in.into());
    let here = PathBuf::from(here);
    here.ancestors().nth(2).expect("this crate lies two folders below the root").to_owned()
}

/// The folder where `setup` puts what it installs, and where builds may be cached.
fn cache() -> Result<PathBuf> {
    let base = std::env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache")))
        .context("neither XDG_CACHE_HOME nor HOME is set")?;
    Ok(base.join("zonda"))
}

/// The interpreter that tests use; `setup` makes it.
fn python() -> Result<PathBuf> {
    Ok(cache()?.join("python/bin/python3"))
}

/// Runs a command in the root and fails when it does.
fn run(command: &mut Command) -> Result<()> {
    let shown = format!("{command:?}").replace('"', "");
    eprintln!("xtask: {shown}");
    let status =
        command.current_dir(root()).status().with_context(|| format!("cannot start: {shown}"))?;
    if !status.success() {
        bail!("{status}: {shown}");
    }
    Ok(())
}

fn cargo() -> Command {
    Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}
