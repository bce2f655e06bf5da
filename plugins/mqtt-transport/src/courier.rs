//! The one task that owns the connection, the outbox and the desk.

mod delivery;
mod filing;
mod parting;
mod revival;
mod statements;

use std::collections::VecDeque;
use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use journal::Recovered;
use protocol::{Service, Stop};

use crate::address::{Parcel, too_large};
use crate::answer::Note;
use crate::archive::{Archive, Ending, Receipt};
use crate::choice::Choice;
use crate::config::{Checked, MqttConfig};
use crate::desk::Desk;
use crate::gauge::{Count, MqttGauge};
use crate::home::{self, Announcement};
use crate::link::{Break, Dialect, Link, LinkOptions, Signal, Up};
use crate::newsroom::Newsroom;
use crate::outbox::{Outbox, Ticket};
use crate::pool::{Heard, Pool};
use crate::presence::Presence;

/// Confirmations that may be outstanding.
const WINDOW: usize = 8;
/// Notes of all answers that may wait for the courier.
const NOTES_MAX: usize = 256;
/// Pieces of answers that may wait for room in the client library.
const PIECES_MAX: usize = 64;
/// Confirmations that may wait for room in the client library.
const CONFIRMATIONS_MAX: usize = 4096;
const TICK: Duration = Duration::from_secs(1);
/// A connection that lasted this long begins the waiting times anew.
const STEADY: Duration = Duration::from_secs(60);
/// At shutdown, cancelled answers and the goodbye may each take this long.
const PARTING: Duration = Duration::from_secs(3);
/// Packets larger than a request may be are read up to this, so that their sender is told.
const PACKET_BYTES_MIN: usize = 1 << 20;
/// Room for topic and properties beside the payload.
const PACKET_MARGIN: usize = 128 << 10;

/// Where the shutdown stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Serving,
    /// Running answers may end.
    Draining(Instant),
    /// They were cancelled and say so.
    Cancelling(Instant),
    /// The goodbye is on its way.
    Parting(Instant, Option<Ticket>),
    /// The broker has everything; the line is closed.
    Leaving(Instant),
    Gone,
}

pub(crate) struct Courier {
    config: Arc<MqttConfig>,
    options: LinkOptions,
    desk: Desk,
    gauge: MqttGauge,
    service: Arc<dyn Service>,
    notes: flume::Receiver<Note>,
    presence: Presence,
    outbox: Outbox,
    archive: Archive,
    /// Finals that the journal did not take; they are written again and again.
    unwritten: Vec<Ending>,
    /// Numbers of delivered finals of which the journal was not told.
    unsettled: VecDeque<u64>,
    /// Each with what the outbox had taken before it: who comes first goes first.
    pieces: VecDeque<(Ticket, Parcel)>,
    link: Option<Line>,
    pool: Option<Pool>,
    lines: u64,
    /// When to connect, while there is no line.
    connect_at: Instant,
    backoff: Duration,
    away_since: Option<Instant>,
    choice: Choice,
    /// The next connection throws away what the broker kept, for it cannot be read.
    clean: bool,
    announcement: Announcement,
    newsroom: Newsroom,
    tick_at: Instant,
    phase: Phase,
}

/// A connection and what we know of it.
struct Line {
    number: u64,
    link: Link,
    dialect: Dialect,
    up: Option<(Up, Instant)>,
    subscribed: bool,
    /// It takes nothing more; its last signals are still to be read.
    closed: bool,
    /// Messages, confirmations and subscriptions inside the client library.
    handed: usize,
    /// Packet ids that wait to be confirmed.
    confirmations: VecDeque<u16>,
    heard: Instant,
}

