//! What an answer may be asked for, over HTTP and MQTT, from the real program: shapes, functions,
//! likelihoods, several answers, shared beginnings, and the same answer whatever else is in flight.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test stops where something is wrong, and tells what it skips"
)]

use std::process::Command;
use std::time::Instant;

use serde_json::{Value, json};
use suite::{
    Daemon, NODE, PATIENCE, http_with, installed, python_with, root, run_with, stdout_of,
    tiny_gguf, zonda,
};

const CHAT: &str = "/v1/chat/completions";

fn ask(daemon: &Daemon, body: &Value) -> Value {
    let (status, answer) = daemon.post(CHAT, &body.to_string());
    assert_eq!(status, 200, "{answer}");
    answer
}

/// The whole answer over MQTT, where the stock requester is installed.
fn ask_over_mqtt(daemon: &Daemon, body: &Value) -> Option<Value> {
    if installed("mosquitto_rr").is_none() {
        println!("skipped: no mosquitto_rr");
        return None;
    }
    let output = stdout_of(
        Command::new("mosquitto_rr")
            .args(["-V", "5", "-h", "127.0.0.1", "-p", &daemon.mqtt_port.to_string()])
            .args(["-W", "60", "-q", "1", "-t", &format!("{NODE}/chat/request")])
            .args(["-e", "zonda/v1/plant1/client/rr/reply/1", "-m", &body.to_string()]),
    );
    Some(serde_json::from_str(output.lines().last().unwrap()).unwrap())
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
    let draft = format!("model.draft_path={}", tiny_gguf().display());
    let second = ["--set", &draft, "--set", "engine.draft_tokens_max=3"];
    for arguments in [&plain[..], &[], &crowded, &few_pages, &second] {
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

    body["ext"] = json!({ "mode": "final" });
    if let Some(answer) = ask_over_mqtt(&daemon, &body) {
        check(&answer["choices"][0]["message"]);
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

/// Largest difference of a logarithm of a probability to one from the logits of `zonda logits`,
/// which reads in one step what an answer writes token by token (4.3e-7 found).
const LOGPROB_TOLERANCE: f64 = 1e-5;

/// The one line that a command answers to one line.
fn line_of(command: &mut Command, question: &Value) -> Value {
    let output = run_with(command, &format!("{question}\n"));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// What each token of a greedy answer and the two likeliest in its place must be told with, from
/// logits alone.
fn greedy_logprobs(prompt: &Value, tokens: usize) -> Vec<[f64; 2]> {
    let encode = json!({ "kind": "chat", "messages": prompt });
    let mut encoder = zonda();
    encoder.args(["encode", "--version", "v3", "--tokenizer"]).arg(tiny_gguf());
    let mut context = line_of(&mut encoder, &encode)["tokens"].as_array().unwrap().clone();
    let next = |_| {
        let mut command = zonda();
        command.args(["logits", "--model"]).arg(tiny_gguf());
        let row = line_of(&mut command, &json!({ "tokens": context }));
        let row = row["logits_last"].as_array().unwrap();
        let mut row: Vec<(f64, usize)> =
            row.iter().map(|logit| logit.as_f64().unwrap()).zip(0..).collect();
        row.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        let total = row.iter().map(|(logit, _)| (logit - row[0].0).exp()).sum::<f64>().ln();
        context.push(json!(row[0].1));
        [-total, row[1].0 - row[0].0 - total]
    };
    (0..tokens).map(next).collect()
}

#[test]
fn likelihoods_are_those_of_the_network_with_and_without_guesses() {
    let prompt = user("Turn on the kitchen light.");
    let mut body = json!({ "messages": prompt, "temperature": 0, "max_tokens": 32 });
    let mut seen: Vec<Value> = Vec::new();
    for arguments in [&["--set", "engine.draft_tokens_max=0"][..], &[]] {
        let daemon = Daemon::start(&tiny_gguf(), arguments);
        for guesses in [false, true] {
            body["logprobs"] = Value::Null;
            body["top_logprobs"] = Value::Null;
            let plain = ask(&daemon, &body);
            if guesses {
                body["prediction"] = json!({ "type": "content", "content": text(&plain) });
            }
            body["logprobs"] = json!(true);
            body["top_logprobs"] = json!(2);
            let told = ask(&daemon, &body);
            assert_eq!(text(&told), text(&plain));
            seen.push(told["choices"][0]["logprobs"]["content"].clone());
            body["ext"] = json!({ "mode": "final" });
            if let Some(told) = ask_over_mqtt(&daemon, &body) {
                seen.push(told["choices"][0]["logprobs"]["content"].clone());
            }
            body["ext"] = Value::Null;
        }
        body["prediction"] = Value::Null;
    }
    assert!(seen.iter().all(|told| *told == seen[0]), "{seen:?}");

    let told = seen[0].as_array().unwrap();
    assert!(told.len() > 3, "{told:?}");
    let wanted = greedy_logprobs(&prompt, told.len());
    let mut largest = 0.0f64;
    for (told, wanted) in told.iter().zip(wanted) {
        let top = told["top_logprobs"].as_array().unwrap();
        assert_eq!((&top[0]["token"], &top[0]["logprob"]), (&told["token"], &told["logprob"]));
        for (told, wanted) in top.iter().zip(wanted) {
            largest = largest.max((told["logprob"].as_f64().unwrap() - wanted).abs());
        }
    }
    println!("likelihoods: largest difference to those of the logits {largest:.1e}");
    assert!(largest < LOGPROB_TOLERANCE, "{largest}");
}

#[test]
fn several_answers_count_their_prompt_once_and_have_the_seeds_that_follow() {
    let daemon = Daemon::start(&tiny_gguf(), &[]);
    let beginning = "The pump in hall two went down before noon. ".repeat(5);
    let mut body = json!({
        "messages": user(&beginning), "temperature": 1, "random_seed": 7, "max_tokens": 24, "n": 4,
    });
    let answers = ask(&daemon, &body);
    assert_eq!(cached(&answers), 0, "what one computed for the others was computed");
    assert!(cached(&ask(&daemon, &body)) > 0);
    let choices = answers["choices"].as_array().unwrap();
    let mut completion_tokens = 0;
    for (index, choice) in choices.iter().enumerate() {
        body["n"] = json!(1);
        body["random_seed"] = json!(7 + index);
        let alone = ask(&daemon, &body);
        assert_eq!(choice["message"], alone["choices"][0]["message"]);
        assert_eq!(choice["index"], index);
        completion_tokens += alone["usage"]["completion_tokens"].as_u64().unwrap();
        assert_eq!(answers["usage"]["prompt_tokens"], alone["usage"]["prompt_tokens"]);
    }
    assert_eq!(answers["usage"]["completion_tokens"], completion_tokens);
    let said: std::collections::HashSet<&str> =
        choices.iter().map(|choice| choice["message"]["content"].as_str().unwrap()).collect();
    assert!(said.len() > 1, "seeds matter: {said:?}");
    body["n"] = json!(2);
    body["ext"] = json!({ "mode": "final" });
    if let Some(refused) = ask_over_mqtt(&daemon, &body) {
        assert_eq!((&refused["code"], &refused["param"]), (&json!("unsupported"), &json!("n")));
    }
}

#[test]
fn clients_read_likelihoods_and_several_answers() {
    let daemon = Daemon::start(&tiny_gguf(), &[]);
    match (python_with("openai"), python_with("mistralai")) {
        (Some(python), Some(_)) => {
            let client = root().join("tests/suite/clients/choices.py");
            let base = format!("http://{}", daemon.http);
            assert_eq!(stdout_of(Command::new(python).arg(client).arg(base)).trim(), "ok");
        }
        _ => println!("skipped: no Python clients openai and mistralai"),
    }
}

#[test]
fn typical_tokens_are_drawn_and_the_least_mass_leaves_one() {
    let daemon = Daemon::start(&tiny_gguf(), &[]);
    let draw = |typical_p: f64, seed: u32| {
        let answer = ask(
            &daemon,
            &json!({
                "messages": user("What is on?"), "temperature": 1.5, "typical_p": typical_p,
                "random_seed": seed, "max_tokens": 24,
            }),
        );
        text(&answer).to_owned()
    };
    let told = |typical_p| -> std::collections::HashSet<String> {
        (0..6).map(|seed| draw(typical_p, seed)).collect()
    };
    assert_eq!(told(0.0).len(), 1, "one token is left at each place");
    assert!(told(1.0).len() > 1);
}
