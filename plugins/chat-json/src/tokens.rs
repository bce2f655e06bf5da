//! Bodies of `/tokenize` and `/detokenize`, as local servers commonly have them.

use protocol::{Encoded, Fault, Input, Request, RequestId, TokenId};
use serde_json::{Value, json};

use crate::call_ids::settle_call_ids;
use crate::fields::{Fields, Notes, Strictness, invalid};
use crate::json::parse_json;
use crate::messages::{MESSAGES_MAX, read_messages};
use crate::settings::read_model;
use crate::tools::{Parameters, TOOLS_MAX, read_tools};

/// Most tokens of one body.
pub const TOKENS_MAX: usize = 65_536;

/// What is to be told of a prompt.
#[derive(Debug, Clone)]
pub struct Tokenize {
    /// The request whose prompt it is.
    pub request: Request,
    /// The token in front of a plain text is left out.
    leaves_begin_out: bool,
    spells: bool,
}

/// Reads a body of `/tokenize`: `prompt`, or `messages` and `tools` as a chat has them.
///
/// Errors: as [`parse_chat`](crate::parse_chat).
pub fn parse_tokenize(body: &[u8], id: RequestId) -> Result<Tokenize, Fault> {
    let value = parse_json(body)?;
    let body = Fields::of(&value, "")?;
    // What steers other servers' templates is no part of ours.
    let mut notes = Notes::new(Strictness::Lenient);
    let input = match (body.string("prompt")?, body.list("messages", MESSAGES_MAX)?) {
        (Some(_), Some(_)) => return Err(invalid("send prompt or messages, not both", "messages")),
        (Some(text), None) => Input::Text(text.to_owned()),
        (None, Some(messages)) => {
            let mut messages = read_messages(messages, &mut notes)?;
            settle_call_ids(&mut messages);
            Input::Chat(messages)
        }
        (None, None) => return Err(body.missing("prompt")),
    };
    let is_text = matches!(input, Input::Text(_));
    let tools = body.list("tools", TOOLS_MAX)?.unwrap_or_default();
    if is_text && !tools.is_empty() {
        return Err(invalid("only a chat has tools; send messages", "tools"));
    }
    let leaves_begin_out = is_text && body.flag("add_special_tokens")? == Some(false);
    Ok(Tokenize {
        request: Request {
            model: read_model(&body, &notes)?,
            tools: read_tools(tools, Parameters::Optional, &mut notes)?,
            ..Request::new(id.0, input)
        },
        leaves_begin_out,
        spells: body.flag("return_token_strs")?.unwrap_or(false),
    })
}

impl Tokenize {
    /// The answer. `encoded`: what [`Self::request`] became.
    pub fn body(&self, encoded: &Encoded) -> Value {
        let skipped = usize::from(self.leaves_begin_out).min(encoded.tokens.len());
        let tokens: Vec<u32> = encoded.tokens[skipped..].iter().map(|token| token.0).collect();
        let spelled = self.spells.then(|| encoded.spelled.get(skipped..).unwrap_or_default());
        json!({
            "count": tokens.len(),
            "max_model_len": encoded.context_tokens_max,
            "tokens": tokens,
            "token_strs": spelled,
        })
    }
}

/// Reads a body of `/detokenize`: the model's name and the tokens.
///
/// Errors: as [`parse_tokenize`].
pub fn parse_detokenize(body: &[u8]) -> Result<(String, Vec<TokenId>), Fault> {
    let value = parse_json(body)?;
    let body = Fields::of(&value, "")?;
    let model = read_model(&body, &Notes::new(Strictness::Lenient))?;
    let tokens = body.list("tokens", TOKENS_MAX)?.ok_or_else(|| body.missing("tokens"))?;
    Ok((model, read_tokens(tokens, "tokens")?))
}

/// A list of tokens by their ids.
pub(crate) fn read_tokens(items: &[Value], path: &str) -> Result<Vec<TokenId>, Fault> {
    let token = |(at, token): (usize, &Value)| {
        let id = token.as_u64().and_then(|id| u32::try_from(id).ok());
        id.map(TokenId).ok_or_else(|| invalid("must be the id of a token", format!("{path}[{at}]")))
    };
    items.iter().enumerate().map(token).collect()
}

/// The answer of `/detokenize`.
pub fn detokenize_body(text: &str) -> Value {
    json!({ "prompt": text })
}
