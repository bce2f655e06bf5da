//! Function calls in an answer: what comes behind the control token that announces them.

use protocol::ToolCall;
use serde::Deserialize;
use serde_json::Value;

use crate::python_json;

/// Bytes of calls in one answer; what goes on longer is text.
const CALLS_BYTES_MAX: usize = 1 << 20;
/// Letters and digits of an id.
pub(crate) const ID_CHARACTERS: usize = 9;

/// Collects the JSON of calls and knows when it is whole.
#[derive(Debug, Default)]
pub(crate) struct Calls {
    pub(crate) text: String,
    scanned: usize,
    depth: usize,
    in_string: bool,
    is_escaped: bool,
    is_whole: bool,
    /// Where the last whole call of a list ends.
    last_end: usize,
}

impl Calls {
    /// Looks at what was appended to `text`; whether nothing more is to be expected.
    pub(crate) fn is_whole(&mut self) -> bool {
        for (at, &byte) in self.text.as_bytes().iter().enumerate().skip(self.scanned) {
            match byte {
                _ if self.is_escaped => self.is_escaped = false,
                b'\\' if self.in_string => self.is_escaped = true,
                b'"' => self.in_string = !self.in_string,
                _ if self.in_string => {}
                b'[' | b'{' => self.depth += 1,
                b']' | b'}' => {
                    self.depth = self.depth.saturating_sub(1);
                    self.is_whole |= self.depth == 0;
                    if self.depth == 1 && byte == b'}' {
                        self.last_end = at + 1;
                    }
                }
                _ => {}
            }
        }
        self.scanned = self.text.len();
        self.is_whole || self.scanned > CALLS_BYTES_MAX
    }

    /// The list as far as its calls are whole, for an answer that was cut off inside of it.
    pub(crate) fn into_whole(mut self) -> String {
        if !self.is_whole() {
            self.text.truncate(self.last_end);
            if self.last_end > 0 {
                self.text.push(']');
            }
        }
        self.text
    }
}

#[derive(Deserialize)]
struct Call {
    name: String,
    #[serde(default)]
    arguments: Value,
    #[serde(default)]
    id: Value,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum List {
    Many(Vec<Call>),
    One(Call),
}

/// The calls in `text`; `None` where it is not a list of them.
pub(crate) fn parse(text: &str, ids: &mut Ids) -> Option<Vec<ToolCall>> {
    let calls = match serde_json::from_str(text).ok()? {
        List::Many(calls) => calls,
        List::One(call) => vec![call],
    };
    if calls.is_empty() {
        return None;
    }
    let call = |call: Call| {
        let arguments = match call.arguments {
            Value::Null => "{}".to_owned(),
            // Some models spell the arguments as JSON inside a string.
            Value::String(text) => text,
            value => {
                let mut spelled = String::new();
                python_json::spell_exactly(&value, &mut spelled);
                spelled
            }
        };
        let id = ids.next(call.id.as_str());
        ToolCall { id, name: call.name, arguments }
    };
    Some(calls.into_iter().map(call).collect())
}

/// Whether an id is what the models of the family write: nine letters and digits.
pub(crate) fn is_id(id: &str) -> bool {
    id.len() == ID_CHARACTERS && id.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

/// Names the calls of one answer; the same prompt gets the same names.
#[derive(Debug)]
pub(crate) struct Ids {
    seed: u64,
    given: Vec<String>,
}

impl Ids {
    pub(crate) fn new(seed: u64) -> Self {
        Self { seed, given: Vec::new() }
    }

    /// The model's own id where it is good and not taken, else a new one.
    fn next(&mut self, own: Option<&str>) -> String {
        let own = own.filter(|id| is_id(id) && !self.given.iter().any(|given| given == id));
        let id = own.map_or_else(|| self.fresh(), str::to_owned);
        self.given.push(id.clone());
        id
    }

    fn fresh(&mut self) -> String {
        const DIGITS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
        // SplitMix64; Steele, Lea and Flood 2014.
        self.seed = self.seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.seed;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^= bits >> 31;
        let digit = |_| {
            let digit = DIGITS[(bits % 62) as usize];
            bits /= 62;
            char::from(digit)
        };
        (0..ID_CHARACTERS).map(digit).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_keep_good_ids_and_get_new_ones_otherwise() {
        let text = r#"[{"name": "f", "arguments": {"x":[1.0,"é"]}, "id": "abcDEF123"}, {"name": "g"}, {"name": "h", "arguments": "{}", "id": "abcDEF123"}]"#;
        let calls = parse(text, &mut Ids::new(7)).unwrap();
        assert_eq!(calls[0].id, "abcDEF123");
        assert_eq!(calls[0].arguments, r#"{"x": [1.0, "é"]}"#);
        assert_eq!((calls[1].name.as_str(), calls[1].arguments.as_str()), ("g", "{}"));
        assert!(is_id(&calls[1].id) && is_id(&calls[2].id));
        assert_ne!(calls[0].id, calls[2].id);
        assert_eq!(parse(text, &mut Ids::new(7)).unwrap(), calls);
    }

    #[test]
    fn numbers_of_arguments_stay_as_they_were_written() {
        let arguments = r#"{"x": [1e+999, -1e+999, 0.99999999999999999999, 1.0, -0, 1e+5]}"#;
        let text = format!(r#"[{{"name": "f", "arguments": {arguments}}}]"#);
        let calls = parse(&text, &mut Ids::new(7)).unwrap();
        assert_eq!(calls[0].arguments, arguments);
    }

    #[test]
    fn list_is_whole_at_its_last_bracket() {
        let mut calls = Calls::default();
        let text = r#" [{"name": "f", "arguments": {"x": "]\"}"}}]"#;
        for (at, character) in text.char_indices() {
            calls.text.push(character);
            assert_eq!(calls.is_whole(), at + 1 == text.len());
        }
    }

    #[test]
    fn a_list_that_was_cut_off_keeps_its_whole_calls() {
        let text = r#"[{"name": "f", "arguments": {"x": {}}}, {"name": "g", "argu"#;
        let cut = |text: &str| Calls { text: text.into(), ..Calls::default() }.into_whole();
        assert_eq!(cut(text), r#"[{"name": "f", "arguments": {"x": {}}}]"#);
        assert_eq!(cut(r#"[{"name": "f", "arguments": {"x": 12"#), "");
        assert_eq!(cut(r#"{"name": "f"}"#), r#"{"name": "f"}"#);
    }

    #[test]
    fn what_is_no_list_of_calls_is_none() {
        for text in ["", "[]", "hello", r#"{"arguments": {}}"#, r#"[{"name": 1}]"#] {
            assert_eq!(parse(text, &mut Ids::new(0)), None, "{text}");
        }
    }
}
