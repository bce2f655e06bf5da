//! What tests of constrained answers share: tokenizers, an adversary for a model, JSON.

use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, LazyLock};

use protocol::{Format, Input, Message, Request, TokenId, ToolCall};
use serde_json::Value;
use text::{Codec, Constraint, Piece, Prompt, TemplateVersion, Tokenizer};

use crate::vocabularies;

const FILES: [(&str, &str); 2] =
    [("v3", "mistral_instruct_tokenizer_240323.model.v3"), ("v3-tekken", "tekken_240718.json")];
/// Tokens after which the adversary tries to come to an end, and after which it gives up.
const PATIENCE: usize = 40;
const TOKENS_MAX: usize = 300;

/// Codecs with a name: two small vocabularies always, the real ones where they are found.
pub(crate) static CODECS: LazyLock<Vec<(String, Codec)>> = LazyLock::new(|| {
    let made =
        [("sentencepiece", vocabularies::sentencepiece()), ("bytes", vocabularies::tekken())];
    let made = made.map(|(name, tokenizer)| {
        (name.to_owned(), Codec::new(tokenizer, TemplateVersion::V7).unwrap())
    });
    made.into_iter().chain(real_codecs()).collect()
});

/// The codecs of the published tokenizers.
pub(crate) fn real_codecs() -> Vec<(String, Codec)> {
    let Some(folder) = tokenizer_folder() else {
        println!("skipped: no tokenizers");
        return Vec::new();
    };
    let codec = |(version, file): (&str, &str)| {
        let tokenizer = Tokenizer::from_file(&folder.join(file)).unwrap();
        let codec = Codec::new(Arc::new(tokenizer), version.parse().unwrap()).unwrap();
        (version.to_owned(), codec)
    };
    FILES.into_iter().map(codec).collect()
}

/// The shared data beside the checkout, or where `ZONDA_SHARED` says.
pub(crate) fn shared_folder() -> Option<PathBuf> {
    let beside = PathBuf::from("../../../shared");
    let folder = std::env::var_os("ZONDA_SHARED").map_or(beside, PathBuf::from);
    folder.join("data").is_dir().then_some(folder)
}

fn tokenizer_folder() -> Option<PathBuf> {
    if let Some(folder) = std::env::var_os("ZONDA_TOKENIZERS") {
        return Some(folder.into());
    }
    if let Some(shared) = shared_folder().filter(|shared| shared.join("data/tokenizers").is_dir()) {
        return Some(shared.join("data/tokenizers"));
    }
    let script = "import importlib.util as u; print(u.find_spec('mistral_common').submodule_search_locations[0])";
    let python = std::env::var_os("ZONDA_PYTHON").unwrap_or_else(|| "python3".into());
    let output = Command::new(python).args(["-c", script]).output().ok()?;
    let folder = PathBuf::from(String::from_utf8(output.stdout).ok()?.trim()).join("data");
    output.status.success().then_some(folder).filter(|folder| folder.is_dir())
}

/// A chat that asks for a format.
pub(crate) fn chat(format: Format) -> Request {
    let user = Message::User { content: vec!["x".into()] };
    Request { format, ..Request::new("x", Input::Chat(vec![user])) }
}

/// SplitMix64; Steele, Lea and Flood 2014.
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^= bits >> 31;
        (bits % bound as u64) as usize
    }
}

/// One answer of the adversary.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) text: String,
    pub(crate) calls: Vec<ToolCall>,
    pub(crate) tokens: Vec<TokenId>,
    pub(crate) is_finished: bool,
}

/// Draws among the allowed tokens with the same chance for each; later those that close.
pub(crate) fn drive(codec: &Codec, request: &Request, seed: u64) -> Answer {
    let mut prompt = codec.encode(request).unwrap();
    let mut constraint = prompt.constraint.take().unwrap();
    let mut dice = Dice(seed);
    let mut tokens = Vec::new();
    let eos = codec.tokenizer().eos();
    while tokens.len() < TOKENS_MAX && tokens.last() != Some(&eos) {
        let forced = constraint.forced();
        if !forced.is_empty() && dice.below(2) == 0 {
            for token in forced {
                assert!(constraint.mask().unwrap().unwrap().allows(token), "forced, but not in");
                constraint.accept(token).unwrap();
                tokens.push(token);
            }
            continue;
        }
        let token = draw(codec, &prompt, &mut *constraint, &mut dice, tokens.len());
        constraint.accept(token).unwrap();
        tokens.push(token);
    }
    read(codec, &prompt, tokens)
}

