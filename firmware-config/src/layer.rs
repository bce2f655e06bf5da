//! One layer of settings: a file, the environment or the flags, flattened to `section.key`.

use toml::de::{DeTable, DeValue};

use crate::{Origin, Problem};

/// A value with the place that it was set at.
#[derive(Debug, Clone)]
pub(crate) struct Item {
    pub(crate) value: Value,
    pub(crate) origin: Origin,
}

/// A value before anyone asked for its type.
#[derive(Debug, Clone)]
pub(crate) enum Value {
    Text(String),
    Integer(i64),
    Float(f64),
    Flag(bool),
    List(Vec<Item>),
    /// Only inside lists: elsewhere tables are flattened.
    Table(Vec<(String, Item)>),
    /// From a variable or a flag, where everything is text.
    Raw(String),
    /// A date, or a number out of range.
    Other(String),
}

impl Value {
    /// As an error shows it: short, on one line, control characters escaped.
    pub(crate) fn shown(&self) -> String {
        match self {
            // What stands before an @ may be a password.
            Self::Text(text) | Self::Raw(text) => match text.rsplit_once('@') {
                Some((_, host)) => format!("\"…@{}\"", shortened(host)),
                None => format!("\"{}\"", shortened(text)),
            },
            Self::Integer(number) => number.to_string(),
            Self::Float(number) => number.to_string(),
            Self::Flag(flag) => flag.to_string(),
            Self::List(_) => "a list".into(),
            Self::Table(_) => "a table".into(),
            Self::Other(text) => shortened(text),
        }
    }
}

/// At most 64 characters of foreign text, safe to print.
pub(crate) fn shortened(text: &str) -> String {
    const SHOWN_CHARACTERS_MAX: usize = 64;
    let mut short: String =
        text.chars().take(SHOWN_CHARACTERS_MAX).flat_map(char::escape_debug).collect();
    if text.chars().nth(SHOWN_CHARACTERS_MAX).is_some() {
        short.push('…');
    }
    short
}

/// Settings of one source, in the order of their keys.
#[derive(Debug, Clone, Default)]
pub(crate) struct Layer(pub(crate) Vec<(String, Item)>);

impl Layer {
    /// Reads a file's text; `place` turns a line number, from 1, into an origin.
    pub(crate) fn parse(text: &str, place: &dyn Fn(u32) -> Origin) -> Result<Self, Problem> {
        let lines = Lines { text, place };
        let table = DeTable::parse(text).map_err(|error| Problem {
            origin: error.span().map_or_else(|| place(0), |span| lines.origin(span.start)),
            message: format!("not valid TOML: {}", error.message().replace('\n', "; ")),
        })?;
        let mut layer = Self::default();
        lines.flatten(table.get_ref(), "", &mut layer);
        Ok(layer)
    }
}

/// Knows which line a byte of the text stands on.
struct Lines<'a> {
    text: &'a str,
    place: &'a dyn Fn(u32) -> Origin,
}

impl Lines<'_> {
    fn origin(&self, byte: usize) -> Origin {
        let before = &self.text.as_bytes()[..byte.min(self.text.len())];
        let line = 1 + before.iter().filter(|byte| **byte == b'\n').count();
        (self.place)(u32::try_from(line).unwrap_or(u32::MAX))
    }

    fn flatten(&self, table: &DeTable<'_>, prefix: &str, layer: &mut Layer) {
        for (key, value) in table {
            let path = match prefix {
                "" => key.get_ref().to_string(),
                _ => format!("{prefix}.{}", key.get_ref()),
            };
            match value.get_ref() {
                DeValue::Table(inner) if !inner.is_empty() => self.flatten(inner, &path, layer),
                DeValue::Table(_) => {}
                other => {
                    let origin = self.origin(key.span().start);
                    layer.0.push((path, Item { value: self.value(other), origin }));
                }
            }
        }
    }

    fn value(&self, value: &DeValue<'_>) -> Value {
        match value {
            DeValue::String(text) => Value::Text(text.to_string()),
            DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix())
                .map_or_else(|_| Value::Other(number.as_str().into()), Value::Integer),
            DeValue::Float(number) => number
                .as_str()
                .parse()
                .map_or_else(|_| Value::Other(number.as_str().into()), Value::Float),
            DeValue::Boolean(flag) => Value::Flag(*flag),
            DeValue::Datetime(date) => Value::Other(date.to_string()),
            DeValue::Array(items) => Value::List(
                items
                    .iter()
                    .map(|item| Item {
                        value: self.value(item.get_ref()),
                        origin: self.origin(item.span().start),
                    })
                    .collect(),
            ),
            DeValue::Table(table) => Value::Table(
                table
                    .iter()
                    .map(|(key, value)| {
                        let origin = self.origin(key.span().start);
                        (
                            key.get_ref().to_string(),
                            Item { value: self.value(value.get_ref()), origin },
                        )
                    })
                    .collect(),
            ),
        }
    }
}

/// A list written in a variable or a flag: `["a", "b"]` as in a file, or `a,b`.
pub(crate) fn raw_list(text: &str, origin: &Origin) -> Option<Vec<Item>> {
    if !text.trim_start().starts_with('[') {
        let words = text.split(',').map(str::trim).filter(|word| !word.is_empty());
        return Some(
            words
                .map(|word| Item { value: Value::Text(word.into()), origin: origin.clone() })
                .collect(),
        );
    }
    let layer = Layer::parse(&format!("list = {text}"), &|_| origin.clone()).ok()?;
    match layer.0.into_iter().next() {
        Some((key, Item { value: Value::List(items), .. })) if key == "list" => Some(items),
        _ => None,
    }
}
