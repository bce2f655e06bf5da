//! Which requests are known: running ones, ended ones whose final is kept, cancelled ones that
//! have not arrived yet.
//!
//! Delivery is at least once, so a request may come twice; under one key it is computed once.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use crate::address::Closing;

/// Finals are kept this long, for repeats of their request.
const DONE_KEPT: Duration = Duration::from_secs(15 * 60);
const DONE_MAX: usize = 10_000;
const DONE_BYTES_MAX: usize = 64 << 20;
/// A cancel may overtake its request by this much.
const TOMBSTONE_KEPT: Duration = Duration::from_secs(60);
const TOMBSTONES_MAX: usize = 1024;

/// What one request is known by: its client, and the client's name for it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    pub(crate) client: String,
    pub(crate) id: Vec<u8>,
}

/// SHA-256 of a request's payload.
pub(crate) type Digest = [u8; 32];

/// What the ledger knows of a request that just came.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Known {
    No,
    /// Was cancelled before it came.
    Cancelled,
    /// Is being written down, and has been promised nothing yet.
    Arriving,
    Running,
    Done(Closing),
    /// The key is taken by a request with another body.
    Conflict,
}

#[derive(Debug)]
enum Entry {
    Running(Running),
    Done { digest: Digest, closing: Closing, since: Instant },
}

#[derive(Debug)]
struct Running {
    digest: Digest,
    rid: Option<Vec<u8>>,
    /// Its entry in the journal.
    number: u64,
    /// It is written down.
    accepted: bool,
    cancel: Option<oneshot::Sender<()>>,
}

/// Bounded in number, bytes and time.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    entries: HashMap<Key, Entry>,
    /// Keys of ended requests, oldest first; a key taken again leaves a stale mark behind.
    done: VecDeque<(Instant, Key)>,
    done_bytes: usize,
    running: usize,
    /// The same by client; who runs nothing is not in it.
    running_of: HashMap<String, usize>,
    tombstones: VecDeque<(Instant, Key)>,
}

impl Ledger {
    /// Requests that have not ended.
    pub(crate) fn running(&self) -> usize {
        self.running
    }

    /// Requests of `client` that have not ended.
    pub(crate) fn running_of(&self, client: &str) -> usize {
        self.running_of.get(client).copied().unwrap_or(0)
    }

    /// What is known of the request with `key`, whose topic also calls it `rid`.
    pub(crate) fn look(
        &mut self,
        key: &Key,
        rid: Option<&str>,
        digest: &Digest,
        now: Instant,
    ) -> Known {
        self.forget_old(now);
        match self.entries.get(key) {
            Some(
                Entry::Running(Running { digest: known, .. }) | Entry::Done { digest: known, .. },
            ) if known != digest => Known::Conflict,
            Some(Entry::Running(running)) if running.accepted => Known::Running,
            Some(Entry::Running(_)) => Known::Arriving,
            Some(Entry::Done { closing, .. }) => Known::Done(closing.clone()),
            None => {
                let names = |id: &[u8]| id == key.id || rid.is_some_and(|rid| rid.as_bytes() == id);
                let before = self.tombstones.len();
                self.tombstones.retain(|(_, gone)| gone.client != key.client || !names(&gone.id));
                if self.tombstones.len() < before { Known::Cancelled } else { Known::No }
            }
        }
    }

    /// Takes a place for the request with `key`, which must not be known, as entry `number` of
    /// the journal. The receiver hears of a cancel.
    pub(crate) fn open(
        &mut self,
        key: Key,
        rid: Option<&str>,
        digest: Digest,
        number: u64,
    ) -> oneshot::Receiver<()> {
        let (cancel, cancelled) = oneshot::channel();
        let rid = rid.map(|rid| rid.as_bytes().to_vec());
        let running = Running { digest, rid, number, accepted: false, cancel: Some(cancel) };
        *self.running_of.entry(key.client.clone()).or_default() += 1;
        self.entries.insert(key, Entry::Running(running));
        self.running += 1;
        cancelled
    }

    /// The request is written down.
    pub(crate) fn accept(&mut self, key: &Key) {
        if let Some(Entry::Running(running)) = self.entries.get_mut(key) {
            running.accepted = true;
        }
    }

    /// The journal's entry of a request that has not ended, and its digest.
    pub(crate) fn entry_of(&self, key: &Key) -> Option<(u64, Digest)> {
        match self.entries.get(key) {
            Some(Entry::Running(running)) => Some((running.number, running.digest)),
            _ => None,
        }
    }

    /// Takes up the final of an earlier life, which is `age` old.
    pub(crate) fn restore(&mut self, key: Key, digest: Digest, closing: Closing, age: Duration) {
        let now = Instant::now();
        let since = now.checked_sub(age).unwrap_or(now);
        self.done_bytes += closing.payload.len();
        self.done.push_back((since, key.clone()));
        if let Some(Entry::Done { closing, .. }) =
            self.entries.insert(key, Entry::Done { digest, closing, since })
        {
            self.done_bytes -= closing.payload.len();
        }
    }

