//! What is written down before it is promised, in this crate's words.
//!
//! With a journal, a change is decided when the disk has it; without one, at once. Either way the
//! courier goes on only when it hears the decision.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use journal::{Change, Journal, JournalError, Recovered};
use serde::{Deserialize, Serialize};

use crate::address::{Closing, FINAL_EXPIRY, JSON, Parcel, TEXT};
use crate::desk::Opened;
use crate::ledger::{Digest, Key};
use crate::link::Message;

/// Decisions that may wait for the courier; the journal waits behind them.
const DECISIONS_MAX: usize = 1024;
/// Names of properties that a stored final may have.
const PROPERTIES: [&str; 9] =
    ["status", "seq", "fin", "node", "retry_after_ms", "proto", "stream", "hops", "traceparent"];

/// What is done when a change is on the disk, or is not.
pub(crate) enum Then {
    /// The request runs, and its message is confirmed.
    Begin(Box<Opened>, Receipt),
    /// The final is published.
    Publish(Box<Ending>),
    /// The message is confirmed.
    Confirm(Receipt),
    /// The delivered final of this number needs nothing more.
    Settled(u64),
}

/// A final that is being written.
pub(crate) struct Ending {
    pub(crate) letter: Letter,
    /// When writing it first failed.
    pub(crate) failing_since: Option<Instant>,
    /// It was published although it is not written.
    pub(crate) published: bool,
}

/// A message that waits for its confirmation, and the connection that it came over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Receipt {
    pub(crate) line: u64,
    pub(crate) packet_id: Option<u16>,
}

/// A final on its way to its client.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Letter {
    /// Its entry in the journal.
    pub(crate) number: u64,
    pub(crate) key: Key,
    pub(crate) digest: Digest,
    pub(crate) parcel: Parcel,
    /// What repeats of the request get; without one the request may be sent again.
    pub(crate) closing: Option<Closing>,
}

/// The decision over one change.
pub(crate) type Decision = (Then, Result<(), JournalError>);

/// The journal, if there is one, and what waits for it.
pub(crate) struct Archive {
    /// Before the journal, so that it goes first: the journal's thread ends when it has told
    /// everybody, and must not wait for somebody who no longer listens.
    decided: flume::Receiver<(u64, Result<(), JournalError>)>,
    decided_in: flume::Sender<(u64, Result<(), JournalError>)>,
    journal: Option<Journal>,
    waiting: HashMap<u64, Then>,
    tickets: u64,
    /// Numbers of entries, where no journal gives them.
    numbers: AtomicU64,
}

impl Archive {
    pub(crate) fn new(journal: Option<Journal>) -> Self {
        let (decided_in, decided) = flume::bounded(DECISIONS_MAX);
        let numbers = AtomicU64::new(1);
        Self { journal, decided_in, decided, waiting: HashMap::new(), tickets: 0, numbers }
    }

    /// The number of a new entry.
    pub(crate) fn number(&self) -> u64 {
        match &self.journal {
            Some(journal) => journal.number(),
            None => self.numbers.fetch_add(1, Ordering::Relaxed),
        }
    }

    /// Has a change written. Gives the decision where there is one already.
    pub(crate) fn write(&mut self, change: Change, then: Then) -> Option<Decision> {
        let Some(journal) = &self.journal else {
            return Some((then, Ok(())));
        };
        self.tickets += 1;
        let ticket = self.tickets;
        let decided = self.decided_in.clone();
        let ordered = journal.write(change, move |result| {
            // A courier that is gone wants to know nothing.
            let _told = decided.send((ticket, result));
        });
        if let Err(error) = ordered {
            return Some((then, Err(error)));
        }
        self.waiting.insert(ticket, then);
        None
    }

    /// Whether nothing waits for its decision.
    pub(crate) fn is_quiet(&self) -> bool {
        self.waiting.is_empty()
    }

    /// The next decision. Dropping the future loses nothing.
    pub(crate) async fn decision(&self) -> (u64, Result<(), JournalError>) {
        match self.decided.recv_async().await {
            Ok(decision) => decision,
            // It holds a sender itself.
            Err(_) => std::future::pending().await,
        }
    }

    /// What the decision is about.
    pub(crate) fn claim(&mut self, ticket: u64) -> Option<Then> {
        self.waiting.remove(&ticket)
    }
}

/// The entry of a request that was let in.
pub(crate) fn opening(opened: &Opened, envelope: &Message) -> Change {
    Change::Open {
        number: opened.number,
        key: journal_key(&opened.key, opened.digest),
        address: Envelope::of(envelope).written(),
        request: envelope.payload.to_vec(),
        lifetime: opened.patience,
    }
}

impl Letter {
    /// The entry of a request that ended.
    pub(crate) fn change(&self) -> Change {
        Change::Close {
            number: self.number,
            key: journal_key(&self.key, self.digest),
            reply: self.written(),
            lifetime: self.parcel.expiry.unwrap_or(FINAL_EXPIRY),
        }
    }

