//! Events to the `chat.completion` object and its chunks.

use protocol::{
    Event, Fault, FinishReason, Likelihood, Reuse, ReuseEnd, TokenLogprob, ToolCall, Usage,
};
use serde_json::{Value, json};

use crate::bodies::short;
use crate::chat::Chat;
use crate::settings::Dialect;

/// Likelihoods that a whole body tells, those of the likeliest tokens counted in; some 50 MB.
const LIKELIHOODS_MAX: usize = 1 << 17;

/// One answer as it grows.
///
/// Its `id` is the request's. Holds the whole text, which the request's token limit bounds, and the
/// likelihoods of its tokens, as far as a body may tell them.
#[derive(Debug)]
pub struct Answer {
    /// Its place among the answers to the same prompt.
    index: u32,
    id: String,
    created: u64,
    dialect: Dialect,
    include_usage: bool,
    model: String,
    text: String,
    /// Of the tokens of the text, where the request asked for them.
    logprobs: Option<Vec<TokenLogprob>>,
    /// How many likelihoods came, and how many of them it may keep.
    likelihoods: usize,
    likelihoods_max: usize,
    calls: Vec<ToolCall>,
    begun: bool,
    prompt: Usage,
    reuse: Option<Reuse>,
    finished: Option<(FinishReason, Usage)>,
    failed: Option<Fault>,
}

impl Answer {
    /// An answer without events. `created` is in seconds since 1970.
    pub fn new(chat: &Chat, created: u64) -> Self {
        Self::at(0, chat, created)
    }

    pub(crate) fn at(index: u32, chat: &Chat, created: u64) -> Self {
        Self {
            index,
            id: chat.request.id.0.clone(),
            created,
            dialect: chat.dialect,
            include_usage: chat.include_usage,
            model: chat.request.model.clone(),
            text: chat.prefix_text.clone().unwrap_or_default(),
            logprobs: chat.request.sampling.logprobs.map(|_| Vec::new()),
            likelihoods: 0,
            likelihoods_max: LIKELIHOODS_MAX / chat.answers.max(1) as usize,
            calls: Vec::new(),
            begun: false,
            prompt: Usage::default(),
            reuse: None,
            finished: None,
            failed: None,
        }
    }

    /// Takes in the next event and returns the chunks that tell it, in order.
    ///
    /// The first chunk names the role; text that the client began the answer with follows it. A
    /// fault gives no chunk: see [`failed`](Self::failed). Nothing is taken in after the last
    /// event.
    pub fn push(&mut self, event: &Event) -> Vec<Value> {
        let mut chunks = Vec::new();
        if self.is_over() {
            return chunks;
        }
        if let Event::Accepted { model, prompt_tokens, cached_tokens, .. } = event {
            self.model.clone_from(model);
            self.prompt.prompt_tokens = *prompt_tokens;
            self.prompt.cached_tokens = *cached_tokens;
        }
        if !self.begun && !matches!(event, Event::Failed(_)) {
            self.begun = true;
            chunks.push(self.chunk(json!({"role": "assistant", "content": ""})));
            if !self.text.is_empty() {
                chunks.push(self.chunk(json!({"content": self.text})));
            }
        }
        match event {
            // Classifications have bodies of their own.
            Event::Accepted { .. } | Event::Scores(_) => {}
            Event::Reused(reuse) => self.reuse = Some(reuse.clone()),
            Event::Text { text, .. } if text.is_empty() => {}
            Event::Text { text, logprobs, .. } => {
                self.text.push_str(text);
                let mut chunk = self.chunk(json!({"content": text}));
                if self.logprobs.is_some() {
                    chunk["choices"][0]["logprobs"] = logprobs_body(logprobs);
                    self.keep(logprobs);
                }
                chunks.push(chunk);
            }
            Event::ToolCall(call) => {
                let body = call_body(self.calls.len(), call);
                self.calls.push(call.clone());
                chunks.push(self.chunk(json!({"tool_calls": [body]})));
            }
            Event::Finished { reason, usage } => {
                self.finished = Some((*reason, *usage));
                self.push_last(&mut chunks);
            }
            Event::Failed(fault) => self.failed = Some(fault.clone()),
        }
        chunks
    }

