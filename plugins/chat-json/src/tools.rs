//! Functions that a client offers, and whether the model must call one.

use protocol::{Fault, ToolChoice, ToolSpec};
use serde_json::{Value, json};

use crate::fields::{Fields, Notes, Strictness, invalid, unsupported, wrong_type};

/// Most functions of one request.
pub const TOOLS_MAX: usize = 128;

/// Reads a list of function tools as it is written; `null` is none. Unknown fields are ignored.
///
/// Errors: `InvalidField` for a wrong type or a missing member, `parameters` among them;
/// `Unsupported` for tools that are not functions. Names are checked by the text room.
pub fn parse_tools(v: &Value) -> Result<Vec<ToolSpec>, Fault> {
    match v {
        Value::Null => Ok(Vec::new()),
        Value::Array(items) => {
            let mut notes = Notes::new(Strictness::Lenient);
            read_tools(items, Parameters::Required, &mut notes)
        }
        other => Err(wrong_type(other, "a list", "tools")),
    }
}

/// Whether a function must state its parameters; OpenAI's need not.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Parameters {
    Required,
    Optional,
}

pub(crate) fn read_tools(
    items: &[Value],
    parameters: Parameters,
    notes: &mut Notes,
) -> Result<Vec<ToolSpec>, Fault> {
    if items.len() > TOOLS_MAX {
        return Err(invalid(
            format!("{} tools; at most {TOOLS_MAX} are accepted", items.len()),
            "tools",
        ));
    }
    items
        .iter()
        .enumerate()
        .map(|(index, item)| {
            read_tool(&Fields::of(item, format!("tools[{index}]"))?, parameters, notes)
        })
        .collect()
}

fn read_tool(
    tool: &Fields<'_>,
    parameters: Parameters,
    notes: &mut Notes,
) -> Result<ToolSpec, Fault> {
    tool.only(&["type", "function"], notes)?;
    if !matches!(tool.string("type")?, None | Some("function")) {
        return Err(unsupported("only function tools are known", tool.path_of("type")));
    }
    let function = tool.object("function")?.ok_or_else(|| tool.missing("function"))?;
    function.only(&["name", "description", "parameters", "strict"], notes)?;
    let schema = match function.value("parameters") {
        Some(schema @ Value::Object(_)) => schema.clone(),
        Some(other) => {
            return Err(wrong_type(other, "a JSON Schema", function.path_of("parameters")));
        }
        None if parameters == Parameters::Optional => json!({"type": "object", "properties": {}}),
        None => return Err(function.missing("parameters")),
    };
    Ok(ToolSpec {
        name: function.required_string("name")?.to_owned(),
        description: function.string("description")?.unwrap_or_default().to_owned(),
        parameters: schema,
        strict: function.flag("strict")?.unwrap_or(false),
    })
}

/// Reads `tool_choice`. Whether there is such a function shows later: the box may have some of its own.
pub(crate) fn read_choice(body: &Fields<'_>, notes: &mut Notes) -> Result<ToolChoice, Fault> {
    let path = body.path_of("tool_choice");
    Ok(match body.value("tool_choice") {
        None => ToolChoice::Auto,
        Some(Value::String(word)) => match word.as_str() {
            "auto" => ToolChoice::Auto,
            "none" => ToolChoice::None,
            "any" | "required" => ToolChoice::Any,
            _ => {
                let message = "must be auto, none, any, required or a function";
                return Err(invalid(message, path));
            }
        },
        Some(value @ Value::Object(_)) => {
            let choice = Fields::of(value, path.clone())?;
            choice.only(&["type", "function"], notes)?;
            if !matches!(choice.string("type")?, None | Some("function")) {
                return Err(invalid("must be function", choice.path_of("type")));
            }
            let function = choice.object("function")?.ok_or_else(|| choice.missing("function"))?;
            function.only(&["name"], notes)?;
            ToolChoice::Function(function.required_string("name")?.to_owned())
        }
        Some(other) => return Err(wrong_type(other, "a word or an object", path)),
    })
}
