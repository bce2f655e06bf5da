//! Whether a value is a JSON Schema of draft 7: the rules of the draft's own schema, as a table.
//!
//! Source: <https://json-schema.org/draft-07/schema>. Only the form is checked; references are not
//! followed.

use serde_json::{Map, Value};

/// Nesting of schemas; parsers of JSON end sooner.
const DEPTH_MAX: usize = 128;
/// Characters of a place that an error shows.
const PLACE_CHARACTERS_MAX: usize = 240;

/// What is wrong, and where below the root.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    /// Keywords and indices, each behind a dot; empty for the root.
    pub(crate) path: String,
    pub(crate) message: &'static str,
}

/// What a keyword takes.
#[derive(Debug, Clone, Copy)]
enum Form {
    Text,
    Pattern,
    Flag,
    Number,
    PositiveNumber,
    Count,
    List,
    Texts,
    Types,
    Schema,
    Schemas,
    SchemaOrSchemas,
    NamedSchemas,
    PatternSchemas,
    Dependencies,
}

/// Keywords that the draft restricts; all others take anything.
const KEYWORDS: &[(&str, Form)] = &[
    ("$id", Form::Text),
    ("$schema", Form::Text),
    ("$ref", Form::Text),
    ("$comment", Form::Text),
    ("title", Form::Text),
    ("description", Form::Text),
    ("format", Form::Text),
    ("contentMediaType", Form::Text),
    ("contentEncoding", Form::Text),
    ("pattern", Form::Pattern),
    ("readOnly", Form::Flag),
    ("uniqueItems", Form::Flag),
    ("maximum", Form::Number),
    ("exclusiveMaximum", Form::Number),
    ("minimum", Form::Number),
    ("exclusiveMinimum", Form::Number),
    ("multipleOf", Form::PositiveNumber),
    ("maxLength", Form::Count),
    ("minLength", Form::Count),
    ("maxItems", Form::Count),
    ("minItems", Form::Count),
    ("maxProperties", Form::Count),
    ("minProperties", Form::Count),
    ("examples", Form::List),
    ("enum", Form::List),
    ("required", Form::Texts),
    ("type", Form::Types),
    ("additionalItems", Form::Schema),
    ("contains", Form::Schema),
    ("additionalProperties", Form::Schema),
    ("propertyNames", Form::Schema),
    ("if", Form::Schema),
    ("then", Form::Schema),
    ("else", Form::Schema),
    ("not", Form::Schema),
    ("allOf", Form::Schemas),
    ("anyOf", Form::Schemas),
    ("oneOf", Form::Schemas),
    ("items", Form::SchemaOrSchemas),
    ("definitions", Form::NamedSchemas),
    ("properties", Form::NamedSchemas),
    ("patternProperties", Form::PatternSchemas),
    ("dependencies", Form::Dependencies),
];
const TYPES: [&str; 7] = ["array", "boolean", "integer", "null", "number", "object", "string"];

/// Checks the parameters of a function: an object that is a schema.
pub(crate) fn check(parameters: &Value) -> Result<(), Problem> {
    let mut path = Vec::new();
    let checked = match parameters {
        Value::Object(_) => schema(parameters, &mut path),
        _ => Err("it must be an object"),
    };
    checked.map_err(|message| Problem { path: place_of(&path), message })
}

/// Steps below the root as an error shows them: a long way is cut off.
pub(crate) fn place_of(steps: &[impl AsRef<str>]) -> String {
    let path: String = steps.iter().flat_map(|step| [".", step.as_ref()]).collect();
    match path.char_indices().nth(PLACE_CHARACTERS_MAX) {
        Some((end, _)) => format!("{}…", &path[..end]),
        None => path,
    }
}

type Checked = Result<(), &'static str>;

fn schema<'a>(value: &'a Value, path: &mut Vec<&'a str>) -> Checked {
    let members = match value {
        Value::Bool(_) => return Ok(()),
        Value::Object(members) => members,
        _ => return Err("a schema must be an object or a boolean"),
    };
    if path.len() > 2 * DEPTH_MAX {
        return Err("it is nested too deep");
    }
    for (keyword, form) in KEYWORDS {
        if let Some(value) = members.get(*keyword) {
            path.push(keyword);
            fits(value, *form, path)?;
            path.pop();
        }
    }
    Ok(())
}

