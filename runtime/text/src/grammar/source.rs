//! Grammars as the compiler reads them: Lark on top, schemas below it by name.

use std::fmt::Write;

use llguidance::api::{GrammarWithLexer, TopLevelGrammar};
use protocol::ToolSpec;
use serde_json::{Map, Value, json};

/// Calls of one answer; as many as a request may offer functions.
const CALLS_MAX: usize = 128;

/// A grammar in the compiler's notation.
#[derive(Debug, Clone)]
pub(super) struct Source {
    /// The first rules to hold.
    top: Body,
    /// What the first rules refer to, by name.
    parts: Vec<(String, Body)>,
}

#[derive(Debug, Clone)]
enum Body {
    Lark(String),
    Schema(Value),
}

/// Whether the answer may have a space in front that decoding takes away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Space {
    /// A space would be text.
    None,
    /// With or without.
    Optional,
    /// Always: the text itself may begin with one, and would lose it.
    Required,
}

impl Source {
    /// A JSON value of a reduced schema.
    pub(super) fn schema(schema: Map<String, Value>) -> Self {
        Self { top: Body::Schema(spelled_rigidly(schema)), parts: Vec::new() }
    }

    /// A text that a regular expression matches whole.
    pub(super) fn regex(regex: &str) -> Self {
        let spelled = llguidance::regex_to_lark(regex, "");
        Self { top: Body::Lark(format!("start: /{spelled}/")), parts: Vec::new() }
    }

    /// A text of a grammar.
    pub(super) fn lark(grammar: &str) -> Self {
        Self { top: Body::Lark(grammar.to_owned()), parts: Vec::new() }
    }

    /// One of these texts.
    pub(super) fn choice<'a>(choices: impl IntoIterator<Item = &'a str>) -> Self {
        // One terminal, for a rule would make a lexeme of each choice.
        let choices: Vec<String> = choices.into_iter().map(quoted).collect();
        let top = format!("start: CHOICE\nCHOICE: {}", choices.join("\n  | "));
        Self { top: Body::Lark(top), parts: Vec::new() }
    }

    /// The list of calls, as the models spell it.
    ///
    /// `schemas` are the reduced schemas of the functions' arguments, in the same order.
    pub(super) fn calls(
        tools: &[&ToolSpec],
        schemas: Vec<Map<String, Value>>,
        style: CallStyle,
    ) -> Self {
        let more = match style.is_single {
            true => String::new(),
            false => format!(" (\", \" call){{0,{}}}", CALLS_MAX - 1),
        };
        let mut top = format!("start: \"[\" call{more} \"]\"\ncall: ");
        for index in 0..tools.len() {
            // Writing to a string does not fail.
            let _ = write!(top, "{}call_{index}", if index > 0 { " | " } else { "" });
        }
        let id = if style.has_ids { " id?" } else { "" };
        for (index, tool) in tools.iter().enumerate() {
            let lead = quoted(&format!("{{\"name\": {}, \"arguments\": ", json!(tool.name)));
            let _ = write!(top, "\ncall_{index}: {lead} @arguments_{index}{id} \"}}\"");
        }
        if style.has_ids {
            top.push_str("\nid: \", \\\"id\\\": \\\"\" /[a-zA-Z0-9]{9}/ \"\\\"\"");
        }
        let part =
            |(index, schema)| (format!("arguments_{index}"), Body::Schema(spelled_rigidly(schema)));
        Self { top: Body::Lark(top), parts: schemas.into_iter().enumerate().map(part).collect() }
    }

    /// The same with a space in front.
    pub(super) fn behind(self, space: Space) -> Self {
        let mark = match space {
            Space::None => return self,
            Space::Optional => "?",
            Space::Required => "",
        };
        let mut parts = self.parts;
        parts.push(("body".to_owned(), self.top));
        Self { top: Body::Lark(format!("start: \" \"{mark} @body")), parts }
    }

    /// Says the same as [`Self::compilable`], and nothing else says it.
    pub(super) fn key(&self) -> String {
        let mut key = String::new();
        let bodies = self.parts.iter().map(|(name, body)| (name.as_str(), body));
        for (name, body) in std::iter::once(("", &self.top)).chain(bodies) {
            let body = match body {
                Body::Lark(lark) => json!(lark),
                Body::Schema(schema) => schema.clone(),
            };
            let _ = writeln!(key, "{name} {body}");
        }
        key
    }

    /// The grammar for the compiler.
    pub(super) fn compilable(&self) -> TopLevelGrammar {
        let grammar = |(name, body): (Option<&str>, &Body)| {
            let mut grammar = match body {
                Body::Lark(lark) => GrammarWithLexer::from_lark(lark.clone()),
                Body::Schema(schema) => GrammarWithLexer::from_json_schema(schema.clone()),
            };
            grammar.name = name.map(str::to_owned);
            grammar
        };
        let parts = self.parts.iter().map(|(name, body)| (Some(name.as_str()), body));
        let grammars = std::iter::once((None, &self.top)).chain(parts).map(grammar).collect();
        TopLevelGrammar { grammars, max_tokens: None }
    }
}

/// How calls are spelled.
#[derive(Debug, Clone, Copy)]
pub(super) struct CallStyle {
    /// At most one.
    pub(super) is_single: bool,
    /// A call may end with an id.
    pub(super) has_ids: bool,
}

/// Tells the compiler to spell JSON as the models saw it.
///
/// Escapes by number are left out, so that a text has one spelling: otherwise an additional
/// property could be a named one in disguise.
fn spelled_rigidly(mut schema: Map<String, Value>) -> Value {
    let spelling = json!({
        "item_separator": ", ",
        "key_separator": ": ",
        "whitespace_flexible": false,
        "coerce_one_of": false,
        "lenient": false,
        "json_allowed_escapes": "nrbtf\\\"",
    });
    schema.insert("x-guidance".into(), spelling);
    Value::Object(schema)
}

/// A text as a string of Lark.
fn quoted(text: &str) -> String {
    json!(text).to_string().replace('\u{7f}', "\\u007f")
}
