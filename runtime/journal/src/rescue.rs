//! A file that is damaged as a whole: moved aside, and read as far as it can be.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use rusqlite::Connection;

use crate::store::{Found, Row, SELECT};

/// Moves the file and its log to a name with `stamp` in it.
pub(crate) fn set_aside(path: &Path, stamp: u64) -> std::io::Result<PathBuf> {
    let aside = with_suffix(path, &format!(".damaged-{stamp}"));
    std::fs::rename(path, &aside)?;
    let log = with_suffix(path, "-wal");
    if log.exists() {
        std::fs::rename(log, with_suffix(&aside, "-wal"))?;
    }
    Ok(aside)
}

/// The entries that can still be read and whose seals are right: from the front to the first
/// damaged page, and from the back to the last.
pub(crate) fn read(aside: &Path) -> Vec<Row> {
    let mut rows = BTreeMap::new();
    if let Ok(connection) = Connection::open(aside) {
        for direction in ["", " DESC"] {
            // An error only ends this way through the file.
            let _ended = read_way(&connection, direction, &mut rows);
        }
    }
    rows.into_values().collect()
}

fn read_way(
    connection: &Connection,
    direction: &str,
    rows: &mut BTreeMap<u64, Row>,
) -> rusqlite::Result<()> {
    let mut statement = connection.prepare(&format!("{SELECT}{direction}"))?;
    let mut lines = statement.query([])?;
    while let Some(line) = lines.next()? {
        if let Found::Sound(row) = Found::read(line)? {
            rows.insert(row.number, *row);
        }
    }
    Ok(())
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    PathBuf::from(name)
}
