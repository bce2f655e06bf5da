//! What tools give back.

use serde_json::{Value, json};

use super::intents::Intent;
use super::language::Language;
use super::phrase::{Number, Slots};
use crate::dice::Dice;

/// The id of a call: nine letters and digits.
pub(super) fn call_id(dice: &mut Dice) -> String {
    const SIGNS: &[u8] = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789";
    (0..9).map(|_| char::from(*dice.pick(SIGNS))).collect()
}

/// What a tool gives back when it failed, and the reason in it.
pub(super) fn failure(dice: &mut Dice) -> (String, String) {
    const ERRORS: [&str; 8] = [
        "timeout",
        "device offline",
        "not found",
        "no such device",
        "locked",
        "permission denied",
        "busy",
        "not reachable",
    ];
    let error = *dice.pick(&ERRORS);
    let result = match dice.below(3) {
        0 => json!({"error": error}),
        1 => json!({"ok": false, "error": error}),
        _ => json!({"status": "error", "message": error}),
    };
    (result.to_string(), error.into())
}

/// What a tool gives back, and which outcome that is; its value goes into the slots.
pub(super) fn success(
    intent: &Intent,
    slots: &mut Slots,
    language: &Language,
    dice: &mut Dice,
) -> (String, &'static str) {
    const UNITS: [&str; 10] = ["kWh", "m³", "bar", "l", "%", "V", "A", "kW", "l/min", "mm"];
    let named = |name: &str, value: Value, dice: &mut Dice| match dice.below(3) {
        0 => value.as_str().map_or_else(|| value.to_string(), str::to_owned),
        1 => json!({name: value}).to_string(),
        _ => json!({"value": value}).to_string(),
    };
    match intent.kind {
        "state" => {
            let on = dice.chance(0.5);
            let word = if on { "on" } else { "off" };
            let value = if dice.chance(0.7) { json!(word) } else { json!(on) };
            let result = if value.is_boolean() {
                json!({"on": on}).to_string()
            } else {
                named("state", value, dice)
            };
            (result, word)
        }
        "status" => {
            let word = *dice.pick(&["running", "stopped", "fault"]);
            (named("status", json!(word), dice), word)
        }
        "temperature" => {
            let number = Number { tenths: dice.range(-100, 400).max(20) };
            slots.value = Some(number.text(&language.decimal));
            (named("temperature", number.json(), dice), "value")
        }
        "meter" => {
            let number = Number { tenths: dice.range(0, 99_999) };
            let unit = *dice.pick(&UNITS);
            slots.value = Some(number.text(&language.decimal));
            slots.unit = Some(unit.into());
            (json!({"value": number.json(), "unit": unit}).to_string(), "value")
        }
        _ => {
            let results = [
                "{\"ok\": true}",
                "{\"status\": \"ok\"}",
                "ok",
                "{\"success\": true}",
                "done",
                "{\"result\": \"ok\"}",
            ];
            ((*dice.pick(&results)).into(), "ok")
        }
    }
}