    /// The whole `chat.completion`, without likelihoods where there were
    /// [too many](Self::has_lost_likelihoods).
    ///
    /// Before the last event its `finish_reason` is null; after a fault it is `error`, and the
    /// text is what had come until then.
    pub fn completion(&self) -> Value {
        json!({
            "id": self.id,
            "object": "chat.completion",
            "created": self.created,
            "model": self.model,
            "choices": [self.choice()],
            "usage": self.usage_body(),
        })
    }

    /// Whether more likelihoods came than a whole body tells. It then tells none; chunks tell all.
    pub fn has_lost_likelihoods(&self) -> bool {
        self.likelihoods > self.likelihoods_max
    }

    /// Leaves likelihoods to the chunks.
    pub(crate) fn keep_no_likelihoods(&mut self) {
        self.likelihoods_max = 0;
    }

    fn keep(&mut self, logprobs: &[TokenLogprob]) {
        self.likelihoods += logprobs.iter().map(|told| 1 + told.likeliest.len()).sum::<usize>();
        match &mut self.logprobs {
            Some(kept) if self.likelihoods <= self.likelihoods_max => {
                kept.extend_from_slice(logprobs);
            }
            kept => *kept = Some(Vec::new()),
        }
    }

    pub(crate) fn choice(&self) -> Value {
        let mut choice = json!({
            "index": self.index,
            "message": self.message(),
            "finish_reason": self.finish_word(),
        });
        let told = self.logprobs.as_ref().filter(|_| !self.has_lost_likelihoods());
        if let Some(logprobs) = told {
            choice["logprobs"] = logprobs_body(logprobs);
        } else if self.dialect == Dialect::OpenAi {
            choice["logprobs"] = Value::Null;
        }
        choice
    }

    /// Why the answer ended unfinished.
    pub fn failed(&self) -> Option<&Fault> {
        self.failed.as_ref()
    }

    /// Why the answer ended, and what it cost.
    pub fn finished(&self) -> Option<(FinishReason, Usage)> {
        self.finished
    }

    /// Whether the last event has come.
    pub fn is_over(&self) -> bool {
        self.finished.is_some() || self.failed.is_some()
    }

    /// The text so far, what the client began it with included.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The function calls so far.
    pub fn tool_calls(&self) -> &[ToolCall] {
        &self.calls
    }

    /// The model that answers; until it is accepted, the name that was asked for.
    pub fn model(&self) -> &str {
        &self.model
    }

    fn chunk(&self, delta: Value) -> Value {
        let mut choice = json!({"index": self.index, "delta": delta, "finish_reason": null});
        if self.dialect == Dialect::OpenAi {
            choice["logprobs"] = Value::Null;
        }
        self.envelope(json!([choice]), Value::Null)
    }

    fn envelope(&self, choices: Value, usage: Value) -> Value {
        json!({
            "id": self.id,
            "object": "chat.completion.chunk",
            "created": self.created,
            "model": self.model,
            "choices": choices,
            "usage": usage,
        })
    }

    /// Usage rides on the last chunk unless the client asked for a chunk of its own: clients that
    /// add up the usage of all chunks must find it once.
    fn push_last(&self, chunks: &mut Vec<Value>) {
        let delta = match self.dialect {
            Dialect::Mistral => json!({"content": ""}),
            Dialect::OpenAi => json!({}),
        };
        let mut last = self.chunk(delta);
        last["choices"][0]["finish_reason"] = self.finish_word();
        if !self.include_usage {
            last["usage"] = self.usage_body();
        }
        chunks.push(last);
        if self.include_usage {
            chunks.push(self.envelope(json!([]), self.usage_body()));
        }
    }

