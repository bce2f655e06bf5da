//! The file is made, opened and looked over: its lock, its log, its schema, its health.

use std::fs::{DirBuilder, OpenOptions};
use std::path::Path;
use std::time::Duration;

use rusqlite::Connection;

use crate::error::is_damage;
use crate::{JournalError, Limits};

/// A process that is ending may hold the file for this long.
pub(crate) const BUSY_MS: u64 = 2_000;
const PAGE_BYTES: u64 = 4096;
/// The log beside the file is cut back to this when it is emptied.
const LOG_BYTES_MAX: u64 = 8 << 20;
const VERSION: i64 = 1;
const SCHEMA: &str = "
    CREATE TABLE entries (
        number INTEGER PRIMARY KEY,
        state INTEGER NOT NULL,
        client BLOB NOT NULL,
        id BLOB NOT NULL,
        digest BLOB NOT NULL,
        lives INTEGER NOT NULL,
        graced INTEGER NOT NULL DEFAULT 0,
        address BLOB NOT NULL,
        body BLOB NOT NULL,
        lifetime_ms INTEGER NOT NULL,
        boot TEXT NOT NULL,
        uptime_ms INTEGER NOT NULL,
        wall_ms INTEGER NOT NULL,
        seal BLOB NOT NULL
    ) STRICT;
    CREATE TABLE marks (
        client BLOB NOT NULL,
        id BLOB NOT NULL,
        boot TEXT NOT NULL,
        uptime_ms INTEGER NOT NULL,
        wall_ms INTEGER NOT NULL
    ) STRICT;
    PRAGMA user_version = 1;
";

/// Why a file could not be opened.
pub(crate) enum Refusal {
    /// It is no database any more.
    Damaged,
    Other(JournalError),
}

impl Refusal {
    fn of(path: &Path, error: &rusqlite::Error) -> Self {
        if is_damage(error) { Self::Damaged } else { Self::Other(JournalError::of(path, error)) }
    }

    pub(crate) fn into_error(self, path: &Path) -> JournalError {
        match self {
            Self::Damaged => JournalError::Unwritable {
                path: path.to_owned(),
                reason: "a file that was just made cannot be read: check the disk".into(),
            },
            Self::Other(error) => error,
        }
    }
}

pub(crate) fn make_file(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    }
    OpenOptions::new().create(true).append(true).mode(0o600).open(path).map(|_| ())
}

pub(crate) fn connect(path: &Path, limits: &Limits) -> Result<Connection, Refusal> {
    let refuse = |error: rusqlite::Error| Refusal::of(path, &error);
    let connection = Connection::open(path).map_err(refuse)?;
    prepare(&connection, limits).map_err(refuse)?;
    let version: i64 =
        connection.query_row("PRAGMA user_version", [], |row| row.get(0)).map_err(refuse)?;
    if version > VERSION {
        let path = path.to_owned();
        return Err(Refusal::Other(JournalError::Newer { path, found: version, known: VERSION }));
    }
    let health: String =
        connection.query_row("PRAGMA integrity_check(1)", [], |row| row.get(0)).map_err(refuse)?;
    if health != "ok" {
        return Err(Refusal::Damaged);
    }
    if version == 0 {
        connection.execute_batch(&format!("BEGIN IMMEDIATE; {SCHEMA} COMMIT;")).map_err(refuse)?;
    }
    Ok(connection)
}

fn prepare(connection: &Connection, limits: &Limits) -> rusqlite::Result<()> {
    connection.busy_timeout(Duration::from_millis(BUSY_MS))?;
    // The lock is this process's until the end, so no memory is shared with others.
    connection.query_row("PRAGMA locking_mode = EXCLUSIVE", [], |_| Ok(()))?;
    connection.query_row("PRAGMA journal_mode = WAL", [], |_| Ok(()))?;
    let pages = (limits.file_bytes_max / PAGE_BYTES).max(64);
    connection.query_row(&format!("PRAGMA max_page_count = {pages}"), [], |_| Ok(()))?;
    connection.query_row(
        &format!("PRAGMA journal_size_limit = {LOG_BYTES_MAX}"),
        [],
        |_| Ok(()),
    )?;
    // What is deleted is overwritten: it was somebody's prompt.
    connection.query_row("PRAGMA secure_delete = ON", [], |_| Ok(()))?;
    connection.execute_batch(
        "PRAGMA synchronous = FULL; PRAGMA trusted_schema = OFF; PRAGMA cell_size_check = ON;
         BEGIN IMMEDIATE; COMMIT;",
    )
}
