//! What the broker has not confirmed yet.
//!
//! The client library loses messages when it connects again, and its window and ours would get
//! out of step; so each message stays here until its own confirmation, and a new connection
//! starts from here. Finals are in the journal too, under a number; whoever asks the outbox is told
//! which numbers have left it.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::address::Parcel;

const PARCELS_MAX: usize = 1024;
const BYTES_MAX: usize = 32 << 20;
/// New requests are refused from here on, so that finals never push each other out.
const CROWDED_PARCELS: usize = PARCELS_MAX / 2;
const CROWDED_BYTES: usize = BYTES_MAX / 2;
/// A message during which so many connections broke is taken for the one that breaks them: a
/// broker of 3.1.1 does not say what is too large for it, it hangs up.
const FALLS_MAX: u32 = 8;
/// Every broker takes a message of this size.
const SMALL_BYTES: usize = 4096;
/// Statements of this node about itself are renewed by each connection.
const STATEMENT_KEPT: Duration = Duration::from_secs(24 * 3600);

/// Names one message while it is here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Ticket(u64);

#[derive(Debug)]
struct Entry {
    ticket: Ticket,
    parcel: Parcel,
    expires: Instant,
    stage: Stage,
    /// Its entry in the journal, when it is a final.
    number: Option<u64>,
    /// Connections that broke while it was on the wire.
    falls: u32,
}

/// Messages that left without a confirmation.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Lost {
    pub(crate) count: u64,
    /// Those that are in the journal.
    pub(crate) numbers: Vec<u64>,
}

impl Lost {
    fn note(&mut self, entry: &Entry) {
        self.count += 1;
        self.numbers.extend(entry.number);
    }
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
    /// Takes a message, which may be an entry of the journal; says which older ones it pushed out.
    pub(crate) fn push(
        &mut self,
        parcel: Parcel,
        number: Option<u64>,
        now: Instant,
    ) -> (Ticket, Lost) {
        self.tickets += 1;
        let ticket = Ticket(self.tickets);
        self.bytes += parcel.payload.len();
        let expires = now + parcel.expiry.unwrap_or(STATEMENT_KEPT);
        let stage = Stage::Waiting;
        self.entries.push_back(Entry { ticket, parcel, expires, stage, number, falls: 0 });
        let mut lost = Lost::default();
        while self.entries.len() > PARCELS_MAX || (self.bytes > BYTES_MAX && self.entries.len() > 1)
        {
            // A message on the wire still waits for its confirmation under its packet id; finals
            // go last.
            let waits = |entry: &Entry| entry.stage == Stage::Waiting;
            let oldest = self.entries.iter().position(|e| waits(e) && e.number.is_none());
            let oldest = oldest.or_else(|| self.entries.iter().position(waits));
            if let Some(entry) = self.remove(oldest.unwrap_or(0)) {
                lost.note(&entry);
            }
        }
        (ticket, lost)
    }

    /// Whether it has so much to deliver that `more` finals might push others out.
    pub(crate) fn is_crowded(&self, more: usize) -> bool {
        self.entries.len() + more >= CROWDED_PARCELS || self.bytes >= CROWDED_BYTES
    }

    /// The ticket of what came last.
    pub(crate) fn latest(&self) -> Ticket {
        Ticket(self.tickets)
    }

