//! The JSON Schema Test Suite: what a constraint lets through is valid, and what it cannot honour
//! is refused by name.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    dead_code,
    reason = "a test panics to fail, and says when it is skipped; helpers are shared"
)]

use protocol::{Format, Input, Request};
use serde_json::{Map, Value};
use text::{Codec, TextError};

mod constrained;
mod vocabularies;

use constrained::{accepts, drive, shared_folder, spell};

/// Words of which a refusal has to have one.
const NAMED: [&str; 26] = [
    "not",
    "if",
    "then",
    "else",
    "contains",
    "minContains",
    "maxContains",
    "uniqueItems",
    "propertyNames",
    "dependentRequired",
    "dependentSchemas",
    "dependencies",
    "unevaluatedItems",
    "unevaluatedProperties",
    "$dynamicRef",
    "$recursiveRef",
    "$ref",
    "oneOf",
    "patternProperties",
    "minProperties",
    "pattern",
    "format",
    "numbers",
    "no value",
    "control characters",
    "multipleOf",
];

#[derive(Debug, Default)]
struct Tally {
    accepted: usize,
    refused: usize,
    right: usize,
    strict: usize,
    generated: usize,
}

#[test]
fn what_is_let_through_is_valid() {
    let suite = shared_folder().map(|shared| shared.join("data/schemas/json-schema-test-suite"));
    let Some(suite) = suite.filter(|suite| suite.is_dir()) else {
        println!("skipped: no JSON Schema Test Suite");
        return;
    };
    let codec = Codec::new(vocabularies::tekken(), text::TemplateVersion::V7).unwrap();
    let mut wrong = Vec::new();
    for folder in
        ["draft2020-12", "draft2020-12/optional", "draft2020-12/optional/format", "draft7"]
    {
        let Ok(files) = std::fs::read_dir(suite.join(folder)) else {
            println!("skipped: no {folder}");
            continue;
        };
        let mut tally = Tally::default();
        let mut paths: Vec<_> = files.map(|file| file.unwrap().path()).collect();
        paths.retain(|path| path.extension().is_some_and(|end| end == "json"));
        paths.sort();
        for path in paths {
            let groups: Vec<Value> =
                serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
            let name = format!("{folder}/{}", path.file_stem().unwrap().display());
            for group in &groups {
                check_group(&codec, &name, group, &mut tally, &mut wrong);
            }
        }
        println!("{folder}: {tally:?}");
    }
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}

/// Short keywords are words of any sentence, so they have to stand where a keyword does.
fn names_keyword(message: &str) -> bool {
    let message = message.replace("response_format", "");
    NAMED.iter().any(|word| match *word {
        "not" | "if" | "then" | "else" => message.contains(&format!(": {word} is not supported")),
        _ => message.contains(word),
    })
}

fn check_group(
    codec: &Codec,
    name: &str,
    group: &Value,
    tally: &mut Tally,
    wrong: &mut Vec<String>,
) {
    let format = Format::JsonSchema(group["schema"].clone());
    let request = Request { format, ..Request::new("x", Input::Text("x".into())) };
    let place = format!("{name}: {}", group["description"]);
    match codec.encode(&request) {
        Err(TextError::Unsupported { message, .. } | TextError::Rule { message, .. }) => {
            tally.refused += 1;
            if !names_keyword(&message) {
                wrong.push(format!("{place}: refused without a keyword: {message}"));
            }
            if std::env::var_os("ZONDA_SAY").is_some() {
                println!("{place}: {message}");
            }
            return;
        }
        Err(error) => panic!("{place}: {error}"),
        Ok(_) => tally.accepted += 1,
    }
    for test in group["tests"].as_array().unwrap() {
        let is_let_through = [test["data"].clone(), reversed(&test["data"])]
            .iter()
            .any(|data| accepts(codec, &request, &spell(data)));
        match (is_let_through, test["valid"] == true) {
            (true, false) => wrong.push(format!("{place}: lets through {}", test["description"])),
            (false, true) => tally.strict += 1,
            _ => tally.right += 1,
        }
    }
    for seed in 0..2 {
        let answer = drive(codec, &request, seed);
        if answer.is_finished {
            tally.generated += 1;
            if let Err(error) = serde_json::from_str::<Value>(&answer.text) {
                wrong.push(format!("{place}: {:?} is no JSON: {error}", answer.text));
            }
        }
    }
}

/// The same with the members of every object in the opposite order.
fn reversed(value: &Value) -> Value {
    match value {
        Value::Array(items) => items.iter().map(reversed).collect(),
        Value::Object(members) => {
            let members: Map<String, Value> =
                members.iter().rev().map(|(key, value)| (key.clone(), reversed(value))).collect();
            Value::Object(members)
        }
        other => other.clone(),
    }
}