    fn written(&self) -> Vec<u8> {
        let parcel = &self.parcel;
        let head = Head {
            topic: parcel.topic.clone(),
            correlation: parcel.correlation.as_deref().map(hex),
            response_topic: parcel.response_topic.clone(),
            is_text: parcel.content_type == TEXT,
            properties: parcel
                .properties
                .iter()
                .filter(|(name, _)| PROPERTIES.contains(name))
                .map(|(name, value)| ((*name).to_owned(), value.clone()))
                .collect(),
            kept: self.closing.as_ref().map(|closing| (closing.status, closing.seq)),
        };
        let mut bytes = serde_json::to_vec(&head).unwrap_or_default();
        bytes.push(b'\n');
        bytes.extend_from_slice(&parcel.payload);
        bytes
    }

    /// Reads what an earlier life wrote; `None` where this program cannot.
    pub(crate) fn read(entry: &journal::ClosedEntry) -> Option<Self> {
        let at = entry.reply.iter().position(|byte| *byte == b'\n')?;
        let head: Head = serde_json::from_slice(&entry.reply[..at]).ok()?;
        let payload = Bytes::copy_from_slice(&entry.reply[at + 1..]);
        let known = |(name, value): (String, String)| {
            Some((*PROPERTIES.iter().find(|known| **known == name)?, value))
        };
        let correlation = match head.correlation {
            Some(text) => Some(Bytes::from(unhex(&text)?)),
            None => None,
        };
        let parcel = Parcel {
            topic: head.topic,
            payload: payload.clone(),
            reliable: true,
            retain: false,
            expiry: Some(entry.left),
            correlation,
            response_topic: head.response_topic,
            content_type: if head.is_text { TEXT } else { JSON },
            properties: head.properties.into_iter().filter_map(known).collect(),
        };
        Some(Self {
            number: entry.number,
            key: own_key(&entry.key)?,
            digest: entry.key.digest,
            parcel,
            closing: head.kept.map(|(status, seq)| Closing { payload, status, seq }),
        })
    }
}

/// All of a stored final but its payload.
#[derive(Serialize, Deserialize)]
struct Head {
    topic: String,
    correlation: Option<String>,
    response_topic: Option<String>,
    is_text: bool,
    properties: Vec<(String, String)>,
    /// Status and place in the order, when repeats get it.
    kept: Option<(u16, u32)>,
}

/// How a request came, as far as its answer depends on it. Credentials are not part of it.
#[derive(Serialize, Deserialize)]
struct Envelope {
    topic: String,
    response_topic: Option<String>,
    correlation: Option<String>,
    content_type: Option<String>,
    stream: Option<String>,
}

impl Envelope {
    fn of(message: &Message) -> Self {
        let stream = message.properties.iter().find(|(name, _)| name == "stream");
        Self {
            topic: message.topic.clone(),
            response_topic: message.response_topic.clone(),
            correlation: message.correlation.as_deref().map(hex),
            content_type: message.content_type.clone(),
            stream: stream.map(|(_, value)| value.clone()),
        }
    }

    fn written(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }
}

/// The message that an open entry came as; `None` where this program cannot read it.
pub(crate) fn message_of(entry: &journal::OpenEntry) -> Option<Message> {
    let envelope: Envelope = serde_json::from_slice(&entry.address).ok()?;
    let correlation = match envelope.correlation {
        Some(text) => Some(Bytes::from(unhex(&text)?)),
        None => None,
    };
    Some(Message {
        topic: envelope.topic,
        payload: Bytes::copy_from_slice(&entry.request),
        expiry: Some(entry.left.max(Duration::from_secs(1))),
        response_topic: envelope.response_topic,
        correlation,
        content_type: envelope.content_type,
        properties: envelope.stream.map(|value| ("stream".to_owned(), value)).into_iter().collect(),
        ..Message::default()
    })
}

/// What the journal said when it was opened, handed to the courier once.
pub(crate) struct Earlier {
    pub(crate) journal: Journal,
    pub(crate) recovered: Recovered,
}

fn journal_key(key: &Key, digest: Digest) -> journal::Key {
    journal::Key { client: key.client.clone().into_bytes(), id: key.id.clone(), digest }
}

/// The entry of a cancel.
pub(crate) fn mark(key: Key) -> Change {
    Change::Mark { client: key.client.into_bytes(), id: key.id }
}

/// The journal's key in our words.
pub(crate) fn own_key(key: &journal::Key) -> Option<Key> {
    Some(Key { client: String::from_utf8(key.client.clone()).ok()?, id: key.id.clone() })
}

/// Bytes as text that JSON takes.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits = text.as_bytes().chunks(2);
    digits.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()).collect()
}
