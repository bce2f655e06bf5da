//! A JSON Schema, reduced to the keywords that a grammar honours.
//!
//! The compiler of grammars takes some keywords for less than they say, and ignores others. Here
//! each keyword is either passed on in a spelling that the compiler takes at its word, or known to
//! restrict nothing and dropped, or refused by name; where the rest is enough, what would be refused
//! is left out instead. References become entries of `$defs`; nothing is ever fetched.
//! Source: JSON Schema 2020-12, with the lists of items and the definitions of draft 7.

use serde_json::{Map, Value, json};

use super::{LITERAL_BYTES_MAX, patterns, weight};

mod formats;
mod loosening;
mod references;

pub(super) use loosening::{Care, loosen};

/// Nesting of schemas; the compiler recurses.
const DEPTH_MAX: usize = 64;
/// Schemas of one document, referenced ones once; the compiler's work grows with them.
const SCHEMAS_MAX: usize = 10_000;
/// Members of `properties`, or of `required`; the compiler recurses over them.
const PROPERTIES_MAX: usize = 1000;
/// Different references of one document.
const REFERENCES_MAX: usize = 1000;
/// Digits of a fraction that survive in the compiler's 64-bit floats.
const DIGITS_MAX: usize = 15;
/// Whole numbers up to here survive in 64-bit floats.
const WHOLE_MAX: f64 = 9_007_199_254_740_992.0;
/// Counts up to here are 32 bits wide for the compiler.
const COUNT_MAX: u64 = 1_000_000_000;
/// Smaller fractions would be ranges of very many digits.
const FRACTION_MIN: f64 = 1e-9;

const TYPES: [&str; 7] = ["array", "boolean", "integer", "null", "number", "object", "string"];

/// Keywords that restrict a value on their own; they go together, because the compiler reads
/// `additionalProperties` by the `properties` next to it.
const ASSERTIONS: [&str; 21] = [
    "type",
    "properties",
    "patternProperties",
    "additionalProperties",
    "required",
    "minProperties",
    "maxProperties",
    "items",
    "prefixItems",
    "additionalItems",
    "minItems",
    "maxItems",
    "minLength",
    "maxLength",
    "pattern",
    "format",
    "minimum",
    "maximum",
    "exclusiveMinimum",
    "exclusiveMaximum",
    "multipleOf",
];

/// Keywords that join schemas or list values.
const APPLICATORS: [&str; 6] = ["const", "enum", "allOf", "anyOf", "oneOf", "$ref"];

/// Keywords that restrict and that no grammar here can honour, with what to do instead.
const REFUSED: [(&str, &str); 16] = [
    ("not", "say what is allowed instead"),
    ("if", "use anyOf with one schema for each case"),
    ("then", "use anyOf with one schema for each case"),
    ("else", "use anyOf with one schema for each case"),
    ("contains", "restrict the items instead"),
    ("minContains", "restrict the items instead"),
    ("maxContains", "restrict the items instead"),
    ("uniqueItems", "leave it out and drop repeated items from the answer"),
    ("propertyNames", "use patternProperties with additionalProperties false"),
    ("dependencies", "use anyOf with one schema for each case"),
    ("dependentRequired", "use anyOf with one schema for each case"),
    ("dependentSchemas", "use anyOf with one schema for each case"),
    ("unevaluatedItems", "use items false beside prefixItems"),
    ("unevaluatedProperties", "use additionalProperties false beside properties"),
    ("$dynamicRef", "use $ref"),
    ("$recursiveRef", "use $ref"),
];

/// Why a schema is not honoured.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    /// Keywords and indices below the root, each behind a dot; empty for the root.
    pub(super) path: String,
    /// The keyword at fault and what to do.
    pub(super) message: String,
    pub(super) cause: Cause,
}

/// What kind of reason it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cause {
    /// It is no schema at all.
    Malformed,
    /// It exceeds a limit.
    TooLarge,
    /// No grammar keeps it.
    Unsupported,
}

