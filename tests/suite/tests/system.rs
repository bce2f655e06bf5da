//! The real program, a real broker and real clients give one and the same answer.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test stops where something is wrong, and tells what it skips"
)]

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use suite::{
    Broker, Daemon, NODE, Subscriber, built, installed, python_with, root, run_with, shared,
    stdout_of, tiny_gguf, zonda,
};

const PROMPT: &str = "Turn on the kitchen light.";
const ANSWER: &str = "The kitchen light is on.";
const MAX_TOKENS: &str = "48";

/// What `zonda run` answers at temperature 0.
fn run_answer(model: &Path, prompt: &str) -> String {
    let answer = stdout_of(
        zonda()
            .args(["run", "--temperature", "0", "--max-tokens", MAX_TOKENS, "--prompt", prompt])
            .arg("--model")
            .arg(model),
    );
    answer.strip_suffix('\n').unwrap().to_owned()
}

fn rr(port: u16, prompt: &str, extra: &[&str]) -> Value {
    let body = json!({
        "model": "default", "temperature": 0, "max_tokens": 48,
        "messages": [{ "role": "user", "content": prompt }],
        "ext": { "mode": "final" },
    });
    let reply = "zonda/v1/plant1/client/rr/reply/1";
    let topic = format!("{NODE}/chat/request");
    let output = stdout_of(
        Command::new("mosquitto_rr")
            .args(["-V", "5", "-h", "127.0.0.1", "-p", &port.to_string(), "-W", "60", "-q", "1"])
            .args(["-t", &topic, "-e", reply, "-m", &body.to_string()])
            .args(extra),
    );
    // mosquitto_rr ends with the first reply: accepted, or the final message.
    output.lines().last().map(|line| serde_json::from_str(line).unwrap()).unwrap_or_default()
}

/// Compiles and runs an example against the library and gives what it prints.
fn example(
    compiler: &str,
    standard: &str,
    source: &str,
    model: &Path,
    prompt: &str,
) -> Option<String> {
    installed(compiler)?;
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("example");
    let c_abi = root().join("plugins/c-abi");
    stdout_of(
        Command::new(compiler)
            .args([standard, "-Wall", "-Wextra", "-Werror", "-pedantic", "-I"])
            .arg(c_abi.join("include"))
            .arg(c_abi.join("examples").join(source))
            .arg("-o")
            .arg(&program)
            .arg("-L")
            .arg(built())
            .arg("-lzonda"),
    );
    // The library asks to be found by its ABI's name.
    std::os::unix::fs::symlink(built().join("libzonda.so"), folder.path().join("libzonda.so.1"))
        .unwrap();
    Some(stdout_of(
        Command::new(&program)
            .env("LD_LIBRARY_PATH", folder.path())
            .arg(model)
            .args([prompt, MAX_TOKENS]),
    ))
}

