//! A plugin's functions as tools.

use std::time::Instant;

use protocol::{Tool, ToolError, ToolSpec};
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::{Map, Value};

use crate::limits::{RESULT_BYTES_MAX, SPEC_BYTES_MAX, TOOLS_MAX};
use crate::plugin::Plugin;
use crate::wire::{Ask, Ready, Say};

/// One function of a plugin.
pub(crate) struct PluginTool {
    plugin: Plugin,
    index: u32,
    spec: ToolSpec,
}

impl PluginTool {
    pub(crate) fn boxed(plugin: Plugin, index: u32, spec: ToolSpec) -> Box<dyn Tool> {
        Box::new(Self { plugin, index, spec })
    }
}

impl Tool for PluginTool {
    fn spec(&self) -> &ToolSpec {
        &self.spec
    }

    fn call(&self, arguments: &str, deadline: Instant) -> Result<String, ToolError> {
        if arguments.len() > RESULT_BYTES_MAX {
            return Err(ToolError(format!("arguments are over {RESULT_BYTES_MAX} bytes")));
        }
        let ask = Ask::Tool { index: self.index, arguments: arguments.to_owned() };
        match self.plugin.call(&ask, Some(deadline)) {
            Ok(Say::Result(Ok(result))) if is_json(&result) => Ok(result),
            Ok(Say::Result(Ok(_))) => {
                self.plugin.note("a function gave a result that is no JSON");
                Err(ToolError("the function gave no JSON".into()))
            }
            Ok(Say::Result(Err(message))) => Err(ToolError(message)),
            Ok(_) => Err(ToolError("the function gave no result".into())),
            Err(error) => {
                self.plugin.note(&format!("a call of {} has no result: {error}", self.spec.name));
                Err(ToolError("the function is not available now".into()))
            }
        }
    }
}

fn is_json(text: &str) -> bool {
    serde_json::from_str::<IgnoredAny>(text).is_ok()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SpecJson {
    name: String,
    description: String,
    parameters: Map<String, Value>,
}

/// What the model may know of a plugin's functions.
///
/// Errors: a spec that is none, a name that no function may have, two of the same name.
pub(crate) fn specs(ready: &Ready) -> Result<Vec<ToolSpec>, String> {
    if ready.tools.len() > TOOLS_MAX {
        return Err(format!("it has more than {TOOLS_MAX} functions"));
    }
    let mut specs: Vec<ToolSpec> = Vec::with_capacity(ready.tools.len());
    for (at, text) in ready.tools.iter().enumerate() {
        if text.len() > SPEC_BYTES_MAX {
            return Err(format!("function {at} is described in more than {SPEC_BYTES_MAX} bytes"));
        }
        let SpecJson { name, description, parameters } =
            serde_json::from_str(text).map_err(|error| {
                format!("function {at} is not described as the header says: {error}")
            })?;
        let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_-".contains(&byte);
        if !(1..=64).contains(&name.len()) || !name.bytes().all(is_allowed) {
            return Err(format!(
                "function {at} has a name that is not 1 to 64 letters, digits, _ -"
            ));
        }
        if specs.iter().any(|other| other.name == name) {
            return Err(format!("two functions are called {name}"));
        }
        let parameters = Value::Object(parameters);
        specs.push(ToolSpec { name, description, parameters, strict: false });
    }
    Ok(specs)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(tools: &[&str]) -> Result<usize, String> {
        let tools = tools.iter().map(|&tool| tool.to_owned()).collect();
        specs(&Ready { tools, ..Ready::default() }).map(|specs| specs.len())
    }

    #[test]
    fn functions_are_described_as_the_header_says() {
        let good = r#"{"name":"a","description":"b","parameters":{"type":"object"}}"#;
        assert_eq!(check(&[good]), Ok(1));
        assert!(check(&[good, good]).unwrap_err().contains("two functions"));
        for bad in [
            "",
            "[]",
            r#"{"name":"a b","description":"","parameters":{}}"#,
            r#"{"name":"a","description":"","parameters":[]}"#,
            r#"{"name":"a","description":"","parameters":{},"strict":true}"#,
        ] {
            assert!(check(&[bad]).is_err(), "{bad}");
        }
    }
}
