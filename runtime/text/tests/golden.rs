//! Every prompt, token for token, as the vendor's own encoder writes it.
//! Two sets of expectations: all golden files, where the shared data lies beside the checkout (or
//! `ZONDA_SHARED` names it), and a smaller set committed here, for which the tokenizers of PyPI's
//! `mistral-common` are enough (`ZONDA_TOKENIZERS`, or the installed package).
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test panics to fail, and says when it is skipped"
)]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use protocol::{Input, Message, Request, TokenId, ToolCall, ToolSpec};
use serde_json::Value;
use text::{Codec, StreamDecoder, TemplateVersion, TextError, Tokenizer};

const FILES: [(&str, &str); 5] = [
    ("v1", "tokenizer.model.v1"),
    ("v2", "mistral_instruct_tokenizer_240216.model.v2"),
    ("v3", "mistral_instruct_tokenizer_240323.model.v3"),
    ("v3-tekken", "tekken_240718.json"),
    ("v7", "mistral_instruct_tokenizer_241114.model.v7"),
];

#[test]
fn every_golden_case_is_met() {
    let Some(shared) = shared_folder() else {
        println!("skipped: no shared data");
        return;
    };
    let tokenizers = shared.join("data/tokenizers");
    let mut failures = Vec::new();
    for (version, file) in FILES {
        let codec = codec(version, &tokenizers.join(file));
        for kind in ["chat", "tools", "fim", "raw"] {
            let name = format!("{kind}.{version}.jsonl");
            let lines = std::fs::read_to_string(shared.join("data/golden").join(&name)).unwrap();
            let tally = check_lines(&codec, &lines, &name, &mut failures);
            println!("{name}: {} met, {} of them refusals", tally.met, tally.refused);
        }
    }
    assert!(
        failures.is_empty(),
        "{} failures:\n{}",
        failures.len(),
        failures[..failures.len().min(20)].join("\n")
    );
}

#[test]
fn committed_cases_are_met() {
    let Some(tokenizers) = tokenizer_folder() else {
        println!("skipped: no tokenizers");
        return;
    };
    let fixtures = Path::new("tests/fixtures");
    let mut failures = Vec::new();
    for (version, file) in FILES {
        let codec = codec(version, &tokenizers.join(file));
        let name = format!("{version}.jsonl");
        let lines = std::fs::read_to_string(fixtures.join(&name)).unwrap();
        let tally = check_lines(&codec, &lines, &name, &mut failures);
        println!("{name}: {} met, {} of them refusals", tally.met, tally.refused);
        assert!(tally.met > 100, "{name} has too few cases");
    }
    assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
}

fn shared_folder() -> Option<PathBuf> {
    let beside = PathBuf::from("../../../shared");
    let folder = std::env::var_os("ZONDA_SHARED").map_or(beside, PathBuf::from);
    folder.join("data/golden").is_dir().then_some(folder)
}

fn tokenizer_folder() -> Option<PathBuf> {
    if let Some(folder) = std::env::var_os("ZONDA_TOKENIZERS") {
        return Some(folder.into());
    }
    let script = "import importlib.util as u; print(u.find_spec('mistral_common').submodule_search_locations[0])";
    let python = std::env::var_os("ZONDA_PYTHON").unwrap_or_else(|| "python3".into());
    let output = Command::new(python).args(["-c", script]).output().ok()?;
    let folder = PathBuf::from(String::from_utf8(output.stdout).ok()?.trim()).join("data");
    output.status.success().then_some(folder).filter(|folder| folder.is_dir())
}

fn codec(version: &str, file: &Path) -> Codec {
    let tokenizer = Tokenizer::from_file(file).unwrap();
    let version: TemplateVersion = version.parse().unwrap();
    assert_eq!(tokenizer.likely_version(), version);
    Codec::new(Arc::new(tokenizer), version).unwrap()
}

#[derive(Default)]
struct Tally {
    met: usize,
    refused: usize,
}

fn check_lines(codec: &Codec, lines: &str, name: &str, failures: &mut Vec<String>) -> Tally {
    let mut tally = Tally::default();
    for line in lines.lines() {
        let case: Value = serde_json::from_str(line).unwrap();
        let expected = &case["expect"];
        if expected.get("oracle_crash").is_some() {
            continue;
        }
        match check_case(codec, &case, expected) {
            Ok(()) => tally.met += 1,
            Err(failure) => failures.push(format!("{name} {}: {failure}", case["id"])),
        }
        tally.refused += usize::from(expected.get("error").is_some());
    }
    tally
}

fn check_case(codec: &Codec, case: &Value, expected: &Value) -> Result<(), String> {
    match case["kind"].as_str().unwrap() {
        "encode" => {
            let text = case["text"].as_str().unwrap();
            let tokens = codec.tokenizer().encode(text).map_err(|error| error.to_string())?;
            same("tokens", &ids(&tokens), &expected["tokens"])?;
            if let Some(decoded) = expected.get("decoded") {
                same("decoded", &codec.tokenizer().decode(&tokens).into(), decoded)?;
            }
            Ok(())
        }
        "decode" => check_decode(codec, case, expected),
        _ => check_request(codec, case, expected),
    }
}