/// Every way in gives `expected` for `prompt`; says how many ways there were.
fn every_entrance_answers(model: &Path, prompt: &str, expected: &str) -> usize {
    assert_eq!(run_answer(model, prompt), expected, "zonda run");
    let Some(broker) = Broker::start() else {
        println!("skipped: no mosquitto");
        return 1;
    };
    let daemon = Daemon::start(model, &["--mqtt", &broker.url()]);
    let mut answers: Vec<(String, String)> = vec![("raw HTTP".into(), daemon.chat(prompt))];
    if let Some(curl) = installed("curl") {
        let body = json!({
            "messages": [{ "role": "user", "content": prompt }], "temperature": 0, "max_tokens": 48,
            "model": "default",
        });
        let url = format!("http://{}/v1/chat/completions", daemon.http);
        let output = stdout_of(
            Command::new(curl)
                .args(["-s", &url, "-d", &body.to_string()])
                .args(["-H", "Content-Type: application/json"]),
        );
        let answer: Value = serde_json::from_str(&output).unwrap();
        let text = answer["choices"][0]["message"]["content"].as_str().unwrap();
        answers.push(("curl".into(), text.to_owned()));
    }
    match (python_with("openai"), python_with("mistralai"), python_with("paho.mqtt")) {
        (Some(python), Some(_), Some(_)) => {
            let clients = root().join("tests/suite/clients");
            let http =
                stdout_of(Command::new(&python).arg(clients.join("http_clients.py")).args([
                    &format!("http://{}", daemon.http),
                    "default",
                    prompt,
                    MAX_TOKENS,
                ]));
            let mqtt =
                stdout_of(Command::new(&python).arg(clients.join("mqtt_clients.py")).args([
                    &broker.port.to_string(),
                    NODE,
                    "zonda/v1/plant1",
                    prompt,
                    MAX_TOKENS,
                ]));
            for line in [http, mqtt] {
                let object: Value = serde_json::from_str(line.trim()).unwrap();
                for (client, text) in object.as_object().unwrap() {
                    answers.push((client.clone(), text.as_str().unwrap().to_owned()));
                }
            }
        }
        _ => println!("skipped: no Python clients (openai, mistralai, paho-mqtt)"),
    }
    if installed("mosquitto_rr").is_some() {
        answers.push(("mosquitto_rr".into(), rr_final(broker.port, prompt)));
    }
    for (compiler, standard, source) in
        [("cc", "-std=c11", "chat.c"), ("c++", "-std=c++17", "chat.cpp")]
    {
        match example(compiler, standard, source, model, prompt) {
            Some(text) => answers.push((source.into(), text.trim_end_matches('\n').to_owned())),
            None => println!("skipped: no {compiler}"),
        }
    }
    for (client, text) in &answers {
        assert_eq!(text, expected, "{client}");
    }
    answers.len() + 1
}

/// The final text as `mosquitto_rr` gets it.
fn rr_final(port: u16, prompt: &str) -> String {
    let answer = rr(port, prompt, &[]);
    assert_eq!(answer["ext"]["status"], 200, "{answer}");
    answer["choices"][0]["message"]["content"].as_str().unwrap().to_owned()
}

#[test]
fn every_entrance_gives_the_same_answer() {
    let ways = every_entrance_answers(&tiny_gguf(), PROMPT, ANSWER);
    println!("{ways} ways in");
}

#[test]
fn stories_are_told_the_same_through_every_entrance() {
    let Some(shared) = shared() else {
        println!("skipped: no shared data");
        return;
    };
    let model: PathBuf = shared.join("data/models/stories260K/stories260K-f32.gguf");
    let prompt = "Once upon a time";
    let told = run_answer(&model, prompt);
    assert!(told.split_whitespace().count() > 8, "no story: {told:?}");
    every_entrance_answers(&model, prompt, &told);
}

#[test]
fn the_embedded_broker_serves_both_protocols_on_one_port() {
    if installed("mosquitto_rr").is_none() {
        println!("skipped: no mosquitto clients");
        return;
    }
    let daemon = Daemon::start(&tiny_gguf(), &[]);
    assert!(daemon.ready.contains("embedded broker"), "{}", daemon.ready);
    assert_eq!(rr_final(daemon.mqtt_port, PROMPT), ANSWER);
    let reply = "zonda/v1/plant1/client/old/reply/7";
    let mut subscriber = Subscriber::start("311", daemon.mqtt_port, reply);
    let port = daemon.mqtt_port.to_string();
    let body = json!({
        "messages": [{ "role": "user", "content": PROMPT }], "temperature": 0, "max_tokens": 48,
        "model": "default", "ext": { "mode": "final" },
    });
    stdout_of(
        Command::new("mosquitto_pub").args(["-V", "311", "-h", "127.0.0.1", "-p", &port]).args([
            "-q",
            "1",
            "-t",
            &format!("{NODE}/chat/request/old/7"),
            "-m",
            &body.to_string(),
        ]),
    );
    let last = subscriber.last();
    assert_eq!(last["choices"][0]["message"]["content"], ANSWER, "{last}");
}

