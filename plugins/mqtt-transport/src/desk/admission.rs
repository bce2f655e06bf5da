//! Whether a request that is well formed is known already, and whether there is room for it.

use std::time::{Duration, Instant};

use chat_json::{Chat, Ext, Mode};
use protocol::{Fault, FaultCode};
use serde::Deserialize;

use super::{Arrival, Desk, Opened, RETRY_AFTER_MS, Taken};
use crate::address::{Address, Parcel};
use crate::gauge::Count;
use crate::ledger::{Digest, Key, Known};
use crate::link::Message;
use crate::onward;
use crate::topics::Caller;

impl Desk {
    /// A request that is well formed: is it known, is there room?
    pub(super) fn admit(
        &mut self,
        arrival: Arrival<'_>,
        caller: Option<&Caller>,
        provisional: Option<Address>,
        chat: Chat,
    ) -> Taken {
        let message = arrival.message;
        let topic = match self.reply_topic(message, caller, provisional, &chat.ext) {
            Ok(topic) => topic,
            Err(unanswered) => return *unanswered,
        };
        let mut address = self.address(topic, message, caller, chat.ext.id.as_deref());
        address.compact = chat.ext.mode == Mode::Text;
        if address.id.is_empty() {
            address.id.clone_from(&chat.request.id.0);
        }
        let rid = caller.map(|caller| caller.rid.as_str());
        let key = self.key_of(message, caller, &chat.ext, &address);
        let digest = onward::digest(&message.payload);
        let streams = self.streams(message, &chat);
        if let Some(known) = self.known(&key, rid, &digest, &address, streams) {
            return Taken::Done(known);
        }
        if let Err(fault) = self.may_enter(arrival, &key, caller) {
            let full = matches!(fault.code, FaultCode::Busy | FaultCode::Unavailable);
            if let Some(onward) = self.onward(message).filter(|_| full) {
                self.gauge.count(Count::PassedOn);
                return Taken::Done(Some(onward));
            }
            return Taken::Done(self.refuse(&address, &fault));
        }
        let patience = self.patience(message, &chat.ext);
        let Arrival { number, promised, .. } = arrival;
        // What was promised here is not given away.
        let onward = if promised { None } else { self.onward(message) };
        if let Some(topic) = &chat.ext.cancel_on_offline {
            self.watches.bind(topic, &key);
        }
        let cancelled = self.ledger.open(key.clone(), rid, digest, number);
        Taken::Request(Box::new(Opened {
            key,
            digest,
            number,
            address,
            patience,
            chat,
            streams,
            promised,
            onward,
            cancelled,
        }))
    }

    pub(super) fn key_of(
        &self,
        message: &Message,
        caller: Option<&Caller>,
        ext: &Ext,
        address: &Address,
    ) -> Key {
        let named = message.correlation.as_deref().or_else(|| ext.id.as_deref().map(str::as_bytes));
        let named = named.or_else(|| caller.map(|caller| caller.rid.as_bytes()));
        Key {
            client: caller.map_or_else(|| self.client_of(&address.topic), |c| c.client.clone()),
            // Without any name of the client's, the answer has the request's own.
            id: named.map_or_else(|| address.id.clone().into_bytes(), <[u8]>::to_vec),
        }
    }

    /// What a request gets that is known already, be it nothing; `None` when it is new.
    pub(super) fn known(
        &mut self,
        key: &Key,
        rid: Option<&str>,
        digest: &Digest,
        address: &Address,
        streams: bool,
    ) -> Option<Option<Parcel>> {
        let known = self.ledger.look(key, rid, digest, Instant::now());
        if matches!(known, Known::Arriving | Known::Running | Known::Done(_)) {
            self.gauge.count(Count::Repeated);
        }
        Some(match known {
            Known::No => return None,
            // Its first copy is told when it is written down.
            Known::Arriving => None,
            Known::Running => streams.then(|| address.accepted()),
            Known::Done(closing) => Some(address.last(&closing)),
            Known::Conflict => {
                let text = "another request of yours has this id: take a new one";
                self.refuse(address, &Fault::new(FaultCode::Conflict, text))
            }
            Known::Cancelled => {
                let text = "it was cancelled before it arrived";
                self.refuse(address, &Fault::new(FaultCode::Cancelled, text))
            }
        })
    }

    /// Whether a request that is not known yet may come in now.
    pub(super) fn may_enter(
        &self,
        arrival: Arrival<'_>,
        key: &Key,
        caller: Option<&Caller>,
    ) -> Result<(), Fault> {
        if arrival.promised {
            return Ok(());
        }
        if self.closed {
            let fault = Fault::new(FaultCode::Unavailable, "this node is shutting down");
            return Err(fault.retry_after_ms(RETRY_AFTER_MS));
        }
        let waived = self.config.accept_stale || arrival.message.expiry.is_some();
        if arrival.stale && !waived && !self.names_time(arrival.message) {
            return Err(Fault::new(
                FaultCode::Deadline,
                "this request may have waited for long: send it again, or give it ext.ttl_s",
            ));
        }
        let limit = self.config.queue_requests_max;
        let own_limit = self.config.client_requests_max;
        let text = if self.ledger.running() >= limit {
            format!("{limit} requests are under way, which is the limit")
        } else if caller.is_some() && self.ledger.running_of(&key.client) >= own_limit {
            format!("{own_limit} requests of this client are under way, which is its limit")
        } else if arrival.crowded {
            "too many answers wait for the broker".to_owned()
        } else {
            return Ok(());
        };
        Err(Fault::new(FaultCode::Busy, text).retry_after_ms(RETRY_AFTER_MS))
    }

    pub(super) fn names_time(&self, message: &Message) -> bool {
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

    /// How long the request may wait and run.
    pub(super) fn patience(&self, message: &Message, ext: &Ext) -> Duration {
        let ttl = ext.ttl_s.map(|seconds| Duration::from_secs(u64::from(seconds)));
        let longest = self.config.deadline_max;
        [message.expiry, ttl].into_iter().flatten().min().unwrap_or(longest).min(longest)
    }

    /// Whether the client wants pieces.
    ///
    /// MQTT 5's request/response pattern is one answer for one request, and its stock requester
    /// takes the first message for it: there, pieces come to who asks for them.
    pub(super) fn streams(&self, message: &Message, chat: &Chat) -> bool {
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
}