/// The same schema in the keywords that the compiler takes at their word.
///
/// Errors: a keyword that is not supported, unless it may be left out; a schema over a limit.
pub(super) fn reduce(root: &Value, care: Care) -> Result<Map<String, Value>, Refusal> {
    let mut reducer = Reducer {
        root,
        care,
        references: Vec::new(),
        path: Vec::new(),
        schemas: 0,
        named: 0,
        left_out: 0,
    };
    let mut reduced = match root {
        Value::Bool(true) => Map::new(),
        _ => match reducer.schema(root, false)? {
            Value::Object(members) => members,
            _ => return Err(reducer.malformed("the schema allows no value at all")),
        },
    };
    let mut definitions = Map::new();
    let mut next = 0;
    while let Some(reference) = reducer.references.get(next).cloned() {
        let target = reducer.resolve(&reference)?;
        let definition = reducer.schema(target, true)?;
        reducer.path.clear();
        definitions.insert(next.to_string(), definition);
        next += 1;
    }
    reducer.path.clear();
    if !definitions.is_empty() {
        if references::lead_nowhere(&definitions) {
            return Err(reducer.malformed("a $ref only leads back to itself, which says nothing"));
        }
        references::inline_cases(&mut reduced, &mut definitions);
        reduced.insert("$defs".into(), Value::Object(definitions));
    }
    reducer.lighten(&mut reduced)?;
    Ok(reduced)
}

type Members = Map<String, Value>;

struct Reducer<'a> {
    root: &'a Value,
    care: Care,
    /// The pointers that `$ref` names, in order of appearance.
    references: Vec<String>,
    path: Vec<String>,
    schemas: usize,
    /// Enclosing schemas with an `$id` of their own, to which references would be relative.
    named: usize,
    /// Keywords that were left out.
    left_out: usize,
}

impl<'a> Reducer<'a> {
    fn schema(&mut self, value: &Value, is_inner: bool) -> Result<Value, Refusal> {
        self.schemas += 1;
        if self.path.len() > 2 * DEPTH_MAX || self.schemas > SCHEMAS_MAX {
            return Err(self.too_large(format!(
                "the schema is too large: allowed are {SCHEMAS_MAX} schemas, {DEPTH_MAX} deep"
            )));
        }
        let members = match value {
            Value::Bool(allows) => return Ok(Value::Bool(*allows)),
            Value::Object(members) => members,
            _ => return Err(self.malformed("a schema must be an object or a boolean")),
        };
        let is_named = is_inner && members.get("$id").is_some_and(Value::is_string);
        self.named += usize::from(is_named);
        let mut reduced = Members::new();
        let mut has_assertions = false;
        for (name, value) in members {
            let name = name.as_str();
            if let Some((_, advice)) = REFUSED.iter().find(|(refused, _)| *refused == name) {
                if !restricts_nothing(name, value, members) {
                    let refusal = self.refused(format!("{name} is not supported; {advice}"));
                    self.leave_out(refusal, self.path.len())?;
                }
            } else if ASSERTIONS.contains(&name) {
                if !has_assertions {
                    self.assertions(members, &mut reduced)?;
                }
                has_assertions = true;
            } else if APPLICATORS.contains(&name) {
                let depth = self.path.len();
                match self.below(name, |at| at.applicator(name, value)) {
                    Ok(applied) => drop(reduced.insert(name.into(), applied)),
                    Err(refusal) => self.leave_out(refusal, depth)?,
                }
            }
        }
        self.named -= usize::from(is_named);
        Ok(Value::Object(reduced))
    }

    fn applicator(&mut self, name: &str, value: &Value) -> Result<Value, Refusal> {
        match (name, value) {
            ("const", _) => self.exact(value).map(|()| value.clone()),
            ("enum", Value::Array(values)) => {
                values.iter().try_for_each(|value| self.exact(value))?;
                Ok(value.clone())
            }
            ("$ref", Value::String(reference)) => self.reference(reference),
            ("allOf" | "anyOf" | "oneOf", Value::Array(schemas)) if !schemas.is_empty() => {
                self.schemas(schemas)
            }
            ("enum", _) => Err(self.malformed("enum must be a list")),
            ("$ref", _) => Err(self.malformed("$ref must be a string")),
            _ => Err(self.malformed(format!("{name} must be a list of one or more schemas"))),
        }
    }

    fn assertions(&mut self, members: &Members, reduced: &mut Members) -> Result<(), Refusal> {
        self.items(members, reduced)?;
        let mut has_lost_names = false;
        for name in ASSERTIONS {
            let Some(value) = members.get(name) else {
                continue;
            };
            let depth = self.path.len();
            match self.below(name, |at| at.assertion(name, value, members, reduced)) {
                Ok(None) => {}
                Ok(Some(kept)) => drop(reduced.insert(name.into(), kept)),
                Err(refusal) => {
                    self.leave_out(refusal, depth)?;
                    has_lost_names |= name == "patternProperties";
                }
            }
        }
        if has_lost_names {
            // It would hold for the names that the lost patterns are about.
            reduced.remove("additionalProperties");
        }
        Ok(())
    }

