//! A service that runs the functions of this box when the model calls them.
//!
//! The client asks one question and gets one answer; in between the model may call local functions
//! for several rounds. Each round is one request to the room behind, which knows nothing of the
//! loop: the conversation grows by a call and its result, and its beginning stays as it was, so
//! that what is computed already is found again.
//!
//! A call that somebody has to agree to is not run: it goes to the client, as a call of one of its own
//! functions would. The client sends the conversation again with the call at its end and the call's
//! id among those it approves, and the loop goes on from there.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use protocol::{
    Description, Encoded, Event, Fault, FaultCode, FinishReason, Format, Input, Message, Reply,
    Request, Service, Task, TokenId, Tool, ToolCall, ToolChoice, ToolSpec, Toolbox, Usage,
};

use crate::relay::{Gone, Outlet, Relays};

mod approved;

/// Calls of one round that are run; the rest get an error as their result.
const ROUND_CALLS_MAX: usize = 32;
/// Characters of a tool's error that the model reads.
const ERROR_CHARACTERS_MAX: usize = 1024;
/// How long the loop waits before it offers a round to a full queue again.
const BUSY_WAIT: Duration = Duration::from_millis(50);

/// How far one request may go with tools.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ToolLimits {
    /// How often it may go back to the model with results.
    pub(crate) rounds_max: u32,
    /// How long after its start calls are still run.
    pub(crate) duration_max: Duration,
    /// A larger result becomes an error that the model reads.
    pub(crate) result_bytes_max: usize,
    /// Requests with tools at the same time.
    pub(crate) requests_max: u32,
}

/// Local functions around a service.
pub(crate) struct ToolLoop {
    inner: Arc<dyn Service>,
    tools: Vec<Arc<dyn Tool>>,
    boxes: Vec<Arc<dyn Toolbox>>,
    limits: ToolLimits,
    relays: Relays,
}

impl ToolLoop {
    /// Offers `tools` to the model behind `inner`, and what is in `boxes` when a request comes. Of
    /// functions with one name the first of the boxes counts, then that of `tools`.
    pub(crate) fn new(
        inner: Arc<dyn Service>,
        tools: Vec<Box<dyn Tool>>,
        boxes: Vec<Arc<dyn Toolbox>>,
        limits: ToolLimits,
    ) -> Self {
        let relays = Relays::new("tools", limits.requests_max);
        Self { inner, tools: tools.into_iter().map(Arc::from).collect(), boxes, limits, relays }
    }

    /// Waits until no request is between two rounds, until `deadline` at most.
    pub(crate) fn wait_until_idle(&self, deadline: Instant) {
        self.relays.wait_until_idle(deadline);
    }

    /// Every function of this box at this moment.
    fn all(&self) -> Vec<Arc<dyn Tool>> {
        let mut all: Vec<Arc<dyn Tool>> = Vec::new();
        let foreign = self.boxes.iter().flat_map(|tools| tools.tools());
        for tool in foreign.chain(self.tools.iter().cloned()) {
            if all.iter().all(|known| known.spec().name != tool.spec().name) {
                all.push(tool);
            }
        }
        all
    }

    /// The tools that may be run for the request; empty where it is none of ours.
    fn available(&self, request: &Request) -> Vec<Arc<dyn Tool>> {
        let Input::Chat(messages) = &request.input else {
            return Vec::new();
        };
        let is_open = match messages.last() {
            Some(Message::User { .. } | Message::Tool { .. }) => true,
            Some(Message::Assistant { .. }) => !request.approved_calls.is_empty(),
            _ => false,
        };
        let is_ours = is_open && request.format == Format::Free && request.task == Task::Generate;
        if !is_ours {
            return Vec::new();
        }
        let mut available = self.all();
        if available.is_empty() || !self.model_calls_functions(request) {
            return Vec::new();
        }
        let is_clients = |name: &str| request.tools.iter().any(|spec| spec.name == name);
        available.retain(|tool| !is_clients(&tool.spec().name));
        available
    }

    fn model_calls_functions(&self, request: &Request) -> bool {
        let models = self.inner.describe().models;
        let named = models
            .iter()
            .find(|card| card.id == request.model || card.aliases.contains(&request.model));
        named.or_else(|| models.first()).is_some_and(|card| card.tools)
    }
}

impl Service for ToolLoop {
    fn submit(&self, mut request: Request) -> Result<Reply, Fault> {
        let tools = self.available(&request);
        let open = match request.approved_calls.is_empty() {
            true => Vec::new(),
            false => approved::open_calls(&request, &tools)?,
        };
        let offered = offered(&request, &tools);
        if offered.is_empty() && open.is_empty() {
            return self.inner.submit(request);
        }
        let seat = self.relays.seat()?;
        request.tools.extend(offered);
        let start = match open.is_empty() {
            true => Start::Answer(self.inner.submit(request.clone())?),
            false => Start::Calls(open),
        };
        let (id, inner, limits) = (request.id.clone(), Arc::clone(&self.inner), self.limits);
        seat.run(id, move |outlet| {
            let started = Instant::now();
            let ends = request.limits.deadline;
            let deadline = ends.map_or(started + limits.duration_max, |deadline| {
                deadline.min(started + limits.duration_max)
            });
            let conversation = Conversation {
                inner,
                tools,
                request,
                limits,
                outlet,
                deadline,
                accepted: false,
                rounds: 0,
                usage: Usage::default(),
            };
            // The reader is gone: there is nobody left to tell.
            let _gone = conversation.run(start);
        })
    }

