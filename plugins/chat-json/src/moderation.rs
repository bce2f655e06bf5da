//! Bodies of `/v1/moderations` and `/v1/chat/moderations`, and their answers.

use protocol::{Fault, Input, ModerateRequest, Moderations};
use serde_json::{Map, Value, json};

use crate::classification::{INPUTS_MAX, InputKind};
use crate::ext::{Ext, read_ext};
use crate::fields::{Fields, Notes, Strictness, invalid, wrong_type};
use crate::json::parse_json;
use crate::messages::{MESSAGES_MAX, read_messages};
use crate::settings::{deadline, read_model};

/// One body.
#[derive(Debug, Clone)]
pub struct Moderation {
    /// What is asked.
    pub request: ModerateRequest,
    /// Paths of fields that were sent and have no effect.
    pub ignored: Vec<String>,
}

/// Reads a body. `kind` says whether its inputs are texts or conversations: one or a list of them;
/// a conversation is a list of messages, or an object with `messages`.
///
/// Errors: as [`parse_chat`](crate::parse_chat).
pub fn parse_moderation(
    body: &[u8],
    kind: InputKind,
    strictness: Strictness,
) -> Result<Moderation, Fault> {
    let value = parse_json(body)?;
    let body = Fields::of(&value, "")?;
    let mut notes = Notes::new(strictness);
    body.only(&["model", "input", "metadata", "ext"], &mut notes)?;
    let ext = body.object("ext")?.as_ref().map_or_else(|| Ok(Ext::default()), read_ext)?;
    let input = body.value("input").ok_or_else(|| body.missing("input"))?;
    let request = ModerateRequest {
        model: read_model(&body, &notes)?,
        inputs: match kind {
            InputKind::Text => read_texts(input)?,
            InputKind::Chat => read_chats(input, &mut notes)?,
        },
        deadline: deadline(&ext),
        ..ModerateRequest::default()
    };
    Ok(Moderation { request, ignored: notes.ignored })
}

/// The whole answer, with what clients of either dialect look at. `id`: its name.
pub fn moderation_body(id: &str, moderations: &Moderations) -> Value {
    let results = moderations.results.iter().map(|scores| {
        let flags = scores.iter().map(|one| (one.category.clone(), json!(one.is_flagged)));
        let numbers = scores.iter().map(|one| (one.category.clone(), json!(one.score)));
        json!({
            "flagged": scores.iter().any(|one| one.is_flagged),
            "categories": flags.collect::<Map<_, _>>(),
            "category_scores": numbers.collect::<Map<_, _>>(),
        })
    });
    json!({
        "id": id,
        "model": moderations.model,
        "results": results.collect::<Vec<_>>(),
        "usage": {
            "prompt_tokens": moderations.prompt_tokens,
            "completion_tokens": 0,
            "total_tokens": moderations.prompt_tokens,
        },
    })
}

fn read_texts(input: &Value) -> Result<Vec<Input>, Fault> {
    let items = match input {
        Value::String(text) => return Ok(vec![Input::Text(text.clone())]),
        Value::Array(items) => bounded(items)?,
        other => return Err(wrong_type(other, "a string or a list of strings", "input")),
    };
    let text = |(at, item): (usize, &Value)| match item {
        Value::String(text) => Ok(Input::Text(text.clone())),
        // OpenAI's clients may send parts; one without a type is text, as in messages.
        Value::Object(part) => match (part.get("type"), part.get("text")) {
            (None | Some(Value::Null), Some(Value::String(text))) => Ok(Input::Text(text.clone())),
            (Some(Value::String(kind)), Some(Value::String(text))) if kind == "text" => {
                Ok(Input::Text(text.clone()))
            }
            _ => Err(invalid("only parts of type text are judged", format!("input[{at}]"))),
        },
        other => Err(wrong_type(other, "a string", format!("input[{at}]"))),
    };
    items.iter().enumerate().map(text).collect()
}

fn read_chats(input: &Value, notes: &mut Notes) -> Result<Vec<Input>, Fault> {
    let is_message = |value: &Value| value.get("role").is_some();
    match input {
        Value::Object(_) => Ok(vec![read_chat(input, "input".to_owned(), notes)?]),
        Value::Array(items) if items.first().is_some_and(is_message) => {
            Ok(vec![read_chat(input, "input".to_owned(), notes)?])
        }
        Value::Array(items) => {
            let numbered = bounded(items)?.iter().enumerate();
            numbered.map(|(at, item)| read_chat(item, format!("input[{at}]"), notes)).collect()
        }
        other => Err(wrong_type(other, "a list of messages", "input")),
    }
}

fn read_chat(value: &Value, path: String, notes: &mut Notes) -> Result<Input, Fault> {
    let messages = match value {
        Value::Array(messages) => messages,
        value => match Fields::of(value, path.clone())?.list("messages", MESSAGES_MAX)? {
            Some(messages) => messages,
            None => return Err(invalid("field required", format!("{path}.messages"))),
        },
    };
    if messages.is_empty() || messages.len() > MESSAGES_MAX {
        return Err(invalid(format!("a conversation has 1 to {MESSAGES_MAX} messages"), path));
    }
    Ok(Input::Chat(read_messages(messages, notes)?))
}

fn bounded(items: &[Value]) -> Result<&[Value], Fault> {
    match items.len() {
        1..=INPUTS_MAX => Ok(items),
        found => Err(invalid(format!("{found} items; 1 to {INPUTS_MAX} are accepted"), "input")),
    }
}
