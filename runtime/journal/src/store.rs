//! The file: its schema, what is written, what is read when it is opened.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rusqlite::{Connection, Transaction, TransactionBehavior, params};
use sha2::{Digest as _, Sha256};

use crate::file::{Refusal, connect, make_file};
use crate::rescue;
use crate::usage::{Usage, bytes_of};
use crate::{Change, ClosedEntry, JournalError, Key, Limits, Mark, Moment, OpenEntry, Recovered};

/// A reply that is too old when the journal is opened gets this once: the clock may be wrong.
const GRACE: Duration = Duration::from_secs(60);
/// A reply that survived so many lives is given up, for on a box without a clock it never ages.
const LIVES_MAX: u32 = 100;
const INSERT: &str = "INSERT OR REPLACE INTO entries (number, state, client, id, digest, lives, \
     graced, address, body, lifetime_ms, boot, uptime_ms, wall_ms, seal) \
     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14)";
pub(crate) const SELECT: &str = "SELECT number, state, client, id, digest, lives, graced, address, \
     body, lifetime_ms, boot, uptime_ms, wall_ms, seal FROM entries ORDER BY number";

/// Where an entry stands; what `state` says.
pub(crate) const OPEN: i64 = 0;
const CLOSED: i64 = 1;
const SETTLED: i64 = 2;

/// An open file.
#[derive(Debug)]
pub(crate) struct Store {
    connection: Connection,
    path: PathBuf,
    limits: Limits,
    usage: Usage,
    /// Something was written since the log was last emptied.
    dirty: bool,
}

/// One line of `entries`.
#[derive(Debug, Clone)]
pub(crate) struct Row {
    pub(crate) number: u64,
    state: i64,
    key: Key,
    lives: u32,
    graced: bool,
    address: Vec<u8>,
    body: Vec<u8>,
    lifetime_ms: u64,
    moment: Moment,
}

impl Store {
    /// Opens or begins the file; gives what was in it and the first free number.
    pub(crate) fn open(
        path: &Path,
        limits: Limits,
        now: &Moment,
    ) -> Result<(Self, Recovered, u64), JournalError> {
        make_file(path).map_err(|error| JournalError::unwritable(path, &error))?;
        let mut recovered = Recovered::default();
        let mut rescued = Vec::new();
        let connection = match connect(path, &limits) {
            Ok(connection) => connection,
            Err(Refusal::Damaged) => {
                let aside = rescue::set_aside(path, now.wall_ms)
                    .map_err(|error| JournalError::unwritable(path, &error))?;
                rescued = rescue::read(&aside);
                tracing::error!(
                    journal = %path.display(), moved_to = %aside.display(),
                    entries = rescued.len(),
                    "the journal is damaged and was moved aside; what could be read goes on",
                );
                recovered.set_aside = Some(aside);
                make_file(path).map_err(|error| JournalError::unwritable(path, &error))?;
                connect(path, &limits).map_err(|refusal| refusal.into_error(path))?
            }
            Err(Refusal::Other(error)) => return Err(error),
        };
        let path = path.to_owned();
        let mut store = Self { connection, path, limits, usage: Usage::default(), dirty: true };
        let next = store
            .recover(rescued, now, &mut recovered)
            .map_err(|error| JournalError::of(&store.path, &error))?;
        Ok((store, recovered, next))
    }

    /// Writes all of `changes` or none of them, and returns when they are on the disk.
    pub(crate) fn commit(&mut self, changes: &[&Change]) -> Result<(), JournalError> {
        let mut pending = (0, 0);
        for change in changes {
            if let Change::Open { .. } = change {
                let bytes = bytes_of(change);
                self.usage.admit(pending, bytes, &self.limits)?;
                pending = (pending.0 + 1, pending.1 + bytes);
            }
        }
        let now = Moment::now();
        self.dirty = true;
        self.write(changes, &now).map_err(|error| {
            match error.sqlite_error_code() {
                // Here nobody else can hold it: the disk does not let us.
                Some(rusqlite::ErrorCode::DatabaseBusy | rusqlite::ErrorCode::DatabaseLocked) => {
                    JournalError::Unwritable {
                        path: self.path.clone(),
                        reason: "it is locked".into(),
                    }
                }
                _ => JournalError::of(&self.path, &error),
            }
        })?;
        for change in changes {
            self.usage.apply(change);
        }
        Ok(())
    }

