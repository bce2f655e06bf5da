//! What the broker has not confirmed yet.
//!
//! The client library loses messages when it connects again, and its window and ours would get
//! out of step; so each message stays here until its own confirmation, and a new connection
//! starts from here.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::address::Parcel;

const PARCELS_MAX: usize = 1024;
const BYTES_MAX: usize = 32 << 20;
/// Statements of this node about itself are renewed by each connection.
const STATEMENT_KEPT: Duration = Duration::from_secs(24 * 3600);

/// Names one message while it is here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ticket(u64);

#[derive(Debug)]
struct Entry {
    ticket: Ticket,
    parcel: Parcel,
    expires: Instant,
    stage: Stage,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Waiting,
    /// With the client library, not yet numbered.
    Handed,
    /// On the wire under this packet id.
    Flying(u16),
}

/// Messages in order, each until it is confirmed, expires or is pushed out by newer ones.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    entries: VecDeque<Entry>,
    bytes: usize,
    tickets: u64,
}

impl Outbox {
    /// Takes a message; says how many older ones it pushed out.
    pub(crate) fn push(&mut self, parcel: Parcel, now: Instant) -> (Ticket, u64) {
        self.tickets += 1;
        let ticket = Ticket(self.tickets);
        self.bytes += parcel.payload.len();
        let expires = now + parcel.expiry.unwrap_or(STATEMENT_KEPT);
        self.entries.push_back(Entry { ticket, parcel, expires, stage: Stage::Waiting });
        let mut lost = 0;
        while self.entries.len() > PARCELS_MAX || (self.bytes > BYTES_MAX && self.entries.len() > 1)
        {
            // A message on the wire still waits for its confirmation under its packet id.
            let oldest = self.entries.iter().position(|entry| entry.stage == Stage::Waiting);
            self.remove(oldest.unwrap_or(0));
            lost += 1;
        }
        (ticket, lost)
    }

    /// The next message for the wire, when fewer than `window` are on it; its expiry is what is
    /// left of it.
    pub(crate) fn hand(&mut self, window: usize, now: Instant) -> Option<Parcel> {
        let busy = self.entries.iter().filter(|entry| entry.stage != Stage::Waiting).count();
        if busy >= window {
            return None;
        }
        let entry = self.entries.iter_mut().find(|entry| entry.stage == Stage::Waiting)?;
        entry.stage = Stage::Handed;
        let mut parcel = entry.parcel.clone();
        if parcel.expiry.is_some() {
            parcel.expiry = Some(entry.expires.saturating_duration_since(now));
        }
        Some(parcel)
    }

    /// The client library put the oldest handed message on the wire.
    pub(crate) fn sent(&mut self, packet_id: u16) {
        if let Some(entry) = self.entries.iter_mut().find(|entry| entry.stage == Stage::Handed) {
            entry.stage = Stage::Flying(packet_id);
        }
    }

    /// The broker confirmed or refused it; either way it is gone.
    pub(crate) fn acknowledged(&mut self, packet_id: u16) {
        let index = self.entries.iter().position(|entry| entry.stage == Stage::Flying(packet_id));
        if let Some(index) = index {
            self.remove(index);
        }
    }

    /// The message last handed cannot be sent at all.
    pub(crate) fn withdraw(&mut self) {
        if let Some(index) = self.entries.iter().rposition(|entry| entry.stage == Stage::Handed) {
            self.remove(index);
        }
    }

    /// The connection is gone: what was not confirmed waits again, and statements of this node
    /// are left to the next connection.
    pub(crate) fn disconnected(&mut self) {
        self.entries.retain_mut(|entry| {
            entry.stage = Stage::Waiting;
            !entry.parcel.retain
        });
        self.bytes = self.entries.iter().map(|entry| entry.parcel.payload.len()).sum();
    }

    /// Drops what nobody waits for any more; says how many.
    pub(crate) fn expire(&mut self, now: Instant) -> u64 {
        let before = self.entries.len();
        self.entries.retain(|entry| entry.stage != Stage::Waiting || entry.expires > now);
        self.bytes = self.entries.iter().map(|entry| entry.parcel.payload.len()).sum();
        (before - self.entries.len()) as u64
    }

