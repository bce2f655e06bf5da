//! What an answer may be asked for, over HTTP and MQTT, from the real program: shapes, functions,
//! shared beginnings, and the same answer whatever else is in flight.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test stops where something is wrong, and tells what it skips"
)]

use std::process::Command;
use std::time::Instant;

use serde_json::{Value, json};
use suite::{
    Daemon, NODE, PATIENCE, http_with, installed, python_with, root, stdout_of, tiny_gguf,
};

const CHAT: &str = "/v1/chat/completions";

fn ask(daemon: &Daemon, body: &Value) -> Value {
    let (status, answer) = daemon.post(CHAT, &body.to_string());
    assert_eq!(status, 200, "{answer}");
    answer
}

fn text(answer: &Value) -> &str {
    answer["choices"][0]["message"]["content"].as_str().unwrap()
}

fn cached(answer: &Value) -> u64 {
    answer["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap()
}

fn user(text: &str) -> Value {
    json!([{ "role": "user", "content": text }])
}

/// A greedy request for exactly so many tokens.
fn exactly(tokens: u32, prompt: &str) -> Value {
    json!({
        "messages": user(prompt), "temperature": 0, "max_tokens": tokens, "min_tokens": tokens,
    })
}

#[test]
fn answers_are_the_same_alone_and_in_a_crowd_with_and_without_shortcuts() {
    let beginning = "The pump in hall two went down before noon. ".repeat(5);
    let prompts: Vec<String> =
        (0..8).map(|number| format!("{beginning}Light {number} on.")).collect();
    let mut expected: Vec<String> = Vec::new();
    let plain = ["--set", "engine.prefix_sharing=off", "--set", "engine.draft_tokens_max=0"];
    let crowded = ["--set", "engine.sequences_max=3"];
    let few_pages = ["--set", "memory.kv_pool_bytes=1MiB"];
    for arguments in [&plain[..], &[], &crowded, &few_pages] {
        let daemon = Daemon::start(&tiny_gguf(), arguments);
        if expected.is_empty() {
            let alone = prompts.iter().map(|prompt| ask(&daemon, &exactly(40, prompt)));
            expected = alone.map(|answer| text(&answer).to_owned()).collect();
        }
        let answers: Vec<Value> = std::thread::scope(|scope| {
            let running: Vec<_> = prompts
                .iter()
                .map(|prompt| scope.spawn(|| ask(&daemon, &exactly(40, prompt))))
                .collect();
            running.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        for (answer, expected) in answers.iter().zip(&expected) {
            assert_eq!(text(answer), expected, "{arguments:?}");
        }
        let again = ask(&daemon, &exactly(40, &prompts[0]));
        assert_eq!(text(&again), expected[0]);
        let shares = !arguments.contains(&"engine.prefix_sharing=off");
        assert_eq!(cached(&again) > 0, shares, "{arguments:?}: {}", again["usage"]);
    }
}

#[test]
fn clients_with_tokens_keep_their_beginnings_apart_when_told_so() {
    // The digests of "one" and "two".
    let tokens = "http.token_sha256=[\"7692c3ad3540bb803c020b3aee66cd8887123234ea0c6e7143c0add73ff431ed\",\
                  \"3fc4ccfe745870e2c0d99f71f30ff0656c8dedd41cc1d7d3d376b0dbe685e2f3\"]";
    let daemon =
        Daemon::start(&tiny_gguf(), &["--set", tokens, "--set", "engine.prefix_sharing=client"]);
    let body = exactly(4, &"The pump in hall two went down before noon. ".repeat(5)).to_string();
    let cached = |token: &str| {
        let header = format!("Authorization: Bearer {token}\r\n");
        let request = format!("POST {CHAT}");
        let (status, _, answer) = http_with(daemon.http, &request, &header, body.as_bytes());
        assert_eq!(status, 200, "{answer}");
        cached(&serde_json::from_str(&answer).unwrap())
    };
    assert_eq!(cached("one"), 0);
    assert!(cached("one") > 0);
    assert_eq!(cached("two"), 0, "another's beginning was found");
}

#[test]
fn a_beginning_that_was_shared_is_known_after_a_restart() {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("beginnings");
    let setting = format!("engine.prefix_folder={}", folder.display());
    let body = exactly(24, &"The pump in hall two went down before noon. ".repeat(5));
    let files = || {
        let entries = std::fs::read_dir(&folder).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.ends_with(".page")).count() as u64
    };
    let (expected, known) = {
        let daemon = Daemon::start(&tiny_gguf(), &["--set", &setting]);
        let first = ask(&daemon, &body);
        assert_eq!(files(), 0, "nobody else asked for it");
        let again = ask(&daemon, &body);
        let began = Instant::now();
        while files() < cached(&again) / 16 {
            assert!(began.elapsed() < PATIENCE, "{} files", files());
            std::thread::yield_now();
        }
        (text(&first).to_owned(), cached(&again))
        // Dropped, it is killed.
    };
    assert!(known > 0);
    for arguments in
        [&["--set", &setting][..], &["--set", &setting, "--set", "device.backend=ndarray"]]
    {
        let daemon = Daemon::start(&tiny_gguf(), arguments);
        let answer = ask(&daemon, &body);
        assert_eq!((text(&answer), cached(&answer)), (&*expected, known));
    }
    for entry in std::fs::read_dir(&folder).unwrap() {
        std::fs::write(entry.unwrap().path(), "no page at all").unwrap();
    }
    let daemon = Daemon::start(&tiny_gguf(), &["--set", &setting]);
    let answer = ask(&daemon, &body);
    assert_eq!((text(&answer), cached(&answer)), (&*expected, 0));
}

#[test]
fn finished_answers_have_the_shape_that_was_asked_for() {
    let daemon = Daemon::start(&tiny_gguf(), &[]);
    let schema = json!({
        "type": "object",
        "properties": {
            "room": { "enum": ["kitchen", "attic", "garage"] },
            "level": { "type": "integer", "minimum": 0, "maximum": 100 },
        },
        "required": ["room", "level"],
        "additionalProperties": false,
    });
    let schema = json!({ "type": "json_schema", "json_schema": { "name": "s", "schema": schema } });
    let shape = |format: &Value, seed: u64| {
        ask(
            &daemon,
            &json!({
                "messages": user("What is on?"), "temperature": 1, "random_seed": seed,
                "max_tokens": 64, "response_format": format,
            }),
        )
    };
    for seed in 0..20 {
        let answer = shape(&schema, seed);
        assert_eq!(answer["choices"][0]["finish_reason"], "stop");
        let value: Value = serde_json::from_str(text(&answer)).unwrap();
        assert!(["kitchen", "attic", "garage"].contains(&value["room"].as_str().unwrap()));
        assert!(value["level"].as_u64().unwrap() <= 100);
        assert_eq!(value.as_object().unwrap().len(), 2);
        let details = &answer["usage"]["completion_tokens_details"];
        assert!(details["forced_tokens"].as_u64().unwrap() > 4, "{details}");
    }
    let regex = json!({ "type": "regex", "regex": "[A-Z]{3}-[0-9]{4}" });
    let choice = json!({ "type": "choice", "choices": ["open", "shut"] });
    for seed in 0..20 {
        let written = shape(&regex, seed);
        let bytes = text(&written).as_bytes();
        assert!(bytes.len() == 8 && bytes[..3].iter().all(u8::is_ascii_uppercase));
        assert!(bytes[3] == b'-' && bytes[4..].iter().all(u8::is_ascii_digit));
        assert!(["open", "shut"].contains(&text(&shape(&choice, seed))));
    }
}

#[test]
fn forced_calls_are_calls_over_every_entrance() {
    let daemon = Daemon::start(&tiny_gguf(), &[]);
    let tool = json!({ "type": "function", "function": {
        "name": "set_light",
        "description": "Switches a light.",
        "parameters": {
            "type": "object",
            "properties": { "on": { "type": "boolean" }, "room": { "enum": ["hall", "attic"] } },
            "required": ["on", "room"],
            "additionalProperties": false,
        },
    }});
    let mut body = json!({
        "messages": user("Turn on the hall light."), "temperature": 0, "max_tokens": 96,
        "tools": [tool], "tool_choice": "any", "parallel_tool_calls": false,
    });
    let answer = ask(&daemon, &body);
    assert_eq!(answer["choices"][0]["finish_reason"], "tool_calls", "{answer}");
    let check = |message: &Value| {
        let calls = message["tool_calls"].as_array().unwrap();
        assert_eq!(calls.len(), 1);
        assert_eq!(calls[0]["function"]["name"], "set_light");
        let arguments = calls[0]["function"]["arguments"].as_str().unwrap();
        let arguments: Value = serde_json::from_str(arguments).unwrap();
        assert!(arguments["on"].is_boolean() && arguments["room"].is_string(), "{arguments}");
    };
    check(&answer["choices"][0]["message"]);

    match installed("mosquitto_rr") {
        None => println!("skipped: no mosquitto_rr"),
        Some(_) => {
            body["ext"] = json!({ "mode": "final" });
            let output = stdout_of(
                Command::new("mosquitto_rr")
                    .args(["-V", "5", "-h", "127.0.0.1", "-p", &daemon.mqtt_port.to_string()])
                    .args(["-W", "60", "-q", "1", "-t", &format!("{NODE}/chat/request")])
                    .args(["-e", "zonda/v1/plant1/client/rr/reply/1", "-m", &body.to_string()]),
            );
            let answer: Value = serde_json::from_str(output.lines().last().unwrap()).unwrap();
            check(&answer["choices"][0]["message"]);
        }
    }

    match python_with("openai") {
        None => println!("skipped: no Python client openai"),
        Some(python) => {
            let base = format!("http://{}/v1", daemon.http);
            let told = stdout_of(
                Command::new(python).arg(root().join("tests/suite/clients/shapes.py")).arg(base),
            );
            assert_eq!(told.trim(), "ok");
        }
    }
}