#[test]
fn a_broker_that_dies_and_comes_back_is_served_again() {
    let Some(mut broker) = Broker::start() else {
        println!("skipped: no mosquitto");
        return;
    };
    let mut daemon = Daemon::start(&tiny_gguf(), &["--mqtt", &broker.url()]);
    assert_eq!(rr_final(broker.port, PROMPT), ANSWER);
    for _ in 0..2 {
        broker.restart(|| assert_eq!(daemon.chat(PROMPT), ANSWER, "HTTP while the broker is gone"));
        daemon.wait_for_status("online");
        assert_eq!(rr_final(broker.port, PROMPT), ANSWER);
    }
    assert!(daemon.runs());
    let port = broker.port;
    assert!(daemon.terminate().success());
    let status = stdout_of(Command::new("mosquitto_sub").args([
        "-h",
        "127.0.0.1",
        "-p",
        &port.to_string(),
        "-t",
        &format!("{NODE}/status"),
        "-C",
        "1",
        "-W",
        "20",
    ]));
    assert_eq!(status.trim(), "offline");
}

#[test]
fn many_requests_at_once_are_each_answered_as_alone() {
    let daemon = Daemon::start(&tiny_gguf(), &[]);
    let prompts = [
        ("Turn on the kitchen light.", "The kitchen light is on."),
        ("Open the garage door.", "The garage door is open."),
        ("Switch off the attic fan, please.", "The attic fan is off."),
        ("Set the office to 21 degrees.", "The office is set to 21 degrees."),
    ];
    std::thread::scope(|scope| {
        for _ in 0..4 {
            for (prompt, answer) in prompts {
                let daemon = &daemon;
                scope.spawn(move || {
                    for _ in 0..3 {
                        assert_eq!(daemon.chat(prompt), answer);
                    }
                });
            }
        }
    });
}

#[test]
fn a_local_tool_is_called_and_its_result_is_read() {
    let daemon = Daemon::start(&tiny_gguf(), &["--set", "tools.enabled=clock"]);
    let before = stdout_of(Command::new("date").args(["-u", "+%H:%M"]));
    let answer = daemon.chat("What time is it?");
    let after = stdout_of(Command::new("date").args(["-u", "+%H:%M"]));
    let allowed = [before, after].map(|time| format!("It is {} UTC.", time.trim()));
    assert!(allowed.contains(&answer), "{answer:?} is none of {allowed:?}");
    let plain = Daemon::start(&tiny_gguf(), &[]);
    assert_eq!(plain.chat("What time is it?"), "I have no clock.");
}

#[test]
fn a_client_gets_the_calls_of_its_own_tools() {
    let daemon = Daemon::start(&tiny_gguf(), &[]);
    let golden: Value = serde_json::from_slice(
        &std::fs::read(root().join("tests/fixtures/tiny/golden.json")).unwrap(),
    )
    .unwrap();
    let case = golden["gguf"]
        .as_array()
        .unwrap()
        .iter()
        .find(|case| case["id"] == "clock")
        .expect("a case with tools");
    let body = json!({
        "model": "default", "temperature": 0,
        "messages": [{ "role": "user", "content": case["ask"] }], "tools": case["tools"],
    });
    let (status, answer) = daemon.post("/v1/chat/completions", &body.to_string());
    assert_eq!(status, 200, "{answer}");
    let choice = &answer["choices"][0];
    assert_eq!(choice["finish_reason"], "tool_calls", "{answer}");
    let call = &choice["message"]["tool_calls"][0];
    assert_eq!(call["function"]["name"], "clock");
    assert_eq!(call["function"]["arguments"], "{}");
    assert_eq!(call["id"].as_str().map(str::len), Some(9));
}

