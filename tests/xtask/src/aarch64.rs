//! What must hold on a 64-bit Arm, seen from another machine: the tests of the kernels run
//! emulated, everything else is linted without being run.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use crate::packages::{self, installed};
use crate::totals::{Totals, test};
use crate::{cargo, run};

const TARGET: &str = "aarch64-unknown-linux-gnu";
const LINKER: &str = "aarch64-linux-gnu-gcc";
const EMULATOR: &str = "qemu-aarch64";
/// Where Debian keeps the libraries that emulated programs load.
const LIBRARIES: &str = "/usr/aarch64-linux-gnu";
/// The compiler of the Debian package rustc-web, for which Debian has the target's library.
const DEBIAN_COMPILER: &str = "/usr/bin/rustc";

/// Programs and files of the checks and the Debian packages that bring them.
const TOOLS: &[(&str, &str)] = &[
    (LINKER, "gcc-aarch64-linux-gnu"),
    ("/usr/aarch64-linux-gnu/lib/crt1.o", "libc6-dev-arm64-cross"),
    (EMULATOR, "qemu-user"),
];

/// Emulated machines, and the kind that kernels must find there: with all that the emulator knows,
/// without products of matrices, and without the dot product.
const MACHINES: &[(&str, &str)] =
    &[("max", "neon-i8mm"), ("neoverse-n1", "neon-dotprod"), ("cortex-a57", "portable")];

/// Whether this machine is what the checks would emulate: then its own tests are the check.
const NATIVE: bool = cfg!(target_arch = "aarch64");

/// Runs the tests of the kernels on each emulated machine, and lints the workspace.
pub(crate) fn check(workspace: &[&str]) -> Result<Totals> {
    let mut totals = Totals::default();
    if NATIVE {
        return Ok(totals);
    }
    let Some(compiler) = compiler() else {
        totals.skip(&format!("the kernels on {TARGET}, no standard library for it"));
        totals.skip(&format!("lints for {TARGET}, no standard library for it"));
        return Ok(totals);
    };
    let mut environment = vec![("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER", LINKER.into())];
    let subcommand = match compiler {
        Compiler::Own => "clippy",
        Compiler::Debian => {
            environment.push(("RUSTC", DEBIAN_COMPILER.to_owned()));
            // Clippy belongs to another compiler.
            "check"
        }
    };
    match TOOLS.iter().find(|(tool, _)| !installed(tool)) {
        Some((tool, _)) => totals.skip(&format!("the kernels on {TARGET}, no {tool}")),
        None => totals.add(emulated_tests(&environment)?),
    }
    // Dependencies compile C.
    if !installed(LINKER) {
        totals.skip(&format!("lints for {TARGET}, no {LINKER}"));
        return Ok(totals);
    }
    let mut lints = cargo();
    lints.args([subcommand, "--release", "--locked", "--target", TARGET]).args(workspace);
    if subcommand == "clippy" {
        lints.args(["--", "-D", "warnings"]);
    }
    run(lints.envs(environment))?;
    Ok(totals)
}

fn emulated_tests(environment: &[(&str, String)]) -> Result<Totals> {
    let mut totals = Totals::default();
    for (machine, kind) in MACHINES {
        let mut environment = environment.to_vec();
        // The search path keeps the loader to the libraries that it belongs to: a system that runs
        // packages of the architecture has others too.
        let runner =
            format!("{EMULATOR} -cpu {machine} -L {LIBRARIES} -E LD_LIBRARY_PATH={LIBRARIES}/lib");
        environment.push(("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER", runner));
        environment.push(("ZONDA_TEST_ISA", (*kind).to_owned()));
        totals.add(test(&["-p", "cpu-kernels", "--tests", "--target", TARGET], &environment)?);
    }
    Ok(totals)
}

/// Installs what [`check`] needs. Where that fails, the checks count as skipped.
pub(crate) fn setup() {
    if NATIVE {
        return;
    }
    for step in [setup_tools, setup_compiler] {
        if let Err(error) = step() {
            eprintln!("xtask: checks for {TARGET} will be skipped: {error:#}");
        }
    }
}

fn setup_tools() -> Result<()> {
    packages::install(&packages::missing(TOOLS))
}

fn setup_compiler() -> Result<()> {
    if compiler().is_some() {
        return Ok(());
    }
    let added = run(Command::new("rustup").args(["target", "add", TARGET]));
    if added.is_ok() && compiler().is_some() {
        return Ok(());
    }
    // Debian has the library as a package of the other architecture.
    run(packages::as_root("dpkg").args(["--add-architecture", "arm64"]))?;
    packages::install(&["rustc-web", "libstd-rust-web-dev:arm64"])
}

/// Which compiler has the target's standard library.
enum Compiler {
    Own,
    Debian,
}

fn compiler() -> Option<Compiler> {
    let own = std::env::var_os("RUSTC").map_or_else(|| PathBuf::from("rustc"), PathBuf::from);
    if has_library(&own) {
        return Some(Compiler::Own);
    }
    has_library(Path::new(DEBIAN_COMPILER)).then_some(Compiler::Debian)
}

fn has_library(compiler: &Path) -> bool {
    let asked =
        Command::new(compiler).args(["--print", "target-libdir", "--target", TARGET]).output();
    // The path is printed whether it is there or not.
    asked.is_ok_and(|answer| {
        answer.status.success()
            && Path::new(String::from_utf8_lossy(&answer.stdout).trim()).is_dir()
    })
}
