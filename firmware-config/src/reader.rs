//! Takes settings out of the merged layers, one typed key at a time.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use crate::amount::{bytes_text, parse_bytes};
use crate::layer::{Item, Layer, Value, raw_list, shortened};
use crate::secret::Secret;
use crate::{Origin, Problem, Setting};

/// Asking for a key makes it known; a wrong value becomes a problem and reads as the default, so
/// that one pass finds everything.
#[derive(Debug, Default)]
pub(crate) struct Reader {
    items: BTreeMap<String, Item>,
    known: Vec<String>,
    settings: Vec<Setting>,
    pub(crate) problems: Vec<Problem>,
    pub(crate) warnings: Vec<Problem>,
}

impl Reader {
    /// Puts a layer over the ones before it.
    pub(crate) fn overlay(&mut self, layer: Layer) {
        self.items.extend(layer.0);
    }

    /// A whole number.
    pub(crate) fn count(&mut self, key: &str, default: u32, range: RangeInclusive<u32>) -> u32 {
        let expected = match range.start() == range.end() {
            true => range.start().to_string(),
            false => format!("a whole number from {} to {}", range.start(), range.end()),
        };
        self.value(key, default, &expected, u32::to_string, |value| {
            let number = match value {
                Value::Integer(number) => u32::try_from(*number).ok()?,
                Value::Raw(text) => text.parse().ok()?,
                _ => return None,
            };
            range.contains(&number).then_some(number)
        })
    }

    /// An amount of bytes.
    pub(crate) fn bytes(&mut self, key: &str, default: u64, range: RangeInclusive<u64>) -> u64 {
        let expected = format!(
            "an amount such as \"768 MiB\" from {} to {}",
            bytes_text(*range.start()),
            bytes_text(*range.end()),
        );
        let shown = |bytes: &u64| quoted(&bytes_text(*bytes));
        self.value(key, default, &expected, shown, |value| {
            let bytes = match value {
                Value::Integer(number) => u64::try_from(*number).ok()?,
                Value::Text(text) | Value::Raw(text) => parse_bytes(text)?,
                _ => return None,
            };
            range.contains(&bytes).then_some(bytes)
        })
    }

    /// An amount of bytes that stays below 4 GiB.
    pub(crate) fn bytes_u32(&mut self, key: &str, default: u32, range: RangeInclusive<u32>) -> u32 {
        let wide = u64::from(*range.start())..=u64::from(*range.end());
        let bytes = self.bytes(key, u64::from(default), wide);
        u32::try_from(bytes).expect("the range ends below 4 GiB")
    }

    /// A number with a fraction, if it is there.
    pub(crate) fn number(&mut self, key: &str, range: RangeInclusive<f64>) -> Option<f64> {
        self.optional(key, &a_number(&range), f64::to_string, |value| number_in(value, &range))
    }

    /// A number, or else the default.
    pub(crate) fn number_or(&mut self, key: &str, default: f64, range: RangeInclusive<f64>) -> f64 {
        self.value(key, default, &a_number(&range), f64::to_string, |value| {
            number_in(value, &range)
        })
    }

    /// Milliseconds.
    pub(crate) fn milliseconds(
        &mut self,
        key: &str,
        default: u32,
        range: RangeInclusive<u32>,
    ) -> Duration {
        Duration::from_millis(u64::from(self.count(key, default, range)))
    }

    /// Yes or no.
    pub(crate) fn flag(&mut self, key: &str, default: bool) -> bool {
        self.value(key, default, "true or false", bool::to_string, |value| match value {
            Value::Flag(flag) => Some(*flag),
            Value::Raw(text) => text.parse().ok(),
            _ => None,
        })
    }

    /// A text that `accepts`, if it is there.
    pub(crate) fn text(
        &mut self,
        key: &str,
        expected: &str,
        accepts: impl Fn(&str) -> bool,
    ) -> Option<String> {
        self.optional(
            key,
            expected,
            |text: &String| quoted(text),
            |value| text_of(value).filter(|text| accepts(text)).map(str::to_owned),
        )
    }

    /// A text that `accepts`.
    pub(crate) fn text_or(
        &mut self,
        key: &str,
        default: &str,
        expected: &str,
        accepts: impl Fn(&str) -> bool,
    ) -> String {
        let shown = |text: &String| quoted(text);
        self.value(key, default.to_owned(), expected, shown, |value| {
            text_of(value).filter(|text| accepts(text)).map(str::to_owned)
        })
    }