#[test]
fn a_filter_refuses_what_is_too_long() {
    let daemon = Daemon::start(&tiny_gguf(), &["--config", &filter_config()]);
    assert_eq!(daemon.chat(PROMPT), ANSWER);
    let body = json!({
        "model": "default", "messages": [{ "role": "user", "content": "x".repeat(500) }],
    });
    let (status, answer) = daemon.post("/v1/chat/completions", &body.to_string());
    assert!((400..500).contains(&status), "{status} {answer}");
    assert_eq!(daemon.chat(PROMPT), ANSWER);
}

fn filter_config() -> String {
    root().join("tests/suite/config/length-filter.toml").display().to_string()
}

#[test]
fn an_alias_answers_with_its_own_encoding_and_says_who_answered() {
    let config = root().join("tests/suite/config/aliases.toml").display().to_string();
    let daemon = Daemon::start(&tiny_gguf(), &["--config", &config]);
    let ask = |model: &str| {
        let body = json!({
            "model": model, "temperature": 0, "max_tokens": 48,
            "messages": [{ "role": "system", "content": "Be brief." }, { "role": "user", "content": PROMPT }],
        });
        daemon.post("/v1/chat/completions", &body.to_string())
    };
    let (status, own) = ask("tiny");
    assert_eq!((status, &own["model"]), (200, &json!("tiny")), "{own}");
    let (status, alias) = ask("mistral-small-2402");
    assert_eq!((status, &alias["model"]), (200, &json!("tiny")), "{alias}");
    let (_, _, models) = daemon.http("GET /v1/models", b"");
    assert!(models.contains("mistral-small-2402"), "{models}");
    let (status, unknown) = ask("mistral-large-9999");
    assert_eq!(status, 404, "{unknown}");
}

#[test]
fn sigterm_lets_a_running_answer_end_and_exits_0() {
    let mut daemon = Daemon::start(&tiny_gguf(), &[]);
    let body = json!({
        "model": "default", "stream": true, "temperature": 0, "min_tokens": 400, "max_tokens": 400,
        "messages": [{ "role": "user", "content": PROMPT }],
    });
    let mut stream = std::net::TcpStream::connect(daemon.http).unwrap();
    let body = body.to_string();
    write!(
        stream,
        "POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {}\r\n\
         Content-Type: application/json\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
    .unwrap();
    let mut lines = BufReader::new(stream).lines().map(Result::unwrap);
    assert!(lines.any(|line| line.contains("\"content\":\"The\"")), "the answer began");
    daemon.tell_to_stop();
    assert!(lines.any(|line| line == "data: [DONE]"), "the answer ended whole");
    assert_eq!(daemon.terminate().code(), Some(0));
}

#[test]
fn prompts_and_answers_are_in_no_log() {
    let daemon = Daemon::start(&tiny_gguf(), &["--set", "log.level=trace"]);
    let canary = "kitchen canary-7f3a";
    daemon.chat(canary);
    let (status, _) =
        daemon.post("/v1/chat/completions", &format!("{{\"messages\":\"{canary}\"}}"));
    assert!((400..500).contains(&status));
    assert_eq!(daemon.chat(PROMPT), ANSWER);
    if installed("mosquitto_rr").is_some() {
        assert_eq!(rr_final(daemon.mqtt_port, PROMPT), ANSWER);
    }
    let log = daemon.log();
    assert!(log.contains("loading the model"), "{log}");
    for secret in ["canary-7f3a", "Turn on the", "light is on"] {
        assert!(!log.contains(secret), "the log holds {secret:?}");
    }
}

#[test]
fn the_embedded_model_answers_without_any_argument() {
    let output =
        run_with(zonda().args(["run", "--temperature", "0", "--prompt", "Who are you?"]), "");
    let answer = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(answer.contains("zonda"), "{answer}");
}

#[test]
fn a_conversation_in_the_terminal_goes_on_after_a_turn() {
    let output = run_with(
        zonda().args(["chat", "--temperature", "0"]).arg("--model").arg(tiny_gguf()),
        "Turn on the kitchen light.\nOpen the garage door.\n",
    );
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success());
    assert_eq!(text, "The kitchen light is on.\nThe garage door is open.\n");
}
