//! Why something could not be written down.

use std::path::{Path, PathBuf};

use rusqlite::ErrorCode;

/// Why something could not be written down. Nothing of the change that failed is in the file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum JournalError {
    /// The disk, or the size that the file may have, is used up. Later attempts may succeed.
    #[error("the journal {path} cannot grow, its disk or its file is full: make room there")]
    Full {
        /// The file.
        path: PathBuf,
    },
    /// One of our own limits is reached. Later attempts may succeed.
    #[error("the journal holds {limit} {what}, which is its limit: wait until some have ended")]
    Limit {
        /// What there is too much of.
        what: &'static str,
        /// How much there may be.
        limit: u64,
    },
    /// The file cannot be read or written. Later attempts may succeed.
    #[error("the journal {path} cannot be written: {reason}")]
    Unwritable {
        /// The file.
        path: PathBuf,
        /// What the system says.
        reason: String,
    },
    /// Another process has it open.
    #[error("the journal {path} is open in another process: give each its own file")]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// A newer program wrote it.
    #[error("the journal {path} has version {found}, this program knows {known}: update it")]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: i64,
        /// Ours.
        known: i64,
    },
    /// More waits to be written than may wait. Later attempts may succeed.
    #[error("the journal's disk is too slow: {waiting} changes wait to be written")]
    Behind {
        /// How many may wait.
        waiting: usize,
    },
    /// The thread that writes has ended.
    #[error("the journal is closed")]
    Closed,
}

impl JournalError {
    /// Whether there is no room, as opposed to some other fault.
    pub fn is_full(&self) -> bool {
        matches!(self, Self::Full { .. })
    }

    pub(crate) fn unwritable(path: &Path, error: &std::io::Error) -> Self {
        if error.kind() == std::io::ErrorKind::StorageFull {
            return Self::Full { path: path.to_owned() };
        }
        Self::Unwritable { path: path.to_owned(), reason: error.to_string() }
    }

    pub(crate) fn of(path: &Path, error: &rusqlite::Error) -> Self {
        let path = path.to_owned();
        match error.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => Self::Full { path },
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Self::InUse { path },
            // The text of the statement and its values stay out of errors.
            Some(_) => match error {
                rusqlite::Error::SqliteFailure(code, _) => {
                    Self::Unwritable { path, reason: code.to_string() }
                }
                _ => Self::Unwritable { path, reason: "SQLite failed".into() },
            },
            None => Self::Unwritable { path, reason: "SQLite gave something unexpected".into() },
        }
    }
}

/// Whether the file itself is no longer a database that can be read.
pub(crate) fn is_damage(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase))
}