    fn assertion(
        &mut self,
        name: &str,
        value: &Value,
        members: &Members,
        reduced: &mut Members,
    ) -> Result<Option<Value>, Refusal> {
        match name {
            "items" | "prefixItems" | "additionalItems" => Ok(None),
            "type" => self.types(value).map(Some),
            "properties" => self.named_schemas(value).map(Some),
            "patternProperties" => {
                let Value::Object(members) = self.named_schemas(value)? else {
                    return Ok(None);
                };
                let translated = |(pattern, schema): (String, Value)| {
                    self.pattern(&pattern).map(|pattern| (pattern, schema))
                };
                let members = members.into_iter().map(translated);
                members.collect::<Result<Members, _>>().map(|members| Some(members.into()))
            }
            "additionalProperties" => self.schema(value, true).map(Some),
            "required" => self.required(value).map(Some),
            "minProperties" => self.min_properties(value, members).map(Some),
            "maxProperties" | "minItems" | "maxItems" | "minLength" | "maxLength" => {
                self.count(value).map(|count| Some(count.into()))
            }
            "pattern" => {
                let pattern =
                    value.as_str().ok_or_else(|| self.malformed("pattern must be a string"))?;
                self.pattern(pattern).map(|pattern| Some(pattern.into()))
            }
            "format" => self.format(value, members, reduced),
            _ => match value {
                Value::Number(_) => self.exact(value).map(|()| Some(value.clone())),
                _ => Err(self.malformed(format!("{name} must be a number"))),
            },
        }
    }

    /// Lists of items in the words of 2020-12, whichever draft they came in.
    fn items(&mut self, members: &Members, reduced: &mut Members) -> Result<(), Refusal> {
        let (prefix, rest) = match (members.get("prefixItems"), members.get("items")) {
            (Some(_), Some(Value::Array(_))) => {
                return Err(self.malformed("items must be one schema where prefixItems is given"));
            }
            (None, Some(Value::Array(items))) => {
                (Some(("items", items)), members.get("additionalItems"))
            }
            (Some(Value::Array(items)), rest) => (Some(("prefixItems", items)), rest),
            (Some(_), _) => return Err(self.malformed("prefixItems must be a list of schemas")),
            (None, rest) => (None, rest),
        };
        if let Some((name, prefix)) = prefix {
            let prefix = self.below(name, |at| at.schemas(prefix))?;
            reduced.insert("prefixItems".into(), prefix);
        }
        if let Some(rest) = rest {
            let rest = self.below("items", |at| at.schema(rest, true))?;
            reduced.insert("items".into(), rest);
        }
        Ok(())
    }

    fn schemas(&mut self, schemas: &[Value]) -> Result<Value, Refusal> {
        let one = |(index, schema): (usize, &Value)| {
            self.below(&index.to_string(), |at| at.schema(schema, true))
        };
        schemas.iter().enumerate().map(one).collect::<Result<Vec<_>, _>>().map(Value::Array)
    }

    fn named_schemas(&mut self, value: &Value) -> Result<Value, Refusal> {
        let Value::Object(members) = value else {
            return Err(self.malformed("it must be an object of schemas"));
        };
        if members.len() > PROPERTIES_MAX {
            return Err(self.too_large(format!(
                "{} properties; at most {PROPERTIES_MAX} are supported",
                members.len()
            )));
        }
        if members.keys().any(|name| name.len() > LITERAL_BYTES_MAX) {
            return Err(self.too_large(format!(
                "the name of a property has more than {LITERAL_BYTES_MAX} bytes"
            )));
        }
        let one = |(name, schema): (&String, &Value)| {
            let schema = self.below(name, |at| at.schema(schema, true))?;
            Ok((name.clone(), schema))
        };
        members.iter().map(one).collect::<Result<Members, _>>().map(Value::Object)
    }

    fn types(&self, value: &Value) -> Result<Value, Refusal> {
        let is_type = |value: &Value| value.as_str().is_some_and(|name| TYPES.contains(&name));
        let is_fit = match value {
            Value::Array(list) => !list.is_empty() && list.iter().all(is_type),
            other => is_type(other),
        };
        if is_fit {
            return Ok(value.clone());
        }
        Err(self.malformed(format!("type must be one or a list of {}", TYPES.join(", "))))
    }

    fn required(&self, value: &Value) -> Result<Value, Refusal> {
        let names = value.as_array().filter(|names| names.iter().all(Value::is_string));
        let names = names.ok_or_else(|| self.malformed("required must be a list of strings"))?;
        if names.len() > PROPERTIES_MAX {
            return Err(self.too_large(format!(
                "{} required properties; at most {PROPERTIES_MAX} are supported",
                names.len()
            )));
        }
        Ok(value.clone())
    }