    /// Takes up a cancel of an earlier life, which is `age` old.
    pub(crate) fn restore_cancel(&mut self, key: Key, age: Duration) {
        if let Some(since) = Instant::now().checked_sub(age).filter(|_| age <= TOMBSTONE_KEPT) {
            self.tombstones.push_back((since, key));
        }
    }

    /// Notes that the request ended; without a closing its key is free again.
    pub(crate) fn close(&mut self, key: &Key, closing: Option<Closing>, now: Instant) {
        let Some(Entry::Running(Running { digest, .. })) = self.entries.get(key) else {
            return;
        };
        let digest = *digest;
        self.running -= 1;
        if let Some(count) = self.running_of.get_mut(&key.client) {
            *count -= 1;
            if *count == 0 {
                self.running_of.remove(&key.client);
            }
        }
        match closing {
            Some(closing) if closing.payload.len() <= DONE_BYTES_MAX => {
                self.done_bytes += closing.payload.len();
                self.done.push_back((now, key.clone()));
                self.entries.insert(key.clone(), Entry::Done { digest, closing, since: now });
            }
            _ => {
                self.entries.remove(key);
            }
        }
        self.forget_old(now);
    }

    /// Cancels what `client` calls `id`, now or when it comes.
    pub(crate) fn cancel(&mut self, client: &str, id: &[u8], now: Instant) {
        for (key, entry) in &mut self.entries {
            if key.client != client {
                continue;
            }
            match entry {
                Entry::Running(running) => {
                    if key.id == id || running.rid.as_deref() == Some(id) {
                        if let Some(cancel) = running.cancel.take() {
                            // An answer that ends at this moment no longer listens.
                            let _heard = cancel.send(());
                        }
                        return;
                    }
                }
                Entry::Done { .. } if key.id == id => return,
                Entry::Done { .. } => {}
            }
        }
        if self.tombstones.len() == TOMBSTONES_MAX {
            self.tombstones.pop_front();
        }
        self.tombstones.push_back((now, Key { client: client.into(), id: id.into() }));
    }

    /// Cancels everything that runs.
    pub(crate) fn cancel_all(&mut self) {
        for entry in self.entries.values_mut() {
            if let Entry::Running(running) = entry
                && let Some(cancel) = running.cancel.take()
            {
                let _heard = cancel.send(());
            }
        }
    }

