//! What must survive a crash: accepted requests and what was not yet delivered.
//!
//! A transport writes here before it promises anything. One entry is one request: it is *open*
//! from its acceptance to its end, *closed* while its reply waits to be delivered, and *settled*
//! while the delivered reply is kept for repeats. What the bytes mean is the transport's business.
//!
//! The file is SQLite: its write-ahead log with a sync at every commit is what "it is on the disk"
//! means here. One thread owns it and commits what piled up while the last commit was made, so
//! that many requests share a sync and none waits for company. Nobody else ever blocks on a disk.
#![forbid(unsafe_code)]

mod batch_store;
mod batches;
mod error;
mod file;
mod moment;
mod rescue;
mod store;
mod usage;
mod writer;

use std::path::Path;
use std::time::Duration;

pub use batch_store::Batches;
pub use batches::{BatchLimits, FileCard, FileKind, Item, Job, JobState, NewJob};
pub use error::JournalError;
pub use moment::Moment;
pub use writer::Journal;

/// How much one journal holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Open and closed entries together; a further request is refused.
    pub entries_max: usize,
    /// Bytes of open and closed entries; a request beyond them is refused.
    pub bytes_max: u64,
    /// Settled entries; the oldest go first.
    pub settled_max: usize,
    /// Bytes of settled entries; the oldest go first.
    pub settled_bytes_max: u64,
    /// A settled entry is forgotten after this time.
    pub settled_kept: Duration,
    /// Marks; the oldest go first.
    pub marks_max: usize,
    /// A mark is forgotten after this time.
    pub marks_kept: Duration,
    /// Size of the database file, in bytes, without its log.
    pub file_bytes_max: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            entries_max: 4096,
            bytes_max: 256 << 20,
            settled_max: 10_000,
            settled_bytes_max: 64 << 20,
            settled_kept: Duration::from_secs(15 * 60),
            marks_max: 1024,
            marks_kept: Duration::from_secs(10 * 60),
            file_bytes_max: 1 << 30,
        }
    }
}

/// What a request is known by: who asked, and the name that they gave it. Opaque here.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Key {
    /// Who asked.
    pub client: Vec<u8>,
    /// Their name for the request.
    pub id: Vec<u8>,
    /// A digest of what they asked.
    pub digest: [u8; 32],
}

/// One step in an entry's life. Steps are applied in the order in which they were written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// A request was accepted.
    Open {
        /// A number from [`Journal::number`], the entry's name from here on.
        number: u64,
        /// What it is known by.
        key: Key,
        /// How it came and where its answer goes.
        address: Vec<u8>,
        /// What was asked.
        request: Vec<u8>,
        /// How long it may wait and run.
        lifetime: Duration,
    },
    /// It ended with this reply, which is still to be delivered. Its request is deleted. Without
    /// an open entry of that number this makes one.
    Close {
        /// The entry.
        number: u64,
        /// What it is known by.
        key: Key,
        /// What is to be delivered.
        reply: Vec<u8>,
        /// How long the reply may wait for its delivery.
        lifetime: Duration,
    },
    /// Its reply was delivered, or nobody wants it any more.
    Settle {
        /// The entry.
        number: u64,
        /// Whether the reply is kept for repeats of the request.
        keep: bool,
    },
    /// A note under two names, such as that a request was cancelled.
    Mark {
        /// The first name.
        client: Vec<u8>,
        /// The second name.
        id: Vec<u8>,
    },
}

/// What an earlier life left behind.
#[derive(Debug, Default)]
pub struct Recovered {
    /// Requests that had not ended, oldest first.
    pub open: Vec<OpenEntry>,
    /// Replies, oldest first: those to be delivered and those kept for repeats.
    pub closed: Vec<ClosedEntry>,
    /// Marks, oldest first.
    pub marks: Vec<Mark>,
    /// Entries whose bytes had changed on the disk, as far as their names can be read. They are
    /// no longer in the file.
    pub damaged: Vec<Key>,
    /// Replies that waited longer than they should, and are no longer in the file.
    pub expired: usize,
    /// Where a file that could not be read as a whole was moved to. What could still be read of
    /// it is in this value.
    pub set_aside: Option<std::path::PathBuf>,
}

/// A request that had not ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenEntry {
    /// Its number.
    pub number: u64,
    /// What it is known by.
    pub key: Key,
    /// How it came and where its answer goes.
    pub address: Vec<u8>,
    /// What was asked.
    pub request: Vec<u8>,
    /// How often it was begun, this life not counted.
    pub attempts: u32,
    /// What is left of its lifetime; nothing when it is over.
    pub left: Duration,
}

/// A reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClosedEntry {
    /// Its number.
    pub number: u64,
    /// What its request is known by.
    pub key: Key,
    /// What is to be delivered.
    pub reply: Vec<u8>,
    /// Whether it was delivered and is kept for repeats alone.
    pub settled: bool,
    /// What is left of its lifetime.
    pub left: Duration,
    /// How long ago its request ended.
    pub age: Duration,
}

/// A note under two names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mark {
    /// The first name.
    pub client: Vec<u8>,
    /// The second name.
    pub id: Vec<u8>,
    /// How long ago it was made.
    pub age: Duration,
}

impl Journal {
    /// Opens the journal at `path`, or begins one there; its folders are made as needed. The file
    /// is this user's alone (0600), and this process's until the journal is dropped.
    ///
    /// What an earlier life left is read and its attempts are counted before this returns. A file
    /// that is damaged as a whole is moved aside under another name and a new one is begun.
    ///
    /// Errors: a folder or file that cannot be made, read or written; a file that another process
    /// has open or that a newer program has written.
    pub fn open(path: &Path, limits: Limits) -> Result<(Self, Recovered), JournalError> {
        let (store, recovered, next) = store::Store::open(path, limits, &Moment::now())?;
        Ok((Self::start(store, next)?, recovered))
    }
}
