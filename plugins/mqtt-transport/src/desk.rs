//! Where a message becomes a request, or is refused.

mod addressing;
mod admission;
mod embedding;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::{Duration, Instant};

use chat_json::{Chat, Mode, Strictness, parse_chat};
use protocol::{Fault, FaultCode, RequestId, Service};
use serde::Deserialize;
use tokio::sync::Semaphore;

use crate::address::{Address, Closing, Parcel, TEXT};
use crate::answer::{Job, Note, answer};
use crate::archive::{Receipt, hex};
use crate::config::MqttConfig;
use crate::gauge::{Count, MqttGauge};
use crate::home;
use crate::ledger::{Digest, Key, Ledger};
use crate::link::Message;
use crate::onward;
use crate::topics::{Caller, Route, Topics};
use crate::vectors::VECTORS_RUNNING_MAX;
use crate::watch::Watches;

const CORRELATION_BYTES_MAX: usize = 64;
/// Least time between two deltas, where the request names none.
const FLUSH: Duration = Duration::from_millis(50);
const RETRY_AFTER_MS: u64 = 1000;

/// Takes messages, answers what needs no engine, and starts the rest.
pub(crate) struct Desk {
    pub(crate) topics: Topics,
    pub(crate) ledger: Ledger,
    pub(crate) watches: Watches,
    /// Requests that are not written down, by number: they are confirmed when their answer is
    /// delivered.
    pub(crate) held: HashMap<u64, (Key, Receipt)>,
    /// Refuses new requests: the program is shutting down.
    pub(crate) closed: bool,
    pub(crate) payload_bytes_max: Arc<AtomicUsize>,
    config: Arc<MqttConfig>,
    node: Arc<str>,
    gauge: MqttGauge,
    service: Arc<dyn Service>,
    notes: flume::Sender<Note>,
    /// Turns of requests for vectors.
    turns: Arc<Semaphore>,
}

/// The members of a body that decide whom an error can be told to, when the body is refused.
#[derive(Debug, Default, Deserialize)]
struct Peek {
    stream: Option<serde_json::Value>,
    #[serde(default)]
    ext: PeekExt,
}

#[derive(Debug, Default, Deserialize)]
struct PeekExt {
    id: Option<String>,
    reply_to: Option<String>,
    mode: Option<serde_json::Value>,
}

impl Peek {
    fn into(payload: &[u8]) -> Self {
        serde_json::from_slice(payload).unwrap_or_default()
    }
}

/// Why a message gets no answer.
struct Unanswerable(&'static str);

/// A message and what is known around it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Arrival<'a> {
    pub(crate) message: &'a Message,
    /// It may have waited at the broker for an unknown time.
    pub(crate) stale: bool,
    /// It was promised in an earlier life, so nothing keeps it out.
    pub(crate) promised: bool,
    /// More finals wait for the broker than is good.
    pub(crate) crowded: bool,
    /// The journal's number for it.
    pub(crate) number: u64,
}

/// What became of a message.
pub(crate) enum Taken {
    /// It needs nothing more, but for this to be published.
    Done(Option<Parcel>),
    /// It cancelled what is known by this.
    Cancel(Key),
    /// It runs, or did already, and is not written down: it is confirmed when the broker has its
    /// answer.
    Held { number: u64, key: Key },
    /// It is a request that is let in, and is to be written down before it begins.
    Request(Box<Opened>),
}

/// A request that was let in and has its place in the ledger.
pub(crate) struct Opened {
    pub(crate) key: Key,
    pub(crate) digest: Digest,
    pub(crate) number: u64,
    pub(crate) address: Address,
    /// How long it may wait and run.
    pub(crate) patience: Duration,
    chat: Chat,
    streams: bool,
    promised: bool,
    onward: Option<Parcel>,
    cancelled: tokio::sync::oneshot::Receiver<()>,
}

impl Desk {
    pub(crate) fn new(
        config: Arc<MqttConfig>,
        topics: Topics,
        gauge: MqttGauge,
        service: Arc<dyn Service>,
        notes: flume::Sender<Note>,
    ) -> Self {
        Self {
            topics,
            ledger: Ledger::default(),
            watches: Watches::default(),
            held: HashMap::new(),
            closed: false,
            payload_bytes_max: Arc::new(AtomicUsize::new(config.send_bytes_max)),
            node: Arc::from(config.node.as_str()),
            config,
            gauge,
            service,
            notes,
            turns: Arc::new(Semaphore::new(VECTORS_RUNNING_MAX)),
        }
    }

