//! Functions of this box that the model may call: built-in tools, one file each, and in [`mcp`] those
//! that other programs bring.
//!
//! The built-in ones work offline, touch no file and no network, and end within microseconds. The
//! profile names those that are offered: `tools.enabled = ["clock", "calculator"]`.
#![forbid(unsafe_code)]

mod arithmetic;
mod calculator;
mod clock;
pub mod mcp;

use protocol::{Tool, ToolError};
use serde_json::Value;

/// One tool that can be built.
pub struct Kind {
    /// Its name in configuration and for the model.
    pub name: &'static str,
    /// What it does, in one line.
    pub purpose: &'static str,
    build: fn() -> Box<dyn Tool>,
}

/// Every tool of this crate.
pub const TOOLS: &[Kind] = &[
    Kind { name: clock::NAME, purpose: "tells date and time", build: clock::build },
    Kind {
        name: calculator::NAME,
        purpose: "computes arithmetic expressions",
        build: calculator::build,
    },
];

/// No tool has this name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no tool {name:?}; there are {known}")]
pub struct UnknownTool {
    /// As configured.
    pub name: String,
    /// The names of [`TOOLS`].
    pub known: String,
}

/// Builds the tool of this name.
pub fn build(name: &str) -> Result<Box<dyn Tool>, UnknownTool> {
    match TOOLS.iter().find(|tool| tool.name == name) {
        Some(tool) => Ok((tool.build)()),
        None => Err(UnknownTool {
            name: name.chars().take(64).collect(),
            known: TOOLS.iter().map(|tool| tool.name).collect::<Vec<_>>().join(", "),
        }),
    }
}

/// The text under `key` in a call's arguments, if it is there. No other key is known.
fn argument(arguments: &str, key: &str) -> Result<Option<String>, ToolError> {
    const ARGUMENTS_BYTES_MAX: usize = 4096;
    if arguments.len() > ARGUMENTS_BYTES_MAX {
        return Err(ToolError(format!("arguments are over {ARGUMENTS_BYTES_MAX} bytes")));
    }
    if arguments.trim().is_empty() {
        return Ok(None);
    }
    let Ok(Value::Object(mut object)) = serde_json::from_str(arguments) else {
        return Err(ToolError("arguments are not a JSON object".into()));
    };
    let value = object.remove(key);
    if !object.is_empty() {
        return Err(ToolError(format!("the only argument is {key}")));
    }
    match value {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(ToolError(format!("{key} must be a string"))),
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn every_tool_is_built_by_its_own_name() {
        for kind in TOOLS {
            let tool = build(kind.name).unwrap();
            assert_eq!(tool.spec().name, kind.name);
            assert_eq!(tool.spec().parameters["type"], "object");
            assert!(!tool.spec().description.is_empty() && !kind.purpose.is_empty());
        }
    }

    #[test]
    fn an_unknown_name_lists_the_known_ones() {
        let error = build("shell").err().expect("there is no shell");
        assert_eq!(error.to_string(), "there is no tool \"shell\"; there are clock, calculator");
    }

    #[test]
    fn foreign_arguments_are_errors_for_the_model() {
        let deadline = Instant::now() + Duration::from_secs(1);
        let long = format!("\"{}\"", "x".repeat(5000));
        for arguments in ["[]", "{", "null", "{\"a\":1}", long.as_str(), "{\"expression\":1}"] {
            for kind in TOOLS {
                let result = build(kind.name).unwrap().call(arguments, deadline);
                assert!(result.is_err(), "{} takes {arguments}", kind.name);
            }
        }
    }
}
