//! `plugin.toml`: what a plugin is, before any of its code runs.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use sha2::{Digest, Sha256};

use crate::abi;
use crate::limits::{FOLDERS_MAX, LIBRARY_BYTES_MAX, MANIFEST_BYTES_MAX};

/// The manifest's name in a plugin's folder.
const FILE: &str = "plugin.toml";

/// A plugin cannot be taken, by what its folder says.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ManifestError {
    /// A file or folder cannot be read.
    #[error("{}: {source}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The manifest says something that cannot be.
    #[error("{}: {message}", path.display())]
    Wrong {
        /// The manifest.
        path: PathBuf,
        /// What, and what to do.
        message: String,
    },
    /// The library is not the one that the manifest names.
    #[error(
        "{}: its SHA-256 is {found}, {wanted} is what its plugin.toml states: the file was changed; \
         install the plugin again",
        path.display()
    )]
    Hash {
        /// The library.
        path: PathBuf,
        /// What it has.
        found: String,
        /// What the manifest states.
        wanted: String,
    },
}

/// What a plugin does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Functions that the model may call.
    Tool,
    /// Judges requests and answers.
    Filter,
    /// Hears what became of requests.
    Observer,
}

impl Kind {
    /// Its name in manifests.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tool => "tool",
            Self::Filter => "filter",
            Self::Observer => "observer",
        }
    }

    fn api(self) -> &'static str {
        let id = match self {
            Self::Tool => abi::TOOL,
            Self::Filter => abi::FILTER,
            Self::Observer => abi::OBSERVER,
        };
        id.to_str().expect("ids are ASCII")
    }
}

/// What happens to a request when a filter cannot judge it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Fail {
    /// It is refused.
    #[default]
    Closed,
    /// It passes.
    Open,
}