fn check_decode(codec: &Codec, case: &Value, expected: &Value) -> Result<(), String> {
    let tokens: Vec<TokenId> = serde_json::from_value(case["tokens"].clone()).unwrap();
    let size = codec.tokenizer().vocabulary_size();
    let tokens: Vec<TokenId> = tokens.into_iter().filter(|t| (t.0 as usize) < size).collect();
    same("text", &codec.tokenizer().decode(&tokens).into(), &expected["text_ignore"])?;
    let mut stream = StreamDecoder::new(codec.shared_tokenizer());
    let pieces: Vec<String> = tokens.iter().map(|&token| stream.push(token)).collect();
    same("stream", &pieces.into(), &expected["stream"])?;
    same("tail", &stream.finish().into(), &expected["stream_tail"])
}

fn check_request(codec: &Codec, case: &Value, expected: &Value) -> Result<(), String> {
    let request = match request(case) {
        Ok(request) => request,
        Err(_) if expected.get("error").is_some() => return Ok(()),
        Err(error) => return Err(error),
    };
    let rendered = codec.render(&request);
    let encoded = codec.encode(&request);
    if expected.get("error").is_some() {
        return match (rendered, encoded) {
            (Err(_), Err(_)) => Ok(()),
            _ => Err("was accepted".into()),
        };
    }
    let rendered = rendered.map_err(|error| format!("was refused: {error}"))?;
    same("tokens", &ids(&rendered.tokens), &expected["tokens"])?;
    let prefix = &rendered.tokens[rendered.tokens.len() - rendered.prefix_tokens..];
    match expected.get("prefix_tokens") {
        Some(expected) => same("prefix", &ids(prefix), expected)?,
        None => same("prefix", &ids(prefix), &ids(&[]))?,
    }
    match encoded {
        Ok(_) if expected.get("serving_error").is_some() => Err("was accepted for serving".into()),
        Ok(encoded) => same("serving tokens", &ids(&encoded.tokens), &expected["tokens"]),
        Err(_) if expected.get("serving_error").is_some() => Ok(()),
        // What the template would drop in silence, serving refuses aloud.
        Err(TextError::Unsupported { param: "tools", .. }) if !codec.knows_tools() => Ok(()),
        Err(TextError::Unsupported { param: "suffix", .. }) if !codec.knows_fill() => Ok(()),
        Err(error) => Err(format!("was refused for serving: {error}")),
    }
}

fn ids(tokens: &[TokenId]) -> Value {
    serde_json::to_value(tokens).unwrap()
}

fn same(what: &str, got: &Value, expected: &Value) -> Result<(), String> {
    if got == expected { Ok(()) } else { Err(format!("{what}: got {got}, expected {expected}")) }
}

fn request(case: &Value) -> Result<Request, String> {
    if case["kind"] == "fim" {
        let prefix = case["prompt"].as_str().unwrap().to_owned();
        let suffix = case["suffix"].as_str().map(str::to_owned);
        return Ok(Request::new("golden", Input::Fill { prefix, suffix }));
    }
    let mut messages: Vec<Message> =
        case["messages"].as_array().unwrap().iter().map(message).collect::<Result<_, _>>()?;
    if case["continue_final_message"] == true {
        match messages.last_mut() {
            Some(Message::Assistant { prefix, .. }) => *prefix = true,
            _ => return Err("no assistant message to continue".into()),
        }
    }
    let mut request = Request::new("golden", Input::Chat(messages));
    for tool in case["tools"].as_array().into_iter().flatten() {
        let function = &tool["function"];
        let parameters = match &function["parameters"] {
            Value::Null => Value::Object(Default::default()),
            parameters => parameters.clone(),
        };
        request.tools.push(ToolSpec {
            name: function["name"].as_str().ok_or("tool without a name")?.into(),
            description: function["description"].as_str().unwrap_or_default().into(),
            parameters,
            strict: function["strict"] == true,
        });
    }
    Ok(request)
}

fn message(message: &Value) -> Result<Message, String> {
    let content = content(&message["content"])?;
    let given = || content.clone().ok_or_else(|| "no content".to_owned());
    Ok(match message["role"].as_str().unwrap_or_default() {
        "system" | "developer" => Message::System { content: given()? },
        "user" => Message::User { content: given()? },
        "assistant" => Message::Assistant {
            content,
            tool_calls: message["tool_calls"].as_array().into_iter().flatten().map(call).collect(),
            prefix: message["prefix"] == true,
        },
        "tool" => Message::Tool {
            content: given()?,
            call_id: message
                .get("tool_call_id")
                .map(|id| id.as_str().map(str::to_owned))
                .ok_or("no tool_call_id")?,
            name: message["name"].as_str().map(str::to_owned),
        },
        _ => return Err("unknown role".into()),
    })
}

fn content(content: &Value) -> Result<Option<Vec<String>>, String> {
    match content {
        Value::Null => Ok(None),
        Value::String(text) => Ok(Some(vec![text.clone()])),
        Value::Array(chunks) => {
            let chunk = |chunk: &Value| {
                chunk["text"].as_str().map(str::to_owned).ok_or_else(|| "no text".to_owned())
            };
            chunks.iter().map(chunk).collect::<Result<_, _>>().map(Some)
        }
        _ => Err("content of a foreign type".into()),
    }
}

fn call(call: &Value) -> ToolCall {
    let function = &call["function"];
    ToolCall {
        id: call["id"].as_str().unwrap_or("null").into(),
        name: function["name"].as_str().unwrap_or_default().into(),
        arguments: match &function["arguments"] {
            Value::Null => "{}".into(),
            Value::String(text) => text.clone(),
            value => value.to_string(),
        },
    }
}
