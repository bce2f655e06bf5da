//! The connection for the shared work queue.
//!
//! A connection of its own, with a clean start and no session: brokers go on giving a member of a
//! group its share while they keep its session, whether it is there or not. Its requests go to the
//! same desk, and answers leave through the node's own connection; without that one, this one is
//! not open.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::archive::Receipt;
use crate::link::{Break, Dialect, HANDED_MAX, Link, LinkOptions, Message, Signal};

/// Connections are counted from here on, apart from those of the node itself.
const LINES: u64 = 1 << 63;

/// The member of the shared queue, connected or on its way.
#[derive(Debug)]
pub(crate) struct Pool {
    options: LinkOptions,
    filters: Vec<String>,
    link: Option<Link>,
    /// Names the connection in receipts.
    line: u64,
    /// Packet ids that wait to be confirmed.
    confirmations: VecDeque<u16>,
    /// Confirmations and subscriptions inside the client library.
    handed: usize,
    subscribed: bool,
    heard: Instant,
    connect_at: Instant,
    backoff: Duration,
    backoff_range: (Duration, Duration),
}

/// What the courier has to do about a signal of the pool's connection.
#[derive(Debug)]
pub(crate) enum Heard {
    Nothing,
    Request(Box<Message>, Receipt),
    Unreadable,
}

impl Pool {
    /// A member that is not connected; `None` without filters.
    pub(crate) fn new(
        node: &LinkOptions,
        filters: Vec<String>,
        backoff_range: (Duration, Duration),
        now: Instant,
    ) -> Option<Self> {
        let mut options = node.clone();
        options.client_id.push_str("-pool");
        options.will = None;
        options.keeps_session = false;
        (!filters.is_empty()).then_some(Self {
            options,
            filters,
            link: None,
            line: LINES,
            confirmations: VecDeque::new(),
            handed: 0,
            subscribed: false,
            heard: now,
            connect_at: now,
            backoff: backoff_range.0,
            backoff_range,
        })
    }

    /// Whether requests of the queue can come.
    pub(crate) fn is_member(&self) -> bool {
        self.subscribed
    }

    /// When something is due.
    pub(crate) fn wake_at(&self) -> Option<Instant> {
        self.link.is_none().then_some(self.connect_at)
    }

    /// Connects when it is time; `dialect` is what the node speaks with the same broker.
    pub(crate) fn keep_time(&mut self, node: &LinkOptions, dialect: Dialect, now: Instant) {
        let silent = self.options.keep_alive * 2;
        if self.link.is_some() && now.duration_since(self.heard) > silent {
            self.lose(&Break::Lost("the broker is silent".into()), now);
        }
        if self.link.is_none() && self.connect_at <= now {
            self.options.tls.clone_from(&node.tls);
            self.heard = now;
            self.line += 1;
            self.confirmations.clear();
            self.handed = 0;
            self.link = Some(Link::open(&self.options, dialect, true));
        }
    }

    /// Leaves the queue without a word: the broker gives its share to the others.
    pub(crate) fn leave(&mut self, now: Instant) {
        self.link = None;
        self.subscribed = false;
        self.connect_at = now;
        self.backoff = self.backoff_range.0;
    }

    /// The next signal of the connection; never, while there is none.
    pub(crate) async fn signal(&self) -> Signal {
        match &self.link {
            Some(link) => link.signal().await,
            None => std::future::pending().await,
        }
    }

    pub(crate) fn hear(&mut self, signal: Signal, now: Instant) -> Heard {
        self.heard = now;
        let Some(link) = &self.link else { return Heard::Nothing };
        match signal {
            Signal::WordSent => {
                self.handed = self.handed.saturating_sub(1);
                self.hand_confirmations();
            }
            Signal::Up(_) => {
                self.handed += 1;
                if !link.subscribe(self.filters.clone()) {
                    self.lose(&Break::Lost("the connection takes nothing".into()), now);
                }
            }
            Signal::Subscribed { refused } if refused.is_empty() => {
                self.subscribed = true;
                self.backoff = self.backoff_range.0;
                tracing::info!(filter = %self.filters[0], "member of the shared queue");
            }
            Signal::Subscribed { .. } => {
                let why = "the broker refuses the subscription to the shared queue";
                self.lose(&Break::Refused(why.into()), now);
            }
            Signal::Message(message) => {
                let receipt = Receipt { line: self.line, packet_id: message.packet_id };
                return Heard::Request(message, receipt);
            }
            Signal::Unreadable(packet_id) => {
                self.confirm(Receipt { line: self.line, packet_id });
                return Heard::Unreadable;
            }
            Signal::Down(why) => self.lose(&why, now),
            Signal::Sent(_) | Signal::Acknowledged { .. } | Signal::Alive => {}
        }
        Heard::Nothing
    }

    /// Tells the broker that a message is taken, if it came over the connection that there is.
    pub(crate) fn confirm(&mut self, receipt: Receipt) {
        if self.link.is_some() && receipt.line == self.line {
            self.confirmations.extend(receipt.packet_id);
            self.hand_confirmations();
        }
    }

    /// What does not fit into the client library waits; a broker gives 32 messages at a time.
    fn hand_confirmations(&mut self) {
        let Some(link) = &self.link else { return };
        while self.handed < HANDED_MAX
            && let Some(packet_id) = self.confirmations.pop_front()
        {
            // A connection that takes nothing more says so by its signals.
            self.handed += usize::from(link.confirm(packet_id));
        }
    }

    fn lose(&mut self, why: &Break, now: Instant) {
        self.link = None;
        self.subscribed = false;
        let wait = crate::courier::jittered(self.backoff).max(self.backoff_range.0 / 10);
        self.backoff = (self.backoff * 2).min(self.backoff_range.1);
        self.connect_at = now + wait;
        tracing::warn!(%why, again_ms = wait.as_millis() as u64, "not in the shared queue");
    }
}