    /// One word of a table, and what it stands for.
    pub(crate) fn choice<T: Copy>(&mut self, key: &str, words: &[(&str, T)]) -> T {
        let list = words.iter().map(|(word, _)| *word).collect::<Vec<_>>().join(", ");
        let accepts = |text: &str| words.iter().any(|(word, _)| *word == text);
        let word = self.text_or(key, words[0].0, &format!("one of {list}"), accepts);
        let chosen = words.iter().find(|(known, _)| *known == word);
        chosen.expect("only words of the table are accepted").1
    }

    /// A path, if it is there.
    pub(crate) fn path(&mut self, key: &str) -> Option<PathBuf> {
        self.text(key, "a path", |text| !text.is_empty() && !text.contains('\0')).map(PathBuf::from)
    }

    /// An address with a port.
    pub(crate) fn address(&mut self, key: &str, default: &str) -> SocketAddr {
        let default = SocketAddr::from_str(default).expect("defaults are addresses");
        let expected = "an address with a port, such as \"127.0.0.1:8080\"";
        self.value(
            key,
            default,
            expected,
            |address| quoted(&address.to_string()),
            |value| text_of(value)?.parse().ok(),
        )
    }

    /// Texts, each of which `accepts`.
    pub(crate) fn texts(
        &mut self,
        key: &str,
        expected: &str,
        items_max: usize,
        accepts: impl Fn(&str) -> bool,
    ) -> Vec<String> {
        let expected = format!("a list of at most {items_max}, each {expected}");
        let shown = |texts: &Vec<String>| {
            format!("[{}]", texts.iter().map(|text| quoted(text)).collect::<Vec<_>>().join(", "))
        };
        let Some(items) = self.items_of(key, &expected, items_max) else {
            self.note(key, Some(shown(&Vec::new())), Origin::Default);
            return Vec::new();
        };
        let mut texts = Vec::with_capacity(items.1.len());
        for item in &items.1 {
            match text_of(&item.value).filter(|text| accepts(text)) {
                Some(text) => texts.push(text.to_owned()),
                None => self.refuse(key, item, &expected),
            }
        }
        self.note(key, Some(shown(&texts)), items.0);
        texts
    }

    /// Tables of a list, each with its origin; the caller reads what is in them.
    pub(crate) fn tables(&mut self, key: &str, items_max: usize) -> Vec<(Layer, Origin)> {
        let expected = format!("a list of at most {items_max} tables");
        let Some((origin, items)) = self.items_of(key, &expected, items_max) else {
            self.note(key, Some("[]".into()), Origin::Default);
            return Vec::new();
        };
        self.note(key, Some(format!("[{} tables]", items.len())), origin);
        let mut tables = Vec::with_capacity(items.len());
        for item in items {
            match item.value {
                Value::Table(entries) => tables.push((Layer(entries), item.origin)),
                _ => self.refuse(key, &item, &expected),
            }
        }
        tables
    }

    /// A secret: the credential of this name, else the file that `<key>_file` names, else the
    /// environment.
    pub(crate) fn secret(&mut self, key: &str, credentials: Option<&Path>) -> Option<Secret> {
        let file_key = format!("{key}_file");
        let file = self.path(&file_key);
        self.known.push(key.to_owned());
        let variable = self.items.remove(key);
        let credential = credentials.map(|directory| directory.join(key));
        let found = if let Some(path) = credential.filter(|path| path.exists()) {
            // The service supervisor guards this folder by access lists, which widen the mode.
            Some((crate::secret::read_file(&path, false), Origin::Credential(path)))
        } else if let Some(path) = file {
            Some((crate::secret::read_file(&path, true), self.origin_of(&file_key)))
        } else {
            variable.map(|item| {
                self.warnings.push(Problem {
                    origin: item.origin.clone(),
                    message: format!(
                        "other programs can read {key} here; use {file_key} or a credential"
                    ),
                });
                let secret = text_of(&item.value).unwrap_or_default();
                (Ok(Secret::new(secret)), item.origin)
            })
        };
        let (secret, origin) = match found {
            Some((Ok(secret), origin)) => (Some(secret), origin),
            Some((Err(message), origin)) => {
                self.problem(origin.clone(), format!("{key}: {message}"));
                (None, origin)
            }
            None => (None, Origin::Default),
        };
        self.note(key, secret.as_ref().map(|_| "********".into()), origin);
        secret
    }

