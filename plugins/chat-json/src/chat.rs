//! A chat body to a request.

use protocol::{Fault, Format, Input, Message, Request, RequestId, Task};
use serde_json::Value;

use crate::call_ids::settle_call_ids;
use crate::ext::Ext;
use crate::fields::{Fields, Notes, Strictness, invalid, wrong_type};
use crate::json::parse_json;
use crate::legacy::Legacy;
use crate::messages::{MESSAGES_MAX, read_chunk, read_messages};
use crate::settings::{
    Dialect, LOCAL_FIELDS, OPENAI_FIELDS, read_answers, read_delivery, read_limits, read_model,
    read_sampling, refuse_unsupported,
};
use crate::tools::{Parameters, TOOLS_MAX, read_choice, read_tools};

/// A request and what its answer must look like.
#[derive(Debug, Clone)]
pub struct Chat {
    /// What to compute. The answer carries its `id`: set another one before [`Answer::new`].
    ///
    /// [`Answer::new`]: crate::Answer::new
    pub request: Request,
    /// Answers that the client wants: [`requests`](Self::requests) asks for all of them.
    pub answers: u32,
    /// Whether the client wants chunks.
    pub stream: bool,
    /// OpenAI's `stream_options.include_usage`: usage comes in a chunk of its own.
    pub include_usage: bool,
    /// Which dialect the answer speaks.
    pub dialect: Dialect,
    /// Paths of fields that were sent and have no effect, at most 32, in visible ASCII.
    pub ignored: Vec<String>,
    /// The `ext` object; defaults where there is none.
    pub ext: Ext,
    /// What the client began the answer with; the answer's text starts with it.
    pub prefix_text: Option<String>,
    /// Set where the answers are texts and no messages.
    pub(crate) legacy: Option<Legacy>,
}

/// Most texts among which an answer is chosen.
const CHOICES_MAX: usize = 1024;

/// What `safe_prompt` puts before a conversation, as Mistral's documentation of it has it.
const SAFE_PROMPT: &str = "Always assist with care, respect, and truth. Respond with utmost \
                           utility yet securely. Avoid harmful, unethical, prejudiced, or \
                           negative content. Ensure replies promote fairness and positivity.";

/// The chat fields of Mistral's API, and our own `ext`.
const MISTRAL_FIELDS: &[&str] = &[
    "model",
    "messages",
    "temperature",
    "top_p",
    "max_tokens",
    "stop",
    "random_seed",
    "stream",
    "n",
    "presence_penalty",
    "frequency_penalty",
    "tools",
    "tool_choice",
    "parallel_tool_calls",
    "response_format",
    "prediction",
    "safe_prompt",
    "prompt_mode",
    "reasoning_effort",
    "prompt_cache_key",
    "service_tier",
    "guardrails",
    "metadata",
    "ext",
];

/// Reads the body of a chat completion in either dialect.
///
/// Ids of tool calls that no Mistral prompt accepts are replaced, the same in call and result.
/// `ext.ttl_s` counts from now.
///
/// Errors: `BadRequest` for bytes that are not JSON and broken rules of the conversation,
/// `InvalidField` for wrong types and ranges, `Unsupported` for what would silently change the
/// answer if it were ignored. `param` names the field.
pub fn parse_chat(body: &[u8], id: RequestId, strictness: Strictness) -> Result<Chat, Fault> {
    let value = parse_json(body)?;
    let body = Fields::of(&value, "")?;
    let mut notes = Notes::new(strictness);
    check_names(&body, &mut notes)?;
    refuse_unsupported(&body)?;

    let mut messages = match body.list("messages", MESSAGES_MAX)? {
        Some(items) => read_messages(items, &mut notes)?,
        None => return Err(body.missing("messages")),
    };
    if messages.is_empty() {
        let message = "messages: a conversation has at least one message";
        return Err(Fault::bad_request(message).at("messages"));
    }
    settle_call_ids(&mut messages);
    if body.flag("safe_prompt")? == Some(true) {
        messages.insert(0, Message::System { content: vec![SAFE_PROMPT.to_owned()] });
    }
    let tools = body.list("tools", TOOLS_MAX)?.unwrap_or_default();
    let parameters = if notes.is_strict() { Parameters::Required } else { Parameters::Optional };
    let tools = read_tools(tools, parameters, &mut notes)?;
    let delivery = read_delivery(&body, &mut notes)?;
    let prefix_text = prefix_of(&messages);
    let request = Request {
        id,
        model: read_model(&body, &notes)?,
        client: None,
        task: Task::Generate,
        input: Input::Chat(messages),
        sampling: read_sampling(&body, &notes)?,
        format: read_format(&body, &mut notes)?,
        tool_choice: read_choice(&body, &mut notes)?,
        approved_calls: delivery.ext.approved_calls.clone(),
        parallel_tool_calls: body.flag("parallel_tool_calls")?.unwrap_or(true),
        tools,
        prediction: read_prediction(&body, &mut notes)?,
        limits: read_limits(&body, &delivery.ext)?,
        explains_reuse: delivery.ext.explain,
    };
    Ok(Chat {
        request,
        answers: read_answers(&body)?,
        stream: delivery.stream,
        include_usage: delivery.include_usage,
        dialect: delivery.dialect,
        ignored: notes.ignored,
        ext: delivery.ext,
        prefix_text,
        legacy: None,
    })
}

