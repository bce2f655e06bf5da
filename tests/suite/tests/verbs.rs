//! What else than an answer may be asked for: scores of labels, and the tokens of a prompt.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test stops where something is wrong, and tells what it skips"
)]

use std::process::Command;

use serde_json::{Value, json};
use suite::{Daemon, http_exchange, python_with, root, run_with, stdout_of, tiny_gguf, zonda};

const CLASSIFY: &str = "/v1/classifications";
const CLASSIFY_CHAT: &str = "/v1/chat/classifications";
const TEXTS: [&str; 2] = ["Open the garage door.", "Turn on the hall light."];
/// Attempts at what the daemon may be through with before it is looked at.
const TRIES: usize = 20;

fn start(more: &[&str]) -> Daemon {
    let config = root().join("tests/suite/config/classifiers.toml").display().to_string();
    Daemon::start(&tiny_gguf(), &[&["--config", config.as_str()], more].concat())
}

fn post(daemon: &Daemon, path: &str, body: &Value) -> Value {
    let (status, answer) = daemon.post(path, &body.to_string());
    assert_eq!(status, 200, "{answer}");
    answer
}

fn refused(daemon: &Daemon, path: &str, body: &Value) -> (u16, String) {
    let (status, answer) = daemon.post(path, &body.to_string());
    (status, answer["code"].as_str().unwrap_or_default().to_owned())
}

/// The conversation that asks about a text.
fn worded(instruction: &str, labels: &[&str], text: &str) -> Value {
    let system = format!(
        "{instruction}\nAnswer with one of these labels and nothing else:\n{}",
        labels.join("\n")
    );
    json!([{ "role": "system", "content": system }, { "role": "user", "content": text }])
}