/// Decodes an answer.
pub(crate) fn read(codec: &Codec, prompt: &Prompt, tokens: Vec<TokenId>) -> Answer {
    let mut decoder = codec.decoder(prompt);
    let eos = codec.tokenizer().eos();
    let is_finished = tokens.last() == Some(&eos);
    let shown = &tokens[..tokens.len() - usize::from(is_finished)];
    let mut pieces: Vec<Piece> = shown.iter().flat_map(|&token| decoder.push(token)).collect();
    pieces.extend(decoder.finish());
    let (mut text, mut calls) = (String::new(), Vec::new());
    for piece in pieces {
        match piece {
            Piece::Text { text: more, .. } => text.push_str(&more),
            Piece::ToolCall(call) => calls.push(call),
            Piece::Stop => {}
        }
    }
    Answer { text, calls, tokens, is_finished }
}

pub(crate) fn draw(
    codec: &Codec,
    prompt: &Prompt,
    constraint: &mut dyn Constraint,
    dice: &mut Dice,
    drawn: usize,
) -> TokenId {
    let Some(mask) = constraint.mask().unwrap() else {
        let tokens = codec.tokenizer().encode("a b").unwrap();
        return match (dice.below(4), prompt.announces_calls) {
            (0, Some(announcer)) => announcer,
            (1, _) => codec.tokenizer().eos(),
            _ => tokens[dice.below(tokens.len())],
        };
    };
    let allowed: Vec<TokenId> = mask.tokens().collect();
    assert!(!allowed.is_empty(), "nothing is allowed");
    let is_control = |token: TokenId| codec.tokenizer().is_control(token);
    let eos = codec.tokenizer().eos();
    for &token in &allowed {
        let may_steer = token == eos || prompt.announces_calls == Some(token);
        assert!(!is_control(token) || may_steer, "control token {}", token.0);
    }
    if mask.allows(eos) && (drawn > PATIENCE || dice.below(4) == 0) {
        return eos;
    }
    if drawn > PATIENCE {
        // What closes a string, an object, a list, in this order; else whatever is short.
        let says = |token: TokenId| codec.tokenizer().decode(&[token, token]);
        for closer in ["\"\"", "}}", "]]", "00", "11"] {
            if let Some(&token) = allowed.iter().find(|&&token| says(token) == closer) {
                return token;
            }
        }
    }
    allowed[dice.below(allowed.len())]
}

/// Whether an answer may be exactly this text.
pub(crate) fn accepts(codec: &Codec, request: &Request, text: &str) -> bool {
    let mut constraint = codec.encode(request).unwrap().constraint.unwrap();
    let tokens = codec.tokenizer().encode(text).unwrap();
    let all = tokens.into_iter().chain([codec.tokenizer().eos()]);
    all.into_iter().all(|token| constraint.accept(token).is_ok())
}

/// JSON as the models saw it.
pub(crate) fn spell(value: &Value) -> String {
    match value {
        Value::Array(items) => {
            format!("[{}]", items.iter().map(spell).collect::<Vec<_>>().join(", "))
        }
        Value::Object(members) => {
            let member = |(key, value): (&String, &Value)| {
                format!("{}: {}", Value::from(key.as_str()), spell(value))
            };
            format!("{{{}}}", members.iter().map(member).collect::<Vec<_>>().join(", "))
        }
        other => other.to_string(),
    }
}

/// Whether a value fits a schema of the keywords that the tests use.
pub(crate) fn fits(schema: &Value, value: &Value) -> bool {
    fits_below(schema, schema, value)
}

