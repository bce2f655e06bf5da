//! Installs what the tests need beyond Rust, gcc and python3.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Result, bail};

use crate::{cache, run};

/// Python packages of the tests: tokenizer files and oracles, and the clients that people use.
const PYTHON_PACKAGES: &[&str] = &[
    "mistral-common[sentencepiece]==1.13.1",
    "gguf==0.19.0",
    "numpy",
    "paho-mqtt==2.2.0",
    "openai",
    "mistralai",
];

/// Programs of the tests and the Debian packages that bring them.
const PROGRAMS: &[(&str, &str)] = &[
    ("mosquitto", "mosquitto"),
    ("mosquitto_pub", "mosquitto-clients"),
    ("mosquitto_rr", "mosquitto-clients"),
];

/// Installs the Debian packages that are missing, and a Python environment in the cache folder.
pub(crate) fn setup() -> Result<()> {
    let mut packages: Vec<&str> = PROGRAMS
        .iter()
        .filter(|(program, _)| !installed(program))
        .map(|(_, package)| *package)
        .collect();
    packages.dedup();
    if !packages.is_empty() {
        install_packages(&packages)?;
    }
    python_environment()
}

/// The interpreter that tests use.
pub(crate) fn python() -> Result<PathBuf> {
    Ok(cache()?.join("python/bin/python3"))
}

fn install_packages(packages: &[&str]) -> Result<()> {
    if !installed("apt-get") {
        bail!(
            "install these programs with your system's package tool, then run this again: {}",
            packages.join(" ")
        );
    }
    let sudo: &[&str] = if installed("sudo") { &["sudo", "apt-get"] } else { &["apt-get"] };
    for arguments in [&["update", "-q"][..], &["install", "-y", "-q", "--no-install-recommends"]] {
        let mut command = Command::new(sudo[0]);
        command.args(&sudo[1..]).args(arguments).env("DEBIAN_FRONTEND", "noninteractive");
        if arguments[0] == "install" {
            command.args(packages);
        }
        run(&mut command)?;
    }
    Ok(())
}

fn python_environment() -> Result<()> {
    let folder = cache()?.join("python");
    let wanted = PYTHON_PACKAGES.join("\n");
    let stamp = folder.join("zonda-packages.txt");
    if std::fs::read_to_string(&stamp).is_ok_and(|found| found == wanted) {
        eprintln!("xtask: Python packages are up to date in {}", folder.display());
        return Ok(());
    }
    create_environment(&folder)?;
    run(Command::new(python()?)
        .args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"])
        .args(PYTHON_PACKAGES))?;
    Ok(std::fs::write(stamp, wanted)?)
}

fn create_environment(folder: &Path) -> Result<()> {
    let create = || run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(folder));
    if create().is_ok() {
        return Ok(());
    }
    // Debian keeps the venv module apart from python3.
    install_packages(&["python3-venv"])?;
    create()
}

fn installed(program: &str) -> bool {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&paths)
        .chain([PathBuf::from("/usr/sbin"), PathBuf::from("/usr/local/sbin")])
        .any(|folder| folder.join(program).is_file())
        || Command::new(program)
            .arg("--help")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok()
}
