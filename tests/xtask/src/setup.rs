//! Installs what the tests need beyond Rust, gcc and python3.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::Result;

use crate::{aarch64, cache, gpu, header, packages, run};

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

/// Home Assistant, as far as its MQTT integration imports it: the whole of it wants compilers. It runs on
/// one version of Python.
const HOME_PACKAGES: &[&str] = &[
    "homeassistant==2025.4.4",
    "aiohappyeyeballs==2.7.1",
    "aiohttp-cors==0.7.0",
    "aiohttp==3.11.16",
    "aiosignal==1.4.0",
    "aiozoneinfo==0.2.3",
    "annotatedyaml==0.4.5",
    "async_interrupt==1.2.2",
    "atomicwrites-homeassistant==1.4.1",
    "attrs==25.1.0",
    "awesomeversion==24.6.0",
    "bcrypt==4.2.0",
    "certifi==2026.10.18",
    "cffi==2.1.1",
    "ciso8601==2.4.1",
    "cryptography==44.0.1",
    "frozenlist==1.8.0",
    "idna==3.20",
    "ifaddr==0.2.0",
    "Jinja2==3.1.6",
    "lru-dict==1.4.1",
    "MarkupSafe==3.0.4",
    "mashumaro==3.23",
    "multidict==7.2.1",
    "orjson==3.10.16",
    "packaging==26.3",
    "paho-mqtt==2.1.0",
    "propcache==0.3.0",
    "PyJWT==2.10.1",
    "python-slugify==8.0.4",
    "PyYAML==6.0.2",
    "text-unidecode==1.3",
    "typing_extensions==4.16.0",
    "ulid-transform==1.4.0",
    "voluptuous-serialize==2.6.0",
    "voluptuous==0.15.2",
    "webrtc-models==0.3.0",
    "yarl==1.18.3",
];
const HOME_PYTHON: (u32, u32) = (3, 13);

/// Programs of the tests and the Debian packages that bring them.
const PROGRAMS: &[(&str, &str)] = &[
    ("mosquitto", "mosquitto"),
    ("mosquitto_pub", "mosquitto-clients"),
    ("mosquitto_rr", "mosquitto-clients"),
    ("cmake", "cmake"),
    ("pkg-config", "pkg-config"),
];

/// Installs the Debian packages that are missing, a Python environment in the cache folder, and
/// tools for another architecture and for GPUs.
pub(crate) fn setup() -> Result<()> {
    packages::install(&packages::missing(PROGRAMS))?;
    Environment::of("python", PYTHON_PACKAGES).install()?;
    header::setup()?;
    aarch64::setup();
    gpu::setup();
    Ok(())
}

/// Installs the frameworks that few tests want.
pub(crate) fn setup_clients() -> Result<()> {
    Environment::of("python-clients", FRAMEWORK_PACKAGES).install()?;
    let (major, minor) = HOME_PYTHON;
    let Some(python) = python_of(HOME_PYTHON) else {
        eprintln!("xtask: no Python {major}.{minor}: the test of Home Assistant will be skipped");
        return Ok(());
    };
    let alone = &["--no-deps", "--only-binary=:all:"];
    Environment { name: "python-home", python, packages: HOME_PACKAGES, options: alone }.install()
}

/// A virtual environment in the cache folder.
pub(crate) struct Environment {
    name: &'static str,
    python: PathBuf,
    packages: &'static [&'static str],
    /// Of pip.
    options: &'static [&'static str],
}

impl Environment {
    pub(crate) fn of(name: &'static str, packages: &'static [&'static str]) -> Self {
        Self { name, python: "python3".into(), packages, options: &[] }
    }

    /// Makes it anew, unless it has what it should have.
    pub(crate) fn install(&self) -> Result<()> {
        let folder = cache()?.join(self.name);
        let wanted = self.packages.join("\n");
        let stamp = folder.join("zonda-packages.txt");
        if std::fs::read_to_string(&stamp).is_ok_and(|found| found == wanted) {
            eprintln!("xtask: Python packages are up to date in {}", folder.display());
            return Ok(());
        }
        self.create(&folder)?;
        run(Command::new(folder.join("bin/python3"))
            .args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"])
            .args(self.options)
            .args(self.packages))?;
        Ok(std::fs::write(stamp, wanted)?)
    }

    fn create(&self, folder: &Path) -> Result<()> {
        let create = || run(Command::new(&self.python).args(["-m", "venv", "--clear"]).arg(folder));
        if create().is_ok() {
            return Ok(());
        }
        // Debian keeps the venv module apart from python3.
        packages::install(&["python3-venv"])?;
        create()
    }
}

/// An interpreter of that version: on the path, or among those that pyenv keeps.
fn python_of((major, minor): (u32, u32)) -> Option<PathBuf> {
    let kept = std::env::var_os("PYENV_ROOT")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".pyenv")));
    let kept = kept.and_then(|root| std::fs::read_dir(root.join("versions")).ok());
    let kept = kept.into_iter().flatten().flatten().map(|entry| entry.path().join("bin/python3"));
    let told = format!("import sys; sys.exit(sys.version_info[:2] != ({major}, {minor}))");
    [format!("python{major}.{minor}").into(), PathBuf::from("python3")]
        .into_iter()
        .chain(kept)
        .find(|python| {
            let status = Command::new(python)
                .args(["-c", &told])
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status();
            status.is_ok_and(|status| status.success())
        })
}
