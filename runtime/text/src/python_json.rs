//! JSON as Python's `json` module reads and writes it.
//!
//! Models of the family saw tools, calls and results as `json.dumps(…, ensure_ascii=False)` spells
//! them, so prompts have to: `", "` and `": "` between things, floats as `1e-05`, integers of any
//! length, and also what is no JSON (`NaN`, `Infinity`). Reading is Python's too, because a text
//! that Python takes for JSON is spelled anew and any other goes in as a string.

use std::collections::HashMap;

use serde_json::Value;

/// Nesting up to which a text counts as JSON; no tool needs more, and the stack has an end.
const DEPTH_MAX: usize = 256;

/// Spells a text anew if it is JSON.
pub(crate) fn respell(text: &str) -> Option<String> {
    let mut reader = Reader { text, at: 0 };
    reader.skip_space();
    let json = reader.value(0)?;
    reader.skip_space();
    if reader.at < text.len() {
        return None;
    }
    let mut spelled = String::with_capacity(text.len() + text.len() / 8);
    json.spell(&mut spelled);
    Some(spelled)
}

/// Spells a value, appending to `out`.
pub(crate) fn spell(value: &Value, out: &mut String) {
    spell_value(value, spell_number, out);
}

/// As [`spell`], with numbers as they were read: they stay JSON, and within bounds that a rounded
/// one would reach.
pub(crate) fn spell_exactly(value: &Value, out: &mut String) {
    spell_value(value, |literal, out| out.push_str(literal), out);
}

fn spell_value(value: &Value, number: fn(&str, &mut String), out: &mut String) {
    match value {
        Value::Null => out.push_str("null"),
        Value::Bool(true) => out.push_str("true"),
        Value::Bool(false) => out.push_str("false"),
        Value::Number(literal) => number(&literal.to_string(), out),
        Value::String(text) => spell_string(text, out),
        Value::Array(items) => {
            spell_items(items, '[', ']', out, |item, out| spell_value(item, number, out));
        }
        Value::Object(members) => spell_items(members, '{', '}', out, |(key, value), out| {
            spell_string(key, out);
            out.push_str(": ");
            spell_value(value, number, out);
        }),
    }
}

/// Spells a text with quotes, appending to `out`.
pub(crate) fn spell_string(text: &str, out: &mut String) {
    out.push('"');
    for character in text.chars() {
        match character {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            control @ '\0'..='\u{1f}' => {
                out.push_str(&format!("\\u{:04x}", u32::from(control)));
            }
            other => out.push(other),
        }
    }
    out.push('"');
}

fn spell_items<T>(
    items: impl IntoIterator<Item = T>,
    open: char,
    close: char,
    out: &mut String,
    spell_one: impl Fn(T, &mut String),
) {
    out.push(open);
    for (index, item) in items.into_iter().enumerate() {
        if index > 0 {
            out.push_str(", ");
        }
        spell_one(item, out);
    }
    out.push(close);
}

fn spell_number(literal: &str, out: &mut String) {
    if literal.contains(['.', 'e', 'E']) {
        match literal.parse::<f64>() {
            Ok(number) => spell_float(number, out),
            Err(_) => out.push_str(literal),
        }
    } else if literal == "-0" {
        out.push('0');
    } else {
        out.push_str(literal);
    }
}

/// Python's `repr`: the shortest digits that read back the same, with an exponent below 1e-4 and
/// from 1e16 on.
fn spell_float(number: f64, out: &mut String) {
    if !number.is_finite() {
        let name = if number > 0.0 { "Infinity" } else { "-Infinity" };
        return out.push_str(if number.is_nan() { "NaN" } else { name });
    }
    let scientific = format!("{number:e}");
    let exponent = scientific.split_once('e').and_then(|(_, e)| e.parse::<i32>().ok()).unwrap_or(0);
    if (-4..16).contains(&exponent) {
        let plain = format!("{number}");
        out.push_str(&plain);
        if !plain.contains('.') {
            out.push_str(".0");
        }
        return;
    }
    let mantissa = scientific.split('e').next().unwrap_or_default();
    let sign = if exponent < 0 { '-' } else { '+' };
    out.push_str(&format!("{mantissa}e{sign}{:02}", exponent.abs()));
}

