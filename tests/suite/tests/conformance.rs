//! One and the same answer over MQTT 5, MQTT 3.1.1, HTTP and C, whole and in pieces: text, calls, how it
//! ended, what it cost, and what is wrong with a request that is refused.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test stops where something is wrong, and tells what it skips"
)]

use std::fmt;
use std::process::Command;

use serde_json::{Value, json};
use suite::library::Library;
use suite::{Daemon, NODE, Subscriber, http_exchange, installed, root, tiny_gguf};

/// What differs by contract: the case, the entrance, why. Everything else is equal.
const DIFFERENCES: &[(&str, Entrance, &str)] = &[];

/// Nothing is shared between the entrances, so that usage is that of each alone.
const SETTINGS: &str = "engine.prefix_sharing=off";
const SETTINGS_OF_C: (&str, &str) = ("ZONDA__ENGINE__PREFIX_SHARING", "off");

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Entrance {
    Http,
    Mqtt5,
    Mqtt311,
    C,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Whole,
    Stream,
}

struct Case {
    name: String,
    /// `None` where the bytes are no JSON object.
    body: Option<Value>,
    bytes: String,
    fails: Option<String>,
}

fn cases() -> Vec<Case> {
    let text = std::fs::read(root().join("tests/fixtures/conformance/cases.json")).unwrap();
    let cases: Vec<Value> = serde_json::from_slice(&text).unwrap();
    let case = |case: Value| {
        let mut body = case.get("body").cloned();
        if let (Some(body), Some(repeat)) = (&mut body, case.get("repeat")) {
            let times = usize::try_from(repeat[1].as_u64().unwrap()).unwrap();
            body["messages"][0]["content"] = json!(repeat[0].as_str().unwrap().repeat(times));
        }
        let raw = case["raw"].as_str().map(str::to_owned);
        Case {
            name: case["name"].as_str().unwrap().to_owned(),
            bytes: raw.unwrap_or_else(|| body.as_ref().unwrap().to_string()),
            fails: case["fails"].as_str().map(str::to_owned),
            body,
        }
    };
    cases.into_iter().map(case).collect()
}

impl Case {
    /// The request with `value` at `key`, and below `ext` if that is where it belongs.
    fn with(&self, keys: &[&str], value: Value) -> String {
        let Some(mut body) = self.body.clone() else {
            return self.bytes.clone();
        };
        let mut place = &mut body;
        for key in keys {
            place = &mut place[*key];
        }
        *place = value;
        body.to_string()
    }
}

/// An answer without what names it: ids and times.
#[derive(Clone, PartialEq)]
struct Transcript(Value);

