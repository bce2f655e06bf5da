//! The file of files and jobs: its schema, what is written, what is read.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rusqlite::{Connection, OptionalExtension as _, Row, Transaction, params};

use crate::batches::STATES;
use crate::file::{BUSY_MS, make_file};
use crate::{BatchLimits, FileCard, FileKind, Item, Job, JobState, JournalError, NewJob};

const PAGE_BYTES: u64 = 4096;
const VERSION: i64 = 1;
/// An item that was under way at so many ends of the program is not tried again: it may be why.
const ATTEMPTS_MAX: u32 = 2;
const SCHEMA: &str = "
    CREATE TABLE files (
        id TEXT PRIMARY KEY, owner TEXT NOT NULL, name TEXT NOT NULL, kind INTEGER NOT NULL,
        body BLOB NOT NULL, bytes INTEGER NOT NULL, lines INTEGER NOT NULL,
        created_s INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE jobs (
        number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, owner TEXT NOT NULL,
        about BLOB NOT NULL, state INTEGER NOT NULL, items INTEGER NOT NULL,
        done INTEGER NOT NULL DEFAULT 0, failed INTEGER NOT NULL DEFAULT 0,
        created_s INTEGER NOT NULL, lifetime_s INTEGER NOT NULL,
        begun_s INTEGER, ended_s INTEGER, answers TEXT, faults TEXT
    ) STRICT;
    CREATE TABLE items (
        job INTEGER NOT NULL, number INTEGER NOT NULL, attempts INTEGER NOT NULL DEFAULT 0,
        outcome INTEGER NOT NULL DEFAULT 0, body BLOB NOT NULL, PRIMARY KEY (job, number)
    ) STRICT;
    CREATE INDEX waiting ON items (job, number) WHERE outcome = 0;
    PRAGMA user_version = 1;
";
const FILE: &str = "SELECT id, name, kind, bytes, lines, created_s FROM files";
const JOB: &str = "SELECT number, id, owner, about, state, items, done, failed, created_s, \
                   lifetime_s, begun_s, ended_s, answers, faults FROM jobs";

/// The store of files and jobs.
///
/// Threads: any; a call waits for the disk.
#[derive(Debug)]
pub struct Batches {
    connection: Mutex<Connection>,
    path: PathBuf,
    limits: BatchLimits,
}

impl Batches {
    /// Opens the file at `path`, or begins one there; without a path everything is in memory and
    /// gone with the value. The file is this user's alone (0600), and this process's.
    ///
    /// Errors: a folder or file that cannot be made, read or written; one that another process has
    /// open or a newer program wrote.
    pub fn open(path: Option<&Path>, limits: BatchLimits) -> Result<Self, JournalError> {
        let shown = path.unwrap_or_else(|| Path::new(":memory:")).to_owned();
        if let Some(path) = path {
            make_file(path).map_err(|error| JournalError::unwritable(path, &error))?;
        }
        let refuse = |error: rusqlite::Error| JournalError::of(&shown, &error);
        let connection = Connection::open(&shown).map_err(refuse)?;
        let found = begin(&connection, limits.bytes_max).map_err(refuse)?;
        if found > VERSION {
            return Err(JournalError::Newer { path: shown, found, known: VERSION });
        }
        Ok(Self { connection: Mutex::new(connection), path: shown, limits })
    }

    /// Its limits.
    pub fn limits(&self) -> BatchLimits {
        self.limits
    }

    /// Keeps a file of `owner` under a new `id`.
    ///
    /// Errors: `Limit` where there are too many or they are too large; what the disk says.
    pub fn add_file(
        &self,
        owner: &str,
        id: &str,
        name: &str,
        body: &[u8],
    ) -> Result<FileCard, JournalError> {
        self.check("bytes in one file", body.len() as u64, self.limits.file_bytes_max)?;
        self.write(|transaction| {
            let files = count(transaction, "SELECT count(*) FROM files")?;
            if files >= self.limits.files_max {
                return Ok(Err(limit("files", self.limits.files_max)));
            }
            put_file(transaction, owner, id, (name, FileKind::Brought), body)?;
            Ok(Ok(()))
        })??;
        self.file(owner, id)?.ok_or(JournalError::Closed)
    }

    /// The files of `owner`, newest first.
    pub fn files(&self, owner: &str) -> Result<Vec<FileCard>, JournalError> {
        let sql = format!("{FILE} WHERE owner = ?1 ORDER BY created_s DESC, rowid DESC");
        self.read(|connection| connection.prepare(&sql)?.query_map([owner], file_card)?.collect())
    }

    /// One file of `owner`.
    pub fn file(&self, owner: &str, id: &str) -> Result<Option<FileCard>, JournalError> {
        let sql = format!("{FILE} WHERE owner = ?1 AND id = ?2");
        self.read(|connection| connection.query_row(&sql, [owner, id], file_card).optional())
    }

    /// The bytes of one file of `owner`.
    pub fn content(&self, owner: &str, id: &str) -> Result<Option<Vec<u8>>, JournalError> {
        let sql = "SELECT body FROM files WHERE owner = ?1 AND id = ?2";
        self.read(|connection| connection.query_row(sql, [owner, id], |row| row.get(0)).optional())
    }

    /// Forgets a file of `owner`; whether there was one.
    pub fn remove_file(&self, owner: &str, id: &str) -> Result<bool, JournalError> {
        let sql = "DELETE FROM files WHERE owner = ?1 AND id = ?2";
        self.write(|transaction| Ok(transaction.execute(sql, [owner, id])? > 0))
    }

    /// Accepts a job: once this returns it is on the disk.
    ///
    /// Errors: as [`add_file`](Self::add_file).
    pub fn add_job(&self, job: &NewJob) -> Result<Job, JournalError> {
        self.check("items in one job", job.items.len() as u64, self.limits.items_max)?;
        self.write(|transaction| {
            let jobs = count(transaction, "SELECT count(*) FROM jobs")?;
            if jobs >= self.limits.jobs_max {
                return Ok(Err(limit("jobs", self.limits.jobs_max)));
            }
            transaction.execute(
                "INSERT INTO jobs (id, owner, about, state, items, created_s, lifetime_s) \
                 VALUES (?1, ?2, ?3, 0, ?4, ?5, ?6)",
                params![
                    job.id,
                    job.owner,
                    job.about,
                    int(job.items.len() as u64),
                    now_s(),
                    int(job.lifetime_s)
                ],
            )?;
            let number = transaction.last_insert_rowid();
            let sql = "INSERT INTO items (job, number, body) VALUES (?1, ?2, ?3)";
            let mut statement = transaction.prepare(sql)?;
            for (at, item) in job.items.iter().enumerate() {
                statement.execute(params![number, int(at as u64), item])?;
            }
            Ok(Ok(()))
        })??;
        self.job(&job.owner, &job.id)?.ok_or(JournalError::Closed)
    }

    /// The jobs of `owner`, newest first.
    pub fn jobs(&self, owner: &str) -> Result<Vec<Job>, JournalError> {
        let sql = format!("{JOB} WHERE owner = ?1 ORDER BY number DESC");
        self.read(|connection| connection.prepare(&sql)?.query_map([owner], job)?.collect())
    }

    /// One job of `owner`.
    pub fn job(&self, owner: &str, id: &str) -> Result<Option<Job>, JournalError> {
        let sql = format!("{JOB} WHERE owner = ?1 AND id = ?2");
        self.read(|connection| connection.query_row(&sql, [owner, id], job).optional())
    }

    /// Says that the owner wants no more of a job, and gives it as it is then.
    pub fn cancel(&self, owner: &str, id: &str) -> Result<Option<Job>, JournalError> {
        let sql = "UPDATE jobs SET state = ?3 WHERE owner = ?1 AND id = ?2 AND state IN (?4, ?5)";
        let [queued, running, cancelling] =
            [JobState::Queued, JobState::Running, JobState::Cancelling].map(JobState::number);
        self.write(|transaction| {
            transaction.execute(sql, params![owner, id, cancelling, queued, running])
        })?;
        self.job(owner, id)
    }

    /// Forgets a job of `owner` that is over; its files stay. Whether there was one.
    pub fn remove_job(&self, owner: &str, id: &str) -> Result<bool, JournalError> {
        let sql = "DELETE FROM jobs WHERE owner = ?1 AND id = ?2 AND state > ?3";
        self.write(|transaction| {
            Ok(transaction.execute(sql, params![owner, id, JobState::Cancelling.number()])? > 0)
        })
    }

    /// The oldest job of any owner that is not over and is none of `passed`.
    pub fn next_job(&self, passed: &[String]) -> Result<Option<Job>, JournalError> {
        let sql = format!("{JOB} WHERE state <= ?1 ORDER BY number");
        self.read(|connection| {
            let mut statement = connection.prepare(&sql)?;
            let mut jobs = statement.query_map([JobState::Cancelling.number()], job)?;
            jobs.find(|job| job.as_ref().map_or(true, |job| !passed.contains(&job.id))).transpose()
        })
    }

    /// Begins the next item of a job that has no outcome and is none of `under_way`.
    pub fn begin(&self, job: &Job, under_way: &[u64]) -> Result<Option<Item>, JournalError> {
        let sql = "SELECT number, body, attempts FROM items \
                   WHERE job = ?1 AND outcome = 0 ORDER BY number LIMIT ?2";
        self.write(|transaction| {
            let mut statement = transaction.prepare(sql)?;
            let mut rows = statement.query(params![job.number, int(under_way.len() as u64 + 1)])?;
            while let Some(row) = rows.next()? {
                let number = whole(row, 0)?;
                if under_way.contains(&number) {
                    continue;
                }
                let gave_up = row.get::<_, u32>(2)? >= ATTEMPTS_MAX;
                transaction.execute(
                    "UPDATE items SET attempts = attempts + 1 WHERE job = ?1 AND number = ?2",
                    params![job.number, int(number)],
                )?;
                transaction.execute(
                    "UPDATE jobs SET state = ?2, begun_s = coalesce(begun_s, ?3) \
                     WHERE number = ?1 AND state = 0",
                    params![job.number, JobState::Running.number(), now_s()],
                )?;
                return Ok(Some(Item { number, body: row.get(1)?, gave_up }));
            }
            Ok(None)
        })
    }

    /// Takes a begun item back: it was not its turn. It counts as not begun.
    pub fn put_back(&self, job: &Job, number: u64) -> Result<(), JournalError> {
        let sql = "UPDATE items SET attempts = max(attempts, 1) - 1 WHERE job = ?1 AND number = ?2";
        self.write(|transaction| {
            transaction.execute(sql, params![job.number, int(number)]).map(|_| ())
        })
    }

    /// Takes every begun item back, at an orderly end of the program.
    pub fn put_all_back(&self) -> Result<(), JournalError> {
        let sql = "UPDATE items SET attempts = attempts - 1 WHERE outcome = 0 AND attempts > 0";
        self.write(|transaction| transaction.execute(sql, []).map(|_| ()))
    }

    /// Notes what came of an item, in place of what was to be done.
    pub fn settle(
        &self,
        job: &Job,
        number: u64,
        outcome: Result<&[u8], &[u8]>,
    ) -> Result<(), JournalError> {
        let (code, body, column) = match outcome {
            Ok(body) => (1, body, "done"),
            Err(body) => (2, body, "failed"),
        };
        self.write(|transaction| {
            let changed = transaction.execute(
                "UPDATE items SET outcome = ?3, body = ?4 \
                 WHERE job = ?1 AND number = ?2 AND outcome = 0",
                params![job.number, int(number), code, body],
            )?;
            transaction.execute(
                &format!("UPDATE jobs SET {column} = {column} + ?2 WHERE number = ?1"),
                params![job.number, int(changed as u64)],
            )?;
            Ok(())
        })
    }

    /// Ends a job: what came of its items becomes two files, under the ids that are given, where
    /// there is anything for them; its items are forgotten.
    pub fn end(&self, job: &Job, state: JobState, ids: [&str; 2]) -> Result<(), JournalError> {
        self.write(|transaction| {
            let mut files = [None, None];
            let kinds = [(FileKind::Answers, "results"), (FileKind::Faults, "errors")];
            for (at, (kind, word)) in kinds.into_iter().enumerate() {
                let body = lines_of(transaction, job.number, at as i64 + 1)?;
                if !body.is_empty() {
                    let name = format!("{}_{word}.jsonl", job.id);
                    put_file(transaction, &job.owner, ids[at], (&name, kind), &body)?;
                    files[at] = Some(ids[at]);
                }
            }
            transaction.execute("DELETE FROM items WHERE job = ?1", [job.number])?;
            transaction.execute(
                "UPDATE jobs SET state = ?2, ended_s = ?3, answers = ?4, faults = ?5 \
                 WHERE number = ?1",
                params![job.number, state.number(), now_s(), files[0], files[1]],
            )?;
            Ok(())
        })
    }

    fn check(&self, what: &'static str, found: u64, most: u64) -> Result<(), JournalError> {
        if found > most { Err(limit(what, most)) } else { Ok(()) }
    }

    fn read<T>(
        &self,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T, JournalError> {
        work(&self.lock()).map_err(|error| JournalError::of(&self.path, &error))
    }

    fn write<T>(
        &self,
        work: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T>,
    ) -> Result<T, JournalError> {
        let mut connection = self.lock();
        let transaction = connection.transaction();
        let outcome = transaction.and_then(|transaction| {
            let outcome = work(&transaction)?;
            transaction.commit()?;
            Ok(outcome)
        });
        outcome.map_err(|error| JournalError::of(&self.path, &error))
    }

    fn lock(&self) -> MutexGuard<'_, Connection> {
        // A panic under the lock rolled its transaction back.
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Sets the connection up and gives the version of the file.
fn begin(connection: &Connection, bytes_max: u64) -> rusqlite::Result<i64> {
    connection.busy_timeout(Duration::from_millis(BUSY_MS))?;
    connection.pragma_update(None, "locking_mode", "EXCLUSIVE")?;
    connection.pragma_update(None, "page_size", int(PAGE_BYTES))?;
    connection.query_row("PRAGMA journal_mode = WAL", [], |_| Ok(()))?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    // What is forgotten is prompts and answers.
    connection.pragma_update(None, "secure_delete", "ON")?;
    let pages = (bytes_max / PAGE_BYTES).max(64);
    connection.query_row(&format!("PRAGMA max_page_count = {pages}"), [], |_| Ok(()))?;
    let found = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    if found == 0 {
        connection.execute_batch(&format!("BEGIN IMMEDIATE; {SCHEMA} COMMIT;"))?;
    }
    Ok(found)
}

fn put_file(
    transaction: &Transaction<'_>,
    owner: &str,
    id: &str,
    (name, kind): (&str, FileKind),
    body: &[u8],
) -> rusqlite::Result<()> {
    let ends = body.iter().filter(|byte| **byte == b'\n').count();
    let lines = ends + usize::from(!body.is_empty() && !body.ends_with(b"\n"));
    transaction.execute(
        "INSERT INTO files (id, owner, name, kind, body, bytes, lines, created_s) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
        params![
            id,
            owner,
            name,
            kind as i64,
            body,
            int(body.len() as u64),
            int(lines as u64),
            now_s()
        ],
    )?;
    Ok(())
}

/// The outcomes of one kind, in the order of the items, a line for each.
fn lines_of(transaction: &Transaction<'_>, job: i64, outcome: i64) -> rusqlite::Result<Vec<u8>> {
    let sql = "SELECT body FROM items WHERE job = ?1 AND outcome = ?2 ORDER BY number";
    let mut statement = transaction.prepare(sql)?;
    let mut rows = statement.query(params![job, outcome])?;
    let mut lines = Vec::new();
    while let Some(row) = rows.next()? {
        lines.extend_from_slice(row.get_ref(0)?.as_blob()?);
        lines.push(b'\n');
    }
    Ok(lines)
}

fn file_card(row: &Row<'_>) -> rusqlite::Result<FileCard> {
    let kind = match row.get::<_, i64>(2)? {
        0 => FileKind::Brought,
        1 => FileKind::Answers,
        _ => FileKind::Faults,
    };
    Ok(FileCard {
        id: row.get(0)?,
        name: row.get(1)?,
        kind,
        bytes: whole(row, 3)?,
        lines: whole(row, 4)?,
        created_s: whole(row, 5)?,
    })
}

fn job(row: &Row<'_>) -> rusqlite::Result<Job> {
    let state = usize::try_from(row.get::<_, i64>(4)?).unwrap_or(usize::MAX);
    Ok(Job {
        number: row.get(0)?,
        id: row.get(1)?,
        owner: row.get(2)?,
        about: row.get(3)?,
        state: STATES.get(state).copied().unwrap_or(JobState::Failed),
        items: whole(row, 5)?,
        done: whole(row, 6)?,
        failed: whole(row, 7)?,
        created_s: whole(row, 8)?,
        lifetime_s: whole(row, 9)?,
        begun_s: row.get::<_, Option<i64>>(10)?.map(i64::unsigned_abs),
        ended_s: row.get::<_, Option<i64>>(11)?.map(i64::unsigned_abs),
        answers: row.get(12)?,
        faults: row.get(13)?,
    })
}

fn count(transaction: &Transaction<'_>, sql: &str) -> rusqlite::Result<u64> {
    transaction.query_row(sql, [], |row| whole(row, 0))
}

fn limit(what: &'static str, limit: u64) -> JournalError {
    JournalError::Limit { what, limit }
}

/// A number as SQLite has it.
fn int(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// A number that was written by [`int`].
fn whole(row: &Row<'_>, column: usize) -> rusqlite::Result<u64> {
    Ok(row.get::<_, i64>(column)?.unsigned_abs())
}

fn now_s() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |elapsed| int(elapsed.as_secs()))
}
