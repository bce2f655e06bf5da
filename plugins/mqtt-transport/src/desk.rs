//! Where a message becomes a request, or is refused.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::{Duration, Instant};

use chat_json::{Chat, Mode, Strictness, parse_chat};
use protocol::{Fault, FaultCode, RequestId, Service};
use serde::Deserialize;

use crate::address::{Address, Parcel};
use crate::answer::{Job, Note, answer};
use crate::config::MqttConfig;
use crate::gauge::{Count, MqttGauge};
use crate::ledger::{Key, Known, Ledger};
use crate::link::Message;
use crate::onward;
use crate::topics::{Caller, Route, Topics};
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
    /// Refuses new requests: the program is shutting down.
    pub(crate) closed: bool,
    pub(crate) payload_bytes_max: Arc<AtomicUsize>,
    config: Arc<MqttConfig>,
    node: Arc<str>,
    gauge: MqttGauge,
    service: Arc<dyn Service>,
    notes: flume::Sender<Note>,
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
            closed: false,
            payload_bytes_max: Arc::new(AtomicUsize::new(config.send_bytes_max)),
            node: Arc::from(config.node.as_str()),
            config,
            gauge,
            service,
            notes,
        }
    }

    /// Takes one message; what comes back is to be published.
    ///
    /// `stale` says that it may have waited at the broker for an unknown time.
    pub(crate) fn receive(&mut self, message: &Message, stale: bool) -> Option<Parcel> {
        match self.topics.route(&message.topic) {
            Some(Route::Request(None)) if !self.config.plain_requests => {
                self.drop_it("its topic names no client, and mqtt.plain_requests is off")
            }
            Some(Route::Request(caller)) => self.request(message, caller.as_ref(), stale),
            Some(Route::Cancel(caller)) => {
                self.cancel(message, caller.as_ref());
                None
            }
            None if self.watches.knows(&message.topic) => {
                self.hear_status(message);
                None
            }
            None => self.drop_it("its topic is none of ours"),
        }
    }

    /// The request with `key` has ended.
    pub(crate) fn ended(&mut self, key: &Key) {
        self.watches.ended(key);
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

    fn cancel(&mut self, message: &Message, caller: Option<&Caller>) {
        let now = Instant::now();
        if message.retained {
            self.gauge.count(Count::Unanswerable);
            return;
        }
        if let Some(caller) = caller {
            self.ledger.cancel(&caller.client, caller.rid.as_bytes(), now);
            return;
        }
        let peek = self.peek(message);
        let topic = message.response_topic.clone().or(peek.ext.reply_to);
        let id = message.correlation.as_deref().map(<[u8]>::to_vec);
        let id = id.or_else(|| peek.ext.id.map(String::into_bytes));
        match (id, topic) {
            (Some(id), Some(topic)) => {
                self.ledger.cancel(&self.client_of(&topic), &id, now);
            }
            _ => {
                self.drop_it("a cancel without names needs correlation data and a response topic");
            }
        }
    }

    fn request(
        &mut self,
        message: &Message,
        caller: Option<&Caller>,
        stale: bool,
    ) -> Option<Parcel> {
        let provisional = match self.provisional(message, caller) {
            Ok(address) => address,
            Err(Unanswerable(why)) => return self.foreign(caller, message, why),
        };
        let fault = match self.check(message, stale).and_then(|()| self.parse(message, caller)) {
            Ok(chat) => return self.admit(message, caller, provisional, chat),
            Err(fault) => fault,
        };
        if fault.code == FaultCode::Unavailable
            && let Some(onward) = self.onward(message)
        {
            self.gauge.count(Count::PassedOn);
            return Some(onward);
        }
        let address = provisional.or_else(|| {
            let reply_to = self.peek(message).ext.reply_to?;
            let admitted = self.topics.admits_reply(&reply_to, caller);
            admitted.then(|| self.address(reply_to, message, caller, None))
        });
        match address {
            Some(mut address) => {
                if let Some(id) = self.peek(message).ext.id.filter(|id| id.len() <= 128) {
                    address.id = id;
                }
                self.refuse(&address, &fault)
            }
            None => self.drop_it("it is not valid and names no reply topic"),
        }
    }

    /// Where errors go as long as the body is not read: the Response Topic, or the caller's own.
    fn provisional(
        &self,
        message: &Message,
        caller: Option<&Caller>,
    ) -> Result<Option<Address>, Unanswerable> {
        let topic = match (&message.response_topic, caller) {
            (Some(topic), _) if self.topics.admits_reply(topic, caller) => topic.clone(),
            (Some(_), _) => return Err(Unanswerable("its Response Topic is not allowed")),
            (None, Some(caller)) => self.topics.default_reply(caller),
            (None, None) => return Ok(None),
        };
        Ok(Some(self.address(topic, message, caller, None)))
    }

    fn check(&self, message: &Message, stale: bool) -> Result<(), Fault> {
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
        if self.closed {
            let fault = Fault::new(FaultCode::Unavailable, "this node is shutting down");
            return Err(fault.retry_after_ms(RETRY_AFTER_MS));
        }
        let waived = config.accept_stale || message.expiry.is_some();
        if stale && !waived && !self.names_time(message) {
            return Err(Fault::new(
                FaultCode::Deadline,
                "this request may have waited for long: send it again, or give it ext.ttl_s",
            ));
        }
        Ok(())
    }

    fn names_time(&self, message: &Message) -> bool {
        #[derive(Default, Deserialize)]
        struct Time {
            #[serde(default)]
            ext: TimeExt,
        }
        #[derive(Default, Deserialize)]
        struct TimeExt {
            ttl_s: Option<serde_json::Value>,
            #[serde(default)]
            accept_stale: bool,
        }
        let time: Time = serde_json::from_slice(&message.payload).unwrap_or_default();
        time.ext.ttl_s.is_some() || time.ext.accept_stale
    }

    fn parse(&self, message: &Message, caller: Option<&Caller>) -> Result<Chat, Fault> {
        let id = RequestId(uuid::Uuid::now_v7().simple().to_string());
        let kind = message.content_type.as_deref().unwrap_or("application/json");
        let mut parts = kind.split(';').map(str::trim);
        let kind = parts.next().unwrap_or_default().to_ascii_lowercase();
        let mut chat = match kind.as_str() {
            "application/json" | "" => parse_chat(&message.payload, id, Strictness::Lenient)?,
            "text/plain" => {
                let text = std::str::from_utf8(&message.payload)
                    .map_err(|_| Fault::bad_request("text/plain that is not UTF-8"))?;
                let body = serde_json::json!({"messages": [{"role": "user", "content": text}]});
                parse_chat(body.to_string().as_bytes(), id, Strictness::Lenient)?
            }
            _ => {
                return Err(Fault::new(
                    FaultCode::Unsupported,
                    "this content type is not read here: send application/json or text/plain",
                ));
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

    /// A request that is well formed: is it known, is there room?
    fn admit(
        &mut self,
        message: &Message,
        caller: Option<&Caller>,
        provisional: Option<Address>,
        chat: Chat,
    ) -> Option<Parcel> {
        let topic = match (&message.response_topic, &chat.ext.reply_to, provisional) {
            (None, Some(topic), _) if self.topics.admits_reply(topic, caller) => topic.clone(),
            (None, Some(_), _) => {
                return self.foreign(caller, message, "its ext.reply_to is not allowed");
            }
            (_, _, Some(address)) => address.topic,
            (_, _, None) => return self.drop_it("it names no reply topic"),
        };
        let mut address = self.address(topic, message, caller, chat.ext.id.as_deref());
        address.compact = chat.ext.mode == Mode::Text;
        if address.id.is_empty() {
            address.id.clone_from(&chat.request.id.0);
        }
        let rid = caller.map(|caller| caller.rid.as_str());
        let named =
            message.correlation.as_deref().or_else(|| chat.ext.id.as_deref().map(str::as_bytes));
        let named = named.or_else(|| rid.map(str::as_bytes));
        let key = Key {
            client: caller.map_or_else(|| self.client_of(&address.topic), |c| c.client.clone()),
            id: named.map_or_else(|| chat.request.id.0.clone().into_bytes(), <[u8]>::to_vec),
        };
        let digest = onward::digest(&message.payload);
        let streams = self.streams(message, &chat);
        match self.ledger.look(&key, rid, &digest, Instant::now()) {
            Known::No => {}
            Known::Running => {
                self.gauge.count(Count::Repeated);
                return streams.then(|| address.accepted());
            }
            Known::Done(closing) => {
                self.gauge.count(Count::Repeated);
                return Some(address.last(&closing));
            }
            Known::Conflict => {
                let text = "another request of yours has this id: take a new one";
                return self.refuse(&address, &Fault::new(FaultCode::Conflict, text));
            }
            Known::Cancelled => {
                let text = "it was cancelled before it arrived";
                return self.refuse(&address, &Fault::new(FaultCode::Cancelled, text));
            }
        }
        if self.ledger.running() >= self.config.queue_requests_max {
            let text = format!(
                "{} requests are under way, which is the limit",
                self.config.queue_requests_max,
            );
            if let Some(onward) = self.onward(message) {
                self.gauge.count(Count::PassedOn);
                return Some(onward);
            }
            let fault = Fault::new(FaultCode::Busy, text).retry_after_ms(RETRY_AFTER_MS);
            return self.refuse(&address, &fault);
        }
        if caller.is_some()
            && self.ledger.running_of(&key.client) >= self.config.client_requests_max
        {
            let text = format!(
                "{} requests of this client are under way, which is its limit",
                self.config.client_requests_max,
            );
            let fault = Fault::new(FaultCode::Busy, text).retry_after_ms(RETRY_AFTER_MS);
            return self.refuse(&address, &fault);
        }
        if let Some(topic) = &chat.ext.cancel_on_offline {
            self.watches.bind(topic, &key);
        }
        let cancelled = self.ledger.open(key.clone(), rid, digest);
        self.start(message, key, address, chat, streams, cancelled);
        None
    }

    fn start(
        &self,
        message: &Message,
        key: Key,
        address: Address,
        mut chat: Chat,
        streams: bool,
        cancelled: tokio::sync::oneshot::Receiver<()>,
    ) {
        let ttl = chat.ext.ttl_s.map(|seconds| Duration::from_secs(u64::from(seconds)));
        let patience = [message.expiry, ttl, Some(self.config.deadline_max)];
        let patience = patience.into_iter().flatten().min().unwrap_or(self.config.deadline_max);
        let deadline = Instant::now() + patience;
        chat.request.limits.deadline = Some(deadline);
        let flush = chat.ext.flush_ms.map_or(FLUSH, |ms| Duration::from_millis(u64::from(ms)));
        self.gauge.count(Count::Accepted);
        tokio::spawn(answer(Job {
            key,
            address,
            streams,
            flush,
            text_bytes_max: chat.ext.max_reply_bytes,
            chat,
            deadline,
            cancelled,
            onward: self.onward(message),
            payload_bytes_max: Arc::clone(&self.payload_bytes_max),
            service: Arc::clone(&self.service),
            notes: self.notes.clone(),
        }));
    }

    /// Whether the client wants pieces.
    ///
    /// MQTT 5's request/response pattern is one answer for one request, and its stock requester
    /// takes the first message for it: there, pieces come to who asks for them.
    fn streams(&self, message: &Message, chat: &Chat) -> bool {
        match chat.ext.mode {
            Mode::Final => false,
            Mode::Text => true,
            Mode::Delta if chat.stream => true,
            Mode::Delta => {
                let peek = self.peek(message);
                let said_no = peek.stream == Some(serde_json::Value::Bool(false));
                peek.ext.mode.is_some() || (message.response_topic.is_none() && !said_no)
            }
        }
    }

    fn address(
        &self,
        topic: String,
        message: &Message,
        caller: Option<&Caller>,
        id: Option<&str>,
    ) -> Address {
        let id = id.map(str::to_owned);
        let id = id.or_else(|| caller.map(|caller| caller.rid.clone()));
        let correlation = message.correlation.clone();
        // A client that gave too much gets it cut, not repeated.
        let correlation = correlation.map(|c| c.slice(..c.len().min(CORRELATION_BYTES_MAX)));
        Address {
            topic,
            id: id.or_else(|| correlation.as_deref().map(spelled)).unwrap_or_default(),
            correlation,
            compact: false,
            node: Arc::clone(&self.node),
        }
    }

    /// The client that a reply topic belongs to; a topic that belongs to none is one by itself.
    fn client_of(&self, topic: &str) -> String {
        self.topics.reply_client(topic).unwrap_or(topic).to_owned()
    }

    fn peek(&self, message: &Message) -> Peek {
        if message.payload.len() > self.config.request_bytes_max {
            return Peek::default();
        }
        Peek::into(&message.payload)
    }

    fn foreign(
        &self,
        caller: Option<&Caller>,
        message: &Message,
        why: &'static str,
    ) -> Option<Parcel> {
        let Some(caller) = caller else {
            return self.drop_it(why);
        };
        let address = self.address(self.topics.default_reply(caller), message, Some(caller), None);
        let fault =
            Fault::bad_request(format!("the reply topic is not allowed: use {}", address.topic,));
        self.refuse(&address, &fault)
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

fn property<'a>(message: &'a Message, name: &str) -> Option<&'a str> {
    message.properties.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
}

/// Correlation data as text for JSON: as it is, or in hexadecimal.
fn spelled(data: &[u8]) -> String {
    match std::str::from_utf8(data) {
        Ok(text) if !text.contains(char::is_control) => text.to_owned(),
        _ => data.iter().map(|byte| format!("{byte:02x}")).collect(),
    }
}
