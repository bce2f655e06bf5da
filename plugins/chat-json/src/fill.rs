//! A fill-in-the-middle body to a request.

use protocol::{Fault, Input, Request, RequestId};

use crate::chat::Chat;
use crate::fields::{Fields, Notes, Strictness, unsupported};
use crate::json::parse_json;
use crate::settings::{
    LOCAL_FIELDS, OPENAI_FIELDS, read_answers, read_delivery, read_limits, read_model,
    read_sampling, refuse_unsupported,
};

/// The fill fields of Mistral's API, and our own `ext`.
const MISTRAL_FIELDS: &[&str] = &[
    "model",
    "prompt",
    "suffix",
    "temperature",
    "top_p",
    "max_tokens",
    "min_tokens",
    "stop",
    "random_seed",
    "stream",
    "prompt_cache_key",
    "metadata",
    "ext",
];

/// Reads the body of `/v1/fim/completions`; its answer has the shape of a chat's.
///
/// Errors: as [`parse_chat`](crate::parse_chat).
pub fn parse_fill(body: &[u8], id: RequestId, strictness: Strictness) -> Result<Chat, Fault> {
    let value = parse_json(body)?;
    let body = Fields::of(&value, "")?;
    let mut notes = Notes::new(strictness);
    if notes.is_strict() {
        body.only(MISTRAL_FIELDS, &mut notes)?;
    } else {
        let more = &["presence_penalty", "frequency_penalty", "n"];
        body.only(&[MISTRAL_FIELDS, OPENAI_FIELDS, LOCAL_FIELDS, more].concat(), &mut notes)?;
    }
    refuse_unsupported(&body)?;
    if body.flag("safe_prompt")? == Some(true) {
        let message = "only a conversation takes the text that it puts in front";
        return Err(unsupported(message, "safe_prompt"));
    }
    let delivery = read_delivery(&body, &mut notes)?;
    let input = Input::Fill {
        prefix: body.required_string("prompt")?.to_owned(),
        suffix: body.string("suffix")?.map(str::to_owned),
    };
    let request = Request {
        model: read_model(&body, &notes)?,
        sampling: read_sampling(&body, &notes)?,
        limits: read_limits(&body, &delivery.ext)?,
        explains_reuse: delivery.ext.explain,
        ..Request::new(id.0, input)
    };
    Ok(Chat {
        request,
        answers: read_answers(&body)?,
        stream: delivery.stream,
        include_usage: delivery.include_usage,
        dialect: delivery.dialect,
        ignored: notes.ignored,
        ext: delivery.ext,
        prefix_text: None,
        legacy: None,
    })
}
