//! Hostile tools, and an adversary for a model: every call that the constraint lets through is a call
//! of a tool that was offered, with arguments that fit.
//!
//! Logits that are random and independent make each allowed token as likely as any other at
//! temperature 1, so the adversary draws among them evenly. Now and then it tries to write what would
//! break out of a call.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    dead_code,
    reason = "a test panics to fail, and says when it is skipped; helpers are shared"
)]

use std::collections::HashSet;
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use protocol::{Fault, Format, Request, TokenId, ToolChoice, ToolSpec};
use serde_json::{Value, json};
use text::{Codec, TemplateVersion, Tokenizer};

#[path = "../../../tests/fixtures/tools/cases.rs"]
mod cases;
mod constrained;
mod vocabularies;

use cases::{Case, Fate};
use constrained::{Answer, Dice, chat, draw, fits, read, real_codecs, same, spell};

/// What the adversary likes to write.
const SPITE: [&str; 8] = [
    "[TOOL_CALLS]",
    "</s>",
    "\"}}]",
    "\\\"}]",
    "\\\\\"",
    "}, {\"name\": \"g\"",
    ", \"id\": \"",
    "\u{1f600}e\u{301}",
];
const TOKENS_MAX: usize = 300;
/// Rounds of three answers until one of them has ended.
const TURNS_MAX: usize = 12;
/// Real vocabularies take longer, and are there to show that size changes nothing: each sees every
/// so many cases.
const REAL_STRIDE: usize = 40;

/// Arguments that were written, for a validator that is not ours.
type Written = Vec<Value>;

fn request(case: &Case, choice: ToolChoice, parallel: bool, strict: bool) -> Request {
    let tool = |tool: &cases::Tool| ToolSpec {
        name: tool.name.clone(),
        description: tool.description.clone(),
        parameters: tool.schema.clone(),
        strict,
    };
    Request {
        tools: case.tools.iter().map(tool).collect(),
        tool_choice: choice,
        parallel_tool_calls: parallel,
        ..chat(Format::Free)
    }
}

/// As `constrained::drive`, with spite.
fn drive(codec: &Codec, request: &Request, seed: u64) -> Answer {
    let mut prompt = codec.encode(request).unwrap();
    let mut constraint = prompt.constraint.take().unwrap();
    let mut dice = Dice(seed);
    let (mut tokens, mut spite) = (Vec::new(), Vec::new());
    let eos = codec.tokenizer().eos();
    while tokens.len() < TOKENS_MAX && tokens.last() != Some(&eos) {
        if dice.below(8) == 0 && spite.is_empty() {
            spite = codec.tokenizer().encode(SPITE[dice.below(SPITE.len())]).unwrap();
            spite.reverse();
        }
        let wanted: Option<TokenId> = spite.pop();
        let mask = constraint.mask().unwrap();
        let is_allowed = |token: &TokenId| mask.is_some_and(|mask| mask.allows(*token));
        let token = match wanted.filter(is_allowed) {
            Some(token) => token,
            None => {
                spite.clear();
                let forced = constraint.forced();
                match forced.first() {
                    Some(&token) if dice.below(2) == 0 => token,
                    // Closing alone can go on for ever: digits, or a text that lacks a letter.
                    _ if dice.below(3) == 0 => draw(codec, &prompt, &mut *constraint, &mut dice, 0),
                    _ => draw(codec, &prompt, &mut *constraint, &mut dice, tokens.len()),
                }
            }
        };
        constraint.accept(token).unwrap();
        tokens.push(token);
    }
    read(codec, &prompt, tokens)
}

