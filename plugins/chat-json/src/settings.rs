//! What chat and fill-in-the-middle bodies share: sampling, limits, the delivery.

use std::time::{Duration, Instant};

use protocol::{Fault, Limits, Sampling, TokenId};
use serde_json::Value;

use crate::ext::{Ext, read_ext};
use crate::fields::{Fields, Notes, invalid, unsupported, wrong_type};

/// Whose clients an answer is made for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Dialect {
    /// Usage on the last chunk, `model_length`, empty content beside tool calls.
    #[default]
    Mistral,
    /// Recognised by fields that only OpenAI's clients send.
    OpenAi,
}

/// Most stop texts of one request.
const STOPS_MAX: usize = 64;

/// Longest stop text, in bytes.
const STOP_BYTES_MAX: usize = 1024;

/// Most entries of `logit_bias`.
const BIAS_MAX: usize = 1024;

/// Most answers to one prompt.
pub(crate) const ANSWERS_MAX: i64 = 16;

/// Longest name of a model, in bytes.
const MODEL_BYTES_MAX: usize = 256;

/// Fields that only OpenAI's clients send, and that have an effect here.
pub(crate) const OPENAI_FIELDS: &[&str] =
    &["seed", "max_completion_tokens", "stream_options", "logprobs", "top_logprobs", "logit_bias"];

/// Sampling that neither dialect has but local servers commonly take, under their usual names.
pub(crate) const LOCAL_FIELDS: &[&str] =
    &["top_k", "typical_p", "min_p", "repetition_penalty", "min_tokens"];

/// Fields that OpenAI's clients send and Mistral's do not.
const OPENAI_SIGNS: &[&str] = &[
    "seed",
    "max_completion_tokens",
    "stream_options",
    "logprobs",
    "top_logprobs",
    "logit_bias",
    "user",
    "store",
    "modalities",
    "verbosity",
    "safety_identifier",
];

/// What the body says about the delivery.
pub(crate) struct Delivery {
    pub(crate) stream: bool,
    pub(crate) include_usage: bool,
    pub(crate) dialect: Dialect,
    pub(crate) ext: Ext,
}

pub(crate) fn read_delivery(body: &Fields<'_>, notes: &mut Notes) -> Result<Delivery, Fault> {
    check_hints(body, notes)?;
    let include_usage = match body.object("stream_options")? {
        Some(options) => {
            options.only(&["include_usage", "include_obfuscation"], notes)?;
            options.flag("include_usage")?.unwrap_or(false)
        }
        None => false,
    };
    let is_openai = !notes.is_strict() && OPENAI_SIGNS.iter().any(|name| body.has(name));
    Ok(Delivery {
        stream: body.flag("stream")?.unwrap_or(false),
        include_usage,
        dialect: if is_openai { Dialect::OpenAi } else { Dialect::Mistral },
        ext: body.object("ext")?.as_ref().map_or_else(|| Ok(Ext::default()), read_ext)?,
    })
}

/// What a client may state and this program need not know has its type all the same.
fn check_hints(body: &Fields<'_>, notes: &Notes) -> Result<(), Fault> {
    body.string("prompt_cache_key")?;
    if let Some(metadata) = body.value("metadata").filter(|metadata| !metadata.is_object()) {
        return Err(wrong_type(metadata, "an object", body.path_of("metadata")));
    }
    let tier = body.string("service_tier")?;
    if notes.is_strict() && !matches!(tier, None | Some("auto" | "standard_only")) {
        return Err(invalid("must be auto or standard_only", body.path_of("service_tier")));
    }
    Ok(())
}

/// The model's name; empty for the default one, which also answers to `default`.
pub(crate) fn read_model(body: &Fields<'_>, notes: &Notes) -> Result<String, Fault> {
    match body.string("model")? {
        None if notes.is_strict() => Err(body.missing("model")),
        None | Some("default") => Ok(String::new()),
        Some(name) if name.len() > MODEL_BYTES_MAX => {
            Err(invalid(format!("longer than {MODEL_BYTES_MAX} bytes"), "model"))
        }
        Some(name) => Ok(name.to_owned()),
    }
}

pub(crate) fn read_sampling(body: &Fields<'_>, notes: &Notes) -> Result<Sampling, Fault> {
    read_sampling_with(body, notes, read_logprobs(body)?)
}

/// As [`read_sampling`], where likelihoods are asked for in other words.
pub(crate) fn read_sampling_with(
    body: &Fields<'_>,
    notes: &Notes,
    logprobs: Option<u8>,
) -> Result<Sampling, Fault> {
    let hottest = if notes.is_strict() { 1.5 } else { 2.0 };
    let default = Sampling::default();
    Ok(Sampling {
        temperature: body.number("temperature", 0.0..=hottest)?,
        top_p: body.number("top_p", 0.0..=1.0)?.unwrap_or(default.top_p),
        typical_p: body.number("typical_p", 0.0..=1.0)?.unwrap_or(default.typical_p),
        // In range of u32, so the cast keeps the number.
        top_k: body.integer("top_k", 0..=i64::from(u32::MAX))?.unwrap_or(0) as u32,
        min_p: body.number("min_p", 0.0..=1.0)?.unwrap_or(default.min_p),
        presence_penalty: body.number("presence_penalty", -2.0..=2.0)?.unwrap_or(0.0),
        frequency_penalty: body.number("frequency_penalty", -2.0..=2.0)?.unwrap_or(0.0),
        repetition_penalty: body
            .number("repetition_penalty", 0.01..=10.0)?
            .unwrap_or(default.repetition_penalty),
        seed: read_seed(body)?,
        bias: read_bias(body)?,
        logprobs,
    })
}

