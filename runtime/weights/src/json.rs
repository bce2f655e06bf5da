//! Small JSON documents beside the weights, each key once.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::marker::PhantomData;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::{self, DeserializeOwned, Deserializer, MapAccess, Visitor};
use serde_json::Value;

use crate::WeightsError;

const KEYS_MAX: usize = 65_536;
/// A document is read whole; a real index of 123 billion parameters has 80 KB.
const DOCUMENT_BYTES_MAX: u64 = 16 << 20;

/// A map whose keys are there once.
#[derive(Debug)]
pub(crate) struct Once<V>(pub(crate) BTreeMap<String, V>);

impl<'de, V: Deserialize<'de>> Deserialize<'de> for Once<V> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Keys<V>(PhantomData<V>);
        impl<'de, V: Deserialize<'de>> Visitor<'de> for Keys<V> {
            type Value = Once<V>;

            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(out, "an object with at most {KEYS_MAX} keys")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Once<V>, A::Error> {
                let mut once = BTreeMap::new();
                while let Some((key, value)) = map.next_entry::<String, V>()? {
                    if once.len() == KEYS_MAX {
                        return Err(de::Error::invalid_length(KEYS_MAX + 1, &self));
                    }
                    let shown: String = key.chars().take(60).collect();
                    if once.insert(key, value).is_some() {
                        return Err(de::Error::custom(format!("`{shown}` is there twice")));
                    }
                }
                Ok(Once(once))
            }
        }
        deserializer.deserialize_map(Keys(PhantomData))
    }
}

/// Reads and parses a document.
pub(crate) fn read<T: DeserializeOwned>(path: &Path) -> Result<T, WeightsError> {
    let failed = |source| WeightsError::Io { path: path.to_owned(), doing: "read", source };
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(failed)?;
    file.take(DOCUMENT_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > DOCUMENT_BYTES_MAX {
        return Err(WeightsError::Limit {
            path: path.to_owned(),
            what: "the length of the document in bytes".into(),
            found: bytes.len() as u64,
            limit: DOCUMENT_BYTES_MAX,
        });
    }
    serde_json::from_slice(&bytes).map_err(|error| WeightsError::Malformed {
        path: path.to_owned(),
        at: "the document".into(),
        problem: error.to_string(),
    })
}

/// A JSON object with errors in its own spelling. `null` counts as absent.
#[derive(Debug)]
pub(crate) struct Document {
    pub(crate) path: PathBuf,
    values: BTreeMap<String, Value>,
}

impl Document {
    pub(crate) fn open(path: PathBuf) -> Result<Self, WeightsError> {
        let Once(values) = read(&path)?;
        Ok(Self { path, values })
    }

    pub(crate) fn value(&self, key: &str) -> Option<&Value> {
        self.values.get(key).filter(|value| !value.is_null())
    }

    /// Whether the key is there, even as `null`.
    pub(crate) fn states(&self, key: &str) -> bool {
        self.values.contains_key(key)
    }

    pub(crate) fn wrong(&self, key: &str, expected: impl Into<String>) -> WeightsError {
        let found = self.value(key).map_or_else(|| "missing".to_owned(), Value::to_string);
        WeightsError::WrongValue {
            path: self.path.clone(),
            key: key.to_owned(),
            found: found.chars().take(60).collect(),
            expected: expected.into(),
        }
    }

    pub(crate) fn missing(&self, key: &str) -> WeightsError {
        WeightsError::MissingKey { path: self.path.clone(), key: key.to_owned() }
    }

    pub(crate) fn unsupported(&self, what: impl Into<String>, advice: &str) -> WeightsError {
        let path = self.path.clone();
        WeightsError::Unsupported { path, what: what.into(), advice: advice.into() }
    }

    pub(crate) fn text(&self, key: &str) -> Result<Option<&str>, WeightsError> {
        let Some(value) = self.value(key) else {
            return Ok(None);
        };
        value.as_str().map(Some).ok_or_else(|| self.wrong(key, "a text"))
    }

    pub(crate) fn bool(&self, key: &str) -> Result<Option<bool>, WeightsError> {
        let Some(value) = self.value(key) else {
            return Ok(None);
        };
        value.as_bool().map(Some).ok_or_else(|| self.wrong(key, "true or false"))
    }

    pub(crate) fn number(&self, key: &str) -> Result<Option<f64>, WeightsError> {
        let Some(value) = self.value(key) else {
            return Ok(None);
        };
        value.as_f64().map(Some).ok_or_else(|| self.wrong(key, "a number"))
    }

    /// A count from 1 to `limit`.
    pub(crate) fn count(&self, key: &str, limit: u32) -> Result<Option<u32>, WeightsError> {
        let Some(value) = self.value(key) else {
            return Ok(None);
        };
        let count = value.as_u64().and_then(|count| u32::try_from(count).ok());
        let count = count.filter(|count| (1..=limit).contains(count));
        count.map(Some).ok_or_else(|| self.wrong(key, format!("an integer from 1 to {limit}")))
    }

    pub(crate) fn required(&self, key: &str, limit: u32) -> Result<u32, WeightsError> {
        self.count(key, limit)?.ok_or_else(|| self.missing(key))
    }
}
