//! What the file holds, counted in memory.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use crate::{Change, JournalError, Limits};

/// Bytes of every entry, and which settled ones are old.
#[derive(Debug, Default)]
pub(crate) struct Usage {
    entries: HashMap<u64, Size>,
    held: usize,
    held_bytes: u64,
    /// Settled entries, oldest first.
    settled: VecDeque<(u64, Instant)>,
    settled_bytes: u64,
}

#[derive(Debug, Clone, Copy)]
struct Size {
    bytes: u64,
    settled: bool,
    since: Instant,
}

impl Usage {
    /// Whether one more request fits beside `pending` of them, with as many bytes.
    pub(crate) fn admit(
        &self,
        pending: (usize, u64),
        bytes: u64,
        limits: &Limits,
    ) -> Result<(), JournalError> {
        if self.held + pending.0 >= limits.entries_max {
            return Err(JournalError::Limit { what: "entries", limit: limits.entries_max as u64 });
        }
        if self.held_bytes + pending.1 + bytes > limits.bytes_max {
            return Err(JournalError::Limit { what: "bytes", limit: limits.bytes_max });
        }
        Ok(())
    }

    /// Notes an entry that an earlier life left.
    pub(crate) fn found(&mut self, number: u64, bytes: u64, settled: Option<Duration>) {
        let now = Instant::now();
        self.insert(number, bytes, now);
        if let Some(age) = settled {
            // Before the box was up nothing can be told apart from then.
            let since = now.checked_sub(age).unwrap_or(now);
            if let Some(size) = self.entries.get_mut(&number) {
                size.since = since;
            }
            self.settle(number);
        }
    }

    /// Notes what is on the disk now.
    pub(crate) fn apply(&mut self, change: &Change) {
        match change {
            Change::Open { number, .. } | Change::Close { number, .. } => {
                self.insert(*number, bytes_of(change), Instant::now());
            }
            Change::Settle { number, keep: true } => self.settle(*number),
            Change::Settle { number, keep: false } => self.remove(*number),
            Change::Mark { .. } => {}
        }
    }

    /// The settled entries that are too old or too many.
    pub(crate) fn surplus(&self, limits: &Limits, now: Instant) -> Vec<u64> {
        let (mut left, mut bytes) = (self.settled.len(), self.settled_bytes);
        let mut surplus = Vec::new();
        for (number, since) in &self.settled {
            let old = now.saturating_duration_since(*since) > limits.settled_kept;
            if !old && left <= limits.settled_max && bytes <= limits.settled_bytes_max {
                break;
            }
            left -= 1;
            bytes -= self.entries.get(number).map_or(0, |size| size.bytes);
            surplus.push(*number);
        }
        surplus
    }

    /// Whether nothing is open or waits to be delivered.
    pub(crate) fn is_idle(&self) -> bool {
        self.held == 0
    }

    pub(crate) fn remove(&mut self, number: u64) {
        let Some(size) = self.entries.remove(&number) else { return };
        if size.settled {
            self.settled_bytes -= size.bytes;
            // Nearly always it is the oldest that goes.
            if self.settled.front().is_some_and(|(oldest, _)| *oldest == number) {
                self.settled.pop_front();
            } else {
                self.settled.retain(|(settled, _)| *settled != number);
            }
        } else {
            self.held -= 1;
            self.held_bytes -= size.bytes;
        }
    }

    fn insert(&mut self, number: u64, bytes: u64, since: Instant) {
        self.remove(number);
        self.entries.insert(number, Size { bytes, settled: false, since });
        self.held += 1;
        self.held_bytes += bytes;
    }

    fn settle(&mut self, number: u64) {
        let Some(size) = self.entries.get_mut(&number).filter(|size| !size.settled) else { return };
        size.settled = true;
        let (bytes, since) = (size.bytes, size.since);
        self.held -= 1;
        self.held_bytes -= bytes;
        self.settled.push_back((number, since));
        self.settled_bytes += bytes;
    }
}

/// Bytes that a change brings.
pub(crate) fn bytes_of(change: &Change) -> u64 {
    let bytes = match change {
        Change::Open { key, address, request, .. } => {
            key.client.len() + key.id.len() + address.len() + request.len()
        }
        Change::Close { key, reply, .. } => key.client.len() + key.id.len() + reply.len(),
        Change::Mark { client, id } => client.len() + id.len(),
        Change::Settle { .. } => 0,
    };
    bytes as u64
}
