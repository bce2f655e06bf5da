//! `zonda encode`: JSON lines of conversations and texts in, JSON lines of token ids out.

use std::io::{BufRead, Write};
use std::path::Path;
use std::sync::Arc;

use protocol::{Fault, Input, Message, Request, TokenId};
use serde_json::{Value, json};
use text::{Codec, StreamDecoder, TemplateVersion, Tokenizer};

use crate::error::AssembleError;

/// Reads lines of `kind` chat, fim, encode or decode, and answers each in order.
///
/// Errors: an unreadable tokenizer, an encoding that its vocabulary cannot spell, or a broken
/// stream; a line at fault is answered with its error and does not end the run.
pub(crate) fn encode(
    tokenizer: &Path,
    version: &str,
    input: &mut dyn BufRead,
    output: &mut dyn Write,
) -> Result<(), AssembleError> {
    let version: TemplateVersion = version.parse()?;
    let tokenizer = Arc::new(load_tokenizer(tokenizer)?);
    let codec = Codec::new(tokenizer, version)?;
    crate::lines::answer_lines(input, output, |line| {
        answer(&codec, line).unwrap_or_else(|fault| json!({ "error": fault.message }))
    })
}

fn load_tokenizer(path: &Path) -> Result<Tokenizer, AssembleError> {
    if path.extension().is_some_and(|extension| extension == "gguf") {
        let vocabulary = weights::gguf_vocabulary(path)?;
        let vocabulary =
            vocabulary.ok_or_else(|| AssembleError::NoTokenizer { path: path.to_owned() })?;
        return Ok(Tokenizer::from_vocabulary(&vocabulary)?);
    }
    Ok(Tokenizer::from_file(path)?)
}

fn answer(codec: &Codec, line: &Value) -> Result<Value, Fault> {
    match line["kind"].as_str() {
        Some("chat") => {
            let mut messages = chat_json::parse_messages(&line["messages"])?;
            if line["continue_final_message"].as_bool() == Some(true) {
                continue_last(&mut messages)?;
            }
            let mut request = Request::new("line", Input::Chat(messages));
            if !line["tools"].is_null() {
                request.tools = chat_json::parse_tools(&line["tools"])?;
            }
            Ok(json!({ "tokens": codec.render(&request)?.tokens }))
        }
        Some("fim") => {
            let prefix = text_of(line, "prompt")?;
            let suffix = match &line["suffix"] {
                Value::Null => None,
                _ => Some(text_of(line, "suffix")?),
            };
            let request = Request::new("line", Input::Fill { prefix, suffix });
            Ok(json!({ "tokens": codec.render(&request)?.tokens }))
        }
        Some("encode") => {
            let text = text_of(line, "text")?;
            Ok(json!({ "tokens": codec.tokenizer().encode(&text).map_err(Fault::from)? }))
        }
        Some("decode") => {
            let tokens: Vec<TokenId> = crate::lines::tokens_of(line)?;
            let mut stream = StreamDecoder::new(codec.shared_tokenizer());
            let pieces: Vec<String> = tokens.iter().map(|token| stream.push(*token)).collect();
            Ok(json!({ "text": codec.tokenizer().decode(&tokens), "stream": pieces }))
        }
        _ => Err(Fault::bad_request("\"kind\" must be chat, fim, encode or decode")),
    }
}

fn continue_last(messages: &mut [Message]) -> Result<(), Fault> {
    match messages.last_mut() {
        Some(Message::Assistant { prefix, .. }) => {
            *prefix = true;
            Ok(())
        }
        _ => {
            Err(Fault::bad_request("continue_final_message needs an assistant message at the end"))
        }
    }
}

fn text_of(line: &Value, key: &str) -> Result<String, Fault> {
    line[key]
        .as_str()
        .map(str::to_owned)
        .ok_or_else(|| Fault::bad_request(format!("\"{key}\" must be a string")))
}
