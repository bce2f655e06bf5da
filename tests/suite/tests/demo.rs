//! The model that the program carries, at work: sentences become calls, over the demo's broker and over the
//! daemon's.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test stops where something is wrong, and tells what it skips"
)]

use std::process::Command;

use serde_json::{Value, json};
use suite::{Daemon, NODE, installed, run_with, stdout_of, zonda};

/// A device of the tests, and what a call of it must say.
fn tools() -> Value {
    let text = json!({ "type": "string" });
    let parameters = json!({
        "type": "object", "required": ["device", "room", "state"],
        "properties": { "device": text, "room": text, "state": { "type": "string", "enum": ["on", "off"] } },
    });
    let function = json!({
        "name": "switch_device", "description": "Switches a device on or off.", "parameters": parameters,
    });
    json!([{ "type": "function", "function": function }])
}

fn request() -> Value {
    let said = "Turn on the ceiling light in the kitchen.";
    json!({
        "model": "default", "temperature": 0, "tools": tools(), "ext": { "mode": "final" },
        "messages": [{ "role": "user", "content": said }],
    })
}

fn wanted() -> Value {
    json!({ "device": "ceiling light", "room": "kitchen", "state": "on" })
}

/// The arguments of the only call of an answer.
fn arguments(answer: &Value) -> Value {
    let calls = answer["choices"][0]["message"]["tool_calls"].as_array();
    let [call] = calls.map(Vec::as_slice).unwrap_or_default() else { panic!("{answer}") };
    assert_eq!(call["function"]["name"], "switch_device", "{answer}");
    serde_json::from_str(call["function"]["arguments"].as_str().unwrap()).unwrap()
}

#[test]
fn the_model_in_the_program_calls_the_tools_of_a_request() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("ask.json");
    std::fs::write(&file, request().to_string()).unwrap();
    let output = stdout_of(zonda().args(["run", "--json", "--request"]).arg(&file));
    let answer: Value = serde_json::from_str(&output).unwrap();
    assert_eq!(arguments(&answer), wanted(), "{answer}");
}

#[test]
fn a_sentence_over_mqtt_becomes_a_call_of_the_model_in_the_program() {
    if installed("mosquitto_rr").is_none() {
        println!("skipped: no mosquitto_rr");
        return;
    }
    let daemon = Daemon::embedded();
    let output = stdout_of(
        Command::new("mosquitto_rr")
            .args(["-V", "5", "-h", "127.0.0.1", "-p", &daemon.mqtt_port.to_string(), "-W", "60"])
            .args(["-q", "1", "-t", &format!("{NODE}/chat/request")])
            .args(["-e", "zonda/v1/plant1/client/rr/reply/1", "-m", &request().to_string()]),
    );
    let last: Value = serde_json::from_str(output.lines().last().unwrap()).unwrap();
    assert_eq!(arguments(&last), wanted(), "{last}");
}

#[test]
fn sentences_switch_the_devices_of_the_demo() {
    let said = ["Turn on the desk lamp in the office.", "Schalte die Heizung im Büro aus."];
    let output = run_with(zonda().arg("demo").args(said), "");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}");
    let orders: Vec<Value> = text
        .lines()
        .filter_map(|line| line.strip_prefix("publish  demo/switches/call "))
        .map(|order| serde_json::from_str::<Value>(order).unwrap()["arguments"].take())
        .collect();
    let lamp = json!({ "device": "desk lamp", "room": "office", "state": "on" });
    let heater = json!({ "device": "Heizung", "room": "Büro", "state": "off" });
    assert_eq!(orders, [lamp, heater], "{text}");
    assert_eq!(text.matches(r#""result":{"ok":true}"#).count(), 2, "{text}");
    assert_eq!(text.lines().filter(|line| line.starts_with("answer")).count(), 2, "{text}");
}
