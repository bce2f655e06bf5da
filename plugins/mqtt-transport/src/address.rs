//! Where an answer goes, and the messages that go there.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use protocol::{Fault, FaultCode};
use serde_json::{Value, json};

use chat_json::fault_body;

use crate::compact;

/// Pieces of an answer are worth nothing after this.
const PIECE_EXPIRY: Duration = Duration::from_secs(60);
/// A final waits this long for its client, at the broker and in our outbox.
pub(crate) const FINAL_EXPIRY: Duration = Duration::from_secs(600);

pub(crate) const JSON: &str = "application/json";
pub(crate) const TEXT: &str = "text/plain; charset=utf-8";

/// One message to publish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Parcel {
    pub(crate) topic: String,
    pub(crate) payload: Bytes,
    /// Kept and repeated until the broker confirms it (QoS 1); else sent once (QoS 0).
    pub(crate) reliable: bool,
    pub(crate) retain: bool,
    pub(crate) expiry: Option<Duration>,
    pub(crate) correlation: Option<Bytes>,
    /// Set for a request that is passed on.
    pub(crate) response_topic: Option<String>,
    pub(crate) content_type: &'static str,
    pub(crate) properties: Vec<(&'static str, String)>,
}

impl Parcel {
    /// A statement of this node about itself, which the broker keeps.
    pub(crate) fn retained(topic: String, payload: impl Into<Bytes>, reliable: bool) -> Self {
        Self {
            topic,
            payload: payload.into(),
            reliable,
            retain: true,
            expiry: None,
            correlation: None,
            response_topic: None,
            content_type: JSON,
            properties: Vec::new(),
        }
    }
}

/// Where one request's answer goes, and under which name.
#[derive(Debug, Clone)]
pub(crate) struct Address {
    /// A topic that the reply rule admits.
    pub(crate) topic: String,
    pub(crate) correlation: Option<Bytes>,
    /// `ext.id` of every message.
    pub(crate) id: String,
    /// Compact text mode: pieces go to `…/t`, the end to `…/end`.
    pub(crate) compact: bool,
    pub(crate) node: Arc<str>,
}

/// The last message of an answer, which repeats of its request are answered with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Closing {
    pub(crate) payload: Bytes,
    pub(crate) status: u16,
    /// Behind the last piece; 0 for an error.
    pub(crate) seq: u32,
}

/// Says in place of a final that it does not fit through the broker.
pub(crate) fn too_large(last: &Parcel) -> Option<Parcel> {
    let body: Value = serde_json::from_slice(&last.payload).ok()?;
    let ext = body.get("ext")?;
    let fault = Fault::new(FaultCode::TooLarge, "the broker does not take a message of this size");
    let status = fault.code.status();
    let mut body = fault_body(&fault);
    body["ext"] = json!({"id": ext["id"], "fin": true, "status": status, "node": ext["node"]});
    let mut parcel = Parcel { payload: Bytes::from(body.to_string()), ..last.clone() };
    parcel.properties.retain(|(name, _)| *name != "status" && *name != "seq");
    parcel.properties.push(("status", status.to_string()));
    Some(parcel)
}

impl Address {
    /// The request waits for the engine.
    pub(crate) fn accepted(&self) -> Parcel {
        let ext =
            json!({"id": self.id, "seq": 0, "fin": false, "status": 202, "node": &*self.node});
        let body = json!({"object": "chat.completion.accepted", "ext": ext});
        let properties = vec![
            ("status", "202".to_owned()),
            ("seq", "0".to_owned()),
            ("node", self.node.as_ref().to_owned()),
        ];
        self.parcel(self.topic.clone(), body.to_string(), true, PIECE_EXPIRY, JSON, properties)
    }

    /// A piece of the answer as a chunk object.
    pub(crate) fn chunk(&self, seq: u32, mut chunk: Value) -> Parcel {
        chunk["ext"] = json!({"id": self.id, "seq": seq});
        let properties = vec![("seq", seq.to_string())];
        self.parcel(self.topic.clone(), chunk.to_string(), false, PIECE_EXPIRY, JSON, properties)
    }