fn fits<'a>(value: &'a Value, form: Form, path: &mut Vec<&'a str>) -> Checked {
    let must = |holds: bool, message| if holds { Ok(()) } else { Err(message) };
    match form {
        Form::Text => must(value.is_string(), "it must be a string"),
        Form::Pattern => must(value.as_str().is_some_and(is_pattern), NO_PATTERN),
        Form::Flag => must(value.is_boolean(), "it must be true or false"),
        Form::Number => must(value.is_number(), "it must be a number"),
        Form::PositiveNumber => {
            must(value.as_f64().is_some_and(|number| number > 0.0), "it must be a number above 0")
        }
        Form::Count => {
            let is_count = |number: f64| number >= 0.0 && number.fract() == 0.0;
            must(value.as_f64().is_some_and(is_count), "it must be an integer, 0 or more")
        }
        Form::List => must(value.is_array(), "it must be a list"),
        Form::Texts => {
            let is_fit = value.as_array().is_some_and(|list| is_unique_texts(list));
            must(is_fit, "it must be a list of different strings")
        }
        Form::Types => {
            let is_type = |value: &Value| value.as_str().is_some_and(|name| TYPES.contains(&name));
            let is_list = |list: &Vec<Value>| {
                !list.is_empty() && list.iter().all(is_type) && is_unique_texts(list)
            };
            must(
                is_type(value) || value.as_array().is_some_and(is_list),
                "it must be array, boolean, integer, null, number, object or string, \
                 or a list of different ones",
            )
        }
        Form::Schema => schema(value, path),
        Form::Schemas => match value.as_array() {
            Some(list) if !list.is_empty() => list.iter().try_for_each(|item| schema(item, path)),
            _ => Err("it must be a list of one or more schemas"),
        },
        Form::SchemaOrSchemas if value.is_array() => fits(value, Form::Schemas, path),
        Form::SchemaOrSchemas => schema(value, path),
        Form::NamedSchemas => each_member(value, path, schema),
        Form::PatternSchemas => {
            if value.as_object().is_some_and(|members| !members.keys().all(|key| is_pattern(key))) {
                return Err(NO_PATTERN);
            }
            each_member(value, path, schema)
        }
        Form::Dependencies => each_member(value, path, |value, path| match value {
            Value::Array(_) => fits(value, Form::Texts, path),
            _ => schema(value, path),
        }),
    }
}

fn each_member<'a>(
    value: &'a Value,
    path: &mut Vec<&'a str>,
    check: impl Fn(&'a Value, &mut Vec<&'a str>) -> Checked,
) -> Checked {
    let members: &Map<String, Value> = value.as_object().ok_or("it must be an object")?;
    for (name, member) in members {
        path.push(name);
        check(member, path)?;
        path.pop();
    }
    Ok(())
}

fn is_unique_texts(list: &[Value]) -> bool {
    let mut seen = std::collections::HashSet::with_capacity(list.len());
    list.iter().all(|item| item.as_str().is_some_and(|text| seen.insert(text)))
}

const NO_PATTERN: &str = "it must be a regular expression";

/// Whether brackets close and every repetition repeats something. Dialects differ too much for more.
fn is_pattern(pattern: &str) -> bool {
    let mut open = 0usize;
    let mut can_repeat = false;
    let mut characters = pattern.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '\\' if characters.next().is_none() => return false,
            '\\' => can_repeat = true,
            '[' => {
                // A closing bracket right at the beginning of a class stands for itself.
                let _ = characters.next_if_eq(&'^');
                let _ = characters.next_if_eq(&']');
                loop {
                    match characters.next() {
                        None => return false,
                        Some(']') => break,
                        Some('\\') if characters.next().is_none() => return false,
                        Some(_) => {}
                    }
                }
                can_repeat = true;
            }
            '(' => {
                open += 1;
                can_repeat = false;
                // What follows the question mark is the group's kind, not a repetition.
                let _ = characters.next_if_eq(&'?');
            }
            ')' if open == 0 => return false,
            ')' => {
                open -= 1;
                can_repeat = true;
            }
            '|' => can_repeat = false,
            '*' | '+' | '?' if !can_repeat => return false,
            '*' | '+' | '?' => {
                // Lazy and possessive repetitions.
                let _ = characters.next_if(|next| matches!(next, '?' | '+'));
                can_repeat = false;
            }
            _ => can_repeat = true,
        }
    }
    open == 0
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn usual_parameters_are_schemas() {
        for parameters in [
            json!({}),
            json!({"type": "object", "properties": {"x": {"type": ["string", "null"], "enum": []}},
                   "required": ["x"], "additionalProperties": false}),
            json!({"$defs": 3, "anyOf": [{"$ref": "#/definitions/a"}, true], "minLength": 2.0}),
            json!({"items": [{"type": "integer"}], "dependencies": {"a": ["b"], "c": {"not": {}}}}),
            json!({"pattern": r"^[^]a\]]+?(?:x|y)*\d{2,}$", "patternProperties": {"^x": {}}}),
            json!({"properties": {"type": {"type": "string"}}}),
        ] {
            assert_eq!(check(&parameters), Ok(()), "{parameters}");
        }
    }

    #[test]
    fn problems_are_named_with_their_place() {
        for (parameters, path) in [
            (json!([]), ""),
            (json!({"type": "objekt"}), ".type"),
            (json!({"type": []}), ".type"),
            (json!({"properties": {"x": {"type": ["string", "string"]}}}), ".properties.x.type"),
            (json!({"required": "x"}), ".required"),
            (json!({"required": ["x", "x"]}), ".required"),
            (json!({"minLength": -1}), ".minLength"),
            (json!({"maxItems": 1.5}), ".maxItems"),
            (json!({"multipleOf": 0}), ".multipleOf"),
            (json!({"anyOf": []}), ".anyOf"),
            (json!({"items": [3]}), ".items"),
            (json!({"not": {"if": {"pattern": "(a"}}}), ".not.if.pattern"),
            (json!({"patternProperties": {"*": {}}}), ".patternProperties"),
            (json!({"dependencies": {"a": [1]}}), ".dependencies.a"),
            (json!({"definitions": {"a": 1}}), ".definitions.a"),
        ] {
            assert_eq!(check(&parameters).unwrap_err().path, path, "{parameters}");
        }
    }
}
