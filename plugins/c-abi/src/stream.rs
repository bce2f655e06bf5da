//! One answer on its way to the caller: events of the house become events of the border.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use chat_json::Answer;
use protocol::{Event, Fault, FaultCode, FinishReason, Reply, TimedOut, Usage};
use serde_json::{Value, json};

use crate::border::Life;
use crate::layout::{self, EventView, Str};
use crate::request::Running;
use crate::session::Turn;
use crate::status::{self, Refusal, Status};

/// One event, with the texts that its view points at.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Shown {
    pub(crate) kind: i32,
    pub(crate) seq: u64,
    pub(crate) status: Status,
    pub(crate) token_count: u32,
    pub(crate) text: String,
    pub(crate) json: String,
    pub(crate) finish_reason: &'static str,
}

impl Shown {
    fn new(kind: i32, json: String) -> Self {
        Self {
            kind,
            seq: 0,
            status: status::OK,
            token_count: 0,
            text: String::new(),
            json,
            finish_reason: "",
        }
    }

    pub(crate) fn is_last(&self) -> bool {
        matches!(self.kind, layout::EV_DONE | layout::EV_ERROR)
    }

    /// The struct that the caller reads; valid while `self` stays where it is.
    pub(crate) fn view(&self) -> EventView {
        EventView {
            struct_size: size_of::<EventView>() as u32,
            kind: self.kind,
            seq: self.seq,
            status: self.status,
            token_count: self.token_count,
            text: Str::of(&self.text),
            json: Str::of(&self.json),
            finish_reason: Str::of(self.finish_reason),
        }
    }
}

/// The events of one request, in order and numbered. Dropping it cancels the request.
pub(crate) struct Stream {
    reply: Reply,
    answer: Answer,
    seq: u64,
    pending: VecDeque<Shown>,
    pace: Pace,
    life: Arc<Life>,
    running: Arc<Running>,
    /// The place in a conversation, until the answer is over.
    turn: Option<Turn>,
}

impl Stream {
    pub(crate) fn new(
        reply: Reply,
        answer: Answer,
        life: Arc<Life>,
        running: Arc<Running>,
    ) -> Self {
        Self {
            life,
            running,
            reply,
            answer,
            seq: 0,
            pending: VecDeque::new(),
            pace: Pace::default(),
            turn: None,
        }
    }

    /// Makes the answer a turn of a conversation.
    pub(crate) fn in_turn(self, turn: Option<Turn>) -> Self {
        Self { turn, ..self }
    }

    /// The next event; `None` after the last. Waits at most until `deadline`, for ever without.
    pub(crate) fn next(&mut self, deadline: Option<Instant>) -> Result<Option<Shown>, TimedOut> {
        loop {
            if let Some(mut shown) = self.pending.pop_front() {
                // What lies here already must not keep a slow reader busy that wants no more.
                if self.running.is_cancelled() && !shown.is_last() {
                    continue;
                }
                shown.seq = self.seq;
                self.seq += 1;
                return Ok(Some(shown));
            }
            let Some(event) = self.receive(deadline)? else {
                return Ok(None);
            };
            self.take(event);
        }
    }

    /// Number of the next event.
    pub(crate) fn seq(&self) -> u64 {
        self.seq
    }

    /// Waits for the whole answer.
    pub(crate) fn completion(mut self, speed: &Speed) -> Result<Value, Refusal> {
        while let Ok(Some(event)) = self.receive(None) {
            match event {
                Event::Finished { reason: FinishReason::Cancelled, .. } => {
                    return Err(Refusal::new(status::CANCELLED, "the request was cancelled"));
                }
                Event::Failed(fault) => return Err(fault.into()),
                _ => {}
            }
        }
        speed.add(&self.pace);
        let completion = self.answer.completion();
        if let Some(turn) = self.turn.take() {
            turn.keep(&completion);
        }
        Ok(completion)
    }

    /// An event that ends a stream in which a defect was caught.
    pub(crate) fn defect(&self) -> Shown {
        let refusal = Refusal::new(status::INTERNAL, "a defect of libzonda ended the answer");
        let json = chat_json::fault_body(&refusal.fault).to_string();
        let seq = self.seq;
        Shown {
            seq,
            status: refusal.status,
            finish_reason: "error",
            ..Shown::new(layout::EV_ERROR, json)
        }
    }

    pub(crate) fn pace(&self) -> &Pace {
        &self.pace
    }

    fn receive(&mut self, deadline: Option<Instant>) -> Result<Option<Event>, TimedOut> {
        let event = match deadline {
            None => self.reply.recv(),
            Some(deadline) => {
                let left = deadline.saturating_duration_since(Instant::now());
                self.reply.recv_timeout(left)?
            }
        };
        let event = event.map(|event| match event {
            // An engine that stops while the reader is behind, or between two rounds with tools,
            // cannot say so any more.
            Event::Failed(fault)
                if matches!(fault.code, FaultCode::Internal | FaultCode::Unavailable)
                    && self.life.is_closed() =>
            {
                let message = "the engine was shut down before the answer was complete";
                Event::Failed(Fault::new(FaultCode::Cancelled, message))
            }
            event => event,
        });
        if let Some(event) = &event {
            self.pace.note(event);
            self.answer.push(event);
        }
        Ok(event)
    }

