//! A request of the shared queue that is given back to it, because this node has no room.

use std::time::Duration;

use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::address::{JSON, Parcel, TEXT};
use crate::ledger::Digest;
use crate::link::Message;

/// A request is given back this often; then it is refused.
const HOPS_MAX: u64 = 2;
const HOPS: &str = "hops";
/// Properties that have a meaning here, and travel on with the request.
const PROPERTIES: &[&str] = &["proto", "stream", "auth", "traceparent"];

/// `message` with one hop more; `None` when it came by too often, or cannot be read.
///
/// A body in JSON counts in `ext.hops`; text has no place for that and counts in a property.
pub(crate) fn parcel(message: &Message, expiry: Duration) -> Option<Parcel> {
    let kind = message.content_type.as_deref().unwrap_or(JSON).trim_start();
    let is_text = kind.to_ascii_lowercase().starts_with("text/plain");
    let mut properties: Vec<(&'static str, String)> = Vec::new();
    for name in PROPERTIES {
        let value = message.properties.iter().find(|(key, _)| key == name);
        properties.extend(value.map(|(_, value)| (*name, value.clone())));
    }
    let payload = if is_text {
        let told = message.properties.iter().find(|(key, _)| key == HOPS);
        let hops = told.map_or(Some(0), |(_, hops)| hops.parse().ok())?;
        properties.push((HOPS, one_more(hops)?.to_string()));
        message.payload.clone()
    } else {
        let mut body: Value = serde_json::from_slice(&message.payload).ok()?;
        let fields = body.as_object_mut()?;
        let ext = fields.entry("ext").or_insert_with(|| Value::Object(serde_json::Map::default()));
        let ext = ext.as_object_mut()?;
        let hops = ext.get(HOPS).map_or(Some(0), Value::as_u64)?;
        ext.insert(HOPS.into(), one_more(hops)?.into());
        body.to_string().into()
    };
    Some(Parcel {
        topic: message.topic.clone(),
        payload,
        reliable: true,
        retain: false,
        expiry: Some(message.expiry.unwrap_or(expiry).min(expiry)),
        correlation: message.correlation.clone(),
        response_topic: message.response_topic.clone(),
        content_type: if is_text { TEXT } else { JSON },
        properties,
    })
}

/// SHA-256 of what a request asks for: the same before and after a hop.
pub(crate) fn digest(payload: &[u8]) -> Digest {
    let Ok(Value::Object(mut body)) = serde_json::from_slice(payload) else {
        return Sha256::digest(payload).into();
    };
    if let Some(Value::Object(ext)) = body.get_mut("ext") {
        ext.remove(HOPS);
        if ext.is_empty() {
            body.remove("ext");
        }
    }
    Sha256::digest(Value::Object(body).to_string()).into()
}

fn one_more(hops: u64) -> Option<u64> {
    (hops < HOPS_MAX).then_some(hops + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXPIRY: Duration = Duration::from_secs(600);

    fn message(payload: &str) -> Message {
        Message { topic: "p".into(), payload: payload.to_owned().into(), ..Message::default() }
    }

    fn onward(payload: &str) -> Option<String> {
        let parcel = parcel(&message(payload), EXPIRY)?;
        Some(String::from_utf8(parcel.payload.to_vec()).expect("JSON"))
    }

    #[test]
    fn a_request_is_given_back_twice() {
        let first = onward(r#"{"messages": [], "seed": 18446744073709551616}"#).expect("first");
        assert_eq!(first, r#"{"messages":[],"seed":18446744073709551616,"ext":{"hops":1}}"#);
        let second = onward(&first).expect("second");
        assert!(second.contains(r#""hops":2"#));
        assert_eq!(onward(&second), None);
        for unreadable in ["", "[]", r#"{"ext":1}"#, r#"{"ext":{"hops":"x"}}"#] {
            assert_eq!(onward(unreadable), None, "{unreadable}");
        }
    }

    #[test]
    fn text_counts_in_a_property_and_keeps_what_it_came_with() {
        let mut message = message("bare words");
        message.content_type = Some("text/plain".into());
        message.response_topic = Some("r".into());
        message.expiry = Some(Duration::from_secs(7));
        message.properties = vec![("stream".into(), "true".into()), ("foreign".into(), "x".into())];
        let parcel = parcel(&message, EXPIRY).expect("given back");
        assert_eq!(parcel.payload, "bare words");
        assert_eq!((parcel.response_topic.as_deref(), parcel.content_type), (Some("r"), TEXT));
        assert_eq!(parcel.expiry, Some(Duration::from_secs(7)));
        assert_eq!(parcel.properties, [("stream", "true".into()), ("hops", "1".into())]);
        message.properties = vec![("hops".into(), "2".into())];
        assert!(super::parcel(&message, EXPIRY).is_none());
    }

    #[test]
    fn a_hop_does_not_make_another_request_of_it() {
        for body in [r#"{"a":1}"#, r#"{"a":1,"ext":{"id":"x"}}"#] {
            let hopped = onward(body).expect("given back");
            assert_eq!(digest(body.as_bytes()), digest(hopped.as_bytes()), "{hopped}");
        }
        assert_ne!(digest(br#"{"a":1}"#), digest(br#"{"a":2}"#));
        assert_ne!(digest(b"text"), digest(b"texts"));
    }
}
