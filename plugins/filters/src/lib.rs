//! Built-in filters, one file each.
//!
//! A filter is named in the profile with its settings:
//!
//! ```toml
//! [[filters]]
//! kind = "length"
//! input_characters_max = 20000
//! ```
//!
//! The room knows the words of requests and nothing of models, transports or configuration files.
#![forbid(unsafe_code)]

mod length;
mod redact;
mod texts;

use protocol::Filter;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

/// Settings of a filter, as its profile has them.
type Settings = Map<String, Value>;

/// One filter that can be built.
pub struct Kind {
    /// Its name in configuration.
    pub name: &'static str,
    /// What it does, in one line.
    pub purpose: &'static str,
    build: fn(&Settings) -> Result<Box<dyn Filter>, FilterError>,
}

/// Every filter of this crate.
pub const FILTERS: &[Kind] = &[
    Kind {
        name: "length",
        purpose: "refuses long conversations and caps answers",
        build: length::build,
    },
    Kind {
        name: "redact",
        purpose: "masks words and patterns before the model reads them",
        build: redact::build,
    },
];

/// A filter cannot be built from its settings.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FilterError {
    /// No filter has this name.
    #[error("there is no filter {kind:?}; there are {known}")]
    Unknown {
        /// As configured.
        kind: String,
        /// The names of [`FILTERS`].
        known: String,
    },
    /// A setting is unknown, missing, or of a wrong type or range.
    #[error("filter {kind}: {message}")]
    Settings {
        /// Which filter.
        kind: &'static str,
        /// What, and what to do.
        message: String,
    },
}

/// Builds the filter of this name.
///
/// Errors: an unknown name, and settings that the filter does not take.
pub fn build(kind: &str, settings: &Settings) -> Result<Box<dyn Filter>, FilterError> {
    match FILTERS.iter().find(|known| known.name == kind) {
        Some(known) => (known.build)(settings),
        None => Err(FilterError::Unknown {
            kind: kind.chars().take(64).collect(),
            known: FILTERS.iter().map(|known| known.name).collect::<Vec<_>>().join(", "),
        }),
    }
}

fn read<T: DeserializeOwned>(kind: &'static str, settings: &Settings) -> Result<T, FilterError> {
    serde_json::from_value(Value::Object(settings.clone()))
        .map_err(|error| FilterError::Settings { kind, message: error.to_string() })
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};
    use serde_json::json;

    use super::*;

    fn check(kind: &str, settings: Value, expected: &Expect) {
        let Value::Object(settings) = settings else { panic!("settings are an object") };
        let message = match build(kind, &settings) {
            Ok(_) => "built".to_owned(),
            Err(error) => error.to_string(),
        };
        expected.assert_eq(&message);
    }

    #[test]
    fn wrong_settings_say_what_is_wrong() {
        check(
            "lenght",
            json!({}),
            &expect![[r#"there is no filter "lenght"; there are length, redact"#]],
        );
        check(
            "length",
            json!({}),
            &expect!["filter length: set input_characters_max, messages_max or answer_tokens_max"],
        );
        check(
            "length",
            json!({ "messages": 3 }),
            &expect![
                "filter length: unknown field `messages`, expected one of `input_characters_max`, `messages_max`, `answer_tokens_max`"
            ],
        );
        check(
            "length",
            json!({ "messages_max": "many" }),
            &expect![[r#"filter length: invalid type: string "many", expected u32"#]],
        );
        check(
            "length",
            json!({ "messages_max": 0 }),
            &expect![
                "filter length: a limit of 0 refuses everything; leave it out to have no limit"
            ],
        );
        check("redact", json!({}), &expect!["filter redact: set words or patterns"]);
        check(
            "redact",
            json!({ "patterns": ["(["] }),
            &expect!["filter redact: pattern 1: unclosed character class"],
        );
        check(
            "redact",
            json!({ "patterns": ["x*"] }),
            &expect!["filter redact: pattern 1 matches the empty text"],
        );
        check(
            "redact",
            json!({ "patterns": ["(?:\\w{1000}){1000}"] }),
            &expect![
                "filter redact: pattern 1: Compiled regex exceeds size limit of 4194304 bytes."
            ],
        );
        check("redact", json!({ "words": [""] }), &expect!["filter redact: a word is empty"]);
        check(
            "redact",
            json!({ "words": ["a"], "mask": "\n" }),
            &expect!["filter redact: mask is over 64 bytes or has a control character"],
        );
    }

    #[test]
    fn every_filter_is_named_once() {
        for kind in FILTERS {
            assert_eq!(FILTERS.iter().filter(|other| other.name == kind.name).count(), 1);
            assert!(!kind.purpose.is_empty());
        }
    }
}