    fn describe(&self) -> Description {
        self.inner.describe()
    }

    fn encode(&self, mut request: Request) -> Result<Encoded, Fault> {
        let offered = offered(&request, &self.available(&request));
        request.tools.extend(offered);
        self.inner.encode(request)
    }

    fn decode(&self, model: &str, tokens: &[TokenId]) -> Result<String, Fault> {
        self.inner.decode(model, tokens)
    }
}

/// What the model reads of those tools that the request leaves it to call.
fn offered(request: &Request, tools: &[Arc<dyn Tool>]) -> Vec<ToolSpec> {
    let is_wanted = |name: &str| match &request.tool_choice {
        ToolChoice::None => false,
        ToolChoice::Auto | ToolChoice::Any => true,
        ToolChoice::Function(wanted) => wanted == name,
    };
    let specs = tools.iter().map(|tool| tool.spec());
    specs.filter(|spec| is_wanted(&spec.name)).cloned().collect()
}

/// With what a conversation begins here.
enum Start {
    /// The model's answer.
    Answer(Reply),
    /// Calls that the model made before, and that the client approves now, or some of them.
    Calls(Vec<ToolCall>),
}

/// One request on its way through the rounds.
struct Conversation {
    inner: Arc<dyn Service>,
    /// Those that may be run.
    tools: Vec<Arc<dyn Tool>>,
    request: Request,
    limits: ToolLimits,
    outlet: Outlet,
    /// No call is run after it.
    deadline: Instant,
    accepted: bool,
    rounds: u32,
    usage: Usage,
}

/// How one round ended, after everything before its end was handed on.
struct RoundEnd {
    reason: FinishReason,
    calls: Vec<ToolCall>,
    /// Of this round alone.
    completion_tokens: u32,
}

impl Conversation {
    fn run(mut self, start: Start) -> Result<(), Gone> {
        let mut answer = match start {
            Start::Answer(answer) => answer,
            Start::Calls(calls) => {
                let results = self.results(&calls);
                self.append(results);
                match self.resubmit()? {
                    Ok(answer) => answer,
                    Err(fault) => return self.outlet.refuse(fault),
                }
            }
        };
        loop {
            let Some(end) = self.hand_on(&mut answer)? else {
                return Ok(());
            };
            let is_free =
                |call: &ToolCall| self.tool(&call.name).is_some_and(|tool| !tool.needs_approval());
            let ours = end.reason == FinishReason::ToolCalls
                && !end.calls.is_empty()
                && end.calls.iter().all(is_free);
            if !ours {
                for call in end.calls {
                    self.outlet.send(Event::ToolCall(call), &answer)?;
                }
                return self.finish(end.reason, &answer);
            }
            if self.request.tool_choice == ToolChoice::None {
                return self.fail(rounds_fault(self.rounds), &answer);
            }
            if !self.spend(end.completion_tokens) {
                return self.finish(FinishReason::Length, &answer);
            }
            self.answer_calls(end.calls);
            if self.outlet.is_gone() {
                return Err(Gone);
            }
            if self.outlet.is_cancelled() {
                return self.finish(FinishReason::Cancelled, &answer);
            }
            answer = match self.resubmit()? {
                Ok(next) => next,
                Err(fault) if fault.code == FaultCode::Cancelled => {
                    return self.finish(FinishReason::Cancelled, &answer);
                }
                Err(fault) => return self.fail(fault, &answer),
            };
        }
    }

    /// Hands text on, keeps calls back, and stops before the end. `None` when the answer failed.
    fn hand_on(&mut self, answer: &mut Reply) -> Result<Option<RoundEnd>, Gone> {
        let mut calls = Vec::new();
        while let Some(event) = self.outlet.next(answer)? {
            match event {
                // One request, one acceptance, however many rounds.
                Event::Accepted { .. } if self.accepted => {}
                Event::Accepted { .. } => {
                    self.accepted = true;
                    self.outlet.send(event, answer)?;
                }
                Event::Reused(_) | Event::Text { .. } | Event::Scores(_) => {
                    self.outlet.send(event, answer)?
                }
                Event::ToolCall(call) => calls.push(call),
                Event::Finished { reason, usage } => {
                    self.usage = sum(self.usage, usage);
                    let completion_tokens = usage.completion_tokens;
                    return Ok(Some(RoundEnd { reason, calls, completion_tokens }));
                }
                Event::Failed(_) => self.outlet.send(event, answer)?,
            }
        }
        Ok(None)
    }

    fn tool(&self, name: &str) -> Option<&dyn Tool> {
        self.tools.iter().map(Arc::as_ref).find(|tool| tool.spec().name == name)
    }