    /// Takes one message.
    pub(crate) fn receive(&mut self, arrival: Arrival<'_>) -> Taken {
        let message = arrival.message;
        match self.topics.route(&message.topic) {
            Some(Route::Request(None) | Route::Embed(None)) if !self.config.plain_requests => {
                let why = "its topic names no client, and mqtt.plain_requests is off";
                Taken::Done(self.drop_it(why))
            }
            Some(Route::HomeAsk) => self.home_ask(arrival),
            Some(Route::HomeCancel) => {
                if !message.retained {
                    self.ledger.cancel_all();
                }
                Taken::Done(None)
            }
            Some(Route::Request(caller)) => self.request(arrival, caller.as_ref()),
            Some(Route::Embed(caller)) => self.embed(arrival, caller.as_ref()),
            Some(Route::Cancel(caller)) => match self.cancelled(message, caller.as_ref()) {
                Some(key) => {
                    self.ledger.cancel(&key.client, &key.id, Instant::now());
                    Taken::Cancel(key)
                }
                None => Taken::Done(None),
            },
            None if self.watches.knows(&message.topic) => {
                self.hear_status(message);
                Taken::Done(None)
            }
            None => {
                // The broker kept a subscription of an earlier configuration.
                if !self.topics.is_of_site(&message.topic) {
                    self.watches.forget(&message.topic);
                }
                Taken::Done(self.drop_it("its topic is none of ours"))
            }
        }
    }

    /// The request with `key` has ended; without a closing its key is free again.
    pub(crate) fn ended(&mut self, key: &Key, closing: Option<Closing>, now: Instant) {
        self.watches.ended(key);
        self.ledger.close(key, closing, now);
    }

    /// A client that bound requests to its status has vanished, or says something else.
    fn hear_status(&mut self, message: &Message) {
        if !message.payload.trim_ascii().eq_ignore_ascii_case(b"offline") {
            return;
        }
        let now = Instant::now();
        for key in self.watches.bound_to(&message.topic) {
            self.ledger.cancel(&key.client, &key.id, now);
        }
    }

    /// Begins with a request that is written down.
    pub(crate) fn begin(&mut self, opened: Opened) {
        self.ledger.accept(&opened.key);
        let deadline = Instant::now() + opened.patience;
        let mut chat = opened.chat;
        chat.request.limits.deadline = Some(deadline);
        let flush = chat.ext.flush_ms.map_or(FLUSH, |ms| Duration::from_millis(u64::from(ms)));
        self.gauge.count(Count::Accepted);
        tokio::spawn(answer(Job {
            key: opened.key,
            address: opened.address,
            streams: opened.streams,
            flush,
            text_bytes_max: chat.ext.max_reply_bytes,
            chat,
            deadline,
            cancelled: opened.cancelled,
            promised: opened.promised,
            onward: opened.onward,
            payload_bytes_max: Arc::clone(&self.payload_bytes_max),
            service: Arc::clone(&self.service),
            notes: self.notes.clone(),
        }));
    }

    /// Gives up a request that could not be written down; what comes back is to be published.
    pub(crate) fn give_up(&mut self, opened: &Opened, fault: &Fault) -> Option<Parcel> {
        self.ended(&opened.key, None, Instant::now());
        self.refuse(&opened.address, fault)
    }

    /// Whom a cancel means.
    fn cancelled(&self, message: &Message, caller: Option<&Caller>) -> Option<Key> {
        if message.retained {
            self.gauge.count(Count::Unanswerable);
            return None;
        }
        if let Some(caller) = caller {
            return Some(Key { client: caller.client.clone(), id: caller.rid.as_bytes().to_vec() });
        }
        let peek = self.peek(message);
        let topic = message.response_topic.clone().or(peek.ext.reply_to);
        let id = message.correlation.as_deref().map(<[u8]>::to_vec);
        let id = id.or_else(|| peek.ext.id.map(String::into_bytes));
        match (id, topic) {
            (Some(id), Some(topic)) => Some(Key { client: self.client_of(&topic), id }),
            _ => {
                self.drop_it("a cancel without names needs correlation data and a response topic");
                None
            }
        }
    }

    /// Text of Home Assistant, whose answer goes to its sensor.
    fn home_ask(&mut self, arrival: Arrival<'_>) -> Taken {
        let message = arrival.message;
        if message.retained || message.payload.trim_ascii().is_empty() {
            let why = "Home Assistant asked nothing, or it was retained";
            return Taken::Done(self.drop_it(why));
        }
        let rid = uuid::Uuid::now_v7().simple().to_string();
        let caller = Caller { client: home::CLIENT.into(), rid };
        let asked = Message {
            topic: message.topic.clone(),
            payload: message.payload.clone(),
            content_type: Some(TEXT.into()),
            expiry: message.expiry,
            ..Message::default()
        };
        let address = self.address(self.topics.home_answer(), &asked, Some(&caller), None);
        match self.check(&asked).and_then(|()| self.parse(&asked, Some(&caller))) {
            Ok(mut chat) => {
                chat.ext.mode = Mode::Final;
                let arrival = Arrival { message: &asked, ..arrival };
                self.admit(arrival, Some(&caller), Some(address), chat)
            }
            Err(fault) => Taken::Done(self.refuse(&address, &fault)),
        }
    }

    fn request(&mut self, arrival: Arrival<'_>, caller: Option<&Caller>) -> Taken {
        let message = arrival.message;
        let provisional = match self.provisional(message, caller) {
            Ok(address) => address,
            Err(Unanswerable(why)) => return Taken::Done(self.foreign(caller, message, why)),
        };
        let fault = match self.check(message).and_then(|()| self.parse(message, caller)) {
            Ok(chat) => return self.admit(arrival, caller, provisional, chat),
            Err(fault) => fault,
        };
        if fault.code == FaultCode::Unavailable
            && let Some(onward) = self.onward(message)
        {
            self.gauge.count(Count::PassedOn);
            return Taken::Done(Some(onward));
        }
        Taken::Done(self.refuse_unread(message, caller, provisional, &fault))
    }

