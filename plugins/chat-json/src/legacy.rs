//! OpenAI's legacy completions: a text goes on, without a conversation. Many tools still ask so.

use protocol::{Fault, Input, Request, RequestId};
use serde_json::{Map, Value, json};

use crate::chat::Chat;
use crate::fields::{Fields, Notes, Strictness, invalid, unsupported, wrong_type};
use crate::json::parse_json;
use crate::settings::{
    ANSWERS_MAX, Dialect, LOCAL_FIELDS, OPENAI_FIELDS, read_answers, read_delivery, read_limits,
    read_model, read_sampling_with, refuse_unsupported,
};
use crate::tokens::{TOKENS_MAX, read_tokens};

/// Tokens of an answer where the body names no number, as in OpenAI's API.
const TOKENS_DEFAULT: u32 = 16;

/// Likelihoods in the place of each token, at most.
const LIKELIEST_MAX: i64 = 20;

const FIELDS: &[&str] = &[
    "model",
    "prompt",
    "suffix",
    "max_tokens",
    "temperature",
    "top_p",
    "n",
    "best_of",
    "stream",
    "echo",
    "stop",
    "presence_penalty",
    "frequency_penalty",
    "random_seed",
    "prompt_cache_key",
    "service_tier",
    "metadata",
    "ext",
];

/// The answers to several prompts, told as texts.
#[derive(Debug, Clone, Default)]
pub(crate) struct Legacy {
    /// All prompts of the body, in their order.
    pub(crate) prompts: Vec<Input>,
    /// What stands in front of each answer.
    pub(crate) echoes: Vec<String>,
    /// Characters of each answer that were told, where likelihoods count them.
    offsets: Vec<usize>,
}

/// Reads the body of `/v1/completions`; its answers are `text_completion`s.
///
/// `prompt` is a text, a list of texts, tokens, or a list of those; each gets `n` answers.
///
/// Errors: as [`parse_chat`](crate::parse_chat).
pub fn parse_completion(body: &[u8], id: RequestId, strictness: Strictness) -> Result<Chat, Fault> {
    let value = parse_json(body)?;
    let body = Fields::of(&value, "")?;
    // Mistral's API has no such path: what it would refuse is not known.
    let mut notes = Notes::new(Strictness::Lenient);
    body.only(&[FIELDS, OPENAI_FIELDS, LOCAL_FIELDS].concat(), &mut notes)?;
    refuse_unsupported(&body)?;
    let delivery = read_delivery(&body, &mut notes)?;
    let prompts = read_prompts(&body)?;
    let each = read_answers(&body)?;
    check_best_of(&body, each)?;
    let answers = prompts.len() as u64 * u64::from(each);
    if answers > ANSWERS_MAX.unsigned_abs() {
        return Err(invalid(
            format!("{answers} answers, of all prompts together; at most {ANSWERS_MAX}"),
            "prompt",
        ));
    }
    let echoes = read_echoes(&body, &prompts)?;
    let mut limits = read_limits(&body, &delivery.ext)?;
    limits.max_tokens = limits.max_tokens.or(Some(TOKENS_DEFAULT));
    let notes_of_model = Notes::new(strictness);
    let request = Request {
        model: read_model(&body, &notes_of_model)?,
        sampling: read_sampling_with(&body, &notes, read_likeliest(&body)?)?,
        limits,
        explains_reuse: delivery.ext.explain,
        ..Request::new(id.0, prompts[0].clone())
    };
    Ok(Chat {
        request,
        answers: each * prompts.len() as u32,
        stream: delivery.stream,
        include_usage: delivery.include_usage,
        dialect: Dialect::OpenAi,
        ignored: notes.ignored,
        ext: delivery.ext,
        prefix_text: None,
        legacy: Some(Legacy { offsets: vec![0; answers as usize], prompts, echoes }),
    })
}

fn read_prompts(body: &Fields<'_>) -> Result<Vec<Input>, Fault> {
    let suffix = body.string("suffix")?.filter(|suffix| !suffix.is_empty());
    let text = |text: &str| match suffix {
        Some(suffix) => Input::Fill { prefix: text.to_owned(), suffix: Some(suffix.to_owned()) },
        None => Input::Text(text.to_owned()),
    };
    let tokens = |items: &[Value], path: &str| match suffix {
        Some(_) => Err(unsupported("needs a prompt of text", "suffix")),
        None => Ok(Input::Tokens(read_tokens(items, path)?)),
    };
    let items = match body.value("prompt") {
        None => return Err(body.missing("prompt")),
        Some(Value::String(one)) => return Ok(vec![text(one)]),
        Some(Value::Array(_)) => body.list("prompt", TOKENS_MAX)?.unwrap_or_default(),
        Some(other) => {
            return Err(wrong_type(other, "a text, tokens, or a list of them", "prompt"));
        }
    };
    if items.is_empty() {
        return Err(invalid("must not be empty", "prompt"));
    }
    if items[0].is_number() {
        return Ok(vec![tokens(items, "prompt")?]);
    }
    let prompt = |(at, item): (usize, &Value)| match item {
        Value::String(one) => Ok(text(one)),
        Value::Array(items) if items.len() <= TOKENS_MAX && !items.is_empty() => {
            tokens(items, &format!("prompt[{at}]"))
        }
        other => Err(wrong_type(other, "a text or tokens", format!("prompt[{at}]"))),
    };
    items.iter().enumerate().map(prompt).collect()
}