impl Courier {
    pub(crate) fn new(
        config: MqttConfig,
        checked: Checked,
        gauge: MqttGauge,
        service: Arc<dyn Service>,
        archive: Archive,
    ) -> Self {
        let config = Arc::new(config);
        let (notes_in, notes) = flume::bounded(NOTES_MAX);
        let packet = (config.request_bytes_max + PACKET_MARGIN).max(PACKET_BYTES_MIN);
        let options = LinkOptions {
            host: checked.host,
            port: checked.port,
            tls: checked.tls,
            client_id: config.client_id.clone(),
            credentials: config
                .username
                .clone()
                .map(|user| (user, config.password.clone().unwrap_or_default())),
            keep_alive: config.keep_alive,
            will: Some((checked.topics.status(), "offline")),
            keeps_session: true,
            packet_bytes_max: u32::try_from(packet).unwrap_or(u32::MAX),
        };
        let now = Instant::now();
        let filters = checked.topics.pool_subscriptions(config.plain_requests);
        let pool = Pool::new(&options, filters, (config.backoff_min, config.backoff_max), now);
        let desk = Desk::new(
            Arc::clone(&config),
            checked.topics,
            gauge.clone(),
            Arc::clone(&service),
            notes_in,
        );
        Self {
            options,
            desk,
            gauge,
            service,
            notes,
            presence: Presence::new(),
            outbox: Outbox::default(),
            archive,
            unwritten: Vec::new(),
            unsettled: VecDeque::new(),
            pieces: VecDeque::new(),
            link: None,
            pool,
            lines: 0,
            connect_at: now,
            backoff: config.backoff_min,
            away_since: Some(now),
            choice: Choice::new(config.version),
            clean: false,
            announcement: Announcement::default(),
            newsroom: Newsroom::default(),
            tick_at: now,
            phase: Phase::Serving,
            config,
        }
    }

    pub(crate) fn with_news(mut self, newsroom: Newsroom) -> Self {
        self.newsroom = newsroom;
        self
    }

    /// Goes on with what an earlier life left, and serves until `stop` is raised and the goodbye
    /// is said.
    pub(crate) async fn run(mut self, stop: Stop, recovered: Recovered) {
        self.revive(recovered);
        let mut stopping = false;
        while self.phase != Phase::Gone {
            self.hand_over();
            let wake = self.wake_at();
            let listens = self.pieces.len() < PIECES_MAX;
            tokio::select! {
                signal = next_signal(self.link.as_ref()) => self.hear(signal),
                signal = next_pooled(self.pool.as_ref()) => self.hear_pool(signal),
                Ok(note) = self.notes.recv_async(), if listens => self.note(note),
                news = self.newsroom.next() => self.tell(news, Instant::now()),
                (ticket, result) = self.archive.decision() => self.decided(ticket, result),
                () = stop.wait_async(), if !stopping => {
                    stopping = true;
                    self.desk.closed = true;
                    self.pool = None;
                    self.gauge.pooled(false);
                    self.phase = Phase::Draining(Instant::now() + self.config.drain);
                }
                () = tokio::time::sleep_until(wake.into()) => {}
            }
            self.keep_time(Instant::now());
        }
        self.gauge.online(false);
    }

    fn wake_at(&self) -> Instant {
        let Some(line) = &self.link else { return self.tick_at.min(self.connect_at) };
        let pool = self.pool.as_ref().filter(|_| line.subscribed).and_then(Pool::wake_at);
        pool.map_or(self.tick_at, |at| at.min(self.tick_at))
    }

    /// What is due at `now`, whatever woke us.
    fn keep_time(&mut self, now: Instant) {
        if self.link.is_none() && self.connect_at <= now && self.may_connect() {
            self.connect(now);
        }
        if let (Some(line), Some(pool)) = (&self.link, &mut self.pool)
            && line.subscribed
        {
            pool.keep_time(&self.options, line.dialect, now);
        }
        self.part(now);
        if self.tick_at > now {
            return;
        }
        self.tick_at = now + TICK;
        let expired = self.outbox.expire(now);
        self.lost(expired, now);
        let shrunk = self.outbox.shrink_breakers(too_large);
        if shrunk > 0 {
            tracing::warn!(shrunk, "finals during which each connection broke became errors");
        }
        self.file_again(now);
        let silent = self.config.keep_alive * 2;
        if self.link.as_ref().is_some_and(|line| now.duration_since(line.heard) > silent) {
            self.lose(&Break::Lost("the broker is silent".into()), now);
        }
        let grace = self.config.detach_grace;
        if self.away_since.is_some_and(|since| now.duration_since(since) > grace) {
            self.desk.ledger.cancel_all();
        }
        self.look(now);
    }