/// A checked manifest.
#[derive(Debug, Clone, PartialEq)]
pub struct Manifest {
    /// Names the plugin, and its folder.
    pub id: String,
    /// The plugin's own version.
    pub version: String,
    /// What it does.
    pub kind: Kind,
    /// The library.
    pub file: PathBuf,
    /// What the library must be.
    pub sha256: String,
    /// For filters.
    pub fail: Fail,
    /// Memory beyond what the hosting program takes by itself.
    pub memory_bytes: u64,
    /// Longest call.
    pub call_max: Duration,
    /// Failures within the window that are answered by a restart; one more is a quarantine.
    pub restarts: u32,
    /// How long a failure counts.
    pub restart_window: Duration,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Text {
    plugin: PluginTable,
    #[serde(default)]
    rights: RightsTable,
    #[serde(default)]
    limits: LimitsTable,
    #[serde(default)]
    config: ConfigTable,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct PluginTable {
    id: String,
    version: String,
    kind: Kind,
    form: String,
    api: String,
    file: String,
    sha256: String,
    min_host: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RightsTable {
    all: bool,
    network: Vec<String>,
    fs_read: Vec<String>,
    fs_write: Vec<String>,
    devices: Vec<String>,
    env: Vec<String>,
    tools: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct LimitsTable {
    memory_mb: u32,
    call_ms: u32,
    restarts: u32,
    restart_window_s: u32,
}

impl Default for LimitsTable {
    fn default() -> Self {
        Self { memory_mb: 64, call_ms: 1000, restarts: 5, restart_window_s: 300 }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct ConfigTable {
    fail: Option<Fail>,
}

impl Manifest {
    /// Reads and checks the manifest in a plugin's folder. Runs and loads nothing.
    ///
    /// Errors: what is unreadable, unknown, out of range, or asks for what is not enforced.
    pub fn read(folder: &Path) -> Result<Self, ManifestError> {
        let path = folder.join(FILE);
        let text = read_limited(&path, MANIFEST_BYTES_MAX)
            .map_err(|source| ManifestError::Read { path: path.clone(), source })?;
        let wrong = |message: String| ManifestError::Wrong { path: path.clone(), message };
        let text: Text = toml::from_str(&text).map_err(|error| wrong(error.to_string()))?;
        let name = folder.file_name().unwrap_or_default();
        if name.to_str() != Some(text.plugin.id.as_str()) {
            return Err(wrong(format!(
                "plugin.id is {:?}, its folder {:?}; they must be the same",
                text.plugin.id, name
            )));
        }
        check(&text).map_err(wrong)?;
        let PluginTable { id, version, kind, file, sha256, .. } = text.plugin;
        let limits = text.limits;
        Ok(Self {
            id,
            version,
            kind,
            file: folder.join(file),
            sha256: sha256.to_ascii_lowercase(),
            fail: text.config.fail.unwrap_or_default(),
            memory_bytes: u64::from(limits.memory_mb) << 20,
            call_max: Duration::from_millis(limits.call_ms.into()),
            restarts: limits.restarts,
            restart_window: Duration::from_secs(limits.restart_window_s.into()),
        })
    }

    /// Whether the library is the one that the manifest names.
    ///
    /// Errors: another hash, a file that cannot be read, that is none, or that is over 256 MiB.
    pub fn verify(&self) -> Result<(), ManifestError> {
        let read = |source| ManifestError::Read { path: self.file.clone(), source };
        let found = hash(&self.file).map_err(read)?;
        if found == self.sha256 {
            return Ok(());
        }
        Err(ManifestError::Hash { path: self.file.clone(), found, wanted: self.sha256.clone() })
    }

    /// The extension that the plugin must have.
    pub(crate) fn api(&self) -> &'static str {
        self.kind.api()
    }
}

/// Whether a plugin may be named so: 1 to 64 lower-case letters, digits, `.`, `-` and `_`, a letter
/// or digit first.
pub fn is_id(text: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    (1..=64).contains(&text.len())
        && text.bytes().all(|byte| is_plain(byte) || b".-_".contains(&byte))
        && text.as_bytes().first().is_some_and(|byte| is_plain(*byte))
}

fn check(text: &Text) -> Result<(), String> {
    let PluginTable { id, version, kind, form, api, file, sha256, min_host } = &text.plugin;
    if !is_id(id) {
        return Err(format!(
            "plugin.id {id:?} is no name of lower-case letters, digits, . - and _"
        ));
    }
    if version.is_empty() || version.len() > 64 || version.contains(char::is_control) {
        return Err("plugin.version is empty, over 64 bytes, or has a control character".into());
    }
    if form != "native" {
        return Err(format!("plugin.form is {form:?}; this host runs \"native\" alone"));
    }
    if api != kind.api() {
        let (kind, wanted) = (kind.name(), kind.api());
        return Err(format!("plugin.api is {api:?}; kind {kind:?} goes with {wanted:?}"));
    }
    let is_plain = !file.is_empty() && !file.contains(['/', '\\', '\0']) && !file.starts_with('.');
    if !is_plain {
        return Err(format!("plugin.file is {file:?}; it must name a file beside plugin.toml"));
    }
    if sha256.len() != 64 || !sha256.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err("plugin.sha256 is not 64 hexadecimal digits".into());
    }
    check_host(min_host)?;
    check_rights(&text.rights)?;
    check_limits(&text.limits)?;
    if text.config.fail.is_some() && *kind != Kind::Filter {
        return Err("config.fail belongs to filters alone".into());
    }
    Ok(())
}

fn check_host(min_host: &str) -> Result<(), String> {
    let number = |text: &str| text.parse::<u32>().ok();
    let parts = min_host.split_once('.').and_then(|(a, b)| Some((number(a)?, number(b)?)));
    let Some((major, minor)) = parts else {
        return Err(format!("plugin.min_host is {min_host:?}; write it as \"1.0\""));
    };
    let own = abi::VERSION;
    if major == own.major && minor <= own.minor {
        return Ok(());
    }
    Err(format!(
        "the plugin needs version {min_host} of the interface, this host has {}.{}",
        own.major, own.minor
    ))
}

fn check_rights(rights: &RightsTable) -> Result<(), String> {
    let lists = [
        ("network", &rights.network),
        ("fs_read", &rights.fs_read),
        ("fs_write", &rights.fs_write),
        ("devices", &rights.devices),
        ("env", &rights.env),
        ("tools", &rights.tools),
    ];
    if let Some((name, _)) = lists.iter().find(|(_, list)| !list.is_empty()) {
        return Err(format!(
            "rights.{name} is not enforced for native plugins, so it is refused: a native plugin has \
             all rights of its process; take the list away and say all = true"
        ));
    }
    if !rights.all {
        return Err(
            "a native plugin has all rights of its process: say so by [rights] all = true".into()
        );
    }
    Ok(())
}

fn check_limits(limits: &LimitsTable) -> Result<(), String> {
    let fields = [
        ("memory_mb", limits.memory_mb, 1..=1 << 20),
        ("call_ms", limits.call_ms, 1..=60_000),
        ("restarts", limits.restarts, 0..=100),
        ("restart_window_s", limits.restart_window_s, 1..=86_400),
    ];
    match fields.into_iter().find(|(_, value, range)| !range.contains(value)) {
        Some((name, value, range)) => {
            let (from, to) = (range.start(), range.end());
            Err(format!("limits.{name} is {value}; it must be {from} to {to}"))
        }
        None => Ok(()),
    }
}

/// A folder of the plugins' folder.
#[derive(Debug)]
pub struct Found {
    /// The folder's name.
    pub id: String,
    /// Its manifest, or what is wrong with it.
    pub manifest: Result<Manifest, ManifestError>,
}

/// Reads every manifest, sorted by id. Runs and loads nothing.
///
/// Errors: the folder cannot be read, or has more than 256 entries.
pub fn scan(folder: &Path) -> Result<Vec<Found>, ManifestError> {
    let read = |source| ManifestError::Read { path: folder.to_owned(), source };
    let mut found = Vec::new();
    for (at, entry) in std::fs::read_dir(folder).map_err(read)?.enumerate() {
        if at >= FOLDERS_MAX {
            return Err(read(io::Error::other(format!("more than {FOLDERS_MAX} entries"))));
        }
        let path = entry.map_err(read)?.path();
        let name = path.file_name().and_then(|name| name.to_str()).map(str::to_owned);
        let Some(id) = name.filter(|_| path.join(FILE).is_file()) else { continue };
        found.push(Found { manifest: Manifest::read(&path), id });
    }
    found.sort_unstable_by(|a, b| a.id.cmp(&b.id));
    Ok(found)
}

pub(crate) fn read_limited(path: &Path, bytes_max: u64) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(bytes_max + 1).read_to_string(&mut text)?;
    if text.len() as u64 > bytes_max {
        return Err(io::Error::other(format!("it is larger than {bytes_max} bytes")));
    }
    Ok(text)
}

fn hash(path: &Path) -> io::Result<String> {
    // A link could lead to a file that somebody else may change.
    let kind = std::fs::symlink_metadata(path)?;
    if !kind.is_file() {
        return Err(io::Error::other("it is no plain file"));
    }
    if kind.len() > LIBRARY_BYTES_MAX {
        return Err(io::Error::other(format!("it is larger than {LIBRARY_BYTES_MAX} bytes")));
    }
    let mut file = File::open(path)?.take(LIBRARY_BYTES_MAX);
    let mut digest = Sha256::new();
    let mut buffer = vec![0; 64 << 10];
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            break;
        }
        digest.update(&buffer[..read]);
    }
    Ok(digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
#[path = "manifest_tests.rs"]
mod tests;
