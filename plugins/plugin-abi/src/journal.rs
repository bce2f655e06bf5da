//! One plugin's lines: rate-limited, prefixed with its id, to the daemon's log and to its own file.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use crate::limiter::{self, Limiter};
use crate::state::{LogFile, StateFolder};

/// Where what a plugin says, and what is said of it, is written.
#[derive(Debug, Clone)]
pub(crate) struct Journal(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    id: String,
    foreign: Mutex<Limiter>,
    own: Mutex<Limiter>,
    file: Mutex<Option<LogFile>>,
}

/// How grave a line is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Level {
    Debug,
    Info,
    Warn,
    Error,
}

impl From<i32> for Level {
    fn from(level: i32) -> Self {
        match level {
            i32::MIN..=0 => Self::Debug,
            1 => Self::Info,
            2 => Self::Warn,
            _ => Self::Error,
        }
    }
}

impl Journal {
    pub(crate) fn open(id: &str, state: &StateFolder) -> Self {
        let now = Instant::now();
        let file = state.log_file(id);
        if let Err(error) = &file {
            tracing::warn!(plugin = id, %error, "the plugin's log file cannot be opened");
        }
        Self(Arc::new(Inner {
            id: id.to_owned(),
            foreign: Mutex::new(Limiter::new(now)),
            own: Mutex::new(Limiter::new(now)),
            file: Mutex::new(file.ok()),
        }))
    }

    /// A line of the plugin.
    pub(crate) fn foreign(&self, level: Level, bytes: &[u8]) {
        let passed = self.limit(&self.0.foreign);
        if passed {
            self.write(level, "says", &limiter::line(bytes));
        }
    }

    /// A line about the plugin.
    pub(crate) fn own(&self, level: Level, line: &str) {
        if self.limit(&self.0.own) {
            self.write(level, "host", line);
        }
    }

    fn limit(&self, limiter: &Mutex<Limiter>) -> bool {
        let passed = limiter.lock().unwrap_or_else(PoisonError::into_inner).pass(Instant::now());
        if let Some(dropped @ 1..) = passed {
            self.write(Level::Warn, "host", &format!("{dropped} lines were dropped"));
        }
        passed.is_some()
    }

    fn write(&self, level: Level, who: &str, line: &str) {
        let id = self.0.id.as_str();
        let word = match level {
            Level::Debug => "debug",
            Level::Info => "info",
            Level::Warn => "warn",
            Level::Error => "error",
        };
        match level {
            Level::Debug => tracing::debug!("plugin {id} {who}: {line}"),
            Level::Info => tracing::info!("plugin {id} {who}: {line}"),
            Level::Warn => tracing::warn!("plugin {id} {who}: {line}"),
            Level::Error => tracing::error!("plugin {id} {who}: {line}"),
        }
        let mut file = self.0.file.lock().unwrap_or_else(PoisonError::into_inner);
        let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs());
        let line = format!("{seconds} {word} {who}: {line}");
        if let Some(error) = file.as_mut().and_then(|file| file.append(&line).err()) {
            // A full disk must not be told of with every line.
            *file = None;
            tracing::warn!(plugin = id, %error, "the plugin's log file cannot be written any more");
        }
    }
}
