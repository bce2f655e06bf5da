//! Installs what the tests need beyond Rust, gcc and python3.

use std::path::Path;
use std::process::Command;

use anyhow::Result;

use crate::{aarch64, cache, header, packages, run};

/// Python packages of the tests: tokenizer files and oracles, and the clients that people use.
const PYTHON_PACKAGES: &[&str] = &[
    "mistral-common[sentencepiece]==1.13.1",
    "gguf==0.19.0",
    "numpy",
    "paho-mqtt==2.2.0",
    "openai==3.52.0",
    "mistralai==3.7.0",
    "prometheus_client==0.23.1",
];

/// Frameworks over those clients, and a tester of APIs by their documents: half a gigabyte, so in an
/// environment of their own and only when asked for.
const FRAMEWORK_PACKAGES: &[&str] = &[
    "langchain-core==1.7.2",
    "langchain-mistralai==1.1.6",
    "langchain-openai==1.7.3",
    "litellm==1.106.2",
    // litellm asks for it as soon as a request has tools, and does not say so.
    "mcp==2.3.0",
    "schemathesis==4.32.5",
];

/// Programs of the tests and the Debian packages that bring them.
const PROGRAMS: &[(&str, &str)] = &[
    ("mosquitto", "mosquitto"),
    ("mosquitto_pub", "mosquitto-clients"),
    ("mosquitto_rr", "mosquitto-clients"),
    ("cmake", "cmake"),
    ("pkg-config", "pkg-config"),
];

/// Installs the Debian packages that are missing, a Python environment in the cache folder, and
/// tools for another architecture.
pub(crate) fn setup() -> Result<()> {
    packages::install(&packages::missing(PROGRAMS))?;
    python_environment("python", PYTHON_PACKAGES)?;
    header::setup()?;
    aarch64::setup();
    Ok(())
}

/// Installs the frameworks that few tests want.
pub(crate) fn setup_clients() -> Result<()> {
    python_environment("python-clients", FRAMEWORK_PACKAGES)
}

fn python_environment(name: &str, packages: &[&str]) -> Result<()> {
    let folder = cache()?.join(name);
    let wanted = packages.join("\n");
    let stamp = folder.join("zonda-packages.txt");
    if std::fs::read_to_string(&stamp).is_ok_and(|found| found == wanted) {
        eprintln!("xtask: Python packages are up to date in {}", folder.display());
        return Ok(());
    }
    create_environment(&folder)?;
    run(Command::new(folder.join("bin/python3"))
        .args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"])
        .args(packages))?;
    Ok(std::fs::write(stamp, wanted)?)
}

fn create_environment(folder: &Path) -> Result<()> {
    let create = || run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(folder));
    if create().is_ok() {
        return Ok(());
    }
    // Debian keeps the venv module apart from python3.
    packages::install(&["python3-venv"])?;
    create()
}
