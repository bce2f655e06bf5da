//! What the daemon and a plugin's process say to each other: a length of four bytes, little-endian,
//! then that many bytes of JSON.
//!
//! The daemon trusts nothing of it: a length over the limit, bytes that are no JSON, a message that
//! nobody asked for are each a defect of the plugin and end its process.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::path::PathBuf;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::limits::FRAME_BYTES_MAX;

/// The version of these messages. Both ends are the same program, unless it was replaced meanwhile.
pub(crate) const PROTOCOL: u32 = 1;

/// From the daemon.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum Ask {
    /// The first message.
    Start(Start),
    /// Run a function.
    Tool {
        /// Which.
        index: u32,
        /// JSON text.
        arguments: String,
    },
    /// Judge.
    Judge {
        /// The whole answer, not a request.
        is_final: bool,
        /// What.
        texts: Texts,
    },
    /// Take these.
    Observe {
        /// Oldest first.
        observations: Vec<Observation>,
        /// Lost since the last time.
        dropped: u64,
    },
    /// End.
    Stop,
}

/// What a process needs to know to become a plugin.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Start {
    pub(crate) protocol: u32,
    pub(crate) id: String,
    pub(crate) file: PathBuf,
    /// The extension it must have.
    pub(crate) api: String,
    /// An object.
    pub(crate) settings_json: String,
    pub(crate) memory_bytes: u64,
    pub(crate) kept: BTreeMap<String, String>,
}

/// From the plugin's process.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum Say {
    /// The plugin is active.
    Ready(Ready),
    /// It is not, and the process ends.
    Refused(String),
    /// Of a function; `Err` is for the model to read.
    Result(Result<String, String>),
    /// Of a filter.
    Verdict(Verdict),
    /// Observations were taken.
    Observed,
    /// The plugin broke a rule of the interface.
    Broke(String),
    /// At any time.
    Log {
        /// 0 debug to 3 error.
        level: i32,
        /// One line.
        line: String,
    },
    /// At any time: this is to be kept.
    Keep {
        /// Under which name.
        key: String,
        /// What.
        value: String,
    },
}

/// What the plugin turned out to be.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Ready {
    pub(crate) protocol: u32,
    /// JSON of each function.
    pub(crate) tools: Vec<String>,
    pub(crate) judges_requests: bool,
    pub(crate) judges_answers: bool,
}

/// A request or an answer.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Texts {
    pub(crate) request_id: String,
    pub(crate) client: String,
    pub(crate) model: String,
    /// Role and text.
    pub(crate) texts: Vec<(String, String)>,
}

/// A filter's word.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Verdict {
    Pass,
    /// Texts by their index.
    Replace(Vec<(usize, String)>),
    Reject {
        status: u16,
        message: String,
    },
}

/// What became of a request.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Observation {
    pub(crate) model: String,
    pub(crate) outcome: String,
    pub(crate) tokens: [u32; 3],
    pub(crate) accepted_ms: Option<u32>,
    pub(crate) first_text_ms: Option<u32>,
    pub(crate) total_ms: u32,
}

/// A message as bytes, its length in front.
///
/// Errors: longer than a frame may be.
pub(crate) fn frame<T: Serialize>(message: &T) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; 4];
    serde_json::to_writer(&mut bytes, message)?;
    let length = bytes.len() - 4;
    if length > FRAME_BYTES_MAX {
        let message = format!("a message has {length} bytes, the limit is {FRAME_BYTES_MAX}");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
    }
    let length = u32::try_from(length).expect("a frame's limit is below 4 GiB");
    bytes[..4].copy_from_slice(&length.to_le_bytes());
    Ok(bytes)
}

/// Writes a message.
pub(crate) fn send<T: Serialize>(to: &mut impl Write, message: &T) -> io::Result<()> {
    to.write_all(&frame(message)?)?;
    to.flush()
}

/// Reads a message; memory grows with what really came. `None` at the end.
///
/// Errors: an end in mid-message, a length over the limit, what is no such message.
pub(crate) fn receive<T: DeserializeOwned>(from: &mut impl Read) -> io::Result<Option<T>> {
    let invalid = |message: String| io::Error::new(io::ErrorKind::InvalidData, message);
    let mut header = [0; 4];
    match from.read(&mut header)? {
        0 => return Ok(None),
        read => from.read_exact(&mut header[read..])?,
    }
    let length = u32::from_le_bytes(header) as usize;
    if length > FRAME_BYTES_MAX {
        return Err(invalid(format!(
            "a message of {length} bytes, the limit is {FRAME_BYTES_MAX}"
        )));
    }
    let mut bytes = Vec::new();
    from.take(length as u64).read_to_end(&mut bytes)?;
    if bytes.len() < length {
        return Err(invalid(format!("a message of {length} bytes ended after {}", bytes.len())));
    }
    // The error's own words may quote what was said.
    serde_json::from_slice(&bytes).map(Some).map_err(|error| {
        invalid(format!(
            "no message of this protocol ({:?} at {})",
            error.classify(),
            error.column()
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(bytes: &[u8]) -> String {
        receive::<Say>(&mut &bytes[..]).unwrap_err().to_string()
    }

    #[test]
    fn what_is_sent_is_received() {
        let mut wire = Vec::new();
        send(&mut wire, &Say::Observed).unwrap();
        send(&mut wire, &Say::Result(Err("no".into()))).unwrap();
        let mut reader = &wire[..];
        assert!(matches!(receive(&mut reader).unwrap(), Some(Say::Observed)));
        let Some(Say::Result(Err(word))) = receive(&mut reader).unwrap() else { panic!() };
        assert_eq!(word, "no");
        assert!(receive::<Say>(&mut reader).unwrap().is_none());
    }

    #[test]
    fn nonsense_is_refused_before_it_costs_memory() {
        assert!(refusal(&u32::MAX.to_le_bytes()).contains("the limit is 4194304"));
        assert!(refusal(&[9, 0, 0, 0, b'{']).contains("ended after 1"));
        assert!(refusal(&[2, 0, 0, 0, 0xff, 0xfe]).contains("no message of this protocol"));
        assert!(refusal(&[4, 0, 0, 0, b'n', b'u', b'l', b'l']).contains("no message"));
        assert!(receive::<Say>(&mut &[1, 0][..]).is_err());
    }

    #[test]
    fn a_message_over_the_limit_is_not_sent() {
        let long = Say::Result(Ok("x".repeat(FRAME_BYTES_MAX)));
        assert!(frame(&long).unwrap_err().to_string().contains("the limit is"));
    }
}