fn check_answer(case: &Case, request: &Request, answer: &Answer, written: &mut Written) {
    let name = &case.name;
    let mut ids = HashSet::new();
    for call in &answer.calls {
        let offered = case.tools.iter().find(|tool| tool.name == call.name);
        let tool = offered.unwrap_or_else(|| panic!("{name}: nobody offered {:?}", call.name));
        if let ToolChoice::Function(wanted) = &request.tool_choice {
            assert_eq!(wanted, &call.name, "{name}");
        }
        let arguments: Value = serde_json::from_str(&call.arguments).unwrap();
        assert!(arguments.is_object(), "{name}: {}", call.arguments);
        assert!(fits(&tool.kept, &arguments), "{name}: {} for {}", call.arguments, tool.kept);
        written.push(json!({"case": name, "schema": tool.kept, "instance": arguments}));
        let is_id = call.id.len() == 9 && call.id.bytes().all(|byte| byte.is_ascii_alphanumeric());
        assert!(is_id && ids.insert(call.id.clone()), "{name}: the id {:?}", call.id);
    }
    assert!(request.parallel_tool_calls || answer.calls.len() <= 1, "{name}: {answer:?}");
    for control in vocabularies::CONTROLS {
        assert!(!answer.text.contains(control), "{name}: {control} in {:?}", answer.text);
    }
    if request.tool_choice != ToolChoice::Auto {
        assert!(answer.text.is_empty(), "{name}: a forced call and {:?}", answer.text);
        assert!(!answer.is_finished || !answer.calls.is_empty(), "{name}: no call: {answer:?}");
    } else if answer.is_finished && answer.calls.is_empty() {
        assert!(answer.text.chars().all(|letter| "ab ".contains(letter)), "{name}: {answer:?}");
    }
}

/// Nothing that a client wrote becomes a control token, and the model reads what the client wrote.
fn check_prompt(name: &str, codec: &Codec, request: &Request) {
    let tokens = codec.encode(request).unwrap().tokens;
    let controls: Vec<usize> =
        (0..tokens.len()).filter(|at| codec.tokenizer().is_control(tokens[*at])).collect();
    assert_eq!(controls.len(), 5, "{name}: control tokens that nobody meant");
    let tools = codec.tokenizer().decode(&tokens[controls[1] + 1..controls[2]]);
    let tools: Value = serde_json::from_str(&tools).unwrap();
    let function = |tool: &ToolSpec| {
        json!({"type": "function", "function": {"name": tool.name,
               "description": tool.description, "parameters": tool.parameters}})
    };
    let meant: Value = request.tools.iter().map(function).collect();
    assert!(same(&tools, &meant), "{name}: {tools}");
}

/// Whether the first tool can be called with these arguments.
fn can_call(codec: &Codec, request: &Request, arguments: &Value) -> bool {
    let prompt = codec.encode(request).unwrap();
    let mut constraint = prompt.constraint.unwrap();
    let name = json!(request.tools[0].name);
    let call = format!("[{{\"name\": {name}, \"arguments\": {}}}]", spell(arguments));
    let tokens = prompt.announces_calls.into_iter().chain(codec.tokenizer().encode(&call).unwrap());
    tokens.chain([codec.tokenizer().eos()]).all(|token| constraint.accept(token).is_ok())
}

fn refusal(codec: &Codec, request: &Request) -> Option<Fault> {
    codec.encode(request).err().map(Fault::from)
}

/// One case with one codec, whatever its fate; how many of its answers ended with a call.
fn check(case: &Case, codec: &Codec, seed: u64, written: &mut Written) -> usize {
    let name = &case.name;
    let plain = request(case, ToolChoice::Any, true, false);
    let strict = request(case, ToolChoice::Any, true, true);
    match &case.fate {
        Fate::Refused { place } => {
            for request in [&plain, &strict] {
                let fault = refusal(codec, request).unwrap_or_else(|| panic!("{name}: accepted"));
                let place = format!("tools[0].function{place}");
                assert!(fault.message.contains(&place), "{name}: {}", fault.message);
                assert!(fault.message.len() < 600, "{name}: {}", fault.message);
            }
            return 1;
        }
        Fate::Loose { place, keyword } => {
            let fault = refusal(codec, &strict).unwrap_or_else(|| panic!("{name}: accepted"));
            let place = format!("tools[0].function.parameters{place}:");
            let (says, message) = (fault.message.contains(keyword), fault.message);
            assert!(says && message.contains(&place), "{name}: {message}");
        }
        Fate::Kept => {
            assert!(refusal(codec, &strict).is_none(), "{name}: {:?}", refusal(codec, &strict))
        }
    }
    let refused = refusal(codec, &plain);
    assert!(refused.is_none(), "{name}: {refused:?}");
    check_prompt(name, codec, &plain);
    if let Some(example) = &case.example {
        assert!(can_call(codec, &plain, example), "{name}: {example} is not possible");
    }
    let one = ToolChoice::Function(case.tools.last().unwrap().name.clone());
    let choices = [
        (ToolChoice::Any, seed.is_multiple_of(2)),
        (one, !seed.is_multiple_of(2)),
        (ToolChoice::Auto, true),
    ];
    let mut ended = 0;
    for (choice, parallel) in choices {
        let request = request(case, choice, parallel, false);
        let answer = drive(codec, &request, seed);
        check_answer(case, &request, &answer, written);
        ended += usize::from(answer.is_finished && !answer.calls.is_empty());
    }
    ended
}