    fn take(&mut self, event: Event) {
        match event {
            Event::Accepted { id, model, prompt_tokens, cached_tokens } => {
                let json = json!({
                    "id": id.0,
                    "model": model,
                    "prompt_tokens": prompt_tokens,
                    "cached_tokens": cached_tokens,
                });
                self.pending.push_back(Shown::new(layout::EV_ACCEPTED, json.to_string()));
                // What the client began the answer with is a part of it, here as over other entrances.
                if !self.answer.text().is_empty() {
                    let delta = Shown::new(layout::EV_DELTA, String::new());
                    self.pending.push_back(Shown { text: self.answer.text().to_owned(), ..delta });
                }
            }
            // It is part of the usage.
            Event::Reused(_) => {}
            Event::Text { text, tokens, .. } => {
                let delta = Shown::new(layout::EV_DELTA, String::new());
                self.pending.push_back(Shown { text, token_count: tokens, ..delta });
            }
            Event::ToolCall(call) => {
                let json = json!({
                    "id": call.id,
                    "type": "function",
                    "function": {"name": call.name, "arguments": call.arguments},
                });
                self.pending.push_back(Shown::new(layout::EV_TOOL_CALL, json.to_string()));
            }
            // No request of this entrance asks for scores.
            Event::Scores(_) => {}
            Event::Finished { reason, usage } => self.finish(reason, usage),
            Event::Failed(fault) => {
                self.turn = None;
                let failed =
                    Shown::new(layout::EV_ERROR, chat_json::fault_body(&fault).to_string());
                let status = status::status_of(fault.code);
                let is_cancelled = fault.code == FaultCode::Cancelled;
                let finish_reason = if is_cancelled { "cancelled" } else { "error" };
                self.pending.push_back(Shown { status, finish_reason, ..failed });
            }
        }
    }

    fn finish(&mut self, reason: FinishReason, usage: Usage) {
        let completion = self.answer.completion();
        if let Some(turn) = self.turn.take()
            && reason != FinishReason::Cancelled
        {
            turn.keep(&completion);
        }
        let cost = completion.get("usage").map_or_else(|| "{}".into(), Value::to_string);
        let cost = Shown::new(layout::EV_USAGE, cost);
        self.pending.push_back(Shown { token_count: usage.completion_tokens, ..cost });
        let (status, finish_reason) = match reason {
            FinishReason::Stop => (status::OK, "stop"),
            FinishReason::Length => (status::OK, "length"),
            FinishReason::ModelLength => (status::OK, "model_length"),
            FinishReason::ToolCalls => (status::OK, "tool_calls"),
            FinishReason::Cancelled => (status::CANCELLED, "cancelled"),
        };
        let done = Shown::new(layout::EV_DONE, completion.to_string());
        self.pending.push_back(Shown { status, finish_reason, ..done });
    }
}

/// When the parts of one answer came.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    accepted: Option<Instant>,
    first: Option<Instant>,
    last: Option<Instant>,
    prompt_tokens: u32,
    tokens_behind_first: u32,
}

impl Pace {
    fn note(&mut self, event: &Event) {
        let now = Instant::now();
        match event {
            Event::Accepted { prompt_tokens, cached_tokens, .. } => {
                self.accepted = Some(now);
                self.prompt_tokens = prompt_tokens.saturating_sub(*cached_tokens);
            }
            Event::Text { tokens, .. } => {
                if self.first.is_some() {
                    self.tokens_behind_first = self.tokens_behind_first.saturating_add(*tokens);
                }
                self.first.get_or_insert(now);
                self.last = Some(now);
            }
            _ => {}
        }
    }
}

/// How fast answers came, added up over requests.
#[derive(Debug, Default)]
pub(crate) struct Speed(Mutex<Sums>);

#[derive(Debug, Default)]
struct Sums {
    prompt_tokens: u64,
    prompt: Duration,
    answer_tokens: u64,
    answer: Duration,
}

impl Speed {
    pub(crate) fn add(&self, pace: &Pace) {
        let (Some(accepted), Some(first), Some(last)) = (pace.accepted, pace.first, pace.last)
        else {
            return;
        };
        let mut sums = crate::lock(&self.0);
        sums.prompt_tokens += u64::from(pace.prompt_tokens);
        sums.prompt += first.saturating_duration_since(accepted);
        sums.answer_tokens += u64::from(pace.tokens_behind_first);
        sums.answer += last.saturating_duration_since(first);
    }

    /// Prompt tokens and answer tokens a second; 0 before anything was measured.
    pub(crate) fn tokens_per_s(&self) -> (f64, f64) {
        let sums = crate::lock(&self.0);
        let rate = |tokens: u64, time: Duration| {
            if time.is_zero() { 0.0 } else { tokens as f64 / time.as_secs_f64() }
        };
        (rate(sums.prompt_tokens, sums.prompt), rate(sums.answer_tokens, sums.answer))
    }
}
