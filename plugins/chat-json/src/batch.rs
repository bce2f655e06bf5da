//! Bodies that order many requests at once, in Mistral's and OpenAI's form, and their lines.

use std::collections::HashSet;

use protocol::Fault;
use serde_json::{Map, Value, json};

use crate::fields::{Fields, Notes, Strictness, invalid, unsupported, wrong_type};
use crate::json::parse_json;

/// Most requests of one batch in the body that orders it; in files there may be more.
pub const INLINE_REQUESTS_MAX: usize = 10_000;

/// Longest name of one request of a batch, in bytes.
const CUSTOM_ID_BYTES_MAX: usize = 512;

/// Most files of one batch.
const FILES_MAX: usize = 64;

/// Paths whose requests may come in a batch, and whether their bodies have an `ext`.
const ENDPOINTS: &[(&str, bool)] = &[
    ("/v1/chat/completions", true),
    ("/v1/fim/completions", true),
    ("/v1/completions", true),
    ("/v1/classifications", true),
    ("/v1/chat/classifications", true),
    ("/v1/embeddings", false),
    ("/v1/moderations", false),
    ("/v1/chat/moderations", false),
];

/// What a client orders.
#[derive(Debug, Clone, PartialEq)]
pub struct BatchOrder {
    /// The path that each request is for.
    pub endpoint: &'static str,
    /// The model of requests that name none.
    pub model: Option<String>,
    /// The client's own notes, an object or null.
    pub metadata: Value,
    /// After this time the batch is over.
    pub timeout_hours: u32,
    /// Files whose lines are requests.
    pub files: Vec<String>,
    /// Requests of the body itself, each as one line of a file would bring it.
    pub requests: Vec<Value>,
    has_ext: bool,
}

/// Reads the body of Mistral's `/v1/batch/jobs`.
///
/// Errors: as [`parse_chat`](crate::parse_chat).
pub fn parse_batch_job(body: &[u8], strictness: Strictness) -> Result<BatchOrder, Fault> {
    let value = parse_json(body)?;
    let body = Fields::of(&value, "")?;
    let known = &["input_files", "requests", "endpoint", "model", "metadata", "timeout_hours"];
    let mut notes = Notes::new(strictness);
    body.only(&[&known[..], &["agent_id"]].concat(), &mut notes)?;
    if body.value("agent_id").is_some() {
        return Err(unsupported("there are no agents here", "agent_id"));
    }
    let files = body.list("input_files", FILES_MAX)?.unwrap_or_default();
    let file = |(at, file): (usize, &Value)| match file {
        Value::String(id) => Ok(id.clone()),
        other => Err(wrong_type(other, "the id of a file", format!("input_files[{at}]"))),
    };
    let requests = body.list("requests", INLINE_REQUESTS_MAX)?.unwrap_or_default();
    match (files.is_empty(), requests.is_empty()) {
        (true, true) => return Err(invalid("send input_files or requests", "input_files")),
        (false, false) => {
            return Err(invalid("send input_files or requests, not both", "requests"));
        }
        _ => {}
    }
    // In range of u32, so the cast keeps the number.
    let timeout_hours = body.integer("timeout_hours", 1..=168)?.unwrap_or(24) as u32;
    Ok(BatchOrder {
        model: body.string("model")?.map(str::to_owned),
        timeout_hours,
        files: files.iter().enumerate().map(file).collect::<Result<_, _>>()?,
        requests: requests.to_vec(),
        ..order(&body)?
    })
}

/// Reads the body of OpenAI's `/v1/batches`.
///
/// Errors: as [`parse_chat`](crate::parse_chat).
pub fn parse_batch(body: &[u8]) -> Result<BatchOrder, Fault> {
    let value = parse_json(body)?;
    let body = Fields::of(&value, "")?;
    if body.required_string("completion_window")? != "24h" {
        return Err(invalid("must be 24h", "completion_window"));
    }
    let file = body.required_string("input_file_id")?.to_owned();
    Ok(BatchOrder { files: vec![file], ..order(&body)? })
}