fn check_names(body: &Fields<'_>, notes: &mut Notes) -> Result<(), Fault> {
    if notes.is_strict() {
        body.only(MISTRAL_FIELDS, notes)?;
    } else {
        let legacy = &["functions", "function_call"];
        body.only(&[MISTRAL_FIELDS, OPENAI_FIELDS, LOCAL_FIELDS, legacy].concat(), notes)?;
    }
    Ok(())
}

fn read_format(body: &Fields<'_>, notes: &mut Notes) -> Result<Format, Fault> {
    let Some(format) = body.object("response_format")? else {
        return Ok(Format::Free);
    };
    let kind = format.required_string("type")?;
    if notes.is_strict() {
        format.only(&["type", "json_schema"], notes)?;
        if !matches!(kind, "text" | "json_object" | "json_schema") {
            let message = "must be text, json_object or json_schema";
            return Err(invalid(message, format.path_of("type")));
        }
    }
    format.only(&["type", "json_schema", "regex", "grammar", "choices"], notes)?;
    match kind {
        "text" => Ok(Format::Free),
        "json_object" => Ok(Format::JsonObject),
        "regex" => Ok(Format::Regex(format.required_string("regex")?.to_owned())),
        "grammar" => Ok(Format::Grammar(format.required_string("grammar")?.to_owned())),
        "choice" => {
            let choices = format.list("choices", CHOICES_MAX)?;
            let choices = choices.ok_or_else(|| format.missing("choices"))?;
            let text = |choice: &Value| match choice {
                Value::String(text) => Ok(text.clone()),
                other => Err(wrong_type(other, "a string", format.path_of("choices"))),
            };
            Ok(Format::Choice(choices.iter().map(text).collect::<Result<_, _>>()?))
        }
        "json_schema" => {
            let named =
                format.object("json_schema")?.ok_or_else(|| format.missing("json_schema"))?;
            named.only(&["name", "description", "schema", "strict"], notes)?;
            named.required_string("name")?;
            let schema = named.value("schema").ok_or_else(|| named.missing("schema"))?;
            Ok(Format::JsonSchema(schema.clone()))
        }
        _ => Err(invalid(
            "must be text, json_object, json_schema, regex, grammar or choice",
            format.path_of("type"),
        )),
    }
}

/// `{"type": "content", "content": …}`; the content may come in chunks of text.
fn read_prediction(body: &Fields<'_>, notes: &mut Notes) -> Result<Option<String>, Fault> {
    let Some(prediction) = body.object("prediction")? else {
        return Ok(None);
    };
    prediction.only(&["type", "content"], notes)?;
    if !matches!(prediction.string("type")?, None | Some("content")) {
        return Err(invalid("must be content", prediction.path_of("type")));
    }
    match prediction.value("content") {
        None => Err(prediction.missing("content")),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(_) => {
            let mut text = String::new();
            for (index, chunk) in
                prediction.list("content", 64)?.unwrap_or_default().iter().enumerate()
            {
                let path = format!("prediction.content[{index}]");
                text.push_str(&read_chunk(&Fields::of(chunk, path)?, notes)?);
            }
            Ok(Some(text))
        }
    }
}

fn prefix_of(messages: &[Message]) -> Option<String> {
    match messages.last() {
        Some(Message::Assistant { content: Some(content), prefix: true, .. }) => {
            Some(content.concat())
        }
        _ => None,
    }
}
