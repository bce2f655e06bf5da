//! Masks words and patterns before the model reads them.
//!
//! What the model never read it cannot repeat, so the answer passes as it is; it comes in pieces,
//! and a filter that sees one piece at a time could not find what is split between two.

use std::borrow::Cow;

use protocol::{Event, Fault, FaultCode, Filter, Input, Request};
use regex::{Captures, Regex, RegexBuilder};
use serde::Deserialize;
use serde_json::Value;

use crate::{FilterError, Settings, texts};

const KIND: &str = "redact";
/// Entries of either list.
const ENTRIES_MAX: usize = 256;
/// Bytes of one word or pattern.
const ENTRY_BYTES_MAX: usize = 512;
/// Memory of the compiled patterns.
const COMPILED_BYTES_MAX: usize = 4 << 20;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RedactSettings {
    /// Whole words, whatever their case.
    #[serde(default)]
    words: Vec<String>,
    /// Regular expressions without look-around, so that they run in linear time.
    #[serde(default)]
    patterns: Vec<String>,
    /// What stands in their place.
    #[serde(default = "default_mask")]
    mask: String,
}

fn default_mask() -> String {
    "[redacted]".into()
}

struct Redact {
    pattern: Regex,
    mask: String,
}

pub(crate) fn build(settings: &Settings) -> Result<Box<dyn Filter>, FilterError> {
    let refuse = |message: String| FilterError::Settings { kind: KIND, message };
    let RedactSettings { words, patterns, mask } = crate::read(KIND, settings)?;
    if words.is_empty() && patterns.is_empty() {
        return Err(refuse("set words or patterns".into()));
    }
    if words.len() > ENTRIES_MAX || patterns.len() > ENTRIES_MAX {
        return Err(refuse(format!("more than {ENTRIES_MAX} words or patterns")));
    }
    if let Some(at) = words.iter().chain(&patterns).position(|entry| entry.len() > ENTRY_BYTES_MAX)
    {
        return Err(refuse(format!("entry {} is over {ENTRY_BYTES_MAX} bytes", at + 1)));
    }
    if mask.len() > 64 || mask.contains(char::is_control) {
        return Err(refuse("mask is over 64 bytes or has a control character".into()));
    }
    for (at, pattern) in patterns.iter().enumerate() {
        let compiled = compile(pattern)
            .map_err(|error| refuse(format!("pattern {}: {}", at + 1, one_line(&error))))?;
        if compiled.is_match("") {
            return Err(refuse(format!("pattern {} matches the empty text", at + 1)));
        }
    }
    if words.iter().any(|word| word.trim().is_empty()) {
        return Err(refuse("a word is empty".into()));
    }
    let words = words.iter().map(|word| word_pattern(word));
    let all: Vec<String> =
        words.chain(patterns.iter().map(|pattern| format!("(?:{pattern})"))).collect();
    let pattern = compile(&all.join("|")).map_err(|error| refuse(one_line(&error)))?;
    Ok(Box::new(Redact { pattern, mask }))
}

fn compile(pattern: &str) -> Result<Regex, regex::Error> {
    RegexBuilder::new(pattern).size_limit(COMPILED_BYTES_MAX).build()
}

fn one_line(error: &regex::Error) -> String {
    let text = error.to_string();
    text.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned()
}

/// The word in any case, not inside a longer one.
fn word_pattern(word: &str) -> String {
    let word = word.trim();
    let is_letter = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
    let before = if is_letter(word.chars().next()) { r"\b" } else { "" };
    let behind = if is_letter(word.chars().next_back()) { r"\b" } else { "" };
    format!("(?i:{before}{}{behind})", regex::escape(word))
}

impl Filter for Redact {
    fn name(&self) -> &'static str {
        KIND
    }

    fn on_request(&self, request: &mut Request) -> Result<(), Fault> {
        if matches!(request.input, Input::Tokens(_)) {
            let message = "tokens cannot be searched for words, which are masked here";
            return Err(Fault::new(FaultCode::Forbidden, message));
        }
        texts::for_each(request, |text| self.mask_text(text));
        texts::for_each_arguments(request, |arguments| {
            match serde_json::from_str::<Value>(arguments) {
                Ok(mut value) => {
                    if self.mask_json(&mut value) {
                        *arguments = value.to_string();
                    }
                }
                Err(_) => self.mask_text(arguments),
            }
        });
        Ok(())
    }

    fn on_event(&self, _event: &mut Event) -> Result<(), Fault> {
        Ok(())
    }
}

impl Redact {
    fn finds(&self, text: &str) -> bool {
        self.pattern.find_iter(text).any(|found| !found.is_empty())
    }

