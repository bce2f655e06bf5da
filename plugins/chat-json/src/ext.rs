//! The `ext` object of a body: what no dialect has and every entrance of ours understands.

use protocol::{Fault, Priority};

use serde_json::Value;

use crate::call_ids::settled;
use crate::fields::{Fields, Notes, Strictness, invalid};

/// Settings of the delivery, beside the chat itself.
///
/// Unknown fields under `ext` are errors in every strictness: nobody else's client sends it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ext {
    /// The client's name for this request, 1 to 64 bytes of `A-Za-z0-9_.-`.
    pub id: Option<String>,
    /// The topic that answers go to, at most 512 bytes; whether it is allowed is MQTT's business.
    pub reply_to: Option<String>,
    /// Seconds from arrival after which nobody wants the answer; also sets the request's deadline.
    pub ttl_s: Option<u32>,
    /// Who goes first where there is not room for all.
    pub priority: Priority,
    /// Ids of the calls at the end of the conversation that the box may run.
    pub approved_calls: Vec<String>,
    /// Whether the usage tells where the known part of the prompt ends.
    pub explain: bool,
    /// Least time between two deltas, in milliseconds.
    pub flush_ms: Option<u32>,
    /// In which pieces the answer comes.
    pub mode: Mode,
    /// The answer's text is cut at a code point to fit into this many bytes.
    pub max_reply_bytes: Option<usize>,
    /// The status topic of the client; when it says `offline`, the request is cancelled.
    pub cancel_on_offline: Option<String>,
    /// Whether to answer even when the request waited in the broker for an unknown time.
    pub accept_stale: bool,
    /// How often a pool member has passed this request on.
    pub hops: u8,
}

/// In which pieces an answer comes over MQTT.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Mode {
    /// Chunks as they are made, then the whole.
    #[default]
    Delta,
    /// Only the whole.
    Final,
    /// Chunks as plain UTF-8, then one JSON object.
    Text,
}

const KNOWN: &[&str] = &[
    "id",
    "reply_to",
    "ttl_s",
    "priority",
    "approved_calls",
    "explain",
    "flush_ms",
    "mode",
    "max_reply_bytes",
    "cancel_on_offline",
    "accept_stale",
    "hops",
];

/// Most calls that are approved at once.
const APPROVED_CALLS_MAX: usize = 32;
/// Longest id of a call, in bytes.
const CALL_ID_BYTES_MAX: usize = 256;
/// Longest topic, in bytes.
const TOPIC_BYTES_MAX: usize = 512;

/// Reads `ext`; every member is optional.
pub(crate) fn read_ext(ext: &Fields<'_>) -> Result<Ext, Fault> {
    let mut strict = Notes::new(Strictness::MistralStrict);
    ext.only(KNOWN, &mut strict)?;
    let mode = match ext.string("mode")? {
        None | Some("delta") => Mode::Delta,
        Some("final") => Mode::Final,
        Some("text") => Mode::Text,
        Some(_) => return Err(invalid("must be delta, final or text", ext.path_of("mode"))),
    };
    let priority = match ext.string("priority")? {
        None | Some("normal") => Priority::Normal,
        Some("interactive") => Priority::Interactive,
        Some("batch") => Priority::Batch,
        Some(_) => {
            let message = "must be interactive, normal or batch";
            return Err(invalid(message, ext.path_of("priority")));
        }
    };
    Ok(Ext {
        priority,
        approved_calls: approved_calls(ext)?,
        explain: ext.flag("explain")?.unwrap_or(false),
        id: id(ext)?,
        reply_to: topic(ext, "reply_to")?,
        ttl_s: bounded(ext, "ttl_s", 1, 86_400)?,
        flush_ms: bounded(ext, "flush_ms", 0, 60_000)?,
        mode,
        max_reply_bytes: bounded(ext, "max_reply_bytes", 1, i64::from(u32::MAX))?
            .map(|bytes| bytes as usize),
        cancel_on_offline: topic(ext, "cancel_on_offline")?,
        accept_stale: ext.flag("accept_stale")?.unwrap_or(false),
        hops: bounded(ext, "hops", 0, 255)?.unwrap_or(0) as u8,
    })
}

fn bounded(ext: &Fields<'_>, name: &str, least: i64, most: i64) -> Result<Option<u32>, Fault> {
    // `most` is at most u32::MAX, so the cast keeps the number.
    Ok(ext.integer(name, least..=most)?.map(|number| number as u32))
}

fn approved_calls(ext: &Fields<'_>) -> Result<Vec<String>, Fault> {
    let ids = ext.list("approved_calls", APPROVED_CALLS_MAX)?.unwrap_or_default();
    let id = |id: &Value| match id.as_str() {
        Some(id) if (1..=CALL_ID_BYTES_MAX).contains(&id.len()) => Ok(settled(id)),
        _ => Err(invalid("must be ids of calls", ext.path_of("approved_calls"))),
    };
    ids.iter().map(id).collect()
}

fn id(ext: &Fields<'_>) -> Result<Option<String>, Fault> {
    let Some(id) = ext.string("id")? else {
        return Ok(None);
    };
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
    if id.is_empty() || id.len() > 64 || !id.bytes().all(plain) {
        return Err(invalid("must be 1 to 64 of A-Z a-z 0-9 _ . -", ext.path_of("id")));
    }
    Ok(Some(id.to_owned()))
}

fn topic(ext: &Fields<'_>, name: &str) -> Result<Option<String>, Fault> {
    let Some(topic) = ext.string(name)? else {
        return Ok(None);
    };
    if topic.is_empty() || topic.len() > TOPIC_BYTES_MAX {
        return Err(invalid(
            format!("must be a topic of 1 to {TOPIC_BYTES_MAX} bytes"),
            ext.path_of(name),
        ));
    }
    if topic.chars().any(|c| c.is_control() || c == '#' || c == '+') {
        return Err(invalid(
            "a topic has no wildcards and no control characters",
            ext.path_of(name),
        ));
    }
    Ok(Some(topic.to_owned()))
}
