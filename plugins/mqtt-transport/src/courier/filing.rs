//! What is written down, and what follows when it is.

use std::time::{Duration, Instant};

use journal::{Change, JournalError};
use protocol::{Fault, FaultCode};

use super::Courier;
use crate::address::{Closing, Parcel};
use crate::archive::{Ending, Letter, Receipt, Then, mark, opening};
use crate::desk::{Arrival, Taken};
use crate::gauge::Count;
use crate::ledger::Key;
use crate::link::Message;

/// A final that cannot be written waits this long for the disk; then it is published all the same,
/// for a client waits for it.
const WITHHELD: Duration = Duration::from_secs(5);
/// Published finals that are still to be written.
const UNWRITTEN_MAX: usize = 1024;
const UNSETTLED_MAX: usize = 4096;
const RETRY_AFTER_MS: u64 = 5000;

impl Courier {
    /// Takes a message; its confirmation waits until what it asks for is written down.
    pub(super) fn receive(
        &mut self,
        message: &Message,
        stale: bool,
        receipt: Receipt,
        now: Instant,
    ) {
        let crowded = self.outbox.is_crowded(self.desk.ledger.running());
        let number = self.archive.number();
        let arrival = Arrival { message, stale, promised: false, crowded, number };
        match self.desk.receive(arrival) {
            Taken::Done(parcel) => {
                if let Some(parcel) = parcel {
                    self.post(parcel, now);
                }
                self.confirm(receipt);
            }
            Taken::Held { number, key } => {
                // It came again: the later copy stands for both.
                if let Some((_, earlier)) = self.desk.held.insert(number, (key, receipt)) {
                    self.confirm(earlier);
                }
            }
            Taken::Cancel(key) => self.write(mark(key), Then::Confirm(receipt), now),
            Taken::Request(opened) => {
                let change = opening(&opened, message);
                self.write(change, Then::Begin(opened, receipt), now);
            }
        }
    }

    /// An answer came to its end: it is written down, then published.
    pub(super) fn ended(
        &mut self,
        key: Key,
        parcel: Parcel,
        closing: Option<Closing>,
        now: Instant,
    ) {
        let Some((number, digest)) = self.desk.ledger.entry_of(&key) else { return };
        self.file(Letter { number, key, digest, parcel, closing }, now);
    }

    pub(super) fn file(&mut self, letter: Letter, now: Instant) {
        let ending = Ending { letter, failing_since: None, published: false };
        self.write(ending.letter.change(), Then::Publish(Box::new(ending)), now);
    }

    /// The final of this number is delivered or given up.
    pub(super) fn settle(&mut self, number: u64, now: Instant) {
        if let Some((key, receipt)) = self.desk.held.remove(&number) {
            self.desk.ended(&key, None, now);
            return self.confirm(receipt);
        }
        self.write(Change::Settle { number, keep: true }, Then::Settled(number), now);
    }

    /// Nobody can be told of this entry's end.
    pub(super) fn forget(&mut self, number: u64, now: Instant) {
        self.write(Change::Settle { number, keep: false }, Then::Settled(number), now);
    }

    /// Writes again what the journal did not take.
    pub(super) fn file_again(&mut self, now: Instant) {
        for ending in std::mem::take(&mut self.unwritten) {
            self.write(ending.letter.change(), Then::Publish(Box::new(ending)), now);
        }
        for number in std::mem::take(&mut self.unsettled) {
            self.settle(number, now);
        }
    }

    /// The journal decided over a change.
    pub(super) fn decided(&mut self, ticket: u64, result: Result<(), JournalError>) {
        if let Some(then) = self.archive.claim(ticket) {
            self.proceed(then, result, Instant::now());
        }
    }

    fn write(&mut self, change: Change, then: Then, now: Instant) {
        if let Some((then, result)) = self.archive.write(change, then) {
            self.proceed(then, result, now);
        }
    }

    fn proceed(&mut self, then: Then, result: Result<(), JournalError>, now: Instant) {
        if let Err(error) = &result {
            self.gauge.count(Count::JournalFault);
            tracing::warn!(%error, "the journal did not take a change");
        }
        match then {
            Then::Begin(opened, receipt) => {
                match result {
                    Ok(()) => self.desk.begin(*opened),
                    Err(error) => {
                        if let Some(parcel) = self.desk.give_up(&opened, &unwritable(&error)) {
                            self.post(parcel, now);
                        }
                    }
                }
                // Refused or not, the client is told. Held back, the message would block those
                // behind it and come again only with the next connection.
                self.confirm(receipt);
            }
            // Here the cancel has taken effect.
            Then::Confirm(receipt) => self.confirm(receipt),
            Then::Publish(ending) => match result {
                Ok(()) => self.written(*ending, now),
                Err(_) => self.not_written(*ending, now),
            },
            Then::Settled(number) => {
                if result.is_err() && self.unsettled.len() < UNSETTLED_MAX {
                    self.unsettled.push_back(number);
                }
            }
        }
    }

    fn written(&mut self, ending: Ending, now: Instant) {
        if !ending.published {
            return self.publish(ending.letter, now);
        }
        if !self.outbox.holds_number(ending.letter.number) {
            self.settle(ending.letter.number, now);
        }
    }

    fn not_written(&mut self, mut ending: Ending, now: Instant) {
        let since = *ending.failing_since.get_or_insert(now);
        if !ending.published && now.duration_since(since) >= WITHHELD {
            ending.published = true;
            self.publish(ending.letter.clone(), now);
        }
        if self.unwritten.len() >= UNWRITTEN_MAX
            && let Some(oldest) = self.unwritten.iter().position(|ending| ending.published)
        {
            self.unwritten.remove(oldest);
            tracing::error!("a delivered final stays unwritten; its request may run again");
        }
        self.unwritten.push(ending);
    }

    fn publish(&mut self, letter: Letter, now: Instant) {
        let Letter { number, key, parcel, closing, .. } = letter;
        let (_, lost) = self.outbox.push(parcel, Some(number), now);
        self.lost(lost, now);
        self.desk.ended(&key, closing, now);
    }
}

fn unwritable(error: &JournalError) -> Fault {
    let (code, text) = if error.is_full() {
        (FaultCode::StorageFull, "this node's disk is full, so it cannot promise an answer")
    } else {
        (
            FaultCode::Unavailable,
            "this node cannot write its journal, so it cannot promise an answer",
        )
    };
    Fault::new(code, text).retry_after_ms(RETRY_AFTER_MS)
}
