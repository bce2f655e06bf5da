//! What must survive a restart: which plugins a person switched off, and which are quarantined; and
//! what plugins logged.
//!
//! One file for each plugin, replaced as a whole, so that the daemon and the command line may write
//! at the same time.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::limits::{LOG_FILE_BYTES_MAX, MANIFEST_BYTES_MAX};
use crate::manifest::{is_id, read_limited};

/// The folder of this.
#[derive(Debug, Clone)]
pub struct StateFolder(PathBuf);

/// What is remembered of one plugin.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Remembered {
    /// A person switched it off.
    pub disabled: bool,
    /// It failed too often.
    pub quarantine: Option<Quarantine>,
}

/// Why a plugin is out of use until a person enables it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Quarantine {
    /// Its last failure.
    pub reason: String,
    /// Seconds since 1970.
    pub since_unix: u64,
}

impl Quarantine {
    pub(crate) fn now(reason: String) -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        Self { reason, since_unix: since.map_or(0, |since| since.as_secs()) }
    }
}

impl StateFolder {
    /// This folder; it is made when something is to be remembered.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// What is remembered of a plugin; nothing where there is no file.
    ///
    /// Errors: a file that cannot be read or is damaged.
    pub fn read(&self, id: &str) -> io::Result<Remembered> {
        let path = self.file(id, "json")?;
        match read_limited(&path, MANIFEST_BYTES_MAX) {
            Ok(text) => serde_json::from_str(&text).map_err(|error| {
                io::Error::other(format!("{} is damaged: {error}", path.display()))
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Remembered::default()),
            Err(error) => Err(error),
        }
    }

    /// Remembers this of a plugin, over a loss of power too.
    pub fn write(&self, id: &str, remembered: &Remembered) -> io::Result<()> {
        let path = self.file(id, "json")?;
        make(&self.0)?;
        let whole = self.file(id, &format!("json.{}.new", std::process::id()))?;
        let mut file = File::create(&whole)?;
        file.write_all(serde_json::to_string_pretty(remembered)?.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&whole, &path)?;
        File::open(&self.0)?.sync_all()
    }

    /// What a plugin logged, the last few hundred KiB of it.
    pub fn log(&self, id: &str) -> io::Result<String> {
        let mut text = String::new();
        for extension in ["log.1", "log"] {
            match read_limited(&self.file(id, extension)?, 2 * LOG_FILE_BYTES_MAX) {
                Ok(part) => text.push_str(&part),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(text)
    }

    pub(crate) fn log_file(&self, id: &str) -> io::Result<LogFile> {
        LogFile::open(&self.0, self.file(id, "log")?)
    }

    fn file(&self, id: &str, extension: &str) -> io::Result<PathBuf> {
        if !is_id(id) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{id:?} is no id")));
        }
        Ok(self.0.join(format!("{id}.{extension}")))
    }
}

/// What plugins log may quote requests: the folder is its owner's alone.
fn make(folder: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

/// A log that begins anew at its limit and keeps the one before.
#[derive(Debug)]
pub(crate) struct LogFile {
    path: PathBuf,
    file: File,
    bytes: u64,
}

impl LogFile {
    fn open(folder: &Path, path: PathBuf) -> io::Result<Self> {
        make(folder)?;
        let file = OpenOptions::new().create(true).append(true).open(&path)?;
        let bytes = file.metadata()?.len();
        Ok(Self { path, file, bytes })
    }

    pub(crate) fn append(&mut self, line: &str) -> io::Result<()> {
        if self.bytes >= LOG_FILE_BYTES_MAX {
            std::fs::rename(&self.path, self.path.with_extension("log.1"))?;
            self.file = OpenOptions::new().create(true).append(true).open(&self.path)?;
            self.bytes = 0;
        }
        self.bytes += line.len() as u64 + 1;
        writeln!(self.file, "{line}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_remembered_is_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let state = StateFolder::new(folder.path().join("new"));
        assert_eq!(state.read("a").unwrap(), Remembered::default());
        let quarantine = Some(Quarantine { reason: "signal 11".into(), since_unix: 5 });
        let remembered = Remembered { disabled: true, quarantine };
        state.write("a", &remembered).unwrap();
        assert_eq!(state.read("a").unwrap(), remembered);
        assert_eq!(std::fs::read_dir(folder.path().join("new")).unwrap().count(), 1);
        std::fs::write(folder.path().join("new/a.json"), "{\"disabled\":").unwrap();
        assert!(state.read("a").unwrap_err().to_string().contains("is damaged"));
        assert!(state.read("../a").is_err());
    }

    #[test]
    fn a_log_has_a_limit() {
        let folder = tempfile::tempdir().unwrap();
        let state = StateFolder::new(folder.path());
        let mut log = state.log_file("a").unwrap();
        let line = "x".repeat(1023);
        for _ in 0..3 * LOG_FILE_BYTES_MAX / 1024 {
            log.append(&line).unwrap();
        }
        log.append("last").unwrap();
        let text = state.log("a").unwrap();
        assert!(text.len() as u64 <= 2 * LOG_FILE_BYTES_MAX + 1024);
        assert!(text.ends_with("last\n"));
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2);
    }
}
