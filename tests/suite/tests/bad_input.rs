//! Bad input is told what is wrong with it, and the daemon serves on.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test stops where something is wrong, and tells what it skips"
)]

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use suite::{
    Broker, Daemon, NODE, Subscriber, installed, run_with, stdout_of, tiny_gguf, tiny_hf, zonda,
};

const PROMPT: &str = "Open the garage door.";
const ANSWER: &str = "The garage door is open.";

/// Exit code and message of `zonda run` on a model.
fn refused(model: &Path) -> (Option<i32>, String) {
    let output = run_with(zonda().args(["run", "--prompt", "x", "--model"]).arg(model), "");
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

/// A copy of the Hugging Face fixture with one change.
fn changed(folder: &Path, change: impl FnOnce(&Path)) -> PathBuf {
    let copy = folder.join("model");
    std::fs::create_dir_all(&copy).unwrap();
    for entry in std::fs::read_dir(tiny_hf()).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), copy.join(entry.file_name())).unwrap();
    }
    change(&copy);
    copy
}

fn edit_config(folder: &Path, key: &str, value: Value) {
    let path = folder.join("config.json");
    let mut config: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    config[key] = value;
    std::fs::write(path, config.to_string()).unwrap();
}

#[test]
fn broken_models_are_refused_with_code_65_and_a_reason() {
    let folder = tempfile::tempdir().unwrap();
    let gguf = std::fs::read(tiny_gguf()).unwrap();
    let write = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    };
    let patched = |at: usize, bytes: &[u8]| {
        let mut copy = gguf.clone();
        copy[at..at + bytes.len()].copy_from_slice(bytes);
        copy
    };
    let copies: Vec<tempfile::TempDir> = (0..5).map(|_| tempfile::tempdir().unwrap()).collect();
    let table: Vec<(&str, PathBuf, &str)> = vec![
        ("missing file", folder.path().join("none.gguf"), "none.gguf"),
        ("empty file", write("empty.gguf", b""), ""),
        ("text file", write("text.gguf", b"hello, this is no model at all"), ""),
        ("truncated header", write("head.gguf", &gguf[..100]), ""),
        ("truncated data", write("data.gguf", &gguf[..gguf.len() - 64]), ""),
        ("forged tensor count", write("count.gguf", &patched(8, &u64::MAX.to_le_bytes())), ""),
        ("forged key count", write("keys.gguf", &patched(16, &u64::MAX.to_le_bytes())), ""),
        ("unknown version", write("version.gguf", &patched(4, &99u32.to_le_bytes())), "99"),
        (
            "safetensors header length forged",
            changed(copies[0].path(), |copy| {
                let path = copy.join("model.safetensors");
                let mut bytes = std::fs::read(&path).unwrap();
                bytes[..8].copy_from_slice(&u64::MAX.to_le_bytes());
                std::fs::write(path, bytes).unwrap();
            }),
            "model.safetensors",
        ),
        (
            "safetensors truncated",
            changed(copies[1].path(), |copy| {
                let path = copy.join("model.safetensors");
                let bytes = std::fs::read(&path).unwrap();
                std::fs::write(path, &bytes[..bytes.len() / 2]).unwrap();
            }),
            "model.safetensors",
        ),
        (
            "wrong shapes",
            changed(copies[2].path(), |copy| edit_config(copy, "intermediate_size", json!(192))),
            "shape",
        ),
        (
            "missing tokenizer",
            changed(copies[3].path(), |copy| {
                std::fs::remove_file(copy.join("tokenizer.model")).unwrap();
            }),
            "tokenizer",
        ),
        (
            "damaged tokenizer",
            changed(copies[4].path(), |copy| {
                std::fs::write(copy.join("tokenizer.model"), [0xff; 900]).unwrap();
            }),
            "tokenizer",
        ),
    ];
    for (what, model, word) in &table {
        let (code, message) = refused(model);
        assert_eq!(code, Some(65), "{what}: {message}");
        assert!(message.starts_with("zonda: ") && message.len() > 20, "{what}: {message:?}");
        assert!(message.contains(word), "{what}: {message:?} does not name {word:?}");
        assert!(!message.contains("panicked"), "{what}: {message}");
    }
    println!("{} broken models refused", table.len());
}

