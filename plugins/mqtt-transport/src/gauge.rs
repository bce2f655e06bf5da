//! What the transport counts, for health pages and tests.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Reads the transport's counters from any thread, while it serves.
#[derive(Debug, Clone, Default)]
pub struct MqttGauge(Arc<Counters>);

#[derive(Debug, Default)]
struct Counters {
    online: AtomicBool,
    pooled: AtomicBool,
    connections: AtomicU64,
    accepted: AtomicU64,
    refused: AtomicU64,
    unanswerable: AtomicU64,
    repeated: AtomicU64,
    passed_on: AtomicU64,
    deltas_dropped: AtomicU64,
    replies_lost: AtomicU64,
    resumed: AtomicU64,
    poisoned: AtomicU64,
    journal_faults: AtomicU64,
    trouble: Mutex<Option<String>>,
}

/// The counters at one moment, since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MqttTally {
    /// Whether requests can arrive now: connected and subscribed.
    pub online: bool,
    /// Whether requests of the shared queue can arrive now.
    pub pooled: bool,
    /// Connections to the broker that came up.
    pub connections: u64,
    /// Requests handed to the service.
    pub accepted: u64,
    /// Requests answered with an error at once.
    pub refused: u64,
    /// Messages dropped because nobody may be told: foreign reply topics, unreadable topics.
    pub unanswerable: u64,
    /// Requests that came again under the same id.
    pub repeated: u64,
    /// Requests of the shared queue that this node had no room for and gave back to it.
    pub passed_on: u64,
    /// Pieces of answers that were not sent, because no broker was there.
    pub deltas_dropped: u64,
    /// Finals and errors that were given up: expired, refused by the broker, or too many.
    pub replies_lost: u64,
    /// Requests of an earlier life that were run again.
    pub resumed: u64,
    /// Requests that were given up because the program died over them, or their record was damaged.
    pub poisoned: u64,
    /// Times that the journal could not be written.
    pub journal_faults: u64,
}

/// Something that happened.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Count {
    Connection,
    Accepted,
    Refused,
    Unanswerable,
    Repeated,
    PassedOn,
    DeltaDropped,
    ReplyLost,
    Resumed,
    Poisoned,
    JournalFault,
}

impl MqttGauge {
    /// Every counter.
    pub fn tally(&self) -> MqttTally {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        MqttTally {
            online: self.0.online.load(Ordering::Relaxed),
            pooled: self.0.pooled.load(Ordering::Relaxed),
            connections: read(&self.0.connections),
            accepted: read(&self.0.accepted),
            refused: read(&self.0.refused),
            unanswerable: read(&self.0.unanswerable),
            repeated: read(&self.0.repeated),
            passed_on: read(&self.0.passed_on),
            deltas_dropped: read(&self.0.deltas_dropped),
            replies_lost: read(&self.0.replies_lost),
            resumed: read(&self.0.resumed),
            poisoned: read(&self.0.poisoned),
            journal_faults: read(&self.0.journal_faults),
        }
    }

    /// Why there is no connection to the broker; `None` while there is one, and before the first.
    pub fn trouble(&self) -> Option<String> {
        self.0.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn set_trouble(&self, why: Option<String>) {
        *self.0.trouble.lock().unwrap_or_else(PoisonError::into_inner) = why;
    }

    pub(crate) fn count(&self, what: Count) {
        self.add(what, 1);
    }

    pub(crate) fn add(&self, what: Count, times: u64) {
        let counter = match what {
            Count::Connection => &self.0.connections,
            Count::Accepted => &self.0.accepted,
            Count::Refused => &self.0.refused,
            Count::Unanswerable => &self.0.unanswerable,
            Count::Repeated => &self.0.repeated,
            Count::PassedOn => &self.0.passed_on,
            Count::DeltaDropped => &self.0.deltas_dropped,
            Count::ReplyLost => &self.0.replies_lost,
            Count::Resumed => &self.0.resumed,
            Count::Poisoned => &self.0.poisoned,
            Count::JournalFault => &self.0.journal_faults,
        };
        counter.fetch_add(times, Ordering::Relaxed);
    }

    pub(crate) fn pooled(&self, pooled: bool) {
        self.0.pooled.store(pooled, Ordering::Relaxed);
    }

    pub(crate) fn online(&self, online: bool) {
        self.0.online.store(online, Ordering::Relaxed);
    }
}
