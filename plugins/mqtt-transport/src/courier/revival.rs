//! What an earlier life of the program left in the journal goes on.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use journal::{OpenEntry, Recovered};
use protocol::{Fault, FaultCode};
use serde_json::json;

use super::Courier;
use crate::address::{Closing, FINAL_EXPIRY, Parcel};
use crate::answer::end_of;
use crate::archive::{Letter, hex, message_of, own_key};
use crate::desk::{Arrival, Taken};
use crate::gauge::Count;
use crate::ledger::Key;
use crate::link::Message;
use crate::presence::unix_seconds;

/// A request that was begun so often without an end is not begun again.
const ATTEMPTS_MAX: u32 = 2;

impl Courier {
    /// Takes everything up: finals are sent or kept for repeats, requests run again.
    pub(super) fn revive(&mut self, recovered: Recovered) {
        let now = Instant::now();
        let Recovered { open, closed, marks, damaged, expired, set_aside } = recovered;
        if !open.is_empty() || !closed.is_empty() || expired > 0 || set_aside.is_some() {
            let (open, closed) = (open.len(), closed.len());
            tracing::info!(open, closed, expired, "the journal of an earlier life goes on");
        }
        self.gauge.add(Count::ReplyLost, expired as u64);
        for key in damaged {
            let digest = hex(&key.digest);
            self.dead_letter(&key, "its record was damaged on the disk", &digest, None);
        }
        for entry in closed {
            let Some(letter) = Letter::read(&entry) else {
                tracing::warn!("a final of an earlier life cannot be read");
                self.settle(entry.number, now);
                continue;
            };
            let Letter { number, key, digest, parcel, closing } = letter;
            if !entry.settled {
                self.outbox.push(parcel, Some(number), now);
            }
            if let Some(closing) = closing {
                self.desk.ledger.restore(key, digest, closing, entry.age);
            }
        }
        let cancelled: HashSet<(Vec<u8>, Vec<u8>)> =
            marks.iter().map(|mark| (mark.client.clone(), mark.id.clone())).collect();
        for entry in open {
            let is_cancelled =
                |id: &[u8]| cancelled.contains(&(entry.key.client.clone(), id.to_vec()));
            self.resume(&entry, &is_cancelled, now);
        }
        for mark in marks {
            if let Ok(client) = String::from_utf8(mark.client) {
                self.desk.ledger.restore_cancel(Key { client, id: mark.id }, mark.age);
            }
        }
    }

    /// One request that had not ended: it runs again, or is told why it does not.
    fn resume(&mut self, entry: &OpenEntry, is_cancelled: &dyn Fn(&[u8]) -> bool, now: Instant) {
        let Some(message) = message_of(entry) else {
            let reason = "an earlier program wrote it, and this one cannot read it";
            self.dead_letter(&entry.key, reason, &hex(&entry.key.digest), Some(entry.attempts));
            return self.forget(entry.number, now);
        };
        if entry.attempts >= ATTEMPTS_MAX {
            let reason = "the program ended each time it ran";
            self.dead_letter(&entry.key, reason, &hex(&entry.key.digest), Some(entry.attempts));
            let text = format!("{reason}: it is not run again");
            return self.conclude(entry, &message, Fault::new(FaultCode::Internal, text), now);
        }
        let rid = message.topic.rsplit('/').next().unwrap_or_default();
        if is_cancelled(&entry.key.id) || is_cancelled(rid.as_bytes()) {
            let fault = Fault::new(FaultCode::Cancelled, "it was cancelled, and did not run again");
            return self.conclude(entry, &message, fault, now);
        }
        if entry.left.is_zero() {
            let text = "its time passed while this node was away";
            return self.conclude(entry, &message, Fault::new(FaultCode::Deadline, text), now);
        }
        let arrival = Arrival {
            message: &message,
            stale: false,
            promised: true,
            crowded: false,
            number: entry.number,
        };
        match self.desk.receive(arrival) {
            Taken::Request(mut opened) => {
                opened.patience = opened.patience.min(entry.left);
                self.gauge.count(Count::Resumed);
                self.desk.begin(*opened);
            }
            // What was let in before may not be any more: the configuration changed.
            Taken::Done(Some(parcel)) => self.conclude_with(entry, parcel, now),
            Taken::Done(None) | Taken::Cancel(_) | Taken::Held { .. } => {
                let reason = "nobody may be told of its end any more";
                self.dead_letter(&entry.key, reason, &hex(&entry.key.digest), None);
                self.forget(entry.number, now);
            }
        }
    }

    fn conclude(&mut self, entry: &OpenEntry, message: &Message, fault: Fault, now: Instant) {
        let Some(address) = self.desk.return_address(message) else {
            return self.forget(entry.number, now);
        };
        let (parcel, _) = end_of(&address, fault);
        self.conclude_with(entry, parcel, now);
    }

    fn conclude_with(&mut self, entry: &OpenEntry, parcel: Parcel, now: Instant) {
        let Some(key) = own_key(&entry.key) else {
            return self.forget(entry.number, now);
        };
        let status = parcel.properties.iter().find(|(name, _)| *name == "status");
        let status = status.and_then(|(_, value)| value.parse().ok()).unwrap_or(500);
        let closing = Closing { payload: parcel.payload.clone(), status, seq: 0 };
        let digest = entry.key.digest;
        self.desk.ledger.restore(key.clone(), digest, closing.clone(), Duration::ZERO);
        let number = entry.number;
        self.file(Letter { number, key, digest, parcel, closing: Some(closing) }, now);
    }

    /// Tells the site of a request that is given up: its names and its digest, never its content.
    fn dead_letter(
        &mut self,
        key: &journal::Key,
        reason: &str,
        sha256: &str,
        attempts: Option<u32>,
    ) {
        self.gauge.count(Count::Poisoned);
        tracing::error!(reason, sha256, "a request is given up");
        let spelled = |bytes: &[u8]| match std::str::from_utf8(bytes) {
            Ok(text) if !text.contains(char::is_control) => text.to_owned(),
            _ => hex(bytes),
        };
        let body = json!({
            "client": spelled(&key.client),
            "id": spelled(&key.id),
            "reason": reason,
            "sha256": sha256,
            "attempts": attempts,
            "node": self.config.node,
            "time_s": unix_seconds(),
        });
        let mut parcel = Parcel::retained(self.desk.topics.dead_letter(), body.to_string(), true);
        parcel.retain = false;
        parcel.expiry = Some(FINAL_EXPIRY);
        let number = self.archive.number();
        // No client has this name, so nobody's repeat is answered with it.
        let key = Key { client: String::new(), id: format!("dead/{number}").into_bytes() };
        let letter = Letter { number, key, digest: [0; 32], parcel, closing: None };
        self.file(letter, Instant::now());
    }
}