#[test]
fn bad_configuration_and_usage_have_their_exit_codes() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("zonda.toml");
    std::fs::write(&config, "[http]\nadress = \"127.0.0.1:1\"\n").unwrap();
    let check = |arguments: &[&str]| {
        let output = run_with(zonda().args(arguments), "");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (code, message) = check(&["config", "check", "--config", config.to_str().unwrap()]);
    assert_eq!(code, Some(78), "{message}");
    for word in ["adress", "address", "zonda.toml:2"] {
        assert!(message.contains(word), "{message:?} does not say {word:?}");
    }
    let model = tiny_gguf();
    let model = model.to_str().unwrap();
    let (code, message) = check(&["run", "--prompt", "x", "--model", model, "--backend", "cuda"]);
    assert_eq!(code, Some(78), "{message}");
    assert!(message.contains("flex"), "what this box has is not listed: {message:?}");
    let (code, message) = check(&["run", "--prompt", "x", "--model", model, "--backend", "abacus"]);
    assert_eq!(code, Some(78), "{message}");
    let (code, message) = check(&["serve", "--model", model, "--http", "0.0.0.0:0"]);
    assert_eq!(code, Some(78), "beyond loopback without tokens: {message}");
    assert_eq!(check(&["run"]).0, Some(2));
    assert_eq!(check(&["no-such-verb"]).0, Some(2));
    assert_eq!(check(&["config", "check"]).0, Some(0));
}

/// Status and error code of an HTTP request.
fn told(daemon: &Daemon, path: &str, body: &[u8]) -> (u16, Value) {
    let (status, _, text) = daemon.http(&format!("POST {path}"), body);
    let value: Value = serde_json::from_str(&text)
        .unwrap_or_else(|error| panic!("{status}: not JSON ({error}): {text:?}"));
    (status, value)
}

#[test]
fn bad_http_requests_are_told_so_and_the_daemon_serves_on() {
    let mut daemon = Daemon::start(&tiny_gguf(), &[]);
    let chat = "/v1/chat/completions";
    let message = json!([{ "role": "user", "content": "hello" }]);
    let with = |key: &str, value: Value| {
        let mut body = json!({ "model": "default", "messages": message });
        body[key] = value;
        body.to_string().into_bytes()
    };
    let schema = json!({ "name": "s", "schema": { "not": { "type": "string" } } });
    let unkept = json!({ "type": "json_schema", "json_schema": schema });
    let table: Vec<(&str, &str, Vec<u8>, &[u16])> = vec![
        ("no JSON", chat, b"{\"model\":".to_vec(), &[400]),
        ("no UTF-8", chat, b"{\"model\":\"\xff\"}".to_vec(), &[400]),
        ("deep nesting", chat, [b"[".repeat(10_000), b"]".repeat(10_000)].concat(), &[400]),
        ("an array", chat, b"[]".to_vec(), &[400, 422]),
        ("no messages", chat, b"{\"model\":\"default\"}".to_vec(), &[400, 422]),
        ("empty messages", chat, with("messages", json!([])), &[400, 422]),
        (
            "unknown role",
            chat,
            with("messages", json!([{ "role": "wizard", "content": "x" }])),
            &[400, 422],
        ),
        (
            "answer last",
            chat,
            with(
                "messages",
                json!([{ "role": "user", "content": "x" }, { "role": "assistant", "content": "y" }]),
            ),
            &[400],
        ),
        ("temperature", chat, with("temperature", json!(-1)), &[400, 422]),
        ("max_tokens", chat, with("max_tokens", json!("many")), &[400, 422]),
        ("unknown model", chat, with("model", json!("gpt-9")), &[404]),
        ("context overflow", chat, with("max_tokens", json!(100_000)), &[400]),
        (
            "long prompt",
            chat,
            with("messages", json!([{ "role": "user", "content": "light ".repeat(3000) }])),
            &[400],
        ),
        ("oversize", chat, vec![b' '; 6 << 20], &[413]),
        ("schema that cannot be kept", chat, with("response_format", unkept), &[400]),
        ("unknown path", "/v1/nothing", b"{}".to_vec(), &[404]),
    ];
    for (what, path, body, statuses) in &table {
        let (status, answer) = told(&daemon, path, body);
        assert!(statuses.contains(&status), "{what}: {status} {answer}");
        let message = answer["error"]["message"].as_str().unwrap_or_default();
        assert!(message.len() > 10, "{what}: no message in {answer}");
        assert_eq!(daemon.chat(PROMPT), ANSWER, "after {what}");
    }
    assert!(daemon.runs());
    println!("{} bad HTTP requests told so", table.len());
}