    fn mask_text(&self, text: &mut String) {
        let masked = self.pattern.replace_all(text, |found: &Captures<'_>| {
            // A place between two characters hides nothing.
            if found[0].is_empty() { "" } else { self.mask.as_str() }
        });
        if let Cow::Owned(masked) = masked {
            *text = masked;
        }
    }

    /// Masks texts, numbers and keys, so that the value stays JSON; whether anything changed.
    fn mask_json(&self, value: &mut Value) -> bool {
        match value {
            Value::Null | Value::Bool(_) => false,
            Value::Number(number) => {
                let found = self.finds(&number.to_string());
                if found {
                    *value = Value::String(self.mask.clone());
                }
                found
            }
            Value::String(text) => {
                let found = self.finds(text);
                self.mask_text(text);
                found
            }
            Value::Array(items) => {
                let mut changed = false;
                for item in items {
                    changed |= self.mask_json(item);
                }
                changed
            }
            Value::Object(entries) => {
                let mut changed = false;
                *entries = std::mem::take(entries)
                    .into_iter()
                    .map(|(mut key, mut value)| {
                        changed |= self.finds(&key);
                        self.mask_text(&mut key);
                        changed |= self.mask_json(&mut value);
                        (key, value)
                    })
                    .collect();
                changed
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use protocol::{Message, ToolCall};
    use serde_json::json;

    use super::*;

    fn masked(settings: &Value, text: &str) -> String {
        let filter = build(settings.as_object().unwrap()).unwrap();
        let mut request = Request::new("r", Input::Text(text.into()));
        filter.on_request(&mut request).unwrap();
        let Input::Text(text) = request.input else { panic!("text stays text") };
        text
    }

    #[test]
    fn words_are_masked_whole_and_in_any_case() {
        let settings = json!({ "words": ["Falcon", "Grüße", "c++"] });
        let cases = [
            ("project FALCON starts", "project [redacted] starts"),
            ("falconry", "falconry"),
            ("falcon,falcon", "[redacted],[redacted]"),
            ("GRÜSSE und GRÜßE", "GRÜSSE und [redacted]"),
            ("in C++.", "in [redacted]."),
            ("nothing", "nothing"),
        ];
        for (text, expected) in cases {
            assert_eq!(masked(&settings, text), expected);
        }
    }

    #[test]
    fn patterns_are_masked_and_the_mask_is_taken_literally() {
        let settings = json!({
            "patterns": [r"[\w.+-]+@[\w-]+\.[\w.]+", r"\b\d{4}(?:[ -]?\d{4}){3}\b"],
            "mask": "$0",
        });
        assert_eq!(masked(&settings, "write to a.b@c.org now"), "write to $0 now");
        assert_eq!(masked(&settings, "card 4111 1111 1111 1111!"), "card $0!");
    }

    #[test]
    fn every_text_of_a_conversation_is_masked() {
        let settings = json!({ "words": ["falcon"] });
        let filter = build(settings.as_object().unwrap()).unwrap();
        let content = || vec!["falcon".to_owned(), "crow".to_owned()];
        let call = |arguments: &str| ToolCall {
            id: "abcdefghi".into(),
            name: "falcon".into(),
            arguments: arguments.into(),
        };
        let conversation = |content: Vec<String>, arguments: &str| {
            vec![
                Message::System { content: content.clone() },
                Message::User { content: content.clone() },
                Message::Assistant {
                    content: Some(content.clone()),
                    tool_calls: vec![call(arguments)],
                    prefix: false,
                },
                Message::Tool { content, call_id: None, name: None },
            ]
        };
        let input = Input::Chat(conversation(content(), "{\"bird\":\"falcon\"}"));
        let mut request = Request::new("r", input);
        filter.on_request(&mut request).unwrap();
        let masked = vec!["[redacted]".to_owned(), "crow".to_owned()];
        let expected = Input::Chat(conversation(masked, "{\"bird\":\"[redacted]\"}"));
        assert_eq!(request.input, expected);
    }

    #[test]
    fn arguments_of_functions_stay_json() {
        let patterns =
            json!({ "patterns": [r#"".*""#, r"\d{16}", "secret", r"\b"], "mask": "\"*\"" });
        let filter = build(patterns.as_object().unwrap()).unwrap();
        let masked = |arguments: &str| {
            let call =
                ToolCall { id: String::new(), name: String::new(), arguments: arguments.into() };
            let message =
                Message::Assistant { content: None, tool_calls: vec![call], prefix: false };
            let mut request = Request::new("r", Input::Chat(vec![message]));
            filter.on_request(&mut request).unwrap();
            let Input::Chat(mut messages) = request.input else { panic!("a chat") };
            let Some(Message::Assistant { tool_calls, .. }) = messages.pop() else {
                panic!("one message")
            };
            tool_calls[0].arguments.clone()
        };
        assert_eq!(masked("{ \"a\": \"b c\" }"), "{ \"a\": \"b c\" }");
        assert_eq!(
            masked("{\"a secret\":[4111111111111111,true,\"x\"]}"),
            "{\"a \\\"*\\\"\":[\"\\\"*\\\"\",true,\"x\"]}"
        );
        assert_eq!(masked("not json, secret"), "not json, \"*\"");
    }

    #[test]
    fn tokens_are_refused() {
        let settings = json!({ "words": ["falcon"] });
        let filter = build(settings.as_object().unwrap()).unwrap();
        let mut request = Request::new("r", Input::Tokens(vec![protocol::TokenId(1)]));
        assert_eq!(filter.on_request(&mut request).unwrap_err().code, FaultCode::Forbidden);
    }
}