/// What both forms share.
fn order(body: &Fields<'_>) -> Result<BatchOrder, Fault> {
    let asked = body.required_string("endpoint")?;
    let known = ENDPOINTS.iter().find(|(endpoint, _)| *endpoint == asked);
    let Some((endpoint, has_ext)) = known.copied() else {
        let names: Vec<_> = ENDPOINTS.iter().map(|(endpoint, _)| *endpoint).collect();
        return Err(invalid(format!("must be one of {}", names.join(", ")), "endpoint"));
    };
    let metadata = body.object("metadata")?.and_then(|_| body.value("metadata"));
    Ok(BatchOrder {
        endpoint,
        model: None,
        metadata: metadata.cloned().unwrap_or_default(),
        timeout_hours: 24,
        files: Vec::new(),
        requests: Vec::new(),
        has_ext,
    })
}

impl BatchOrder {
    /// All requests as they are to be run: those of the body, and those of `files`, which are the
    /// bytes of [`Self::files`] in their order.
    ///
    /// Each is an object with `custom_id` and `body`; the body is whole, not streamed, and gives way
    /// to requests that somebody waits for.
    ///
    /// Errors: `InvalidField` at the line of a file that is no request; for a name that two requests
    /// share; where there are more than `items_max`.
    pub fn items(&self, files: &[Vec<u8>], items_max: u64) -> Result<Vec<Vec<u8>>, Fault> {
        let mut names = HashSet::new();
        let mut items = Vec::new();
        for (at, request) in self.requests.iter().enumerate() {
            items.push(self.item(request, &format!("requests[{at}]"), &mut names)?);
        }
        for (at, file) in files.iter().enumerate() {
            let lines = file.split(|byte| *byte == b'\n').enumerate();
            for (line, text) in lines.filter(|(_, text)| !text.trim_ascii().is_empty()) {
                let path = format!("input_files[{at}] line {}", line + 1);
                let value =
                    parse_json(text).map_err(|fault| invalid(fault.message, path.as_str()))?;
                items.push(self.item(&value, &path, &mut names)?);
                if items.len() as u64 > items_max {
                    let message = format!("more than {items_max} requests in one batch");
                    return Err(invalid(message, path));
                }
            }
        }
        if items.is_empty() {
            return Err(invalid("has no requests", "input_files"));
        }
        Ok(items)
    }

    fn item(
        &self,
        request: &Value,
        path: &str,
        names: &mut HashSet<String>,
    ) -> Result<Vec<u8>, Fault> {
        let request = Fields::of(request, path)?;
        let name = request.string("custom_id")?;
        if name.is_some_and(|name| name.len() > CUSTOM_ID_BYTES_MAX) {
            let message = format!("longer than {CUSTOM_ID_BYTES_MAX} bytes");
            return Err(invalid(message, request.path_of("custom_id")));
        }
        if name.is_some_and(|name| !names.insert(name.to_owned())) {
            let message = "an earlier request has the same one";
            return Err(invalid(message, request.path_of("custom_id")));
        }
        if request.string("url")?.is_some_and(|url| url != self.endpoint) {
            let message = format!("the batch is for {}", self.endpoint);
            return Err(invalid(message, request.path_of("url")));
        }
        let Some(Value::Object(body)) = request.value("body") else {
            return Err(request.object("body").err().unwrap_or_else(|| request.missing("body")));
        };
        let body = self.runnable(body.clone());
        Ok(json!({"custom_id": name, "body": body}).to_string().into_bytes())
    }

    fn runnable(&self, mut body: Map<String, Value>) -> Value {
        for streaming in ["stream", "stream_options"] {
            body.shift_remove(streaming);
        }
        if let Some(model) = &self.model
            && body.get("model").is_none_or(Value::is_null)
        {
            body.insert("model".into(), json!(model));
        }
        if self.has_ext {
            let ext = body.entry("ext").or_insert_with(|| json!({}));
            if ext.is_null() {
                *ext = json!({});
            }
            // One that is no object is refused when its turn comes.
            if let Some(ext) = ext.as_object_mut() {
                ext.insert("priority".into(), json!("batch"));
            }
        }
        Value::Object(body)
    }
}
