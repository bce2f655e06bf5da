//! Function calls as a grammar: the list, and for each function the schema of its arguments.
//!
//! A function that is strict keeps its whole schema or is refused by name. Schemas of clients' tools
//! are made by programs and say more than a grammar keeps: without `strict`, that much is left out
//! and the rest is kept. Nobody checks finished arguments against what was left out: a call that
//! failed the check could only be withheld, while whoever runs the function can answer it with an
//! error that the model reads.

use llguidance::Matcher;
use protocol::ToolSpec;
use serde_json::{Map, Value};

use super::complaints::{refused, remedy};
use super::keywords::{self, Care, Cause, Refusal, loosen};
use super::source::{CallStyle, Source, Space};
use super::{AllowedCalls, Compiler, GRAMMAR_BYTES_MAX, compile, refused_schema};
use crate::TextError;

type Schema = Map<String, Value>;

/// The automaton of a list of calls.
pub(super) fn calls(
    compiler: &Compiler,
    allowed: &AllowedCalls<'_>,
    strips_space: bool,
) -> Result<Matcher, TextError> {
    let bytes: usize =
        allowed.tools.iter().map(|(_, tool)| tool.parameters.to_string().len()).sum();
    if bytes > GRAMMAR_BYTES_MAX {
        return Err(TextError::rule(
            "tools",
            format!(
                "the parameters of all functions together have {bytes} bytes, the limit is \
                 {GRAMMAR_BYTES_MAX}"
            ),
        ));
    }
    let mut schemas = Vec::with_capacity(allowed.tools.len());
    for &(index, tool) in &allowed.tools {
        let reduced = arguments(tool)
            .map_err(|refusal| refused_schema("tools", &place(index), with_hint(tool, refusal)))?;
        schemas.push(reduced);
    }
    let style = CallStyle { is_single: allowed.are_single, has_ids: allowed.have_ids };
    let tools: Vec<&ToolSpec> = allowed.tools.iter().map(|(_, tool)| *tool).collect();
    let space = if strips_space { Space::Optional } else { Space::None };
    let together = |schemas: &[Schema]| {
        compile(compiler, &Source::calls(&tools, schemas.to_vec(), style).behind(space))
    };
    let complaint = match together(&schemas) {
        Ok(matcher) => return Ok(matcher),
        Err(complaint) => complaint,
    };
    // The compiler does not say which function it means: each is compiled alone.
    let mut has_changed = false;
    for ((index, tool), schema) in allowed.tools.iter().zip(&mut schemas) {
        has_changed |= fit(compiler, tool, schema)
            .map_err(|complaint| refused("tools", &place(*index), &complaint))?;
    }
    let again = if has_changed { together(&schemas) } else { Err(complaint) };
    again.map_err(|complaint| refused("tools", "tools", &complaint))
}

fn place(index: usize) -> String {
    format!("tools[{index}].function.parameters")
}

/// Leaves out of a schema what the compiler complains about, if it may; whether it did.
fn fit(compiler: &Compiler, tool: &ToolSpec, schema: &mut Schema) -> Result<bool, String> {
    let mut has_changed = false;
    while let Err(complaint) = compile(compiler, &Source::schema(schema.clone())) {
        if tool.strict || !loosen(schema, remedy(&complaint)) {
            return Err(complaint);
        }
        has_changed = true;
    }
    Ok(has_changed)
}

/// The schema of a function's arguments, which are an object whatever else it says.
fn arguments(tool: &ToolSpec) -> Result<Schema, Refusal> {
    let care = if tool.strict { Care::Whole } else { Care::Rest };
    let reduced = inlined(keywords::reduce(&tool.parameters, care)?);
    let may_be_object = match reduced.get("type") {
        None => true,
        Some(Value::Array(types)) => types.iter().any(|name| name == "object"),
        Some(name) => name == "object",
    };
    if !may_be_object {
        return Err(Refusal {
            path: ".type".into(),
            message: "arguments are an object; the type must be object".into(),
            cause: Cause::Malformed,
        });
    }
    let mut object = Map::new();
    object.insert("type".into(), "object".into());
    object.extend(reduced.into_iter().filter(|(name, _)| name != "type"));
    close(&mut object);
    Ok(object)
}

/// A function has the parameters that it names: where its schema says nothing of others, none is made up.
fn close(object: &mut Schema) {
    const PLAIN: [&str; 6] = ["type", "properties", "required", "description", "title", "$defs"];
    let Some(Value::Object(named)) = object.get("properties") else { return };
    let is_named = |name: &Value| name.as_str().is_some_and(|name| named.contains_key(name));
    let required = object.get("required").and_then(Value::as_array);
    let has_all = required.into_iter().flatten().all(is_named);
    let is_plain = object.keys().all(|keyword| PLAIN.contains(&keyword.as_str()));
    if has_all && is_plain {
        object.insert("additionalProperties".into(), false.into());
    }
}

/// A schema that is a mere reference, as its target: the compiler takes nothing beside references
/// to schemas that contain themselves, and the type of arguments will stand there.
fn inlined(mut schema: Schema) -> Schema {
    let definitions = schema.get("$defs").and_then(Value::as_object).cloned().unwrap_or_default();
    for _ in 0..definitions.len() {
        let is_reference = schema.keys().all(|name| name == "$ref" || name == "$defs");
        let name = schema.get("$ref").and_then(Value::as_str).filter(|_| is_reference);
        let target = name.and_then(|name| definitions.get(name.rsplit('/').next()?));
        let Some(Value::Object(target)) = target else {
            break;
        };
        schema = target.clone();
        schema.insert("$defs".into(), definitions.clone().into());
    }
    schema
}

/// Tells that it is `strict` that asks for what is refused.
fn with_hint(tool: &ToolSpec, refusal: Refusal) -> Refusal {
    if !tool.strict || refusal.cause != Cause::Unsupported {
        return refusal;
    }
    let message = format!("{}; without strict it would be left out", refusal.message);
    Refusal { message, ..refusal }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn parameters_that_a_function_does_not_name_are_not_made_up() {
        let others = |parameters: Value| {
            let (name, description) = ("f".to_owned(), String::new());
            let tool = ToolSpec { name, description, parameters, strict: false };
            arguments(&tool).expect("a schema").get("additionalProperties").cloned()
        };
        let room = json!({"room": {"type": "string"}});
        let plain = json!({"type": "object", "properties": room, "required": ["room"]});
        assert_eq!(others(plain), Some(json!(false)));
        assert_eq!(others(json!({"type": "object", "properties": {}})), Some(json!(false)));
        // Who speaks of others has them, and what is required can be written.
        let open = json!({"properties": room, "additionalProperties": {"type": "integer"}});
        assert_eq!(others(open), Some(json!({"type": "integer"})));
        for schema in [
            json!({"type": "object"}),
            json!({"properties": room, "required": ["room", "unnamed"]}),
            json!({"properties": room, "anyOf": [{"required": ["a"]}, {"required": ["b"]}]}),
            json!({"properties": room, "patternProperties": {"^x": {"type": "string"}}}),
        ] {
            assert_eq!(others(schema.clone()), None, "{schema}");
        }
    }
}
