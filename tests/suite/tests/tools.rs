//! Hostile tools through the real program: what HTTP gives back is a call that fits, or a refusal that
//! names the place.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    dead_code,
    reason = "a test stops where something is wrong, and tells what it skips; cases are shared"
)]

use std::process::Command;
use std::sync::Mutex;

use serde_json::{Value, json};
use suite::{Daemon, python_with, root, run_with, tiny_gguf};

#[path = "../../fixtures/tools/cases.rs"]
mod cases;

use cases::{Case, Fate};

/// Texts of control tokens that no text of an answer may hold.
const CONTROLS: [&str; 5] = ["[TOOL_CALLS]", "</s>", "[INST]", "[/TOOL_RESULTS]", "<s>"];
const CLIENTS: usize = 4;

fn ask(daemon: &Daemon, case: &Case, seed: usize, strict: bool) -> (u16, Value) {
    let tool = |tool: &cases::Tool| {
        json!({"type": "function", "function": {"name": tool.name, "strict": strict,
               "description": tool.description, "parameters": tool.schema}})
    };
    let choice = ["any", "auto", "required"][seed % 3];
    let body = json!({
        "messages": [{"role": "user", "content": "Turn on the hall light."}],
        "tools": case.tools.iter().map(tool).collect::<Value>(),
        "tool_choice": choice, "parallel_tool_calls": seed.is_multiple_of(2),
        "temperature": 1, "random_seed": seed, "max_tokens": 80,
    });
    daemon.post("/v1/chat/completions", &body.to_string())
}

/// What was written, for a validator; refusals and answers are checked here. `None` where the small
/// model's context is too short for the tools.
fn check(daemon: &Daemon, case: &Case, seed: usize) -> Option<Vec<Value>> {
    let name = &case.name;
    let (status, answer) = ask(daemon, case, seed, false);
    if let Fate::Refused { place } = &case.fate {
        let place = format!("tools[0].function{place}");
        assert!((400..500).contains(&status), "{name}: {answer}");
        let answer = answer.to_string();
        // What nests too deep is refused before it is looked at.
        assert!(answer.contains(&place) || answer.contains("nested deeper"), "{name}: {answer}");
        return Some(Vec::new());
    }
    if answer["code"] == "context_length_exceeded" {
        return None;
    }
    assert_eq!(status, 200, "{name}: {answer}");
    if let Fate::Loose { keyword, .. } = &case.fate {
        let (status, fault) = ask(daemon, case, seed, true);
        assert!((400..500).contains(&status), "{name}: {fault}");
        assert!(fault.to_string().contains(keyword), "{name}: {fault}");
    }
    let message = &answer["choices"][0]["message"];
    let text = message["content"].as_str().unwrap_or_default();
    assert!(CONTROLS.iter().all(|control| !text.contains(control)), "{name}: {text}");
    let calls = message["tool_calls"].as_array().cloned().unwrap_or_default();
    let is_finished = answer["choices"][0]["finish_reason"] != "length";
    if seed % 3 != 1 {
        assert!(text.is_empty(), "{name}: {answer}");
        assert!(!is_finished || !calls.is_empty(), "{name}: {answer}");
    }
    assert!(seed.is_multiple_of(2) || calls.len() <= 1, "{name}: {answer}");
    let written = |call: &Value| {
        let tool = case.tools.iter().find(|tool| call["function"]["name"] == tool.name.as_str());
        let tool = tool.unwrap_or_else(|| panic!("{name}: {call}"));
        let id = call["id"].as_str().unwrap();
        assert!(id.len() == 9 && id.bytes().all(|byte| byte.is_ascii_alphanumeric()), "{call}");
        let arguments = call["function"]["arguments"].as_str().unwrap();
        let arguments: Value = serde_json::from_str(arguments).unwrap();
        json!({"case": name, "schema": tool.kept, "instance": arguments})
    };
    Some(calls.iter().map(written).collect())
}

#[test]
fn hostile_tools_get_calls_that_fit_or_a_refusal_with_a_place() {
    let daemon = Daemon::start(&tiny_gguf(), &[]);
    let cases = cases::all();
    let (written, too_long) = (Mutex::new(Vec::new()), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for client in 0..CLIENTS {
            let (daemon, cases, written, too_long) = (&daemon, &cases, &written, &too_long);
            scope.spawn(move || {
                for (seed, case) in cases.iter().enumerate().skip(client).step_by(CLIENTS) {
                    match check(daemon, case, seed) {
                        Some(calls) => written.lock().unwrap().extend(calls),
                        None => too_long.lock().unwrap().push(case.name.clone()),
                    }
                }
            });
        }
    });
    let (written, too_long) = (written.into_inner().unwrap(), too_long.into_inner().unwrap());
    println!("{} cases, {} calls, too long: {too_long:?}", cases.len(), written.len());
    assert!(too_long.len() < cases.len() / 10, "the context is too short: {too_long:?}");
    assert!(written.len() > cases.len() / 4, "only {} calls", written.len());
    let Some(python) = python_with("jsonschema") else {
        println!("skipped: no Python with jsonschema");
        return;
    };
    let lines: String = written.iter().map(|row| format!("{row}\n")).collect();
    let script = root().join("tests/fixtures/tools/validate.py");
    let output = run_with(Command::new(python).arg(script), &lines);
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "the validator failed: {said}");
    assert_eq!(said.trim(), written.len().to_string(), "what does not fit, and a count");
}