    fn check(&self, message: &Message) -> Result<(), Fault> {
        let config = &self.config;
        if message.retained {
            return Err(Fault::bad_request(
                "a retained request would run again at every connection: publish it without retain",
            ));
        }
        if message.payload.len() > config.request_bytes_max {
            return Err(Fault::new(
                FaultCode::TooLarge,
                format!(
                    "the request has {} bytes, the limit is {}",
                    message.payload.len(),
                    config.request_bytes_max,
                ),
            ));
        }
        if message.correlation.as_ref().is_some_and(|data| data.len() > CORRELATION_BYTES_MAX) {
            return Err(Fault::bad_request(format!(
                "correlation data has more than {CORRELATION_BYTES_MAX} bytes",
            )));
        }
        if let Some(version) = property(message, "proto").filter(|version| *version != "1") {
            let shown: String = version.chars().take(16).collect();
            return Err(Fault::new(
                FaultCode::Unsupported,
                format!("protocol version `{shown}` is not spoken here: send proto=1"),
            ));
        }
        Ok(())
    }

    fn parse(&self, message: &Message, caller: Option<&Caller>) -> Result<Chat, Fault> {
        let id = RequestId(uuid::Uuid::now_v7().simple().to_string());
        let mut chat = match plain_text(message)? {
            None => parse_chat(&message.payload, id, Strictness::Lenient)?,
            Some(text) => {
                let body = serde_json::json!({"messages": [{"role": "user", "content": text}]});
                parse_chat(body.to_string().as_bytes(), id, Strictness::Lenient)?
            }
        };
        chat.check_single()?;
        if let Some(topic) = &chat.ext.cancel_on_offline {
            self.check_status_topic(topic, caller)?;
        }
        if property(message, "stream") == Some("true") {
            chat.stream = true;
        }
        chat.request.client = caller.map(|caller| caller.client.clone());
        Ok(chat)
    }

    fn check_status_topic(&self, topic: &str, caller: Option<&Caller>) -> Result<(), Fault> {
        let at = |fault: Fault| fault.at("ext.cancel_on_offline");
        let Some(caller) = caller else {
            let text = "only a request whose topic names its client can be bound to its status";
            return Err(at(Fault::bad_request(text)));
        };
        if !self.topics.is_status_of(&caller.client, topic) {
            let own = self.topics.default_reply(caller);
            let own = own.split("/reply/").next().unwrap_or_default();
            let text =
                format!("a request is bound to a topic of its own client, such as {own}/status");
            return Err(at(Fault::bad_request(text)));
        }
        if !self.watches.has_room_for(topic) {
            let text = "too many clients have bound requests to their status: leave it out";
            return Err(at(Fault::new(FaultCode::Busy, text).retry_after_ms(RETRY_AFTER_MS)));
        }
        Ok(())
    }

    /// The request as another member of the shared queue is to get it.
    fn onward(&self, message: &Message) -> Option<Parcel> {
        if !self.topics.is_pooled(&message.topic)
            || message.payload.len() > self.config.request_bytes_max
        {
            return None;
        }
        onward::parcel(message, self.config.deadline_max)
    }

    fn peek(&self, message: &Message) -> Peek {
        if message.payload.len() > self.config.request_bytes_max {
            return Peek::default();
        }
        Peek::into(&message.payload)
    }

    fn refuse(&self, address: &Address, fault: &Fault) -> Option<Parcel> {
        self.gauge.count(Count::Refused);
        tracing::debug!(status = fault.code.status(), code = %fault.code, "request refused");
        Some(address.fault(fault))
    }

    fn drop_it(&self, why: &'static str) -> Option<Parcel> {
        self.gauge.count(Count::Unanswerable);
        tracing::warn!(why, "a message was dropped, nobody could be told");
        None
    }
}

/// The text of a request that is not JSON.
fn plain_text(message: &Message) -> Result<Option<&str>, Fault> {
    let kind = message.content_type.as_deref().unwrap_or("application/json");
    let kind = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    match kind.as_str() {
        "application/json" | "" => Ok(None),
        "text/plain" => std::str::from_utf8(&message.payload)
            .map(Some)
            .map_err(|_| Fault::bad_request("text/plain that is not UTF-8")),
        _ => Err(Fault::new(
            FaultCode::Unsupported,
            "this content type is not read here: send application/json or text/plain",
        )),
    }
}

fn property<'a>(message: &'a Message, name: &str) -> Option<&'a str> {
    message.properties.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
}

/// Correlation data as text for JSON: as it is, or in hexadecimal.
fn spelled(data: &[u8]) -> String {
    match std::str::from_utf8(data) {
        Ok(text) if !text.contains(char::is_control) => text.to_owned(),
        _ => hex(data),
    }
}
