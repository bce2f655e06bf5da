//! A compiler, a folder of plugins, and a daemon's surroundings for them.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use plugin_abi::{HostProgram, Manifest, Plugin, StateFolder, Surroundings};
use protocol::{NewsFeed, NewsSink, news_pair};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

/// Longest wait for anything that must come.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Limits of a manifest whose plugin is quarantined by its first failure.
pub(crate) const ONE_TRY: &str = "[limits]\nmemory_mb = 64\ncall_ms = 2000\nrestarts = 0\n";

/// Has the plugin of all bad deeds do one.
pub(crate) fn call(plugin: &Plugin, deed: &str) -> Result<String, String> {
    let tools = plugin.tools();
    let tool = tools.first().ok_or("no function")?;
    tool.call(&format!("\"{deed}\""), Instant::now() + PATIENCE).map_err(|error| error.0)
}

pub(crate) struct Bench {
    folder: tempfile::TempDir,
    /// What is told of plugins that fail, and where that comes out.
    pub(crate) news: (NewsSink, NewsFeed),
}

/// A file of this crate. Tests run in its folder.
pub(crate) fn source(path: &str) -> PathBuf {
    std::env::current_dir().unwrap().join(path)
}

/// Whether a program is installed; what is not shows as skipped.
pub(crate) fn has(program: &str) -> bool {
    let found = Command::new(program).arg("--version").output().is_ok();
    if !found {
        println!("skipped: no {program}");
    }
    found
}

impl Bench {
    pub(crate) fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap(), news: news_pair(64) }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Runs a compiler, which must be content.
    pub(crate) fn compile(&self, compiler: &str, flags: &[&str], source: &Path, output: &Path) {
        let said = Command::new(compiler)
            .args(["-Wall", "-Wextra", "-Wpedantic", "-Werror"])
            .args(flags)
            .arg("-I")
            .arg(self::source("include"))
            .arg(source)
            .arg("-o")
            .arg(output)
            .output()
            .unwrap();
        let errors = String::from_utf8_lossy(&said.stderr);
        assert!(said.status.success(), "{compiler} {flags:?} {}: {errors}", source.display());
    }

    /// Builds the plugin of all bad deeds.
    pub(crate) fn bad_library(&self, name: &str, define: &[&str]) -> PathBuf {
        let library = self.path(name);
        let flags = [&["-std=gnu11", "-O1", "-shared", "-fPIC", "-fvisibility=hidden"], define];
        self.compile("cc", &flags.concat(), &source("tests/native/bad.c"), &library);
        library
    }

    /// Installs a library as a plugin; `more` ends its manifest.
    pub(crate) fn install(&self, id: &str, kind: &str, library: &Path, more: &str) {
        let folder = self.path("plugins").join(id);
        std::fs::create_dir_all(&folder).unwrap();
        let installed = folder.join("plugin.so");
        // A process may have the old one mapped: that file must stay as it is.
        if installed.exists() {
            std::fs::remove_file(&installed).unwrap();
        }
        std::fs::copy(library, &installed).unwrap();
        let digest = Sha256::digest(std::fs::read(library).unwrap());
        let sha256: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        let manifest = format!(
            "[plugin]\nid = \"{id}\"\nversion = \"1.0.0\"\nkind = \"{kind}\"\nform = \"native\"\n\
             api = \"zonda.{kind}/1\"\nfile = \"plugin.so\"\nsha256 = \"{sha256}\"\n\
             min_host = \"1.0\"\n[rights]\nall = true\n{more}"
        );
        std::fs::write(folder.join("plugin.toml"), manifest).unwrap();
    }

    pub(crate) fn state(&self) -> StateFolder {
        StateFolder::new(self.path("state"))
    }

    /// Starts an installed plugin.
    pub(crate) fn start(&self, id: &str, settings: &Value) -> Plugin {
        let surroundings = Surroundings {
            folder: self.path("plugins"),
            state: self.state(),
            host: HostProgram {
                path: PathBuf::from(env!("CARGO_BIN_EXE_plugin-host")),
                arguments: Vec::new(),
            },
            news: Some(self.news.0.clone()),
        };
        let manifest = Manifest::read(&self.path("plugins").join(id)).unwrap();
        let settings = settings.as_object().cloned().unwrap_or_else(Map::new);
        Plugin::start(&surroundings, manifest, &settings).unwrap()
    }

    /// What was logged of a plugin.
    pub(crate) fn log(&self, id: &str) -> String {
        self.state().log(id).unwrap()
    }
}

/// Waits until something holds.
pub(crate) fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < PATIENCE, "{what} does not hold");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Processes whose parent is this one.
pub(crate) fn children() -> usize {
    let own = std::process::id().to_string();
    let is_child = |status: &str| {
        status.lines().any(|line| line.strip_prefix("PPid:").is_some_and(|id| id.trim() == own))
    };
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let statuses = entries.filter_map(|e| std::fs::read_to_string(e.path().join("status")).ok());
    statuses.filter(|status| is_child(status)).count()
}

/// Entries of a folder of this process in `/proc`.
pub(crate) fn own(what: &str) -> usize {
    std::fs::read_dir(format!("/proc/self/{what}")).unwrap().count()
}