fn check_best_of(body: &Fields<'_>, each: u32) -> Result<(), Fault> {
    match body.integer("best_of", 1..=ANSWERS_MAX)? {
        Some(best) if best != i64::from(each) => {
            Err(unsupported("answers are not compared; leave it out, or set it to n", "best_of"))
        }
        _ => Ok(()),
    }
}

/// The prompts as texts, where they are to be told again.
fn read_echoes(body: &Fields<'_>, prompts: &[Input]) -> Result<Vec<String>, Fault> {
    if body.flag("echo")? != Some(true) {
        return Ok(Vec::new());
    }
    if body.value("logprobs").is_some() {
        return Err(unsupported("likelihoods of the prompt are not told; drop logprobs", "echo"));
    }
    let echo = |prompt: &Input| match prompt {
        Input::Text(text) => Ok(text.clone()),
        _ => Err(unsupported("needs prompts of text, without a suffix", "echo")),
    };
    prompts.iter().map(echo).collect()
}

fn read_likeliest(body: &Fields<'_>) -> Result<Option<u8>, Fault> {
    // In range of u8, so the cast keeps the number.
    Ok(body.integer("logprobs", 0..=LIKELIEST_MAX)?.map(|count| count as u8))
}

impl Legacy {
    /// Chunks of a chat as chunks of texts. One without a text, an end or usage says nothing here.
    pub(crate) fn chunks(&mut self, chunks: Vec<Value>) -> Vec<Value> {
        let told = chunks.into_iter().map(|chunk| self.told(chunk, "delta"));
        told.filter(says_something).collect()
    }

    /// A whole chat's answers as texts, with the prompts in front where they were asked for.
    pub(crate) fn whole(&self, body: Value) -> Value {
        let mut legacy = Self { offsets: vec![0; self.offsets.len()], ..self.clone() };
        legacy.told(body, "message")
    }

    /// Answers to the same prompt.
    pub(crate) fn each(&self) -> usize {
        (self.offsets.len() / self.prompts.len().max(1)).max(1)
    }

    fn echo(&self, index: usize) -> &str {
        self.echoes.get(index / self.each()).map_or("", String::as_str)
    }

    fn told(&mut self, mut body: Value, part: &str) -> Value {
        body["object"] = json!("text_completion");
        for choice in body["choices"].as_array_mut().into_iter().flatten() {
            let index = choice["index"].as_u64().unwrap_or_default() as usize;
            // A message has a role, and so has the first of its chunks.
            let echo = if choice[part]["role"].is_null() { "" } else { self.echo(index) };
            let text = format!("{echo}{}", choice[part]["content"].as_str().unwrap_or_default());
            let logprobs = self.logprobs(index, &choice["logprobs"]["content"]);
            *choice = json!({
                "index": index,
                "text": text,
                "logprobs": logprobs,
                "finish_reason": choice["finish_reason"],
            });
        }
        body
    }

    fn logprobs(&mut self, index: usize, tokens: &Value) -> Value {
        let Some(tokens) = tokens.as_array() else {
            return Value::Null;
        };
        let offset = &mut self.offsets[index];
        let mut offsets = Vec::with_capacity(tokens.len());
        for token in tokens {
            offsets.push(*offset);
            *offset += token["token"].as_str().unwrap_or_default().chars().count();
        }
        let of = |name: &str| tokens.iter().map(|token| token[name].clone()).collect::<Vec<_>>();
        let likeliest = |token: &Value| {
            let told = token["top_logprobs"].as_array().into_iter().flatten();
            told.map(|one| {
                (one["token"].as_str().unwrap_or_default().to_owned(), one["logprob"].clone())
            })
            .collect::<Map<_, _>>()
        };
        json!({
            "tokens": of("token"),
            "token_logprobs": of("logprob"),
            "top_logprobs": tokens.iter().map(likeliest).collect::<Vec<_>>(),
            "text_offset": offsets,
        })
    }
}

fn says_something(chunk: &Value) -> bool {
    let choice = &chunk["choices"][0];
    choice.is_null() || choice["text"] != "" || !choice["finish_reason"].is_null()
}
