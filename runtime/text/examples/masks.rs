//! How long grammars take: the trie, compiling, and masks of random answers.
//!
//! `cargo run --release -p text --example masks -- TOKENIZER VERSION [SCHEMAS.jsonl]`
//! A line of the file is a JSON Schema.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a bench prints its table and ends at the first mistake"
)]

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use protocol::{Format, Input, Message, Request};
use serde_json::{Value, json};
use text::{Codec, Tokenizer};

const STEPS: usize = 200;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let tokenizer = Arc::new(Tokenizer::from_file(Path::new(&arguments[0])).unwrap());
    let version = arguments[1].parse().unwrap();
    let schemas = match arguments.get(2) {
        Some(path) => {
            let lines = std::fs::read_to_string(path).unwrap();
            lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
        }
        None => usual_schemas(),
    };
    let codec = Codec::new(tokenizer, version).unwrap();
    let memory = resident_mb();
    let started = Instant::now();
    codec.encode(&request(Format::JsonObject)).unwrap();
    println!(
        "first grammar, with the trie: {:?}, {} MB",
        started.elapsed(),
        resident_mb() - memory
    );

    let (mut compile, mut again, mut masks, mut accepts, mut forced) =
        (Vec::new(), Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let mut refused = 0;
    for schema in schemas {
        let request = request(Format::JsonSchema(schema));
        let started = Instant::now();
        if codec.encode(&request).is_err() {
            refused += 1;
            continue;
        }
        compile.push(started.elapsed());
        let started = Instant::now();
        let mut constraint = codec.encode(&request).unwrap().constraint.unwrap();
        again.push(started.elapsed());
        let mut seed = 1u64;
        for _ in 0..STEPS {
            let started = Instant::now();
            forced.push(started.elapsed());
            constraint.forced();
            *forced.last_mut().unwrap() = started.elapsed();
            let started = Instant::now();
            let mask = constraint.mask().unwrap().unwrap();
            masks.push(started.elapsed());
            let count = mask.count() as u64;
            seed = seed
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            let token = mask.tokens().nth(((seed >> 33) % count) as usize).unwrap();
            if token == codec.tokenizer().eos() {
                break;
            }
            let started = Instant::now();
            constraint.accept(token).unwrap();
            accepts.push(started.elapsed());
        }
    }
    println!("{refused} refused, {} MB", resident_mb() - memory);
    for (name, times) in [
        ("compile", compile),
        ("kept", again),
        ("mask", masks),
        ("accept", accepts),
        ("forced", forced),
    ] {
        print(name, times);
    }
}

fn print(name: &str, mut times: Vec<Duration>) {
    times.sort_unstable();
    let at = |share: usize| times.get(times.len() * share / 100).copied().unwrap_or_default();
    println!(
        "{name:8} {:6} times  p50 {:?}  p99 {:?}  max {:?}",
        times.len(),
        at(50),
        at(99),
        times.last().copied().unwrap_or_default()
    );
}

fn request(format: Format) -> Request {
    let user = Message::User { content: vec!["x".into()] };
    Request { format, ..Request::new("x", Input::Chat(vec![user])) }
}

fn resident_mb() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmRSS"));
    line.and_then(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok()).unwrap_or(0) / 1024
}

fn usual_schemas() -> Vec<Value> {
    let text = json!({"type": "string"});
    let person = json!({"type": "object", "properties": {"name": text, "age": {"type": "integer", "minimum": 0},
        "email": {"type": "string", "format": "email"}, "tags": {"type": "array", "items": text}},
        "required": ["name", "age"], "additionalProperties": false});
    let wide: serde_json::Map<String, Value> =
        (0..200).map(|index| (format!("property_{index}"), text.clone())).collect();
    vec![
        json!({"type": "object"}),
        person.clone(),
        json!({"type": "array", "items": person, "minItems": 1, "maxItems": 1000}),
        json!({"type": "object", "properties": wide}),
        json!({"type": "object", "additionalProperties": {"type": "number"}}),
        json!({"type": "object", "properties": {"date": {"type": "string", "format": "date-time"},
            "id": {"type": "string", "format": "uuid"}}, "required": ["date", "id"]}),
        json!({"enum": (0..1000).map(|index| format!("value {index}")).collect::<Vec<_>>()}),
        json!({"type": "string", "minLength": 10, "maxLength": 10_000}),
        json!({"type": "string", "pattern": r"^[A-Z][a-z]+(?: [A-Z][a-z]+){1,3}$"}),
        json!({"$defs": {"n": {"type": "object", "properties": {"v": {"type": "number"}, "c": {"type": "array",
            "items": {"$ref": "#/$defs/n"}}}, "required": ["v"], "additionalProperties": false}}, "$ref": "#/$defs/n"}),
    ]
}