/// All cases with one codec, and what was written shown to a validator.
fn check_all(codec: &Codec, step: usize) {
    let mut written = Written::new();
    let mut failures = Vec::new();
    for (index, case) in cases::all().iter().enumerate().filter(|(index, _)| index % step == 0) {
        let ended = catch_unwind(AssertUnwindSafe(|| -> usize {
            let mut check = |turn| check(case, codec, (index + turn * 7919) as u64, &mut written);
            // A few answers do not come to their end by chance.
            (0..TURNS_MAX).map(&mut check).find(|ended| *ended > 0).unwrap_or(0)
        }));
        match ended {
            Ok(0) => failures.push(format!("{}: no call was ever written", case.name)),
            Ok(_) => {}
            Err(_) => failures.push(format!("{}: see above", case.name)),
        }
    }
    assert!(failures.is_empty(), "{} fail:\n{}", failures.len(), failures.join("\n"));
    validate(&written);
}

/// Shows what was written to PyPI's jsonschema, which comes with the packages of the tests.
fn validate(written: &Written) {
    let script =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/tools/validate.py");
    let Some(python) = python() else {
        println!("skipped: no Python with jsonschema");
        return;
    };
    let mut child = Command::new(python)
        .arg(script)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let lines: String = written.iter().map(|row| format!("{row}\n")).collect();
    let writer = std::thread::spawn(move || stdin.write_all(lines.as_bytes()).unwrap());
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "the validator failed: {said}");
    assert_eq!(said.trim(), written.len().to_string(), "what does not fit, and a count");
}

fn python() -> Option<PathBuf> {
    let python = std::env::var_os("ZONDA_PYTHON").unwrap_or_else(|| "python3".into());
    let mut command = Command::new(&python);
    command.args(["-c", "import jsonschema"]).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success()).then(|| python.into())
}

fn made(tokenizer: Arc<Tokenizer>, version: TemplateVersion) {
    check_all(&Codec::new(tokenizer, version).unwrap(), 1);
}

#[test]
fn there_are_enough_cases_and_each_has_a_name() {
    let cases = cases::all();
    let names: HashSet<&str> = cases.iter().map(|case| case.name.as_str()).collect();
    assert_eq!(names.len(), cases.len());
    assert!(cases.len() >= 200, "{}", cases.len());
}

#[test]
fn hostile_tools_of_v2() {
    made(vocabularies::sentencepiece(), TemplateVersion::V2);
}

#[test]
fn hostile_tools_of_v3() {
    made(vocabularies::sentencepiece(), TemplateVersion::V3);
}

#[test]
fn hostile_tools_of_v3_tekken() {
    made(vocabularies::tekken(), TemplateVersion::V3Tekken);
}

#[test]
fn hostile_tools_of_v7() {
    made(vocabularies::sentencepiece(), TemplateVersion::V7);
    made(vocabularies::tekken(), TemplateVersion::V7);
}

#[test]
fn hostile_tools_of_published_vocabularies() {
    for (index, (_, codec)) in real_codecs().iter().enumerate() {
        check_all(codec, REAL_STRIDE + index);
    }
}

#[test]
fn the_first_version_refuses_tools_by_name() {
    let codec = Codec::new(vocabularies::sentencepiece(), TemplateVersion::V1).unwrap();
    for case in cases::all().iter().filter(|case| !matches!(case.fate, Fate::Refused { .. })) {
        let fault = refusal(&codec, &request(case, ToolChoice::Auto, true, false)).unwrap();
        assert_eq!(fault.param.as_deref(), Some("tools"), "{}", case.name);
    }
}