    fn forget_old(&mut self, now: Instant) {
        let old = |since: &Instant, kept| now.saturating_duration_since(*since) > kept;
        while self.tombstones.front().is_some_and(|(since, _)| old(since, TOMBSTONE_KEPT)) {
            self.tombstones.pop_front();
        }
        while self.done.front().is_some_and(|(since, _)| {
            old(since, DONE_KEPT) || self.done.len() > DONE_MAX || self.done_bytes > DONE_BYTES_MAX
        }) {
            let Some((marked, key)) = self.done.pop_front() else {
                return;
            };
            if let Some(Entry::Done { closing, since, .. }) = self.entries.get(&key)
                && *since == marked
            {
                self.done_bytes -= closing.payload.len();
                self.entries.remove(&key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    const BODY: Digest = [1; 32];

    fn key(id: &str) -> Key {
        Key { client: "plc7".into(), id: id.into() }
    }

    fn closing(bytes: usize) -> Closing {
        Closing { payload: Bytes::from(vec![b'x'; bytes]), status: 200, seq: 3 }
    }

    #[test]
    fn one_key_runs_once_and_its_final_is_kept() {
        let (mut ledger, now) = (Ledger::default(), Instant::now());
        assert_eq!(ledger.look(&key("a"), None, &BODY, now), Known::No);
        let _cancelled = ledger.open(key("a"), None, BODY, 1);
        assert_eq!(ledger.look(&key("a"), None, &BODY, now), Known::Arriving);
        ledger.accept(&key("a"));
        assert_eq!(ledger.look(&key("a"), None, &BODY, now), Known::Running);
        assert_eq!(ledger.entry_of(&key("a")), Some((1, BODY)));
        assert_eq!(ledger.look(&key("a"), None, &[2; 32], now), Known::Conflict);
        ledger.close(&key("a"), Some(closing(5)), now);
        assert_eq!(ledger.running(), 0);
        assert_eq!(ledger.look(&key("a"), None, &BODY, now), Known::Done(closing(5)));
        assert_eq!(ledger.look(&key("a"), None, &[2; 32], now), Known::Conflict);
        let later = now + DONE_KEPT + Duration::from_secs(1);
        assert_eq!(ledger.look(&key("a"), None, &BODY, later), Known::No);
        assert_eq!(ledger.done_bytes, 0);
    }

    #[test]
    fn running_requests_are_counted_by_client() {
        let (mut ledger, now) = (Ledger::default(), Instant::now());
        let _cancelled =
            [ledger.open(key("a"), None, BODY, 1), ledger.open(key("b"), None, BODY, 2)];
        assert_eq!((ledger.running_of("plc7"), ledger.running_of("plc8")), (2, 0));
        ledger.close(&key("a"), Some(closing(5)), now);
        ledger.close(&key("a"), None, now);
        assert_eq!(ledger.running_of("plc7"), 1, "an end counts once");
        ledger.close(&key("b"), None, now);
        assert_eq!(ledger.running_of("plc7"), 0);
        assert!(ledger.running_of.is_empty());
    }

    #[test]
    fn a_failed_request_may_be_sent_again() {
        let (mut ledger, now) = (Ledger::default(), Instant::now());
        let _cancelled = ledger.open(key("a"), None, BODY, 1);
        ledger.close(&key("a"), None, now);
        assert_eq!(ledger.look(&key("a"), None, &[2; 32], now), Known::No);
    }

    #[test]
    fn a_cancel_reaches_its_request_by_either_name() {
        let (mut ledger, now) = (Ledger::default(), Instant::now());
        let mut by_id = ledger.open(key("a"), None, BODY, 1);
        let mut by_rid = ledger.open(key("b"), Some("17"), BODY, 2);
        ledger.cancel("plc8", b"a", now);
        assert!(by_id.try_recv().is_err(), "another client's cancel");
        ledger.cancel("plc7", b"a", now);
        ledger.cancel("plc7", b"17", now);
        assert_eq!(by_id.try_recv(), Ok(()));
        assert_eq!(by_rid.try_recv(), Ok(()));
    }

    #[test]
    fn a_cancel_that_came_first_waits_a_minute() {
        let (mut ledger, now) = (Ledger::default(), Instant::now());
        ledger.cancel("plc7", b"a", now);
        ledger.cancel("plc7", b"17", now);
        ledger.cancel("plc7", b"late", now);
        assert_eq!(ledger.look(&key("a"), None, &BODY, now), Known::Cancelled);
        assert_eq!(ledger.look(&key("a"), None, &BODY, now), Known::No, "it counts once");
        assert_eq!(ledger.look(&key("b"), Some("17"), &BODY, now), Known::Cancelled);
        let later = now + TOMBSTONE_KEPT + Duration::from_secs(1);
        assert_eq!(ledger.look(&key("late"), None, &BODY, later), Known::No);
    }

    #[test]
    fn an_earlier_life_is_taken_up() {
        let (mut ledger, now) = (Ledger::default(), Instant::now());
        ledger.restore(key("a"), BODY, closing(5), Duration::from_secs(1));
        ledger.restore(key("a"), BODY, closing(7), Duration::from_secs(1));
        assert_eq!(ledger.look(&key("a"), None, &BODY, now), Known::Done(closing(7)));
        ledger.restore_cancel(key("b"), Duration::from_secs(1));
        ledger.restore_cancel(key("c"), TOMBSTONE_KEPT * 2);
        assert_eq!(ledger.look(&key("b"), None, &BODY, now), Known::Cancelled);
        assert_eq!(ledger.look(&key("c"), None, &BODY, now), Known::No);
        let later = now + DONE_KEPT + Duration::from_secs(1);
        assert_eq!(ledger.look(&key("a"), None, &BODY, later), Known::No);
        assert_eq!(ledger.done_bytes, 0);
    }

    #[test]
    fn cancels_of_unknown_requests_are_bounded() {
        let (mut ledger, now) = (Ledger::default(), Instant::now());
        for id in 0..3 * TOMBSTONES_MAX {
            ledger.cancel("plc7", id.to_string().as_bytes(), now);
        }
        assert_eq!(ledger.tombstones.len(), TOMBSTONES_MAX);
    }

    #[test]
    fn kept_finals_are_bounded_in_number_and_bytes() {
        let (mut ledger, now) = (Ledger::default(), Instant::now());
        for id in 0..DONE_MAX + 10 {
            let _cancelled = ledger.open(key(&id.to_string()), None, BODY, 1);
            ledger.close(&key(&id.to_string()), Some(closing(1)), now);
        }
        assert_eq!(ledger.entries.len(), DONE_MAX);
        for id in 0..5 {
            let _cancelled = ledger.open(key(&format!("big{id}")), None, BODY, 1);
            ledger.close(&key(&format!("big{id}")), Some(closing(30 << 20)), now);
        }
        assert!(ledger.done_bytes <= DONE_BYTES_MAX);
        assert!(matches!(ledger.look(&key("big4"), None, &BODY, now), Known::Done(_)));
    }
}