    /// Where a key that was asked for was set.
    pub(crate) fn origin_of(&self, key: &str) -> Origin {
        let setting = self.settings.iter().rev().find(|setting| setting.key == key);
        setting.map_or(Origin::Default, |setting| setting.origin.clone())
    }

    /// Notes what is wrong.
    pub(crate) fn problem(&mut self, origin: Origin, message: impl Into<String>) {
        self.problems.push(Problem { origin, message: message.into() });
    }

    /// What nobody asked for.
    pub(crate) fn unread(&mut self) -> Layer {
        Layer(std::mem::take(&mut self.items).into_iter().collect())
    }

    /// Makes problems of what nobody asked for, and gives back the rest of the result.
    pub(crate) fn finish(mut self) -> (Vec<Setting>, Vec<Problem>, Vec<Problem>) {
        for (key, item) in self.unread().0 {
            let message = crate::nearest::unknown_key(&key, &self.known);
            self.problem(item.origin, message);
        }
        (self.settings, self.problems, self.warnings)
    }

    fn value<T>(
        &mut self,
        key: &str,
        default: T,
        expected: &str,
        shown: impl Fn(&T) -> String,
        read: impl FnOnce(&Value) -> Option<T>,
    ) -> T {
        let (value, origin) = match self.found(key, expected, read) {
            Some((value, origin)) => (value, origin),
            None => (default, Origin::Default),
        };
        self.note(key, Some(shown(&value)), origin);
        value
    }

    fn optional<T>(
        &mut self,
        key: &str,
        expected: &str,
        shown: impl Fn(&T) -> String,
        read: impl FnOnce(&Value) -> Option<T>,
    ) -> Option<T> {
        let found = self.found(key, expected, read);
        let (text, origin) = match &found {
            Some((value, origin)) => (Some(shown(value)), origin.clone()),
            None => (None, Origin::Default),
        };
        self.note(key, text, origin);
        found.map(|(value, _)| value)
    }

    fn found<T>(
        &mut self,
        key: &str,
        expected: &str,
        read: impl FnOnce(&Value) -> Option<T>,
    ) -> Option<(T, Origin)> {
        let item = self.take(key)?;
        match read(&item.value) {
            Some(value) => Some((value, item.origin)),
            None => {
                self.refuse(key, &item, expected);
                None
            }
        }
    }

    fn items_of(
        &mut self,
        key: &str,
        expected: &str,
        items_max: usize,
    ) -> Option<(Origin, Vec<Item>)> {
        let item = self.take(key)?;
        let items = match &item.value {
            Value::List(items) => Some(items.clone()),
            Value::Raw(text) => raw_list(text, &item.origin),
            _ => None,
        };
        match items {
            Some(items) if items.len() <= items_max => Some((item.origin, items)),
            _ => {
                self.refuse(key, &item, expected);
                None
            }
        }
    }

    fn take(&mut self, key: &str) -> Option<Item> {
        self.known.push(key.to_owned());
        self.items.remove(key)
    }

    fn refuse(&mut self, key: &str, item: &Item, expected: &str) {
        let message = format!("{key} is {}; expected {expected}", item.value.shown());
        self.problem(item.origin.clone(), message);
    }

    fn note(&mut self, key: &str, value: Option<String>, origin: Origin) {
        self.settings.push(Setting { key: key.to_owned(), value, origin });
    }
}

fn text_of(value: &Value) -> Option<&str> {
    match value {
        Value::Text(text) | Value::Raw(text) => Some(text),
        _ => None,
    }
}

fn quoted(text: &str) -> String {
    format!("\"{}\"", shortened(text))
}

fn a_number(range: &RangeInclusive<f64>) -> String {
    format!("a number from {} to {}", range.start(), range.end())
}

fn number_in(value: &Value, range: &RangeInclusive<f64>) -> Option<f64> {
    let number = match value {
        Value::Float(number) => *number,
        Value::Integer(number) => *number as f64,
        Value::Raw(text) => text.parse().ok()?,
        _ => return None,
    };
    range.contains(&number).then_some(number)
}
