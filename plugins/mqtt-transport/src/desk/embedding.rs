//! Requests for the vectors of texts.
//!
//! They are not written down: a vector costs little and has no effect, so it is computed again
//! after a crash. Nothing is promised that could be lost, though: the message is confirmed to the
//! broker when the broker has the answer, and comes again where the program died before.

use std::sync::Arc;
use std::time::Instant;

use chat_json::{Embedding, Mode, Strictness, parse_embeddings};
use protocol::{Fault, FaultCode};
use sha2::{Digest as _, Sha256};

use super::{Arrival, Desk, RETRY_AFTER_MS, Taken, Unanswerable, plain_text};
use crate::address::Address;
use crate::gauge::Count;
use crate::ledger::Digest;
use crate::link::Message;
use crate::topics::Caller;
use crate::vectors::{Errand, VECTORS_WAITING_MAX, run};

impl Desk {
    /// A message on the topic of embeddings.
    pub(super) fn embed(&mut self, arrival: Arrival<'_>, caller: Option<&Caller>) -> Taken {
        let message = arrival.message;
        let provisional = match self.provisional(message, caller) {
            Ok(address) => address,
            Err(Unanswerable(why)) => return Taken::Done(self.foreign(caller, message, why)),
        };
        match self.check(message).and_then(|()| read(message)) {
            Ok(asked) => self.admit_texts(arrival, caller, provisional, asked),
            Err(fault) => Taken::Done(self.refuse_unread(message, caller, provisional, &fault)),
        }
    }

    fn admit_texts(
        &mut self,
        arrival: Arrival<'_>,
        caller: Option<&Caller>,
        provisional: Option<Address>,
        mut asked: Embedding,
    ) -> Taken {
        let Arrival { message, number, .. } = arrival;
        let topic = match self.reply_topic(message, caller, provisional, &asked.ext) {
            Ok(topic) => topic,
            Err(unanswered) => return *unanswered,
        };
        let mut address = self.address(topic, message, caller, asked.ext.id.as_deref());
        if address.id.is_empty() {
            address.id = uuid::Uuid::now_v7().simple().to_string();
        }
        let rid = caller.map(|caller| caller.rid.as_str());
        let key = self.key_of(message, caller, &asked.ext, &address);
        let digest = digest(&message.payload);
        if let Some(known) = self.known(&key, rid, &digest, &address, false) {
            return match (known, self.ledger.entry_of(&key)) {
                (None, Some((number, _))) => Taken::Held { number, key },
                (parcel, _) => Taken::Done(parcel),
            };
        }
        let room = self.may_enter(arrival, &key, caller).and_then(|()| self.has_turns());
        if let Err(fault) = room {
            return Taken::Done(self.refuse(&address, &fault));
        }
        let deadline = Instant::now() + self.patience(message, &asked.ext);
        asked.request.deadline = Some(deadline);
        asked.request.client = caller.map(|caller| caller.client.clone());
        let cancelled = self.ledger.open(key.clone(), rid, digest, number);
        self.ledger.accept(&key);
        self.gauge.count(Count::Accepted);
        tokio::spawn(run(Errand {
            number,
            address,
            asked,
            deadline,
            cancelled,
            turns: Arc::clone(&self.turns),
            payload_bytes_max: Arc::clone(&self.payload_bytes_max),
            service: Arc::clone(&self.service),
            notes: self.notes.clone(),
        }));
        Taken::Held { number, key }
    }

    /// Unconfirmed messages count against what the broker sends us, so they are few.
    fn has_turns(&self) -> Result<(), Fault> {
        if self.held.len() < VECTORS_WAITING_MAX {
            return Ok(());
        }
        let text = format!("{VECTORS_WAITING_MAX} requests for vectors wait, which is the limit");
        Err(Fault::new(FaultCode::Busy, text).retry_after_ms(RETRY_AFTER_MS))
    }
}

fn read(message: &Message) -> Result<Embedding, Fault> {
    let asked = match plain_text(message)? {
        None => parse_embeddings(&message.payload, Strictness::Lenient)?,
        Some(text) => {
            let body = serde_json::json!({ "input": text });
            parse_embeddings(body.to_string().as_bytes(), Strictness::Lenient)?
        }
    };
    if asked.ext.mode == Mode::Text {
        let text = "vectors do not come as text: leave ext.mode out";
        return Err(Fault::new(FaultCode::Unsupported, text).at("ext.mode"));
    }
    if asked.ext.cancel_on_offline.is_some() {
        let text = "a request for vectors is bound to no status: leave it out";
        return Err(Fault::new(FaultCode::Unsupported, text).at("ext.cancel_on_offline"));
    }
    Ok(asked)
}

/// Other than that of a prompt with the same payload.
fn digest(payload: &[u8]) -> Digest {
    Sha256::new().chain_update(b"embed/").chain_update(payload).finalize().into()
}