    fn may_connect(&self) -> bool {
        !matches!(self.phase, Phase::Leaving(_) | Phase::Gone)
    }

    fn connect(&mut self, now: Instant) {
        let dialect = self.choice.next(now);
        if self.options.tls.is_some() {
            match self.config.tls.load() {
                Ok(tls) => self.options.tls = Some(tls),
                Err(error) => tracing::warn!(%error, "the certificates of before are used on"),
            }
        }
        tracing::debug!(host = %self.options.host, port = self.options.port, ?dialect, "connecting");
        self.lines += 1;
        self.link = Some(Line {
            number: self.lines,
            link: Link::open(&self.options, dialect, self.clean),
            dialect,
            up: None,
            subscribed: false,
            closed: false,
            handed: 0,
            confirmations: VecDeque::new(),
            heard: now,
        });
    }

    fn hear(&mut self, signal: Signal) {
        let now = Instant::now();
        let Some(line) = self.link.as_mut() else {
            return;
        };
        line.heard = now;
        match signal {
            Signal::Up(up) => self.come_up(up, now),
            Signal::Subscribed { refused } => self.subscribed(&refused, now),
            Signal::Message(message) => {
                // A resumed session begins with what was kept for us; our subscription's answer
                // comes behind it.
                let stale = !line.subscribed && line.up.is_some_and(|(up, _)| up.resumed);
                let receipt = Receipt { line: line.number, packet_id: message.packet_id };
                if self.newsroom.hear(&message) {
                    return self.confirm(receipt);
                }
                if self.config.home_assistant && message.topic == home::STATUS {
                    let wait = jittered(home::ANNOUNCE_WITHIN);
                    self.announcement.hear(&message.payload, wait, now);
                    return self.confirm(receipt);
                }
                self.receive(&message, stale, receipt, now);
            }
            Signal::Unreadable(packet_id) => {
                let receipt = Receipt { line: line.number, packet_id };
                self.gauge.count(Count::Unanswerable);
                self.confirm(receipt);
            }
            Signal::Sent(packet_id) => {
                line.handed = line.handed.saturating_sub(1);
                if packet_id != 0 {
                    self.outbox.sent(packet_id);
                }
            }
            Signal::WordSent => line.handed = line.handed.saturating_sub(1),
            Signal::Acknowledged { packet_id, refused } => {
                if let Some(reason) = refused {
                    tracing::warn!(reason, "the broker refused a message: check its access rules");
                    self.gauge.count(Count::ReplyLost);
                }
                if let Some(number) = self.outbox.acknowledged(packet_id) {
                    self.settle(number, now);
                }
            }
            Signal::Alive => {}
            Signal::Down(why) => self.lose(&why, now),
        }
    }

    fn hear_pool(&mut self, signal: Signal) {
        let now = Instant::now();
        let Some(pool) = &mut self.pool else { return };
        match pool.hear(signal, now) {
            Heard::Request(message, receipt) => self.receive(&message, false, receipt, now),
            Heard::Unreadable => self.gauge.count(Count::Unanswerable),
            Heard::Nothing => {}
        }
        self.gauge.pooled(self.pool.as_ref().is_some_and(Pool::is_member));
    }

    fn come_up(&mut self, up: Up, now: Instant) {
        let plain = self.config.plain_requests;
        let filters = self.desk.topics.subscriptions(plain);
        let Some(line) = self.link.as_mut() else {
            return;
        };
        line.up = Some((up, now));
        self.clean = false;
        self.choice.came_up(line.dialect, now);
        let broker_max = up.packet_bytes_max.unwrap_or(usize::MAX);
        let payload_max = broker_max.saturating_sub(1024).min(self.config.send_bytes_max);
        self.desk.payload_bytes_max.store(payload_max, Ordering::Relaxed);
        line.closed = !line.link.subscribe(filters);
        line.handed += usize::from(!line.closed);
    }