    /// Nothing in a grammar keeps additional names apart, so only one of them counts for sure.
    fn min_properties(&self, value: &Value, members: &Members) -> Result<Value, Refusal> {
        let count = self.count(value)?;
        let mut required: Vec<&str> = Vec::new();
        if let Some(Value::Array(names)) = members.get("required") {
            required.extend(names.iter().filter_map(Value::as_str));
        }
        required.sort_unstable();
        required.dedup();
        if count > required.len() as u64 + 1 {
            return Err(self.refused(
                "minProperties above the number of required properties and one is not supported; \
                 name them in required",
            ));
        }
        Ok(count.into())
    }

    fn pattern(&self, pattern: &str) -> Result<String, Refusal> {
        patterns::translated(pattern)
            .map_err(|problem| self.refused(format!("the pattern {problem}")))
    }

    fn count(&self, value: &Value) -> Result<u64, Refusal> {
        let is_count = |number: &f64| (0.0..=WHOLE_MAX).contains(number) && number.fract() == 0.0;
        let count = value.as_f64().filter(is_count).map(|number| number as u64);
        let count = count.ok_or_else(|| self.malformed("it must be an integer, 0 or more"))?;
        if count > COUNT_MAX {
            return Err(self.refused(format!("counts above {COUNT_MAX} are not supported")));
        }
        Ok(count)
    }

    /// Refuses what the compiler would take for something else: numbers that do not fit its floats,
    /// and control characters.
    fn exact(&self, value: &Value) -> Result<(), Refusal> {
        match value {
            Value::Array(items) => items.iter().try_for_each(|item| self.exact(item)),
            Value::Object(members) => members.values().try_for_each(|value| self.exact(value)),
            Value::Number(number) if !is_exact(&number.to_string()) => Err(self.refused(format!(
                "numbers of more than {DIGITS_MAX} digits, or smaller than {FRACTION_MIN}, are \
                 not supported"
            ))),
            Value::String(text) if text.len() > LITERAL_BYTES_MAX => Err(self.refused(format!(
                "a text has {} bytes, the limit is {LITERAL_BYTES_MAX}",
                text.len()
            ))),
            Value::String(text) if patterns::is_unspeakable(text) => Err(self.refused(
                "control characters other than tab, line feed, carriage return, form feed and \
                 backspace are not supported",
            )),
            _ => Ok(()),
        }
    }

    fn below<T>(
        &mut self,
        step: &str,
        inner: impl FnOnce(&mut Self) -> Result<T, Refusal>,
    ) -> Result<T, Refusal> {
        self.path.push(step.into());
        let result = inner(self)?;
        self.path.pop();
        Ok(result)
    }

    fn refused(&self, message: impl Into<String>) -> Refusal {
        let path = crate::schema::place_of(&self.path);
        Refusal { path, message: message.into(), cause: Cause::Unsupported }
    }

    fn too_large(&self, message: impl Into<String>) -> Refusal {
        Refusal { cause: Cause::TooLarge, ..self.refused(message) }
    }

    fn malformed(&self, message: impl Into<String>) -> Refusal {
        Refusal { cause: Cause::Malformed, ..self.refused(message) }
    }
}

/// Whether a keyword that is refused says nothing here.
fn restricts_nothing(name: &str, value: &Value, members: &Members) -> bool {
    match name {
        "uniqueItems" => {
            let items_max = members.get("maxItems").and_then(Value::as_f64);
            *value == Value::Bool(false) || items_max.is_some_and(|items| items <= 1.0)
        }
        "unevaluatedItems" | "unevaluatedProperties" | "propertyNames" => {
            *value == Value::Bool(true) || *value == json!({})
        }
        "dependencies" | "dependentRequired" | "dependentSchemas" => *value == json!({}),
        _ => false,
    }
}

fn is_exact(number: &str) -> bool {
    let Ok(value) = number.parse::<f64>() else {
        return false;
    };
    let mantissa = number.split(['e', 'E']).next().unwrap_or_default();
    let digits: String = mantissa.chars().filter(char::is_ascii_digit).collect();
    let digits = digits.trim_matches('0');
    if digits.is_empty() {
        return true;
    }
    let is_whole = value.fract() == 0.0;
    value.abs() <= WHOLE_MAX
        && (is_whole || digits.len() <= DIGITS_MAX)
        && value.abs() >= FRACTION_MIN
}

#[cfg(test)]
#[path = "keywords_tests.rs"]
mod tests;