/// Answers of a verb of the program to lines of JSON.
fn lines(command: &mut Command, input: &[Value]) -> Vec<Value> {
    let input: String = input.iter().map(|line| format!("{line}\n")).collect();
    let output = run_with(command, &input);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let output = String::from_utf8(output.stdout).unwrap();
    output.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The token that ends an answer, as a conversation with one has it.
fn end(daemon: &Daemon) -> u64 {
    let messages = json!([
        { "role": "user", "content": "a" },
        { "role": "assistant", "content": "b" },
        { "role": "user", "content": "c" },
    ]);
    let told =
        post(daemon, "/tokenize", &json!({ "messages": messages, "return_token_strs": true }));
    let spelled = told["token_strs"].as_array().unwrap();
    told["tokens"][spelled.iter().position(|text| text == "</s>").unwrap()].as_u64().unwrap()
}

/// The log-probability of each label as the whole answer, a prompt of its own for each token.
fn one_by_one(daemon: &Daemon, messages: &Value, labels: &[&str]) -> Vec<f64> {
    let told = post(daemon, "/tokenize", &json!({ "messages": messages }));
    let prompt: Vec<u64> = serde_json::from_value(told["tokens"].clone()).unwrap();
    let end = end(daemon);
    let answered = |label: &&str| {
        let mut messages = messages.as_array().unwrap().clone();
        messages.push(json!({ "role": "assistant", "content": label, "prefix": true }));
        let told = post(daemon, "/tokenize", &json!({ "messages": messages }));
        let mut tokens: Vec<u64> = serde_json::from_value(told["tokens"].clone()).unwrap();
        tokens.push(end);
        tokens
    };
    let whole: Vec<Vec<u64>> = labels.iter().map(answered).collect();
    let log_probability = |tokens: &Vec<u64>| -> f64 {
        assert!(tokens.starts_with(&prompt), "the answer does not continue the prompt");
        let prompts: Vec<Value> =
            (prompt.len()..tokens.len()).map(|end| json!({ "tokens": tokens[..end] })).collect();
        let mut logits = zonda();
        logits.args(["logits", "--model"]).arg(tiny_gguf());
        let rows = lines(&mut logits, &prompts);
        rows.iter()
            .zip(&tokens[prompt.len()..])
            .map(|(row, &token)| {
                let logits: Vec<f64> = serde_json::from_value(row["logits_last"].clone()).unwrap();
                logits[token as usize] - logits.iter().map(|logit| logit.exp()).sum::<f64>().ln()
            })
            .sum()
    };
    whole.iter().map(log_probability).collect()
}

fn shares(logs: &[f64]) -> Vec<f64> {
    let total: f64 = logs.iter().map(|log| log.exp()).sum();
    logs.iter().map(|log| log.exp() / total).collect()
}

fn scores(target: &Value, labels: &[&str]) -> Vec<f64> {
    labels.iter().map(|label| target["scores"][*label].as_f64().unwrap()).collect()
}

/// At most so far apart: logits of a whole prompt and of its parts differ by rounding alone.
const CLOSE: f64 = 1e-4;

fn assert_close(found: &[f64], expected: &[f64]) {
    let far = found.iter().zip(expected).any(|(a, b)| (a - b).abs() > CLOSE);
    assert!(!far && found.len() == expected.len(), "{found:?}, one by one {expected:?}");
}

#[test]
fn scores_are_those_of_each_label_as_an_answer_of_its_own() {
    let daemon = start(&[]);
    let answer = post(&daemon, CLASSIFY, &json!({ "model": "house", "input": TEXTS }));
    let device = ["light", "door", "light and door"];
    let wish = ["on", "off"];
    let logs = |instruction: &str, labels: &[&str], text: &str| {
        one_by_one(&daemon, &worded(instruction, labels, text), labels)
    };
    for (text, result) in TEXTS.iter().zip(answer["results"].as_array().unwrap()) {
        let expected = shares(&logs("Which device is meant?", &device, text));
        assert_close(&scores(&result["device"], &device), &expected);
        let best = expected.iter().copied().fold(0.0, f64::max);
        let best = device[expected.iter().position(|score| *score == best).unwrap()];
        assert_eq!(result["device"]["label"], best);

        let logs = |text: &str| logs("What is to be done?", &wish, text);
        let empty = ["N/A", "[MASK]"].map(|text| shares(&logs(text)));
        let fair: Vec<f64> = logs(text)
            .iter()
            .enumerate()
            .map(|(at, log)| log - ((empty[0][at] + empty[1][at]) / 2.0).ln())
            .collect();
        assert_close(&scores(&result["wish"], &wish), &shares(&fair));
        let abstained = shares(&fair).iter().all(|share| *share < 0.999_999_999);
        assert_eq!(result["wish"]["abstained"], abstained);
        assert_eq!(result["wish"]["label"].is_null(), abstained);
    }
    let usage = &answer["usage"];
    let sum = |name: &str| usage[name].as_u64().unwrap();
    assert_eq!(sum("total_tokens"), sum("prompt_tokens") + sum("completion_tokens"));
    assert!(usage["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap() > 0, "{usage}");

    let own = json!({
        "model": "default", "input": TEXTS[0], "labels": device,
        "instruction": "Which device is meant?",
    });
    let own = post(&daemon, CLASSIFY, &own);
    let named = scores(&answer["results"][0]["device"], &device);
    assert_close(&scores(&own["results"][0]["label"], &device), &named);
}

#[test]
fn mistrals_client_reads_classifications() {
    let Some(python) = python_with("mistralai") else {
        println!("skipped: no Python client mistralai");
        return;
    };
    let daemon = start(&[]);
    let base = format!("http://{}", daemon.http);
    let client = root().join("tests/suite/clients/verbs.py");
    let told: Value =
        serde_json::from_str(&stdout_of(Command::new(python).arg(client).arg(base))).unwrap();
    let plain = post(&daemon, CLASSIFY, &json!({ "model": "house", "input": TEXTS }));
    let expected = [&plain["results"][0], &plain["results"][1], &plain["results"][0]];
    for (told, expected) in told.as_array().unwrap().iter().zip(expected) {
        for (target, labels) in
            [("device", &["light", "door", "light and door"][..]), ("wish", &["on", "off"])]
        {
            let told = json!({ "scores": told[target] });
            assert_eq!(scores(&told, labels), scores(&expected[target], labels), "{target}");
        }
    }
}

#[test]
fn many_inputs_in_a_small_house_keep_their_order_and_answers_stay_the_same() {
    let few = ["--set", "engine.sequences_max=2", "--set", "engine.queue_requests_max=3"];
    let (daemon, roomy) = (start(&few), start(&[]));
    let inputs: Vec<String> =
        (0..24).map(|number| format!("{} {number}", TEXTS[number % 2])).collect();
    let chats: Vec<Value> = inputs
        .iter()
        .map(|text| json!({ "messages": [{ "role": "user", "content": text }] }))
        .collect();
    let prompt = "Turn on the kitchen light.";
    let said = roomy.chat(prompt);
    let expected: Vec<Value> = inputs
        .iter()
        .map(|text| post(&roomy, CLASSIFY, &json!({ "model": "house", "input": text })))
        .map(|answer| answer["results"][0].clone())
        .collect();
    let found = post(&daemon, CLASSIFY_CHAT, &json!({ "model": "house", "input": chats }));
    assert_eq!(found["results"].as_array().unwrap(), &expected);
    assert_eq!(daemon.chat(prompt), said);
    assert_eq!(roomy.chat(prompt), said);
}

#[test]
fn what_cannot_be_classified_is_refused_with_the_field_at_fault() {
    let daemon = start(&[]);
    let bad = |body: Value| refused(&daemon, CLASSIFY, &body);
    let of = |status: u16, code: &str| (status, code.to_owned());
    let unknown = json!({ "model": "nobody", "input": "x" });
    assert_eq!(bad(unknown.clone()), of(404, "model_not_found"));
    assert_eq!(refused(&daemon, CLASSIFY_CHAT, &unknown), of(404, "model_not_found"));
    assert_eq!(bad(json!({ "model": "house" })), of(422, "invalid_field"));
    assert_eq!(bad(json!({ "model": "house", "input": [] })), of(422, "invalid_field"));
    assert_eq!(bad(json!({ "model": "house", "input": [1] })), of(422, "invalid_field"));
    assert_eq!(bad(json!({ "model": "house", "input": vec!["x"; 65] })), of(422, "invalid_field"));
    let own = json!({ "model": "house", "input": "x", "labels": ["a"] });
    assert_eq!(bad(own), of(422, "invalid_field"));
    assert_eq!(bad(json!({ "model": "default", "input": "x" })), of(422, "invalid_field"));
    let twice = json!({ "model": "default", "input": "x", "labels": ["on", "on"] });
    assert_eq!(bad(twice), of(400, "bad_request"));
    let long = json!({ "model": "house", "input": "light ".repeat(4000) });
    assert_eq!(bad(long), of(400, "context_length_exceeded"));
    let chat = json!({ "model": "house", "messages": [{ "role": "user", "content": "x" }] });
    assert_eq!(refused(&daemon, "/v1/chat/completions", &chat), of(404, "model_not_found"));
}

#[test]
fn a_full_queue_says_when_to_come_back() {
    let full = ["--set", "engine.sequences_max=1", "--set", "engine.queue_requests_max=1"];
    let daemon = start(&full);
    let long = json!({
        "messages": [{ "role": "user", "content": "Tell me." }], "max_tokens": 900,
        "min_tokens": 900, "stream": true,
    })
    .to_string();
    let body = json!({ "model": "house", "input": "x" }).to_string();
    let is_full = || {
        let (_, _, health) = daemon.http("GET /health", b"");
        let health: Value = serde_json::from_str(&health).unwrap();
        let load = (&health["load"]["active"], &health["load"]["queued"]);
        load == (&json!(1), &json!(1))
    };
    // A test that is not let run for a while finds the queue empty again.
    let refusal = (0..TRIES).find_map(|_| {
        std::thread::scope(|scope| {
            let open =
                |_| scope.spawn(|| daemon.http("POST /v1/chat/completions", long.as_bytes()));
            let running: Vec<_> = (0..2).map(open).collect();
            while !is_full() {
                if running.iter().all(|thread| thread.is_finished()) {
                    return None;
                }
            }
            let request = format!("POST {CLASSIFY}");
            let (status, head, _) = http_exchange(daemon.http, &request, body.as_bytes());
            assert!(status == 429 || !is_full(), "let in where nothing fits: {head}");
            (status == 429).then(|| head.to_ascii_lowercase())
        })
    });
    let head = refusal.expect("a request is refused while another waits");
    assert!(head.contains("retry-after: "), "{head}");
}

#[test]
fn tokens_are_those_of_the_chat_and_come_back_as_text() {
    let daemon = start(&["--set", "tools.enabled=[\"calculator\"]"]);
    let messages = worded("Be brief.", &["yes"], "Turn on the kitchen light.");
    let tool = json!({ "type": "function", "function": { "name": "pump", "parameters": {} } });
    for more in [json!({}), json!({ "tools": [tool] })] {
        let mut chat = json!({ "messages": messages, "max_tokens": 1 });
        chat.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let (status, answered) = daemon.post("/v1/chat/completions", &chat.to_string());
        let (told_status, told) = daemon.post("/tokenize", &chat.to_string());
        assert_eq!(status, told_status, "{answered} {told}");
        if status == 200 {
            assert_eq!(told["count"], answered["usage"]["prompt_tokens"]);
        }
    }
    let text = "Turn on the kitchen light, please: 21 °C.";
    let told = post(&daemon, "/tokenize", &json!({ "prompt": text, "return_token_strs": true }));
    let tokens = told["tokens"].as_array().unwrap();
    assert_eq!(told["count"], tokens.len());
    assert_eq!(told["token_strs"].as_array().unwrap().len(), tokens.len());
    assert_eq!(told["token_strs"][0], "<s>");
    assert!(told["max_model_len"].as_u64().unwrap() > 0);
    let plain = json!({ "prompt": text, "add_special_tokens": false });
    let plain = post(&daemon, "/tokenize", &plain);
    assert_eq!(plain["tokens"].as_array().unwrap(), &tokens[1..]);
    assert!(plain["token_strs"].is_null());
    let back = post(&daemon, "/detokenize", &json!({ "tokens": tokens }));
    assert_eq!(back["prompt"], text);

    let refused = |path: &str, body: Value| refused(&daemon, path, &body).0;
    assert_eq!(refused("/tokenize", json!({})), 422);
    assert_eq!(refused("/tokenize", json!({ "prompt": "x", "messages": [] })), 422);
    assert_eq!(refused("/tokenize", json!({ "prompt": "x", "model": "nobody" })), 404);
    assert_eq!(refused("/detokenize", json!({ "tokens": [0, -1] })), 422);
    assert_eq!(refused("/detokenize", json!({ "tokens": [99_999_999] })), 422);
    assert_eq!(refused("/detokenize", json!({ "tokens": vec![5; 65_537] })), 422);
}