    /// Forgets what is too old or too much, and empties the log, which holds what was deleted.
    pub(crate) fn tidy(&mut self, now: Instant) -> Result<(), JournalError> {
        let surplus = self.usage.surplus(&self.limits, now);
        let result = self.forget(&surplus).and_then(|()| {
            if self.dirty && self.usage.is_idle() {
                self.connection
                    .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
                    .inspect(|()| self.dirty = false)?;
            }
            Ok(())
        });
        result.map_err(|error| JournalError::of(&self.path, &error))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    fn write(&mut self, changes: &[&Change], now: &Moment) -> rusqlite::Result<()> {
        let transaction =
            self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        for change in changes {
            apply(&transaction, change, now, self.limits.marks_max)?;
        }
        transaction.commit()
    }

    fn forget(&mut self, numbers: &[u64]) -> rusqlite::Result<()> {
        if numbers.is_empty() {
            return Ok(());
        }
        let transaction =
            self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        {
            let mut statement = transaction.prepare("DELETE FROM entries WHERE number = ?1")?;
            for number in numbers {
                statement.execute([signed(*number)])?;
            }
        }
        transaction.commit()?;
        self.dirty = true;
        for number in numbers {
            self.usage.remove(*number);
        }
        Ok(())
    }

    /// Reads everything, counts a life more for each entry, and drops what is over.
    fn recover(
        &mut self,
        rescued: Vec<Row>,
        now: &Moment,
        recovered: &mut Recovered,
    ) -> rusqlite::Result<u64> {
        let transaction =
            self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        for row in &rescued {
            row.insert(&transaction)?;
        }
        let mut next = 1;
        for row in read_rows(&transaction)? {
            next = next.max(row.number() + 1);
            match row {
                Found::Sound(row) => {
                    take_in(&transaction, *row, now, (&self.limits, recovered, &mut self.usage))?;
                }
                Found::Damaged { number, key } => {
                    transaction
                        .execute("DELETE FROM entries WHERE number = ?1", [signed(number)])?;
                    recovered.damaged.push(key);
                }
            }
        }
        recovered.marks = marks(&transaction, now, self.limits.marks_kept)?;
        transaction.commit()?;
        Ok(next)
    }
}

/// One entry of an earlier life: it goes on, or it is over.
fn take_in(
    transaction: &Transaction<'_>,
    row: Row,
    now: &Moment,
    (limits, recovered, usage): (&Limits, &mut Recovered, &mut Usage),
) -> rusqlite::Result<()> {
    let age = now.since(&row.moment);
    let lifetime = Duration::from_millis(row.lifetime_ms);
    let mut left = lifetime.saturating_sub(age);
    let late = row.state == CLOSED && left.is_zero();
    let over = (late && row.graced)
        || (row.state != OPEN && row.lives >= LIVES_MAX)
        || (row.state == SETTLED && age > limits.settled_kept);
    if over {
        recovered.expired += usize::from(row.state == CLOSED);
        transaction.execute("DELETE FROM entries WHERE number = ?1", [signed(row.number)])?;
        return Ok(());
    }
    if late {
        left = GRACE;
    }
    transaction.execute(
        "UPDATE entries SET lives = lives + 1, graced = graced OR ?2 WHERE number = ?1",
        params![signed(row.number), late],
    )?;
    let bytes = row.key.client.len() + row.key.id.len() + row.address.len() + row.body.len();
    let settled = row.state == SETTLED;
    usage.found(row.number, bytes as u64, settled.then_some(age));
    let Row { number, key, lives, address, body, .. } = row;
    if row.state == OPEN {
        let open = OpenEntry { number, key, address, request: body, attempts: lives, left };
        recovered.open.push(open);
    } else {
        recovered.closed.push(ClosedEntry { number, key, reply: body, settled, left, age });
    }
    Ok(())
}

fn apply(
    transaction: &Transaction<'_>,
    change: &Change,
    now: &Moment,
    marks_max: usize,
) -> rusqlite::Result<()> {
    match change {
        Change::Open { number, key, address, request, lifetime } => {
            insert(transaction, (*number, OPEN), key, (address, request), *lifetime, now)
        }
        Change::Close { number, key, reply, lifetime } => {
            insert(transaction, (*number, CLOSED), key, (&[], reply), *lifetime, now)
        }
        Change::Settle { number, keep } => {
            let statement = if *keep {
                "UPDATE entries SET state = 2 WHERE number = ?1 AND state = 1"
            } else {
                "DELETE FROM entries WHERE number = ?1"
            };
            transaction.execute(statement, [signed(*number)]).map(|_| ())
        }
        Change::Mark { client, id } => {
            transaction.execute(
                "INSERT INTO marks VALUES (?1, ?2, ?3, ?4, ?5)",
                params![client, id, now.boot, signed(now.uptime_ms), signed(now.wall_ms)],
            )?;
            transaction
                .execute(
                    "DELETE FROM marks WHERE rowid <= (SELECT max(rowid) FROM marks) - ?1",
                    [signed(marks_max as u64)],
                )
                .map(|_| ())
        }
    }
}

fn insert(
    transaction: &Transaction<'_>,
    (number, state): (u64, i64),
    key: &Key,
    (address, body): (&[u8], &[u8]),
    lifetime: Duration,
    now: &Moment,
) -> rusqlite::Result<()> {
    let row = Row {
        number,
        state,
        key: key.clone(),
        lives: 1,
        graced: false,
        address: address.to_vec(),
        body: body.to_vec(),
        lifetime_ms: u64::try_from(lifetime.as_millis()).unwrap_or(u64::MAX),
        moment: now.clone(),
    };
    row.insert(transaction)
}

impl Row {
    pub(crate) fn insert(&self, connection: &Connection) -> rusqlite::Result<()> {
        let parameters = params![
            signed(self.number),
            self.state,
            self.key.client,
            self.key.id,
            self.key.digest,
            self.lives,
            self.graced,
            self.address,
            self.body,
            signed(self.lifetime_ms),
            self.moment.boot,
            signed(self.moment.uptime_ms),
            signed(self.moment.wall_ms),
            self.seal(),
        ];
        connection.execute(INSERT, parameters).map(|_| ())
    }