    fn subscribed(&mut self, refused: &[usize], now: Instant) {
        if !refused.is_empty() && self.link.as_ref().is_some_and(|line| line.subscribed) {
            let why = "the broker refuses a client's status topic, or a sensor's";
            tracing::warn!("{why}: check its access rules");
            return;
        }
        if !refused.is_empty() {
            let filters = self.desk.topics.subscriptions(self.config.plain_requests);
            let names: Vec<&str> =
                refused.iter().filter_map(|index| Some(filters.get(*index)?.as_str())).collect();
            let why = format!("the broker refuses the subscription to {}", names.join(", "));
            return self.lose(&Break::Refused(why), now);
        }
        let Some(line) = self.link.as_mut() else {
            return;
        };
        if std::mem::replace(&mut line.subscribed, true) {
            return;
        }
        let dialect = line.dialect;
        self.away_since = None;
        self.desk.watches.connected();
        self.gauge.count(Count::Connection);
        self.gauge.online(true);
        self.gauge.set_trouble(None);
        tracing::info!(host = %self.options.host, port = self.options.port, ?dialect, "connected");
        self.presence.connected();
        self.give_birth(dialect, now);
        self.post(status(self.desk.topics.status(), "online"), now);
        self.describe_to_home(now);
        self.listen_to_sensors();
        for parcel in self.newsroom.statements() {
            self.post(parcel, now);
        }
        self.look(now);
    }

    /// The connection is over: everything unconfirmed waits for the next one.
    fn lose(&mut self, why: &Break, now: Instant) {
        let Some(line) = self.link.take() else { return };
        self.gauge.online(false);
        self.gauge.pooled(false);
        if let Some(pool) = &mut self.pool {
            pool.leave(now);
        }
        self.outbox.disconnected();
        let dropped = self.pieces.len();
        self.pieces.clear();
        self.gauge.add(Count::DeltaDropped, dropped as u64);
        self.away_since.get_or_insert(now);
        if matches!(self.phase, Phase::Leaving(_)) {
            self.phase = Phase::Gone;
            return;
        }
        self.clean = matches!(why, Break::Poison(_));
        if line.up.is_some_and(|(_, since)| now.duration_since(since) > STEADY) {
            self.backoff = self.config.backoff_min;
        }
        let wait = if self.choice.went_down(line.dialect, why, now) {
            Duration::ZERO
        } else {
            let wait = jittered(self.backoff).max(self.config.backoff_min / 10);
            self.backoff = (self.backoff * 2).min(self.config.backoff_max);
            wait
        };
        self.connect_at = now + wait;
        self.gauge.set_trouble(Some(why.to_string()));
        tracing::warn!(%why, again_ms = wait.as_millis() as u64, "no connection to the broker");
    }

    fn note(&mut self, note: Note) {
        let now = Instant::now();
        match note {
            Note::Send(parcel) => self.post(parcel, now),
            Note::Ended { key, parcel, closing } => self.ended(key, parcel, closing, now),
            Note::Computed { number, parcel } => {
                let (_, lost) = self.outbox.push(parcel, Some(number), now);
                self.lost(lost, now);
            }
        }
    }
}

async fn next_signal(line: Option<&Line>) -> Signal {
    match line {
        Some(line) => line.link.signal().await,
        None => std::future::pending().await,
    }
}

async fn next_pooled(pool: Option<&Pool>) -> Signal {
    match pool {
        Some(pool) => pool.signal().await,
        None => std::future::pending().await,
    }
}

fn status(topic: String, word: &'static str) -> Parcel {
    let mut parcel = Parcel::retained(topic, word, true);
    parcel.content_type = "text/plain; charset=utf-8";
    parcel
}

/// Anything up to `longest`, so that many nodes do not come back to a broker at once.
pub(crate) fn jittered(longest: Duration) -> Duration {
    // The standard library seeds its hashers at random, which is all that is needed here.
    let random = std::hash::RandomState::new().build_hasher().finish();
    longest.mul_f64((random >> 11) as f64 / (1u64 << 53) as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_are_spread_below_their_bound() {
        let longest = Duration::from_secs(8);
        let waits: Vec<_> = (0..64).map(|_| jittered(longest)).collect();
        assert!(waits.iter().all(|wait| *wait <= longest));
        assert!(waits.iter().any(|wait| *wait != waits[0]));
    }
}