/// A value as read; numbers and names are spelled already.
enum Json {
    Spelled(String),
    Text(String),
    List(Vec<Self>),
    Members(Vec<(String, Self)>),
}

impl Json {
    fn spell(&self, out: &mut String) {
        match self {
            Self::Spelled(text) => out.push_str(text),
            Self::Text(text) => spell_string(text, out),
            Self::List(items) => spell_items(items, '[', ']', out, Self::spell),
            Self::Members(members) => {
                spell_items(members, '{', '}', out, |(key, value), out| {
                    spell_string(key, out);
                    out.push_str(": ");
                    value.spell(out);
                });
            }
        }
    }
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
}

impl Reader<'_> {
    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn take(&mut self, expected: &str) -> Option<()> {
        self.text[self.at..].starts_with(expected).then(|| self.at += expected.len())
    }

    fn skip_space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn value(&mut self, depth: usize) -> Option<Json> {
        if depth > DEPTH_MAX {
            return None;
        }
        match self.peek()? {
            b'"' => self.string().map(Json::Text),
            b'[' => self.list(depth),
            b'{' => self.members(depth),
            b'-' | b'0'..=b'9' => self.number(),
            _ => ["null", "true", "false", "NaN", "Infinity"]
                .into_iter()
                .find(|name| self.take(name).is_some())
                .map(|name| Json::Spelled(name.into())),
        }
    }

    fn list(&mut self, depth: usize) -> Option<Json> {
        self.take("[")?;
        let mut items = Vec::new();
        self.skip_space();
        if self.take("]").is_some() {
            return Some(Json::List(items));
        }
        loop {
            self.skip_space();
            items.push(self.value(depth + 1)?);
            self.skip_space();
            if self.take("]").is_some() {
                return Some(Json::List(items));
            }
            self.take(",")?;
        }
    }

    fn members(&mut self, depth: usize) -> Option<Json> {
        self.take("{")?;
        let mut members: Vec<(String, Json)> = Vec::new();
        let mut places: HashMap<String, usize> = HashMap::new();
        self.skip_space();
        if self.take("}").is_some() {
            return Some(Json::Members(members));
        }
        loop {
            self.skip_space();
            let key = self.string()?;
            self.skip_space();
            self.take(":")?;
            self.skip_space();
            let value = self.value(depth + 1)?;
            // A key that comes again keeps its first place and gets its last value.
            match places.get(&key) {
                Some(&place) => members[place].1 = value,
                None => {
                    places.insert(key.clone(), members.len());
                    members.push((key, value));
                }
            }
            self.skip_space();
            if self.take("}").is_some() {
                return Some(Json::Members(members));
            }
            self.take(",")?;
        }
    }

    fn number(&mut self) -> Option<Json> {
        if self.take("-Infinity").is_some() {
            return Some(Json::Spelled("-Infinity".into()));
        }
        let start = self.at;
        let _ = self.take("-");
        match self.peek()? {
            b'0' => self.at += 1,
            b'1'..=b'9' => self.skip_digits(),
            _ => return None,
        }
        // A point or an exponent without digits is not part of the number, and an error behind it.
        self.take_with_digits(&["."]);
        self.take_with_digits(&["e+", "e-", "E+", "E-", "e", "E"]);
        let mut spelled = String::new();
        spell_number(&self.text[start..self.at], &mut spelled);
        Some(Json::Spelled(spelled))
    }

    fn skip_digits(&mut self) {
        while matches!(self.peek(), Some(b'0'..=b'9')) {
            self.at += 1;
        }
    }

    fn take_with_digits(&mut self, leads: &[&str]) {
        let before = self.at;
        if leads.iter().any(|lead| self.take(lead).is_some()) {
            let digits = self.at;
            self.skip_digits();
            if self.at == digits {
                self.at = before;
            }
        }
    }

    fn string(&mut self) -> Option<String> {
        self.take("\"")?;
        let mut text = String::new();
        loop {
            let rest = &self.text[self.at..];
            let plain = rest.find(|c: char| c == '"' || c == '\\' || c < ' ')?;
            text.push_str(&rest[..plain]);
            self.at += plain;
            match self.peek()? {
                b'"' => {
                    self.at += 1;
                    return Some(text);
                }
                b'\\' => text.push(self.escape()?),
                _ => return None,
            }
        }
    }

    fn escape(&mut self) -> Option<char> {
        self.take("\\")?;
        let letter = self.peek()?;
        self.at += 1;
        Some(match letter {
            b'"' => '"',
            b'\\' => '\\',
            b'/' => '/',
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => {
                let unit = self.hex()?;
                let before = self.at;
                if (0xd800..0xdc00).contains(&unit) && self.take("\\u").is_some() {
                    match self.hex() {
                        Some(low @ 0xdc00..0xe000) => {
                            let code = 0x10000 + ((unit - 0xd800) << 10) + (low - 0xdc00);
                            return char::from_u32(code);
                        }
                        _ => self.at = before,
                    }
                }
                // Half of a pair is no character; text cannot hold it.
                char::from_u32(unit).unwrap_or(char::REPLACEMENT_CHARACTER)
            }
            _ => return None,
        })
    }

    fn hex(&mut self) -> Option<u32> {
        let digits = self.text.get(self.at..self.at + 4)?;
        if !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return None;
        }
        self.at += 4;
        u32::from_str_radix(digits, 16).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_spelled_as_python_does() {
        for (text, spelled) in [
            (r#" {"a":1,"b":[true,null]} "#, r#"{"a": 1, "b": [true, null]}"#),
            (
                "[0.00001,1e16,1E5,1.50,0.0001,123456789012345.6]",
                "[1e-05, 1e+16, 100000.0, 1.5, 0.0001, 123456789012345.6]",
            ),
            ("[-0,-0.0,1e999,NaN,-Infinity]", "[0, -0.0, Infinity, NaN, -Infinity]"),
            ("123456789012345678901234567890", "123456789012345678901234567890"),
            (r#""\u00e9\ud83d\ude00\u001f\/\u007f""#, "\"é😀\\u001f/\u{7f}\""),
            (r#"{"a":1,"b":2,"a":3}"#, r#"{"a": 3, "b": 2}"#),
            (r#""\ud83dx""#, "\"\u{fffd}x\""),
            ("{ }", "{}"),
            ("1.7976931348623157e308", "1.7976931348623157e+308"),
        ] {
            assert_eq!(respell(text).as_deref(), Some(spelled), "{text}");
        }
    }

    #[test]
    fn what_python_refuses_is_not_json() {
        let deep = "[".repeat(100_000);
        for text in [
            "",
            "01",
            "1.",
            "[1,]",
            "{a:1}",
            "\"a\nb\"",
            "nul",
            "1 2",
            "\u{feff}1",
            "'a'",
            "+1",
            "\"\\x\"",
            "\"\\u12\u{e9}\"",
            &deep,
        ] {
            assert_eq!(respell(text), None, "{text:.20}");
        }
    }

    #[test]
    fn values_keep_their_order_and_their_numbers() {
        let value: Value =
            serde_json::from_str(r#"{"z":1.0,"a":[1E-7,12345678901234567890123]}"#).unwrap();
        let mut out = String::new();
        spell(&value, &mut out);
        assert_eq!(out, r#"{"z": 1.0, "a": [1e-07, 12345678901234567890123]}"#);
    }
}