    /// Tells a change on the disk; over everything that never changes by itself.
    fn seal(&self) -> Vec<u8> {
        let mut hash = Sha256::new();
        hash.update(self.number.to_le_bytes());
        hash.update([u8::from(self.state == OPEN)]);
        for part in [&self.key.client, &self.key.id, &self.address, &self.body] {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        hash.update(self.key.digest);
        hash.update(self.lifetime_ms.to_le_bytes());
        hash.finalize()[..16].to_vec()
    }
}

/// A line that was read.
pub(crate) enum Found {
    Sound(Box<Row>),
    Damaged { number: u64, key: Key },
}

impl Found {
    pub(crate) fn number(&self) -> u64 {
        match self {
            Self::Sound(row) => row.number,
            Self::Damaged { number, .. } => *number,
        }
    }

    pub(crate) fn read(line: &rusqlite::Row<'_>) -> rusqlite::Result<Self> {
        // Whatever a damaged page says of types, the seal decides.
        let bytes = |at| line.get::<_, Vec<u8>>(at).unwrap_or_default();
        let whole = |at| line.get::<_, i64>(at).unwrap_or_default();
        let number = whole(0).cast_unsigned();
        let key =
            Key { client: bytes(2), id: bytes(3), digest: bytes(4).try_into().unwrap_or_default() };
        let row = Row {
            number,
            state: whole(1),
            key,
            lives: u32::try_from(whole(5)).unwrap_or(u32::MAX),
            graced: whole(6) != 0,
            address: bytes(7),
            body: bytes(8),
            lifetime_ms: whole(9).cast_unsigned(),
            moment: Moment {
                boot: line.get(10).unwrap_or_default(),
                uptime_ms: whole(11).cast_unsigned(),
                wall_ms: whole(12).cast_unsigned(),
            },
        };
        let sound = (OPEN..=SETTLED).contains(&row.state) && row.seal() == bytes(13);
        Ok(if sound { Self::Sound(Box::new(row)) } else { Self::Damaged { number, key: row.key } })
    }
}

fn read_rows(connection: &Connection) -> rusqlite::Result<Vec<Found>> {
    let mut statement = connection.prepare(SELECT)?;
    let rows = statement.query_map([], Found::read)?;
    rows.collect()
}

fn marks(
    transaction: &Transaction<'_>,
    now: &Moment,
    kept: Duration,
) -> rusqlite::Result<Vec<Mark>> {
    let mut statement = transaction
        .prepare("SELECT rowid, client, id, boot, uptime_ms, wall_ms FROM marks ORDER BY rowid")?;
    let mut lines = statement.query([])?;
    let (mut marks, mut old) = (Vec::new(), Vec::new());
    while let Some(line) = lines.next()? {
        let moment = Moment {
            boot: line.get(3)?,
            uptime_ms: line.get::<_, i64>(4)?.cast_unsigned(),
            wall_ms: line.get::<_, i64>(5)?.cast_unsigned(),
        };
        let age = now.since(&moment);
        if age > kept {
            old.push(line.get::<_, i64>(0)?);
        } else {
            marks.push(Mark { client: line.get(1)?, id: line.get(2)?, age });
        }
    }
    for row in old {
        transaction.execute("DELETE FROM marks WHERE rowid = ?1", [row])?;
    }
    Ok(marks)
}

/// SQLite's integers are signed; the bits are ours.
fn signed(number: u64) -> i64 {
    number.cast_signed()
}
