//! Work that nobody waits for, in words: files, jobs over many items, and what came of each.
//!
//! A file of its own, beside the journal and with its own limits. What the bytes mean is the
//! transport's business. Everything belongs to an owner, and nobody sees another's.

/// How much there may be, of all owners together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchLimits {
    /// Files, those that jobs leave included.
    pub files_max: u64,
    /// Bytes of one file.
    pub file_bytes_max: u64,
    /// Jobs, ended ones included.
    pub jobs_max: u64,
    /// Items of one job.
    pub items_max: u64,
    /// Bytes of everything.
    pub bytes_max: u64,
}

/// Where a file comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileKind {
    /// Its owner brought it.
    Brought,
    /// The answers of a job.
    Answers,
    /// The faults of a job.
    Faults,
}

/// A file, without its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileCard {
    /// Its name for requests.
    pub id: String,
    /// What its owner calls it.
    pub name: String,
    /// Where it comes from.
    pub kind: FileKind,
    /// Its length.
    pub bytes: u64,
    /// Its lines.
    pub lines: u64,
    /// When it came, in seconds since 1970.
    pub created_s: u64,
}

/// How far a job is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JobState {
    /// Nothing of it was begun.
    Queued,
    /// Some of it was begun.
    Running,
    /// Its owner wants no more of it; what is under way ends first.
    Cancelling,
    /// Every item has an outcome.
    Done,
    /// Every item has failed.
    Failed,
    /// Its time was over.
    TimedOut,
    /// Its owner wanted no more of it.
    Cancelled,
}

pub(crate) const STATES: &[JobState] = &[
    JobState::Queued,
    JobState::Running,
    JobState::Cancelling,
    JobState::Done,
    JobState::Failed,
    JobState::TimedOut,
    JobState::Cancelled,
];

impl JobState {
    /// Whether nothing more happens to it.
    pub fn is_over(self) -> bool {
        !matches!(self, Self::Queued | Self::Running | Self::Cancelling)
    }

    pub(crate) fn number(self) -> i64 {
        STATES.iter().position(|state| *state == self).map_or(0, |at| at as i64)
    }
}

/// A job, without its items.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Job {
    pub(crate) number: i64,
    /// Its name for requests.
    pub id: String,
    /// Whose it is.
    pub owner: String,
    /// What the transport noted of it.
    pub about: Vec<u8>,
    /// How far it is.
    pub state: JobState,
    /// How many items it has.
    pub items: u64,
    /// Items with an answer.
    pub done: u64,
    /// Items that failed.
    pub failed: u64,
    /// When it came, in seconds since 1970.
    pub created_s: u64,
    /// How long it may take from then.
    pub lifetime_s: u64,
    /// When its first item was begun.
    pub begun_s: Option<u64>,
    /// When it was over.
    pub ended_s: Option<u64>,
    /// The file of its answers, where there are any and it is over.
    pub answers: Option<String>,
    /// The file of its faults, likewise.
    pub faults: Option<String>,
}

/// A job as its owner brings it.
#[derive(Debug, Clone)]
pub struct NewJob {
    /// Its name for requests; new.
    pub id: String,
    /// Whose it is.
    pub owner: String,
    /// What the transport wants to know of it later.
    pub about: Vec<u8>,
    /// How long it may take.
    pub lifetime_s: u64,
    /// What is to be done, each on its own.
    pub items: Vec<Vec<u8>>,
}

/// The next item of a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// Its place in the job.
    pub number: u64,
    /// What is to be done.
    pub body: Vec<u8>,
    /// It was under way too often when the program ended; it is to be told as failed.
    pub gave_up: bool,
}
