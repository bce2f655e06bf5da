//! Where answers go, and what is told to whom when a request is not read.

use std::sync::Arc;

use chat_json::Ext;
use protocol::Fault;

use super::{CORRELATION_BYTES_MAX, Desk, Taken, Unanswerable, spelled};
use crate::address::{Address, Parcel};
use crate::link::Message;
use crate::topics::{Caller, Route};

impl Desk {
    /// Where the end of a request goes that is not read again.
    pub(crate) fn return_address(&self, message: &Message) -> Option<Address> {
        let caller = match self.topics.route(&message.topic)? {
            Route::Request(caller) => caller,
            Route::HomeAsk => {
                return Some(self.address(self.topics.home_answer(), message, None, None));
            }
            // The journal has none of these.
            Route::Embed(_) | Route::Cancel(_) | Route::HomeCancel => return None,
        };
        let caller = caller.as_ref();
        let peek = self.peek(message);
        let provisional = self.provisional(message, caller).ok()?;
        let mut address = match (&message.response_topic, peek.ext.reply_to) {
            (None, Some(topic)) if self.topics.admits_reply(&topic, caller) => {
                self.address(topic, message, caller, None)
            }
            _ => provisional?,
        };
        if let Some(id) = peek.ext.id.filter(|id| id.len() <= 128) {
            address.id = id;
        }
        address.compact = peek.ext.mode == Some("text".into());
        Some(address)
    }

    /// Refuses a request whose body says nothing that can be relied on.
    pub(super) fn refuse_unread(
        &self,
        message: &Message,
        caller: Option<&Caller>,
        provisional: Option<Address>,
        fault: &Fault,
    ) -> Option<Parcel> {
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
                self.refuse(&address, fault)
            }
            None => self.drop_it("it is not valid and names no reply topic"),
        }
    }

    /// Where the answer of a request goes that was read.
    pub(super) fn reply_topic(
        &self,
        message: &Message,
        caller: Option<&Caller>,
        provisional: Option<Address>,
        ext: &Ext,
    ) -> Result<String, Box<Taken>> {
        let unanswered = match (&message.response_topic, &ext.reply_to, provisional) {
            (None, Some(topic), _) if self.topics.admits_reply(topic, caller) => {
                return Ok(topic.clone());
            }
            (None, Some(_), _) => self.foreign(caller, message, "its ext.reply_to is not allowed"),
            (_, _, Some(address)) => return Ok(address.topic),
            (_, _, None) => self.drop_it("it names no reply topic"),
        };
        Err(Box::new(Taken::Done(unanswered)))
    }

    /// Where errors go as long as the body is not read: the Response Topic, or the caller's own.
    pub(super) fn provisional(
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

    pub(super) fn address(
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
    pub(super) fn client_of(&self, topic: &str) -> String {
        self.topics.reply_client(topic).unwrap_or(topic).to_owned()
    }

    pub(super) fn foreign(
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
}
