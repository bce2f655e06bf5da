//! JSON schemas of the parameters that tools take.

use serde_json::{Map, Value, json};

use super::intents::Slot;
use crate::dice::Dice;

/// What a parameter takes and, now and then first, what it means.
pub(super) fn described_schema(
    mut schema: Value,
    description: Option<String>,
    dice: &mut Dice,
) -> Value {
    let Some(description) = description else { return schema };
    if dice.chance(0.3) {
        let mut first = Map::new();
        first.insert("description".into(), json!(description));
        first.extend(schema.as_object().cloned().unwrap_or_default());
        return Value::Object(first);
    }
    schema["description"] = json!(description);
    schema
}

/// A number, as tools of this kind take it.
pub(super) fn number_schema(whole: bool, kind: &str, dice: &mut Dice) -> Value {
    let mut schema = json!({"type": if whole { "integer" } else { "number" }});
    let percent = matches!(kind, "dim" | "cover_move" | "valve_move" | "pump_speed");
    if percent && dice.chance(0.15) {
        schema["minimum"] = json!(0);
        schema["maximum"] = json!(100);
    }
    schema
}

/// The parameters of a function; all but `optional` and the one named `spare` are required.
pub(super) fn parameters(
    properties: &[(Option<Slot>, String, Value)],
    optional: Option<Slot>,
    spare: Option<&str>,
    dice: &mut Dice,
) -> Value {
    let all: Map<String, Value> =
        properties.iter().map(|(_, name, schema)| (name.clone(), schema.clone())).collect();
    let required: Vec<&String> = properties
        .iter()
        .filter(|(slot, name, _)| {
            (optional.is_none() || *slot != optional) && Some(name.as_str()) != spare
        })
        .map(|(_, name, _)| name)
        .collect();
    let mut parameters = json!({"type": "object", "properties": all, "required": required});
    if dice.chance(0.1) {
        parameters["additionalProperties"] = json!(false);
    }
    parameters
}
