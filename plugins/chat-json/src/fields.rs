//! Reading the members of one JSON object: types, ranges, and what nobody knows.

use std::fmt;
use std::ops::RangeInclusive;

use protocol::{Fault, FaultCode};
use serde_json::{Map, Value};

/// What happens to a field that the dialect does not have.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Strictness {
    /// It is ignored, and listed in [`Chat::ignored`](crate::Chat::ignored).
    #[default]
    Lenient,
    /// The request is refused, as Mistral's own service does, with 422 `extra_forbidden`.
    MistralStrict,
}

/// The message of an unknown field under [`Strictness::MistralStrict`].
pub(crate) const EXTRA_FORBIDDEN: &str = "Extra inputs are not permitted";

/// Longest name of a field that an answer repeats, in bytes.
const NAME_BYTES_MAX: usize = 64;

/// Most ignored fields that are listed.
const IGNORED_MAX: usize = 32;

/// What is noted while a body is read.
#[derive(Debug, Default)]
pub(crate) struct Notes {
    pub(crate) strictness: Strictness,
    pub(crate) ignored: Vec<String>,
}

impl Notes {
    pub(crate) fn new(strictness: Strictness) -> Self {
        Self { strictness, ignored: Vec::new() }
    }

    pub(crate) fn is_strict(&self) -> bool {
        self.strictness == Strictness::MistralStrict
    }

    /// Notes a field that has no effect here, once.
    pub(crate) fn ignore(&mut self, path: String) {
        if self.ignored.len() < IGNORED_MAX && !self.ignored.contains(&path) {
            self.ignored.push(path);
        }
    }
}

/// A JSON object and where it stands in the body.
#[derive(Debug, Clone)]
pub(crate) struct Fields<'a> {
    object: &'a Map<String, Value>,
    path: String,
}

impl<'a> Fields<'a> {
    /// `path` is empty for the body itself.
    pub(crate) fn of(value: &'a Value, path: impl Into<String>) -> Result<Self, Fault> {
        let path = path.into();
        match value {
            Value::Object(object) => Ok(Self { object, path }),
            other if path.is_empty() => Err(Fault::bad_request(format!(
                "the body must be a JSON object, not {}",
                kind(other)
            ))),
            other => Err(wrong_type(other, "an object", path)),
        }
    }

    /// Where the member `name` stands in the body.
    pub(crate) fn path_of(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) }
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.object.contains_key(name)
    }

    /// The member `name`; `null` counts as absent.
    pub(crate) fn value(&self, name: &str) -> Option<&'a Value> {
        self.object.get(name).filter(|value| !value.is_null())
    }

    pub(crate) fn string(&self, name: &str) -> Result<Option<&'a str>, Fault> {
        match self.value(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(wrong_type(other, "a string", self.path_of(name))),
        }
    }

    pub(crate) fn required_string(&self, name: &str) -> Result<&'a str, Fault> {
        self.string(name)?.ok_or_else(|| self.missing(name))
    }

    pub(crate) fn flag(&self, name: &str) -> Result<Option<bool>, Fault> {
        match self.value(name) {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(*flag)),
            Some(other) => Err(wrong_type(other, "true or false", self.path_of(name))),
        }
    }

    pub(crate) fn list(&self, name: &str, items_max: usize) -> Result<Option<&'a [Value]>, Fault> {
        match self.value(name) {
            None => Ok(None),
            Some(Value::Array(items)) if items.len() > items_max => Err(invalid(
                format!("{} items; at most {items_max} are accepted", items.len()),
                self.path_of(name),
            )),
            Some(Value::Array(items)) => Ok(Some(items)),
            Some(other) => Err(wrong_type(other, "a list", self.path_of(name))),
        }
    }

    pub(crate) fn object(&self, name: &str) -> Result<Option<Self>, Fault> {
        self.value(name).map(|value| Self::of(value, self.path_of(name))).transpose()
    }

    pub(crate) fn number(
        &self,
        name: &str,
        range: RangeInclusive<f64>,
    ) -> Result<Option<f32>, Fault> {
        let Some(value) = self.value(name) else {
            return Ok(None);
        };
        let path = self.path_of(name);
        let Value::Number(number) = value else {
            return Err(wrong_type(value, "a number", path));
        };
        // Compared before it is rounded: 2.0000000001 is no 2.
        match number.as_f64().filter(|found| range.contains(found)) {
            Some(found) => Ok(Some(found as f32)),
            None => {
                Err(invalid(format!("must be between {} and {}", range.start(), range.end()), path))
            }
        }
    }

    /// A whole number, also where it is written as `16.0`.
    pub(crate) fn integer(
        &self,
        name: &str,
        range: RangeInclusive<i64>,
    ) -> Result<Option<i64>, Fault> {
        let Some(value) = self.value(name) else {
            return Ok(None);
        };
        let path = self.path_of(name);
        let Value::Number(number) = value else {
            return Err(wrong_type(value, "a whole number", path));
        };
        // Up to 2^53 every whole f64 is the number that was written.
        let whole = |found: f64| found.fract() == 0.0 && found.abs() <= 9_007_199_254_740_992.0;
        let found = number
            .as_i64()
            .or_else(|| number.as_f64().filter(|found| whole(*found)).map(|found| found as i64));
        match found.filter(|found| range.contains(found)) {
            Some(found) => Ok(Some(found)),
            None => Err(invalid(
                format!("must be a whole number between {} and {}", range.start(), range.end()),
                path,
            )),
        }
    }

    pub(crate) fn missing(&self, name: &str) -> Fault {
        invalid("field required", self.path_of(name))
    }

    /// Refuses or notes every member that is not in `known`.
    pub(crate) fn only(&self, known: &[&str], notes: &mut Notes) -> Result<(), Fault> {
        for (name, value) in self.object {
            if known.contains(&name.as_str()) {
                continue;
            }
            let path = self.path_of(&spelled_plain(name));
            if notes.is_strict() {
                return Err(invalid(EXTRA_FORBIDDEN, path));
            }
            // SDKs send their whole message object back, unused members as null.
            if !value.is_null() {
                notes.ignore(path);
            }
        }
        Ok(())
    }
}

/// A field has a wrong type or value.
pub(crate) fn invalid(message: impl fmt::Display, path: impl Into<String>) -> Fault {
    at_field(FaultCode::InvalidField, message, path)
}

/// A field asks for what this build does not do.
pub(crate) fn unsupported(message: impl fmt::Display, path: impl Into<String>) -> Fault {
    at_field(FaultCode::Unsupported, message, path)
}

/// Most clients show the message alone, so it names the field too.
fn at_field(code: FaultCode, message: impl fmt::Display, path: impl Into<String>) -> Fault {
    let path = path.into();
    Fault::new(code, format!("{path}: {message}")).at(path)
}

pub(crate) fn wrong_type(found: &Value, wanted: &str, path: impl Into<String>) -> Fault {
    invalid(format!("must be {wanted}, not {}", kind(found)), path)
}

/// A short name of a value's type.
pub(crate) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// A foreign name in quotes, or a stand-in where it does not look like a name.
pub(crate) fn spelled(name: &str) -> String {
    if is_name(name) { format!("'{name}'") } else { "(unprintable)".to_owned() }
}

fn spelled_plain(name: &str) -> String {
    if is_name(name) { name.to_owned() } else { "(unprintable)".to_owned() }
}

fn is_name(name: &str) -> bool {
    (1..=NAME_BYTES_MAX).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte))
}