    /// Takes what a round cost from the limits of the next; false when nothing is left.
    fn spend(&mut self, completion_tokens: u32) -> bool {
        let limits = &mut self.request.limits;
        limits.min_tokens = limits.min_tokens.saturating_sub(completion_tokens);
        limits.max_tokens = limits.max_tokens.map(|most| most.saturating_sub(completion_tokens));
        limits.max_tokens != Some(0)
    }

    /// Runs the calls and puts them with their results behind the conversation.
    fn answer_calls(&mut self, calls: Vec<ToolCall>) {
        let mut messages = self.results(&calls);
        // Without the text before the calls: some prompt encodings take either, not both.
        messages.insert(0, Message::Assistant { content: None, tool_calls: calls, prefix: false });
        self.append(messages);
    }

    /// Runs the calls, one after the other.
    fn results(&self, calls: &[ToolCall]) -> Vec<Message> {
        let message = |(at, call): (usize, &ToolCall)| {
            let result = match at < ROUND_CALLS_MAX {
                true => self.result(call),
                false => error_json(&format!("only {ROUND_CALLS_MAX} calls are run at once")),
            };
            Message::Tool {
                content: vec![result],
                call_id: Some(call.id.clone()),
                name: Some(call.name.clone()),
            }
        };
        calls.iter().enumerate().map(message).collect()
    }

    /// Puts what one round came to behind the conversation.
    fn append(&mut self, messages: Vec<Message>) {
        self.rounds += 1;
        if let Input::Chat(conversation) = &mut self.request.input {
            conversation.extend(messages);
        }
        // What was approved is done.
        self.request.approved_calls.clear();
        // A demand for a call is met now; at the limit only words may follow.
        let more = self.rounds < self.limits.rounds_max && Instant::now() < self.deadline;
        let is_free = more && self.request.tool_choice != ToolChoice::None;
        self.request.tool_choice = if is_free { ToolChoice::Auto } else { ToolChoice::None };
    }

    /// What the model reads as the result of a call: JSON text in any case.
    fn result(&self, call: &ToolCall) -> String {
        if self.outlet.is_gone() || self.outlet.is_cancelled() {
            return error_json("the request was cancelled");
        }
        if Instant::now() >= self.deadline {
            return error_json("there is no time left for calls");
        }
        let Some(tool) = self.tool(&call.name) else {
            return error_json("no such function");
        };
        // Calls of the model come here only if nobody has to agree.
        if tool.needs_approval() && !self.request.approved_calls.contains(&call.id) {
            return error_json("the user did not approve this call");
        }
        let wanted = || !self.outlet.is_gone() && !self.outlet.is_cancelled();
        let run = AssertUnwindSafe(|| tool.call_while(&call.arguments, self.deadline, &wanted));
        let bytes_max = self.limits.result_bytes_max;
        match catch_unwind(run) {
            Ok(Ok(result)) if result.len() <= bytes_max => result,
            Ok(Ok(result)) => error_json(&format!(
                "the result has {} bytes, the limit is {bytes_max}; ask for less",
                result.len()
            )),
            Ok(Err(error)) => error_json(&error.0),
            Err(_panic) => error_json("the function failed"),
        }
    }

    /// Gives the longer conversation to the room behind, waiting while its queue is full.
    fn resubmit(&self) -> Result<Result<Reply, Fault>, Gone> {
        loop {
            match self.inner.submit(self.request.clone()) {
                Err(fault) if fault.code == FaultCode::Busy && Instant::now() < self.deadline => {
                    if self.outlet.is_gone() {
                        return Err(Gone);
                    }
                    if self.outlet.is_cancelled() {
                        return Ok(Err(Fault::new(FaultCode::Cancelled, "cancelled")));
                    }
                    thread::sleep(BUSY_WAIT);
                }
                other => return Ok(other),
            }
        }
    }

    fn finish(&self, reason: FinishReason, answer: &Reply) -> Result<(), Gone> {
        self.outlet.send(Event::Finished { reason, usage: self.usage }, answer)
    }

    fn fail(&self, fault: Fault, answer: &Reply) -> Result<(), Gone> {
        self.outlet.send(Event::Failed(fault), answer)
    }
}

fn rounds_fault(rounds: u32) -> Fault {
    let message = format!("the model goes on calling functions after {rounds} rounds");
    Fault::new(FaultCode::Internal, message)
}

fn error_json(message: &str) -> String {
    let message: String = message.chars().take(ERROR_CHARACTERS_MAX).collect();
    serde_json::json!({ "error": message }).to_string()
}

fn sum(a: Usage, b: Usage) -> Usage {
    Usage {
        prompt_tokens: a.prompt_tokens.saturating_add(b.prompt_tokens),
        cached_tokens: a.cached_tokens.saturating_add(b.cached_tokens),
        completion_tokens: a.completion_tokens.saturating_add(b.completion_tokens),
        guessed_tokens: a.guessed_tokens.saturating_add(b.guessed_tokens),
        guessed_right_tokens: a.guessed_right_tokens.saturating_add(b.guessed_right_tokens),
        forced_tokens: a.forced_tokens.saturating_add(b.forced_tokens),
    }
}

#[cfg(test)]
#[path = "tool_loop_tests.rs"]
mod tests;