    fn message(&self) -> Value {
        let calls: Vec<_> =
            self.calls.iter().enumerate().map(|(index, call)| call_body(index, call)).collect();
        let calls = if calls.is_empty() { Value::Null } else { Value::Array(calls) };
        match self.dialect {
            Dialect::Mistral => json!({
                "role": "assistant",
                "content": self.text,
                "tool_calls": calls,
                "prefix": false,
            }),
            Dialect::OpenAi => {
                let is_call = self.text.is_empty() && !calls.is_null();
                let content = if is_call { Value::Null } else { json!(self.text) };
                let mut message = json!({"role": "assistant", "content": content, "refusal": null});
                if !calls.is_null() {
                    message["tool_calls"] = calls;
                }
                message
            }
        }
    }

    fn finish_word(&self) -> Value {
        if self.failed.is_some() {
            return json!("error");
        }
        let Some((reason, _)) = self.finished else {
            return Value::Null;
        };
        json!(match (reason, self.dialect) {
            (FinishReason::Stop, _) => "stop",
            (FinishReason::Length, _) | (FinishReason::ModelLength, Dialect::OpenAi) => "length",
            (FinishReason::ModelLength, Dialect::Mistral) => "model_length",
            (FinishReason::ToolCalls, _) => "tool_calls",
            // Neither dialect has a word for it, and it is not a whole answer.
            (FinishReason::Cancelled, _) => "error",
        })
    }

    /// What it cost; of an answer that goes on, what its prompt did.
    pub(crate) fn usage(&self) -> Usage {
        self.finished.map_or(self.prompt, |(_, usage)| usage)
    }

    /// Tokens of its prompt when it was accepted.
    pub(crate) fn accepted_tokens(&self) -> u32 {
        self.prompt.prompt_tokens
    }

    /// How much of its prompt was known, where it asked.
    pub(crate) fn reuse(&self) -> Option<&Reuse> {
        self.reuse.as_ref()
    }

    pub(crate) fn dialect(&self) -> Dialect {
        self.dialect
    }

    fn usage_body(&self) -> Value {
        usage_body(&self.usage(), self.reuse(), self.dialect)
    }
}

pub(crate) fn usage_body(usage: &Usage, reuse: Option<&Reuse>, dialect: Dialect) -> Value {
    let mut body = json!({
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": u64::from(usage.prompt_tokens) + u64::from(usage.completion_tokens),
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
    });
    if let Some(reuse) = reuse {
        body["prompt_tokens_details"]["reuse"] = reuse_body(reuse);
    }
    if usage.guessed_tokens > 0 || usage.forced_tokens > 0 {
        body["completion_tokens_details"] = json!({
            "accepted_prediction_tokens": usage.guessed_right_tokens,
            "rejected_prediction_tokens": usage.guessed_tokens - usage.guessed_right_tokens,
            "forced_tokens": usage.forced_tokens,
        });
    }
    if dialect == Dialect::Mistral {
        body["prompt_audio_seconds"] = Value::Null;
    }
    body
}

fn reuse_body(reuse: &Reuse) -> Value {
    let (end, token) = match reuse.end {
        ReuseEnd::Complete => ("complete", reuse.cached_tokens),
        ReuseEnd::Differs { token } => ("differs", token),
        ReuseEnd::Unknown => ("unknown", reuse.cached_tokens),
        ReuseEnd::Off => ("off", 0),
    };
    json!({"end": end, "token": token, "text": reuse.text})
}

fn logprobs_body(logprobs: &[TokenLogprob]) -> Value {
    let content = logprobs.iter().map(|told| {
        let mut body = likelihood_body(&told.chosen);
        body["top_logprobs"] = told.likeliest.iter().map(likelihood_body).collect();
        body
    });
    json!({"content": content.collect::<Vec<_>>(), "refusal": null})
}

/// Mistral's client demands the token's id and a list of bytes, and without them drops them all.
fn likelihood_body(told: &Likelihood) -> Value {
    json!({
        "token": told.text,
        "logprob": short(told.logprob),
        "bytes": told.bytes.as_deref().unwrap_or_default(),
        "token_id": told.token.0,
    })
}

fn call_body(index: usize, call: &ToolCall) -> Value {
    json!({
        "id": call.id,
        "type": "function",
        "function": {"name": call.name, "arguments": call.arguments},
        "index": index,
    })
}