fn fits_below(root: &Value, schema: &Value, value: &Value) -> bool {
    let Value::Object(keywords) = schema else {
        return schema == true;
    };
    let fit = |schema: &Value, value: &Value| fits_below(root, schema, value);
    let number = |value: &Value| value.as_f64().unwrap();
    keywords.iter().all(|(keyword, given)| match (keyword.as_str(), value) {
        ("$ref", _) => {
            let place = given.as_str().unwrap().trim_start_matches('#').replace("%20", " ");
            fit(root.pointer(&place).unwrap(), value)
        }
        ("type", _) => match given {
            Value::Array(types) => types.iter().any(|name| is_type(name, value)),
            name => is_type(name, value),
        },
        ("const", _) => same(given, value),
        ("enum", _) => given.as_array().unwrap().iter().any(|one| same(one, value)),
        ("anyOf", _) => given.as_array().unwrap().iter().any(|one| fit(one, value)),
        ("oneOf", _) => given.as_array().unwrap().iter().filter(|one| fit(one, value)).count() == 1,
        ("allOf", _) => given.as_array().unwrap().iter().all(|one| fit(one, value)),
        ("properties", Value::Object(members)) => given
            .as_object()
            .unwrap()
            .iter()
            .all(|(key, one)| members.get(key).is_none_or(|member| fit(one, member))),
        ("patternProperties", Value::Object(members)) => {
            given.as_object().unwrap().iter().all(|(key, one)| {
                let matches = regex::Regex::new(key).unwrap();
                members.iter().all(|(name, member)| !matches.is_match(name) || fit(one, member))
            })
        }
        ("additionalProperties", Value::Object(members)) => members.iter().all(|(key, member)| {
            let is_named = keywords.get("properties").is_some_and(|named| named.get(key).is_some());
            let patterns = keywords.get("patternProperties").and_then(Value::as_object);
            let is_matched = patterns
                .into_iter()
                .flatten()
                .any(|(pattern, _)| regex::Regex::new(pattern).unwrap().is_match(key));
            is_named || is_matched || fit(given, member)
        }),
        ("required", Value::Object(members)) => {
            given.as_array().unwrap().iter().all(|key| members.contains_key(key.as_str().unwrap()))
        }
        ("minProperties", Value::Object(members)) => members.len() as f64 >= number(given),
        ("maxProperties", Value::Object(members)) => members.len() as f64 <= number(given),
        ("items", Value::Array(items)) if given.is_array() => {
            given.as_array().unwrap().iter().zip(items).all(|(one, item)| fit(one, item))
        }
        ("items", Value::Array(items)) => {
            let prefix =
                keywords.get("prefixItems").map_or(0, |list| list.as_array().unwrap().len());
            items.iter().skip(prefix).all(|item| fit(given, item))
        }
        ("prefixItems", Value::Array(items)) => {
            given.as_array().unwrap().iter().zip(items).all(|(one, item)| fit(one, item))
        }
        ("minItems", Value::Array(items)) => items.len() as f64 >= number(given),
        ("maxItems", Value::Array(items)) => items.len() as f64 <= number(given),
        ("minLength", Value::String(text)) => text.chars().count() as f64 >= number(given),
        ("maxLength", Value::String(text)) => text.chars().count() as f64 <= number(given),
        ("pattern", Value::String(text)) => {
            regex::Regex::new(given.as_str().unwrap()).unwrap().is_match(text)
        }
        ("format", Value::String(text)) => {
            let format =
                regex::Regex::new(r"^\d{4}-(0[1-9]|1[0-2])-[0-3]\dT[0-2]\d:[0-5]\d:[0-5]\d")
                    .unwrap();
            given != "date-time" || format.is_match(text)
        }
        ("minimum", Value::Number(_)) => number(value) >= number(given),
        ("maximum", Value::Number(_)) => number(value) <= number(given),
        ("exclusiveMinimum", Value::Number(_)) => number(value) > number(given),
        ("exclusiveMaximum", Value::Number(_)) => number(value) < number(given),
        ("multipleOf", Value::Number(_)) => {
            let quotient = number(value) / number(given);
            (quotient - quotient.round()).abs() <= 1e-9 * quotient.abs().max(1.0)
        }
        _ => true,
    })
}

fn is_type(name: &Value, value: &Value) -> bool {
    match name.as_str().unwrap() {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "number" => value.is_number(),
        "integer" => value.as_f64().is_some_and(|number| number.fract() == 0.0),
        "string" => value.is_string(),
        "array" => value.is_array(),
        _ => value.is_object(),
    }
}

pub(crate) fn same(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Number(one), Value::Number(other)) => one.as_f64() == other.as_f64(),
        (Value::Array(one), Value::Array(other)) => {
            one.len() == other.len() && one.iter().zip(other).all(|(one, other)| same(one, other))
        }
        (Value::Object(one), Value::Object(other)) => {
            one.len() == other.len()
                && one.iter().all(|(key, one)| other.get(key).is_some_and(|other| same(one, other)))
        }
        _ => one == other,
    }
}