pub(crate) fn read_limits(body: &Fields<'_>, ext: &Ext) -> Result<Limits, Fault> {
    let tokens = |name| body.integer(name, 0..=i64::from(u32::MAX));
    let max_tokens = either(
        (tokens("max_tokens")?, "max_tokens"),
        (tokens("max_completion_tokens")?, "max_completion_tokens"),
    )?;
    Ok(Limits {
        max_tokens: max_tokens.map(|tokens| tokens as u32),
        min_tokens: tokens("min_tokens")?.unwrap_or(0) as u32,
        stop: read_stops(body)?,
        deadline: deadline(ext),
        priority: ext.priority,
    })
}

/// How many answers the prompt gets.
pub(crate) fn read_answers(body: &Fields<'_>) -> Result<u32, Fault> {
    let answers = body.integer("n", 1..=ANSWERS_MAX)?.unwrap_or(1);
    if answers > 1 && body.value("prediction").is_some() {
        return Err(invalid("must be 1 where there is a prediction", "n"));
    }
    Ok(answers as u32)
}

/// The moment after which nobody wants the answer, counted from now.
pub(crate) fn deadline(ext: &Ext) -> Option<Instant> {
    ext.ttl_s.map(|ttl_s| Instant::now() + Duration::from_secs(ttl_s.into()))
}

/// Refuses what would change the answer in a way that this build cannot.
pub(crate) fn refuse_unsupported(body: &Fields<'_>) -> Result<(), Fault> {
    match body.string("prompt_mode")? {
        None => {}
        Some("reasoning") => {
            return Err(unsupported("this model has no reasoning mode", "prompt_mode"));
        }
        Some(_) => return Err(invalid("must be reasoning or null", "prompt_mode")),
    }
    if body.string("reasoning_effort")?.is_some_and(|effort| effort != "none") {
        return Err(unsupported("this model has no reasoning mode", "reasoning_effort"));
    }
    if body.list("guardrails", 64)?.is_some_and(|guardrails| !guardrails.is_empty()) {
        return Err(unsupported("no guardrails are configurable per request", "guardrails"));
    }
    for (old, new) in [("functions", "tools"), ("function_call", "tool_choice")] {
        if body.value(old).is_some() {
            return Err(unsupported(format!("use {new}"), old));
        }
    }
    Ok(())
}

/// How many tokens are told in the place of each, where any are told.
fn read_logprobs(body: &Fields<'_>) -> Result<Option<u8>, Fault> {
    let count = body.integer("top_logprobs", 0..=i64::from(Sampling::LOGPROBS_MAX))?;
    match (body.flag("logprobs")?, count) {
        // In range of u8, so the cast keeps the number.
        (Some(true), count) => Ok(Some(count.unwrap_or(0) as u8)),
        (_, None | Some(0)) => Ok(None),
        (_, Some(_)) => Err(invalid("needs logprobs to be true", "top_logprobs")),
    }
}

fn read_seed(body: &Fields<'_>) -> Result<Option<u64>, Fault> {
    let seed = either(
        (body.integer("random_seed", 0..=i64::MAX)?, "random_seed"),
        (body.integer("seed", i64::MIN..=i64::MAX)?, "seed"),
    )?;
    Ok(seed.map(i64::cast_unsigned))
}

/// One value with two names: either, or both where they agree.
fn either(
    (first, first_name): (Option<i64>, &str),
    (second, second_name): (Option<i64>, &str),
) -> Result<Option<i64>, Fault> {
    match (first, second) {
        (Some(a), Some(b)) if a != b => Err(invalid(
            format!("{first_name} and {second_name} contradict each other; send one"),
            second_name,
        )),
        _ => Ok(first.or(second)),
    }
}

fn read_stops(body: &Fields<'_>) -> Result<Vec<String>, Fault> {
    let path = body.path_of("stop");
    let one = |value: &Value, path: String| match value {
        Value::String(text) if text.is_empty() => Err(invalid("must not be empty", path)),
        Value::String(text) if text.len() > STOP_BYTES_MAX => {
            Err(invalid(format!("longer than {STOP_BYTES_MAX} bytes"), path))
        }
        Value::String(text) => Ok(text.clone()),
        other => Err(wrong_type(other, "a string", path)),
    };
    match body.value("stop") {
        None => Ok(Vec::new()),
        Some(text @ Value::String(_)) => Ok(vec![one(text, path)?]),
        Some(Value::Array(_)) => {
            let texts = body.list("stop", STOPS_MAX)?.unwrap_or_default();
            texts.iter().enumerate().map(|(i, text)| one(text, format!("{path}[{i}]"))).collect()
        }
        Some(other) => Err(wrong_type(other, "a string or a list of strings", path)),
    }
}

fn read_bias(body: &Fields<'_>) -> Result<Vec<(TokenId, f32)>, Fault> {
    let path = body.path_of("logit_bias");
    let entries = match body.value("logit_bias") {
        None => return Ok(Vec::new()),
        Some(Value::Object(entries)) => entries,
        Some(other) => return Err(wrong_type(other, "an object", path)),
    };
    if entries.len() > BIAS_MAX {
        return Err(invalid(
            format!("{} entries; at most {BIAS_MAX} are accepted", entries.len()),
            path,
        ));
    }
    entries
        .iter()
        .map(|(token, bias)| {
            let token = token
                .parse()
                .map_err(|_| invalid("keys must be token ids in digits", path.as_str()))?;
            match bias.as_f64().filter(|bias| (-100.0..=100.0).contains(bias)) {
                Some(bias) => Ok((TokenId(token), bias as f32)),
                None => Err(invalid("values must be between -100 and 100", path.as_str())),
            }
        })
        .collect()
}