impl fmt::Debug for Transcript {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// What came in pieces, if it did.
#[derive(Default)]
struct Pieces {
    text: String,
    calls: Vec<Value>,
}

fn call(call: &Value) -> Value {
    let function = &call["function"];
    json!([function["name"], function["arguments"]])
}

/// From a `chat.completion`, or the last chunk of one with the pieces before it.
fn answered(last: &Value, pieces: Option<Pieces>) -> Transcript {
    let choice = &last["choices"][0];
    let message = &choice["message"];
    let whole = || Pieces {
        text: message["content"].as_str().unwrap_or_default().to_owned(),
        calls: message["tool_calls"].as_array().into_iter().flatten().map(call).collect(),
    };
    if let (Some(pieces), true) = (&pieces, message.is_object()) {
        assert_eq!(pieces.text, whole().text, "pieces and whole differ");
    }
    let Pieces { text, calls } = pieces.unwrap_or_else(whole);
    let usage = &last["usage"];
    Transcript(json!({
        "text": text,
        "calls": calls,
        "finish_reason": choice["finish_reason"],
        "model": last["model"],
        "usage": [usage["prompt_tokens"], usage["completion_tokens"], usage["total_tokens"]],
    }))
}

fn refused(body: &Value) -> Transcript {
    let error = &body["error"];
    Transcript(json!({
        "code": error["code"], "type": error["type"], "param": error["param"],
        "message": error["message"], "status": body["raw_status_code"],
    }))
}

fn over_http(daemon: &Daemon, case: &Case, mode: Mode) -> Transcript {
    let body = match mode {
        Mode::Whole => case.bytes.clone(),
        Mode::Stream => case.with(&["stream"], json!(true)),
    };
    let request = "POST /v1/chat/completions";
    let (status, head, answer) = http_exchange(daemon.http, request, body.as_bytes());
    if status != 200 {
        let fault: Value = serde_json::from_str(&answer).unwrap();
        assert_eq!(fault["raw_status_code"], status);
        return refused(&fault);
    }
    if mode == Mode::Whole {
        return answered(&serde_json::from_str(&answer).unwrap(), None);
    }
    assert!(head.contains("text/event-stream"), "{head}");
    let (mut pieces, mut last) = (Pieces::default(), Value::Null);
    let mut data: Vec<&str> =
        answer.lines().filter_map(|line| line.strip_prefix("data: ")).collect();
    assert_eq!(data.pop(), Some("[DONE]"));
    for line in data {
        last = serde_json::from_str(line).unwrap();
        let delta = &last["choices"][0]["delta"];
        pieces.text += delta["content"].as_str().unwrap_or_default();
        pieces.calls.extend(delta["tool_calls"].as_array().into_iter().flatten().map(call));
    }
    answered(&last, Some(pieces))
}

/// One request with a reply topic of its own.
fn over_mqtt(daemon: &Daemon, version: &str, number: usize, case: &Case, mode: Mode) -> Transcript {
    let client = format!("conf{version}{mode:?}");
    let reply = format!("zonda/v1/plant1/client/{client}/reply/{number}");
    let mut replies = Subscriber::start(version, daemon.mqtt_port, &reply);
    let body = match mode {
        Mode::Whole => case.with(&["ext", "mode"], json!("final")),
        Mode::Stream => case.with(&["stream"], json!(true)),
    };
    publish(daemon, version, &format!("{client}/{number}"), &reply, &body);
    let mut pieces: Vec<(u64, Value)> = Vec::new();
    let (mut end, mut before) = (Value::Null, 0_u64);
    loop {
        let message = replies.next_message();
        assert!(!message.is_null(), "no end of {} over MQTT {version}", case.name);
        if message["ext"]["fin"] == true {
            end = message;
        } else {
            before += 1;
            if message["choices"][0]["delta"].is_object() {
                pieces.push((message["ext"]["seq"].as_u64().unwrap(), message));
            }
        }
        // Pieces of another quality of service may come behind the end: `seq` counts them all, the
        // acceptance included.
        let wanted = end["ext"]["seq"].as_u64().unwrap_or(before);
        if !end.is_null() && (mode == Mode::Whole || end["error"].is_object() || before >= wanted) {
            break;
        }
    }
    if end["error"].is_object() {
        return refused(&end);
    }
    if mode == Mode::Whole {
        return answered(&end, None);
    }
    pieces.sort_by_key(|(seq, _)| *seq);
    let mut joined = Pieces::default();
    for (_, piece) in &pieces {
        let delta = &piece["choices"][0]["delta"];
        joined.text += delta["content"].as_str().unwrap_or_default();
        joined.calls.extend(delta["tool_calls"].as_array().into_iter().flatten().map(call));
    }
    answered(&end, Some(joined))
}

fn publish(daemon: &Daemon, version: &str, caller: &str, reply: &str, body: &str) {
    let mut command = Command::new("mosquitto_pub");
    command.args(["-V", version, "-h", "127.0.0.1", "-p", &daemon.mqtt_port.to_string()]);
    command.args(["-q", "1", "-s"]);
    match version {
        "5" => command
            .args(["-t", &format!("{NODE}/chat/request")])
            .args(["-D", "publish", "response-topic", reply])
            .args(["-D", "publish", "correlation-data", caller]),
        _ => command.args(["-t", &format!("{NODE}/chat/request/{caller}")]),
    };
    let output = suite::run_with(&mut command, body);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Plays a case with the library.
fn over_c(library: &mut Library, mode: &str, bytes: &str) -> Transcript {
    let mut pieces = Pieces::default();
    for (kind, text) in library.play(mode, bytes) {
        let json = || serde_json::from_str::<Value>(&text).unwrap();
        match kind.as_str() {
            "text" => pieces.text += &text,
            "call" => pieces.calls.push(call(&json())),
            "done" => return answered(&json(), (mode != "whole").then_some(pieces)),
            _ => return refused(&json()),
        }
    }
    panic!("no end of {bytes} in C");
}

#[test]
fn every_entrance_gives_the_same_answers_and_refusals() {
    let daemon = Daemon::start(&tiny_gguf(), &["--set", SETTINGS]);
    let model = tiny_gguf().display().to_string();
    let mut library = Library::start(&[SETTINGS_OF_C, ("ZONDA__MODEL__PATH", &model)]);
    let has_mqtt = installed("mosquitto_pub").is_some() && installed("stdbuf").is_some();
    if !has_mqtt {
        println!("skipped: no mosquitto_pub or stdbuf");
    }
    let mut wrong = Vec::new();
    for (number, case) in cases().iter().enumerate() {
        let expected = over_http(&daemon, case, Mode::Whole);
        let failed = expected.0["code"].as_str().map(str::to_owned);
        if failed != case.fails {
            wrong.push(format!("{}: {expected:?}", case.name));
        }
        for mode in [Mode::Whole, Mode::Stream] {
            let mut told = vec![(Entrance::Http, over_http(&daemon, case, mode))];
            if has_mqtt {
                for (entrance, version) in [(Entrance::Mqtt5, "5"), (Entrance::Mqtt311, "311")] {
                    told.push((entrance, over_mqtt(&daemon, version, number, case, mode)));
                }
            }
            if let Some(library) = &mut library {
                let word = if mode == Mode::Whole { "whole" } else { "stream" };
                told.push((Entrance::C, over_c(library, word, &case.bytes)));
            }
            for (entrance, transcript) in told {
                let is_known = DIFFERENCES
                    .iter()
                    .any(|(name, other, _)| *name == case.name && *other == entrance);
                if (transcript == expected) == is_known {
                    let name = &case.name;
                    wrong.push(format!(
                        "{name}, {entrance:?}, {mode:?}:\n  {transcript:?}\n  {expected:?}"
                    ));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