/// Publishes one message and gives the next error on a topic.
fn mqtt_told(
    port: u16,
    request_topic: &str,
    reply_topic: &str,
    payload: &[u8],
    extra: &[&str],
) -> Value {
    let mut subscriber = Subscriber::start("5", port, reply_topic);
    let port = port.to_string();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("payload");
    std::fs::write(&file, payload).unwrap();
    stdout_of(
        Command::new("mosquitto_pub")
            .args(["-V", "5", "-h", "127.0.0.1", "-p", &port, "-q", "1", "-t", request_topic, "-f"])
            .arg(&file)
            .args(extra),
    );
    subscriber.last()
}

#[test]
fn bad_mqtt_messages_are_told_so_and_the_daemon_serves_on() {
    let Some(broker) = Broker::start() else {
        println!("skipped: no mosquitto");
        return;
    };
    if installed("mosquitto_sub").is_none() {
        println!("skipped: no mosquitto clients");
        return;
    }
    let mut daemon = Daemon::start(&tiny_gguf(), &["--mqtt", &broker.url()]);
    let body = |key: &str, value: Value| {
        let mut body = json!({
            "model": "default", "messages": [{ "role": "user", "content": PROMPT }], "temperature": 0,
        });
        body[key] = value;
        body.to_string().into_bytes()
    };
    let foreign = ["-D", "publish", "response-topic", "plc/valve/set"];
    let other = ["-D", "publish", "response-topic", "zonda/v1/plant1/client/plc8/reply/1"];
    /// What is wrong, payload, further arguments of the publisher, statuses.
    type BadMessage<'a> = (&'a str, Vec<u8>, &'a [&'a str], &'a [u64]);
    let table: Vec<BadMessage<'_>> = vec![
        ("no JSON", b"turn on the light".to_vec(), &[], &[400]),
        ("no UTF-8", vec![0xff, 0xfe, 0x00], &[], &[400]),
        ("unknown ext field", body("ext", json!({ "repyl_to": "x" })), &[], &[400, 422]),
        ("unknown model", body("model", json!("gpt-9")), &[], &[404]),
        ("context overflow", body("max_tokens", json!(100_000)), &[], &[400]),
        ("oversize", vec![b' '; 300 << 10], &[], &[413]),
        ("foreign reply topic", body("stream", json!(false)), &foreign, &[400]),
        ("another client's reply topic", body("stream", json!(false)), &other, &[400]),
    ];
    for (number, (what, payload, extra, statuses)) in table.iter().enumerate() {
        let request = format!("{NODE}/chat/request/plc7/{number}");
        let reply = format!("zonda/v1/plant1/client/plc7/reply/{number}");
        let told = mqtt_told(broker.port, &request, &reply, payload, extra);
        let status = told["ext"]["status"].as_u64().unwrap_or(0);
        assert!(statuses.contains(&status), "{what}: {told}");
        assert!(told["error"]["message"].as_str().is_some_and(|m| m.len() > 10), "{what}: {told}");
        assert_eq!(daemon.chat(PROMPT), ANSWER, "after {what}");
    }
    assert!(daemon.runs());
    println!("{} bad MQTT messages told so", table.len());
}