    pub(crate) fn holds(&self, ticket: Ticket) -> bool {
        self.entries.iter().any(|entry| entry.ticket == ticket)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    fn remove(&mut self, index: usize) {
        if let Some(entry) = self.entries.remove(index) {
            self.bytes -= entry.parcel.payload.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parcel(name: &str) -> Parcel {
        let mut parcel = Parcel::retained(name.into(), vec![0; 10], true);
        parcel.retain = false;
        parcel.expiry = Some(Duration::from_secs(600));
        parcel
    }

    fn topics(outbox: &mut Outbox, now: Instant) -> Vec<String> {
        std::iter::from_fn(|| outbox.hand(100, now)).map(|parcel| parcel.topic).collect()
    }

    #[test]
    fn the_window_bounds_what_is_on_the_wire() {
        let (mut outbox, now) = (Outbox::default(), Instant::now());
        for name in ["a", "b", "c"] {
            outbox.push(parcel(name), now);
        }
        assert_eq!(outbox.hand(2, now).map(|p| p.topic), Some("a".into()));
        assert_eq!(outbox.hand(2, now).map(|p| p.topic), Some("b".into()));
        assert_eq!(outbox.hand(2, now), None);
        outbox.sent(7);
        outbox.acknowledged(7);
        assert_eq!(outbox.hand(2, now).map(|p| p.topic), Some("c".into()));
    }

    #[test]
    fn a_new_connection_sends_again_what_was_not_confirmed_in_order() {
        let (mut outbox, now) = (Outbox::default(), Instant::now());
        for name in ["a", "b", "c", "d"] {
            outbox.push(parcel(name), now);
        }
        for packet_id in 1..=3 {
            assert!(outbox.hand(3, now).is_some());
            outbox.sent(packet_id);
        }
        outbox.acknowledged(2);
        outbox.disconnected();
        assert_eq!(topics(&mut outbox, now), ["a", "c", "d"]);
    }

    #[test]
    fn confirmations_find_their_message_whatever_their_order() {
        let (mut outbox, now) = (Outbox::default(), Instant::now());
        let (first, _) = outbox.push(parcel("a"), now);
        let (second, _) = outbox.push(parcel("b"), now);
        for packet_id in [1, 2] {
            assert!(outbox.hand(2, now).is_some());
            outbox.sent(packet_id);
        }
        outbox.acknowledged(2);
        assert!(outbox.holds(first) && !outbox.holds(second));
        outbox.acknowledged(9);
        outbox.acknowledged(1);
        assert!(outbox.is_empty());
        assert_eq!(outbox.bytes, 0);
    }

    #[test]
    fn statements_of_a_dead_connection_are_not_repeated() {
        let (mut outbox, now) = (Outbox::default(), Instant::now());
        outbox.push(Parcel::retained("status".into(), "online", true), now);
        outbox.push(parcel("final"), now);
        outbox.disconnected();
        assert_eq!(topics(&mut outbox, now), ["final"]);
    }

    #[test]
    fn expiry_counts_on_while_the_broker_is_away() {
        let (mut outbox, now) = (Outbox::default(), Instant::now());
        outbox.push(parcel("a"), now);
        let later = now + Duration::from_secs(590);
        assert_eq!(outbox.expire(later), 0);
        assert_eq!(outbox.hand(1, later).and_then(|p| p.expiry), Some(Duration::from_secs(10)));
        outbox.disconnected();
        assert_eq!(outbox.expire(now + Duration::from_secs(601)), 1);
        assert!(outbox.is_empty());
    }

    #[test]
    fn newer_messages_push_out_the_oldest_waiting() {
        let (mut outbox, now) = (Outbox::default(), Instant::now());
        outbox.push(parcel("flying"), now);
        assert!(outbox.hand(1, now).is_some());
        for name in 0..PARCELS_MAX {
            outbox.push(parcel(&name.to_string()), now);
        }
        assert_eq!(outbox.entries.len(), PARCELS_MAX);
        assert_eq!(outbox.entries[0].parcel.topic, "flying");
        assert_eq!(outbox.entries[1].parcel.topic, "1");
    }
}
