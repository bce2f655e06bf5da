//! The messages of a conversation, in both dialects' spellings.

use protocol::{Fault, Message, ToolCall};
use serde_json::Value;

use crate::fields::{Fields, Notes, Strictness, invalid, unsupported, wrong_type};

/// Most messages of one conversation.
pub const MESSAGES_MAX: usize = 1024;

/// Most chunks of one message's content.
const CHUNKS_MAX: usize = 256;

/// Most calls of one assistant message.
const CALLS_MAX: usize = 128;

/// The id of a call that came without one; Mistral's own default, which no template accepts.
const NO_ID: &str = "null";

/// Reads a list of messages as it is written: tool-call ids stay as they are, the order of roles
/// is not judged. Unknown fields are ignored.
///
/// Errors: `InvalidField` for a wrong type, an unknown role or a missing member; `Unsupported` for
/// content that is not text.
pub fn parse_messages(v: &Value) -> Result<Vec<Message>, Fault> {
    let Value::Array(items) = v else {
        return Err(wrong_type(v, "a list", "messages"));
    };
    read_messages(items, &mut Notes::new(Strictness::Lenient))
}

pub(crate) fn read_messages(items: &[Value], notes: &mut Notes) -> Result<Vec<Message>, Fault> {
    if items.len() > MESSAGES_MAX {
        return Err(invalid(
            format!("{} messages; at most {MESSAGES_MAX} are accepted", items.len()),
            "messages",
        ));
    }
    items
        .iter()
        .enumerate()
        .map(|(index, item)| read_message(&Fields::of(item, format!("messages[{index}]"))?, notes))
        .collect()
}

fn read_message(fields: &Fields<'_>, notes: &mut Notes) -> Result<Message, Fault> {
    match fields.required_string("role")? {
        "system" => read_system(fields, notes),
        "developer" if !notes.is_strict() => read_system(fields, notes),
        "user" => {
            fields.only(&["role", "content"], notes)?;
            Ok(Message::User { content: read_content(fields, notes)?.unwrap_or_default() })
        }
        "assistant" => {
            fields.only(&["role", "content", "tool_calls", "prefix"], notes)?;
            if fields.value("function_call").is_some() {
                return Err(unsupported("use tool_calls", fields.path_of("function_call")));
            }
            Ok(Message::Assistant {
                content: read_content(fields, notes)?,
                tool_calls: read_calls(fields, notes)?,
                prefix: fields.flag("prefix")?.unwrap_or(false),
            })
        }
        "tool" => {
            fields.only(&["role", "content", "tool_call_id", "name"], notes)?;
            Ok(Message::Tool {
                content: read_content(fields, notes)?.ok_or_else(|| fields.missing("content"))?,
                call_id: fields.string("tool_call_id")?.map(str::to_owned),
                name: fields.string("name")?.map(str::to_owned),
            })
        }
        _ => Err(invalid("must be system, user, assistant or tool", fields.path_of("role"))),
    }
}

fn read_system(fields: &Fields<'_>, notes: &mut Notes) -> Result<Message, Fault> {
    fields.only(&["role", "content"], notes)?;
    let content = read_content(fields, notes)?.ok_or_else(|| fields.missing("content"))?;
    Ok(Message::System { content })
}

/// A string, or a list of text chunks; `None` where there is none or `null`.
fn read_content(fields: &Fields<'_>, notes: &mut Notes) -> Result<Option<Vec<String>>, Fault> {
    let path = fields.path_of("content");
    match fields.value("content") {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(vec![text.clone()])),
        Some(Value::Array(_)) => {
            let chunks = fields.list("content", CHUNKS_MAX)?.unwrap_or_default();
            let texts = chunks.iter().enumerate().map(|(index, chunk)| {
                read_chunk(&Fields::of(chunk, format!("{path}[{index}]"))?, notes)
            });
            texts.collect::<Result<_, _>>().map(Some)
        }
        Some(other) => Err(wrong_type(other, "a string or a list of chunks", path)),
    }
}

/// The text of a chunk of text.
pub(crate) fn read_chunk(chunk: &Fields<'_>, notes: &mut Notes) -> Result<String, Fault> {
    match chunk.string("type")? {
        None | Some("text") => {
            chunk.only(&["type", "text"], notes)?;
            Ok(chunk.required_string("text")?.to_owned())
        }
        Some(
            other @ ("image_url" | "document_url" | "reference" | "file" | "thinking"
            | "input_audio" | "refusal"),
        ) => Err(unsupported(
            format!("{other} chunks cannot be read by a text model; send text"),
            chunk.path_of("type"),
        )),
        Some(_) => Err(invalid("must be text", chunk.path_of("type"))),
    }
}

fn read_calls(fields: &Fields<'_>, notes: &mut Notes) -> Result<Vec<ToolCall>, Fault> {
    let calls = fields.list("tool_calls", CALLS_MAX)?.unwrap_or_default();
    let path = fields.path_of("tool_calls");
    calls
        .iter()
        .enumerate()
        .map(|(index, call)| read_call(&Fields::of(call, format!("{path}[{index}]"))?, notes))
        .collect()
}

fn read_call(call: &Fields<'_>, notes: &mut Notes) -> Result<ToolCall, Fault> {
    call.only(&["id", "type", "function", "index"], notes)?;
    if !matches!(call.string("type")?, None | Some("function")) {
        return Err(unsupported("only function calls are known", call.path_of("type")));
    }
    let function = call.object("function")?.ok_or_else(|| call.missing("function"))?;
    function.only(&["name", "arguments"], notes)?;
    let arguments = match function.value("arguments") {
        None => return Err(function.missing("arguments")),
        Some(Value::String(text)) => text.clone(),
        Some(object @ Value::Object(_)) => object.to_string(),
        Some(other) => {
            return Err(wrong_type(other, "JSON text or an object", function.path_of("arguments")));
        }
    };
    Ok(ToolCall {
        id: call.string("id")?.unwrap_or(NO_ID).to_owned(),
        name: function.required_string("name")?.to_owned(),
        arguments,
    })
}