    /// Bytes of one piece of bare text, where the client's buffer may be small.
    pub(crate) fn text_room(&self) -> Option<usize> {
        self.compact.then(|| compact::room(&format!("{}/t", self.topic)))
    }

    /// Makes the end of an answer fit where the client's buffer may be small.
    pub(crate) fn shrink_end(&self, body: &mut Value, seq: u32, status: u16, cut: bool) {
        if self.compact {
            let written = |body: &Value| self.closing(body.clone(), seq, status, cut).payload.len();
            compact::shrink_end(body, compact::room(&self.end_topic()), written);
        }
    }

    /// A piece of the answer as bare text.
    pub(crate) fn text(&self, seq: u32, text: String) -> Parcel {
        let properties = vec![("seq", seq.to_string())];
        self.parcel(format!("{}/t", self.topic), text, false, PIECE_EXPIRY, TEXT, properties)
    }

    /// The end of an answer that came to one: its body with our `ext` in it.
    pub(crate) fn closing(&self, mut body: Value, seq: u32, status: u16, cut: bool) -> Closing {
        let mut ext = self.end_ext(seq, status);
        if cut {
            ext["truncated"] = Value::Bool(true);
        }
        body["ext"] = ext;
        Closing { payload: Bytes::from(body.to_string()), status, seq }
    }

    /// The vectors of texts, of which so many were longer than what is read of one.
    pub(crate) fn vectors(&self, mut body: Value, truncated_texts: u32) -> Closing {
        let (seq, status) = (1, 200);
        body["ext"] = self.end_ext(seq, status);
        if truncated_texts > 0 {
            body["ext"]["truncated_inputs"] = json!(truncated_texts);
        }
        Closing { payload: Bytes::from(body.to_string()), status, seq }
    }

    /// The message that carries `closing`.
    pub(crate) fn last(&self, closing: &Closing) -> Parcel {
        let mut properties = vec![
            ("status", closing.status.to_string()),
            ("seq", closing.seq.to_string()),
            ("fin", "1".to_owned()),
            ("node", self.node.as_ref().to_owned()),
        ];
        // An error has no place in the order of an answer.
        properties.retain(|(name, _)| *name != "seq" || closing.seq != 0);
        self.parcel(self.end_topic(), closing.payload.clone(), true, FINAL_EXPIRY, JSON, properties)
    }

    /// The end of a request that failed.
    pub(crate) fn fault(&self, fault: &Fault) -> Parcel {
        let status = fault.code.status();
        let mut body = fault_body(fault);
        // A request that was never read may have had no name.
        let id = (!self.id.is_empty()).then_some(self.id.as_str());
        body["ext"] = json!({"id": id, "fin": true, "status": status, "node": &*self.node});
        let mut properties = vec![
            ("status", status.to_string()),
            ("fin", "1".to_owned()),
            ("node", self.node.as_ref().to_owned()),
        ];
        if let Some(milliseconds) = fault.retry_after_ms {
            body["ext"]["retry_after_ms"] = json!(milliseconds);
            properties.push(("retry_after_ms", milliseconds.to_string()));
        }
        if self.compact {
            compact::shrink_fault(&mut body, compact::room(&self.end_topic()));
        }
        self.parcel(self.end_topic(), body.to_string(), true, FINAL_EXPIRY, JSON, properties)
    }

    fn end_ext(&self, seq: u32, status: u16) -> Value {
        json!({"id": self.id, "seq": seq, "fin": true, "status": status, "node": &*self.node})
    }

    fn end_topic(&self) -> String {
        if self.compact { format!("{}/end", self.topic) } else { self.topic.clone() }
    }

    fn parcel(
        &self,
        topic: String,
        payload: impl Into<Bytes>,
        reliable: bool,
        expiry: Duration,
        content_type: &'static str,
        properties: Vec<(&'static str, String)>,
    ) -> Parcel {
        Parcel {
            topic,
            payload: payload.into(),
            reliable,
            retain: false,
            expiry: Some(expiry),
            correlation: self.correlation.clone(),
            response_topic: None,
            content_type,
            properties,
        }
    }
}