    /// The next message for the wire, when fewer than `window` are on it, and it came no later than
    /// `until`; its expiry is what is left of it.
    pub(crate) fn hand(
        &mut self,
        until: Option<Ticket>,
        window: usize,
        now: Instant,
    ) -> Option<Parcel> {
        let busy = self.entries.iter().filter(|entry| entry.stage != Stage::Waiting).count();
        if busy >= window {
            return None;
        }
        let entry = self.entries.iter_mut().find(|entry| entry.stage == Stage::Waiting)?;
        if until.is_some_and(|until| entry.ticket > until) {
            return None;
        }
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

    /// The broker confirmed or refused it; either way it is gone. Gives its number.
    pub(crate) fn acknowledged(&mut self, packet_id: u16) -> Option<u64> {
        let index =
            self.entries.iter().position(|entry| entry.stage == Stage::Flying(packet_id))?;
        self.remove(index)?.number
    }

    /// The message last handed cannot be sent as it is. A final makes room for `smaller` ones of
    /// itself, in its place; anything else, and what nothing smaller is known of, is lost.
    pub(crate) fn withdraw(&mut self, smaller: impl FnOnce(&Parcel) -> Option<Parcel>) -> Lost {
        let mut lost = Lost::default();
        let Some(index) = self.entries.iter().rposition(|entry| entry.stage == Stage::Handed)
        else {
            return lost;
        };
        if !self.shrink(index, smaller)
            && let Some(entry) = self.remove(index)
        {
            lost.note(&entry);
        }
        lost
    }

    /// Puts something smaller in the place of messages that seem to break each connection.
    pub(crate) fn shrink_breakers(&mut self, smaller: impl Fn(&Parcel) -> Option<Parcel>) -> usize {
        let breaks =
            |entry: &Entry| entry.falls >= FALLS_MAX && entry.parcel.payload.len() > SMALL_BYTES;
        let guilty: Vec<usize> =
            (0..self.entries.len()).filter(|index| breaks(&self.entries[*index])).collect();
        guilty.into_iter().filter(|index| self.shrink(*index, &smaller)).count()
    }

    fn shrink(&mut self, index: usize, smaller: impl FnOnce(&Parcel) -> Option<Parcel>) -> bool {
        let Some(entry) = self.entries.get_mut(index) else { return false };
        let Some(parcel) = smaller(&entry.parcel)
            .filter(|parcel| parcel.payload.len() < entry.parcel.payload.len())
        else {
            return false;
        };
        self.bytes = self.bytes - entry.parcel.payload.len() + parcel.payload.len();
        entry.parcel = parcel;
        entry.stage = Stage::Waiting;
        entry.falls = 0;
        true
    }

    /// The connection is gone: what was not confirmed waits again, and statements of this node
    /// are left to the next connection.
    pub(crate) fn disconnected(&mut self) {
        self.entries.retain_mut(|entry| {
            entry.falls += u32::from(entry.stage != Stage::Waiting);
            entry.stage = Stage::Waiting;
            !entry.parcel.retain
        });
        self.bytes = self.entries.iter().map(|entry| entry.parcel.payload.len()).sum();
    }

    /// Drops what nobody waits for any more; says what.
    pub(crate) fn expire(&mut self, now: Instant) -> Lost {
        let mut lost = Lost::default();
        self.entries.retain(|entry| {
            let keep = entry.stage != Stage::Waiting || entry.expires > now;
            if !keep {
                lost.note(entry);
            }
            keep
        });
        self.bytes = self.entries.iter().map(|entry| entry.parcel.payload.len()).sum();
        lost
    }

    /// Whether the journal's entry is still to be delivered.
    pub(crate) fn holds_number(&self, number: u64) -> bool {
        self.entries.iter().any(|entry| entry.number == Some(number))
    }

    pub(crate) fn holds(&self, ticket: Ticket) -> bool {
        self.entries.iter().any(|entry| entry.ticket == ticket)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    fn remove(&mut self, index: usize) -> Option<Entry> {
        let entry = self.entries.remove(index)?;
        self.bytes -= entry.parcel.payload.len();
        Some(entry)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_came_later_waits_for_a_piece_that_came_before() {
        let (mut outbox, now) = (Outbox::default(), Instant::now());
        outbox.push(parcel("before"), None, now);
        let piece = outbox.latest();
        outbox.push(parcel("behind"), None, now);
        let topic = |parcel: Option<Parcel>| parcel.map(|parcel| parcel.topic);
        assert_eq!(topic(outbox.hand(Some(piece), 8, now)).as_deref(), Some("before"));
        assert_eq!(topic(outbox.hand(Some(piece), 8, now)), None);
        assert_eq!(topic(outbox.hand(None, 8, now)).as_deref(), Some("behind"));
    }

    fn parcel(name: &str) -> Parcel {
        let mut parcel = Parcel::retained(name.into(), vec![0; 10], true);
        parcel.retain = false;
        parcel.expiry = Some(Duration::from_secs(600));
        parcel
    }

    fn topics(outbox: &mut Outbox, now: Instant) -> Vec<String> {
        std::iter::from_fn(|| outbox.hand(None, 100, now)).map(|parcel| parcel.topic).collect()
    }

    #[test]
    fn the_window_bounds_what_is_on_the_wire() {
        let (mut outbox, now) = (Outbox::default(), Instant::now());
        for name in ["a", "b", "c"] {
            outbox.push(parcel(name), None, now);
        }
        assert_eq!(outbox.hand(None, 2, now).map(|p| p.topic), Some("a".into()));
        assert_eq!(outbox.hand(None, 2, now).map(|p| p.topic), Some("b".into()));
        assert_eq!(outbox.hand(None, 2, now), None);
        outbox.sent(7);
        outbox.acknowledged(7);
        assert_eq!(outbox.hand(None, 2, now).map(|p| p.topic), Some("c".into()));
    }

    #[test]
    fn a_new_connection_sends_again_what_was_not_confirmed_in_order() {
        let (mut outbox, now) = (Outbox::default(), Instant::now());
        for name in ["a", "b", "c", "d"] {
            outbox.push(parcel(name), None, now);
        }
        for packet_id in 1..=3 {
            assert!(outbox.hand(None, 3, now).is_some());
            outbox.sent(packet_id);
        }
        outbox.acknowledged(2);
        outbox.disconnected();
        assert_eq!(topics(&mut outbox, now), ["a", "c", "d"]);
    }

    #[test]
    fn confirmations_find_their_message_whatever_their_order() {
        let (mut outbox, now) = (Outbox::default(), Instant::now());
        let (first, _) = outbox.push(parcel("a"), None, now);
        let (second, _) = outbox.push(parcel("b"), None, now);
        for packet_id in [1, 2] {
            assert!(outbox.hand(None, 2, now).is_some());
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
        outbox.push(Parcel::retained("status".into(), "online", true), None, now);
        outbox.push(parcel("final"), None, now);
        outbox.disconnected();
        assert_eq!(topics(&mut outbox, now), ["final"]);
    }

    #[test]
    fn expiry_counts_on_while_the_broker_is_away() {
        let (mut outbox, now) = (Outbox::default(), Instant::now());
        outbox.push(parcel("a"), None, now);
        let later = now + Duration::from_secs(590);
        assert_eq!(outbox.expire(later), Lost::default());
        assert_eq!(
            outbox.hand(None, 1, later).and_then(|p| p.expiry),
            Some(Duration::from_secs(10))
        );
        outbox.disconnected();
        assert_eq!(outbox.expire(now + Duration::from_secs(601)).count, 1);
        assert!(outbox.is_empty());
    }

    #[test]
    fn newer_messages_push_out_the_oldest_waiting() {
        let (mut outbox, now) = (Outbox::default(), Instant::now());
        outbox.push(parcel("flying"), None, now);
        assert!(outbox.hand(None, 1, now).is_some());
        for name in 0..PARCELS_MAX {
            outbox.push(parcel(&name.to_string()), None, now);
        }
        assert_eq!(outbox.entries.len(), PARCELS_MAX);
        assert_eq!(outbox.entries[0].parcel.topic, "flying");
        assert_eq!(outbox.entries[1].parcel.topic, "1");
    }

    #[test]
    fn finals_are_the_last_to_be_pushed_out_and_are_told() {
        let (mut outbox, now) = (Outbox::default(), Instant::now());
        outbox.push(parcel("final"), Some(7), now);
        let mut lost = Lost::default();
        for name in 0..PARCELS_MAX {
            lost = outbox.push(parcel(&name.to_string()), None, now).1;
        }
        assert_eq!(lost, Lost { count: 1, numbers: vec![] });
        assert!(outbox.holds_number(7) && outbox.is_crowded(0));
        assert_eq!(outbox.expire(now + Duration::from_secs(601)).numbers, [7]);
    }

    #[test]
    fn a_confirmed_final_gives_its_number_once() {
        let (mut outbox, now) = (Outbox::default(), Instant::now());
        outbox.push(parcel("final"), Some(7), now);
        assert!(outbox.hand(None, 1, now).is_some());
        outbox.sent(1);
        assert_eq!(outbox.acknowledged(1), Some(7));
        assert_eq!(outbox.acknowledged(1), None);
    }

    #[test]
    fn what_is_too_large_gives_way_to_something_smaller() {
        let (mut outbox, now) = (Outbox::default(), Instant::now());
        let large = |size| Parcel { payload: vec![0; size].into(), ..parcel("final") };
        outbox.push(large(9000), Some(7), now);
        outbox.push(parcel("next"), None, now);
        assert!(outbox.hand(None, 8, now).is_some());
        assert_eq!(outbox.withdraw(|_| Some(large(5000))), Lost::default());
        for _ in 0..FALLS_MAX {
            assert_eq!(topics(&mut outbox, now), ["final", "next"]);
            assert_eq!(outbox.shrink_breakers(|_| Some(large(1))), 0);
            outbox.disconnected();
        }
        assert_eq!(outbox.shrink_breakers(|_| Some(large(1))), 1);
        assert_eq!(outbox.hand(None, 8, now).map(|parcel| parcel.payload.len()), Some(1));
        assert_eq!(outbox.withdraw(|_| None).numbers, [7]);
        assert_eq!(outbox.bytes, 10);
    }
}
