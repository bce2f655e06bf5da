//! What a schema costs to compile, where the compiler's own limits do not hold.

use serde_json::{Map, Value};

/// Patterns and formats that may have to hold for one string; the compiler's search for a string
/// that fits them all takes 10 times as long with each, from some seven on.
const MEETING_MAX: usize = 4;
/// Schemas between the root and the deepest one, references followed.
const DEPTH_MAX: usize = 500;
/// Pairs of patterns for names that are compared, over all schemas that are joined; 33 µs each.
const PAIRS_MAX: usize = 100_000;
/// Properties of a document that counts them; the compiler writes out each combination.
const COUNTED_MAX: usize = 64;

/// What is too much.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Excess {
    /// With its keyword.
    pub(super) message: String,
    /// Keywords without which it would not be; none where it is the schema's size.
    pub(super) keywords: &'static [&'static str],
}

/// Checks a reduced schema.
pub(super) fn check(root: &Map<String, Value>) -> Result<(), Excess> {
    let too_deep = |message| Excess { message, keywords: &[] };
    let empty = Map::new();
    let definitions = root.get("$defs").and_then(Value::as_object).unwrap_or(&empty);
    let mut scale =
        Scale { definitions, known: vec![None; definitions.len()], tally: Tally::default() };
    let mut meeting = scale.members(root, 0).map_err(too_deep)?;
    for index in 0..definitions.len() {
        meeting = meeting.max(scale.definition(index, 0).map_err(too_deep)?);
    }
    let tally = scale.tally;
    if meeting > MEETING_MAX {
        let message = format!(
            "more than {MEETING_MAX} of pattern and format may meet at one string; allOf and \
             references join too many"
        );
        return Err(Excess { message, keywords: &["pattern", "format"] });
    }
    let pairs = tally.name_patterns.saturating_mul(tally.joins).saturating_pow(2);
    if tally.name_patterns > 1 && pairs > PAIRS_MAX {
        let message = format!(
            "{} patternProperties beside {} joined schemas are too many",
            tally.name_patterns, tally.joins
        );
        return Err(Excess { message, keywords: &["patternProperties"] });
    }
    if tally.counts_properties && tally.properties > COUNTED_MAX {
        let message = format!(
            "minProperties and maxProperties are supported in a schema of at most {COUNTED_MAX} \
             properties, this one has {}",
            tally.properties
        );
        return Err(Excess { message, keywords: &["minProperties", "maxProperties"] });
    }
    Ok(())
}

#[derive(Debug, Default)]
struct Tally {
    properties: usize,
    counts_properties: bool,
    name_patterns: usize,
    /// Schemas in allOf, anyOf and oneOf, and references.
    joins: usize,
}

struct Scale<'a> {
    definitions: &'a Map<String, Value>,
    /// How many patterns may meet in each definition; `Some(0)` while it is looked at.
    known: Vec<Option<usize>>,
    tally: Tally,
}

impl Scale<'_> {
    fn definition(&mut self, index: usize, depth: usize) -> Result<usize, String> {
        if let Some(known) = self.known.get(index).copied().flatten() {
            return Ok(known);
        }
        let Some(definition) = self.definitions.get(&index.to_string()) else {
            return Ok(0);
        };
        self.known[index] = Some(0);
        let meeting = self.schema(definition, depth)?;
        self.known[index] = Some(meeting);
        Ok(meeting)
    }

    fn schema(&mut self, schema: &Value, depth: usize) -> Result<usize, String> {
        schema.as_object().map_or(Ok(0), |members| self.members(members, depth + 1))
    }

    /// How many patterns may meet at one string of a schema.
    fn members(&mut self, members: &Map<String, Value>, depth: usize) -> Result<usize, String> {
        if depth > DEPTH_MAX {
            return Err(format!("$ref and nesting go deeper than {DEPTH_MAX} schemas"));
        }
        let (mut own, mut inner, mut joined) = (0, 0, 0);
        for (name, value) in members {
            match name.as_str() {
                "pattern" | "format" => own += 1,
                "minProperties" | "maxProperties" => self.tally.counts_properties = true,
                "properties" => {
                    self.tally.properties += value.as_object().map_or(0, Map::len);
                    inner += self.most(value, depth)?;
                }
                "patternProperties" => {
                    self.tally.name_patterns += value.as_object().map_or(0, Map::len);
                    inner += self.most(value, depth)?;
                }
                "items" | "additionalProperties" => {
                    inner = inner.max(self.schema(value, depth)?);
                }
                "prefixItems" => inner = inner.max(self.most(value, depth)?),
                "anyOf" | "oneOf" => {
                    self.tally.joins += value.as_array().map_or(0, Vec::len);
                    joined += self.most(value, depth)?;
                }
                "allOf" => {
                    for part in value.as_array().into_iter().flatten() {
                        self.tally.joins += 1;
                        joined += self.schema(part, depth)?;
                    }
                }
                "$ref" => {
                    self.tally.joins += 1;
                    let index = value.as_str().and_then(|name| name.rsplit('/').next());
                    let index = index.and_then(|index| index.parse().ok()).unwrap_or(usize::MAX);
                    joined += self.definition(index, depth)?;
                }
                _ => {}
            }
        }
        Ok(own.max(inner) + joined)
    }

    /// The most of the schemas in a list or an object.
    fn most(&mut self, value: &Value, depth: usize) -> Result<usize, String> {
        let mut most = 0;
        match value {
            Value::Array(items) => {
                for item in items {
                    most = most.max(self.schema(item, depth)?);
                }
            }
            Value::Object(members) => {
                for member in members.values() {
                    most = most.max(self.schema(member, depth)?);
                }
            }
            _ => {}
        }
        Ok(most)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn checked(schema: Value) -> Result<(), String> {
        check(schema.as_object().unwrap()).map_err(|excess| excess.message)
    }

    #[test]
    fn usual_schemas_are_light() {
        let base = json!({"properties": {"a": {"pattern": "a"}, "b": {"pattern": "b"}, "c": {"format": "date"},
            "d": {"pattern": "d"}, "e": {"pattern": "e"}}});
        for schema in [
            json!({}),
            json!({"allOf": [{"$ref": "#/$defs/0"}, {"properties": {"a": {"pattern": "x"}}}], "$defs": {"0": base}}),
            json!({"patternProperties": {"^a": {}, "^b": {}}, "anyOf": vec![json!({}); 100]}),
            json!({"$ref": "#/$defs/0", "$defs": {"0": {"items": {"$ref": "#/$defs/0"}}}}),
        ] {
            assert_eq!(checked(schema.clone()), Ok(()), "{schema}");
        }
    }

    #[test]
    fn heavy_schemas_are_refused() {
        let chain: Map<String, Value> = (0..600)
            .map(|n| (n.to_string(), json!({"items": {"$ref": format!("#/$defs/{}", n + 1)}})))
            .collect();
        let wide: Map<String, Value> = (0..100).map(|n| (n.to_string(), json!({}))).collect();
        for (schema, word) in [
            (json!({"allOf": vec![json!({"pattern": "a"}); 5]}), "pattern"),
            (
                json!({"patternProperties": wide, "allOf": vec![json!({}); 100]}),
                "patternProperties",
            ),
            (json!({"properties": wide, "minProperties": 1}), "minProperties"),
            (json!({"$ref": "#/$defs/0", "$defs": chain}), "$ref"),
        ] {
            assert!(checked(schema).unwrap_err().contains(word), "{word}");
        }
    }
}
