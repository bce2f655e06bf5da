//! Every conversation of the shared vectors is read, and nothing of it is lost on the way.

use std::path::PathBuf;

use chat_json::{parse_json, parse_messages, parse_tools};
use protocol::Message;
use serde_json::Value;

fn golden_folder() -> Option<PathBuf> {
    let shared = std::env::var_os("ZONDA_SHARED")
        .map_or_else(|| PathBuf::from("../../../shared"), PathBuf::from);
    Some(shared.join("data/golden")).filter(|folder| folder.is_dir())
}

/// The text and the ids of a message, from the JSON and from what was read.
fn pairs(json: &Value, read: &Message) -> Vec<(Value, Value)> {
    let joined = |content: &[String]| Value::from(content.concat());
    let written = match &json["content"] {
        Value::Array(chunks) => Value::from(
            chunks.iter().filter_map(|chunk| chunk["text"].as_str()).collect::<String>(),
        ),
        other => other.clone(),
    };
    match read {
        Message::System { content } | Message::User { content } => vec![(written, joined(content))],
        Message::Tool { content, call_id, name } => vec![
            (written, joined(content)),
            (json["tool_call_id"].clone(), Value::from(call_id.clone())),
            (json["name"].clone(), Value::from(name.clone())),
        ],
        Message::Assistant { content, tool_calls, prefix } => {
            let content = content.as_deref().map_or(Value::Null, joined);
            let written_prefix = json["prefix"].as_bool().unwrap_or(false);
            let mut pairs = vec![(written, content), (written_prefix.into(), (*prefix).into())];
            let calls = json["tool_calls"].as_array().cloned().unwrap_or_default();
            assert_eq!(calls.len(), tool_calls.len());
            for (json, call) in calls.iter().zip(tool_calls) {
                pairs.push((json["id"].clone(), call.id.clone().into()));
                pairs.push((json["function"]["name"].clone(), call.name.clone().into()));
                pairs.push((json["function"]["arguments"].clone(), call.arguments.clone().into()));
            }
            pairs
        }
    }
}

#[test]
fn golden_conversations_are_read_whole() {
    let Some(folder) = golden_folder() else {
        println!("skipped: no shared data");
        return;
    };
    let mut conversations = 0;
    for name in ["chat.v3.jsonl", "tools.v3.jsonl"] {
        let lines = std::fs::read_to_string(folder.join(name)).unwrap();
        for line in lines.lines() {
            let case = parse_json(line.as_bytes()).unwrap();
            let written = case["messages"].as_array().unwrap();
            let read = parse_messages(&case["messages"]);
            if written.iter().any(|message| message["role"] == "wizard") {
                assert!(read.is_err());
                continue;
            }
            let read = read.unwrap();
            assert_eq!(read.len(), written.len());
            for (json, message) in written.iter().zip(&read) {
                for (wanted, found) in pairs(json, message) {
                    assert_eq!(wanted, found, "{}", case["id"]);
                }
            }
            let tools = parse_tools(&case["tools"]).unwrap();
            let written = case["tools"].as_array().cloned().unwrap_or_default();
            assert_eq!(tools.len(), written.len());
            for (json, tool) in written.iter().zip(&tools) {
                assert_eq!(json["function"]["name"], tool.name);
                assert_eq!(json["function"]["parameters"].to_string(), tool.parameters.to_string());
            }
            conversations += 1;
        }
    }
    println!("{conversations} conversations");
    assert!(conversations >= 300);
}
