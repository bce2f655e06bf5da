//! A service that runs the functions of this box when the model calls them.
//!
//! The client asks one question and gets one answer; in between the model may call local functions
//! for several rounds. Each round is one request to the room behind, which knows nothing of the
//! loop: the conversation grows by a call and its result, and its beginning stays as it was, so
//! that what is computed already is found again.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use protocol::{
    Description, Event, Fault, FaultCode, FinishReason, Format, Input, Message, Reply, Request,
    Service, Tool, ToolCall, ToolChoice, Usage,
};

use crate::relay::{Gone, Outlet, Relays};

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
    tools: Arc<[Box<dyn Tool>]>,
    limits: ToolLimits,
    relays: Relays,
}

impl ToolLoop {
    /// Offers `tools` to the model behind `inner`.
    pub(crate) fn new(
        inner: Arc<dyn Service>,
        tools: Vec<Box<dyn Tool>>,
        limits: ToolLimits,
    ) -> Self {
        let relays = Relays::new("tools", limits.requests_max);
        Self { inner, tools: tools.into(), limits, relays }
    }

    /// The positions of the tools to offer; empty where the request is none of ours.
    fn offered(&self, request: &Request) -> Vec<usize> {
        let Input::Chat(messages) = &request.input else {
            return Vec::new();
        };
        let open_ended =
            matches!(messages.last(), Some(Message::User { .. } | Message::Tool { .. }))
                && request.format == Format::Free;
        if !open_ended || self.tools.is_empty() || !self.model_calls_functions(request) {
            return Vec::new();
        }
        let is_clients = |name: &str| request.tools.iter().any(|spec| spec.name == name);
        let is_wanted = |name: &str| match &request.tool_choice {
            ToolChoice::None => false,
            ToolChoice::Auto | ToolChoice::Any => true,
            ToolChoice::Function(wanted) => wanted == name,
        };
        let names = self.tools.iter().map(|tool| tool.spec().name.as_str()).enumerate();
        names.filter(|(_, name)| !is_clients(name) && is_wanted(name)).map(|(at, _)| at).collect()
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
        let offered = self.offered(&request);
        if offered.is_empty() {
            return self.inner.submit(request);
        }
        let seat = self.relays.seat()?;
        request.tools.extend(offered.iter().map(|at| self.tools[*at].spec().clone()));
        let answer = self.inner.submit(request.clone())?;
        let id = request.id.clone();
        let (inner, tools) = (Arc::clone(&self.inner), Arc::clone(&self.tools));
        let limits = self.limits;
        seat.run(id, move |outlet| {
            let started = Instant::now();
            let ends = request.limits.deadline;
            let deadline = ends.map_or(started + limits.duration_max, |deadline| {
                deadline.min(started + limits.duration_max)
            });
            let conversation = Conversation {
                inner,
                tools,
                offered,
                request,
                limits,
                outlet,
                deadline,
                accepted: false,
                rounds: 0,
                usage: Usage::default(),
            };
            // The reader is gone: there is nobody left to tell.
            let _gone = conversation.run(answer);
        })
    }

    fn describe(&self) -> Description {
        self.inner.describe()
    }
}

/// One request on its way through the rounds.
struct Conversation {
    inner: Arc<dyn Service>,
    tools: Arc<[Box<dyn Tool>]>,
    offered: Vec<usize>,
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
    fn run(mut self, mut answer: Reply) -> Result<(), Gone> {
        loop {
            let Some(end) = self.hand_on(&mut answer)? else {
                return Ok(());
            };
            let is_local = |call: &ToolCall| self.tool(&call.name).is_some();
            let ours = end.reason == FinishReason::ToolCalls
                && !end.calls.is_empty()
                && end.calls.iter().all(is_local);
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
                Event::Text { .. } => self.outlet.send(event, answer)?,
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
        let offered = self.offered.iter().map(|at| self.tools[*at].as_ref());
        offered.into_iter().find(|tool| tool.spec().name == name)
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
        self.rounds += 1;
        let mut messages = Vec::with_capacity(calls.len() + 1);
        for (at, call) in calls.iter().enumerate() {
            let result = match at < ROUND_CALLS_MAX {
                true => self.result(call),
                false => error_json(&format!("only {ROUND_CALLS_MAX} calls are run at once")),
            };
            messages.push(Message::Tool {
                content: vec![result],
                call_id: Some(call.id.clone()),
                name: Some(call.name.clone()),
            });
        }
        // Without the text before the calls: some prompt encodings take either, not both.
        messages.insert(0, Message::Assistant { content: None, tool_calls: calls, prefix: false });
        if let Input::Chat(conversation) = &mut self.request.input {
            conversation.extend(messages);
        }
        // A demand for a call is met now; at the limit only words may follow.
        let more = self.rounds < self.limits.rounds_max && Instant::now() < self.deadline;
        self.request.tool_choice = if more { ToolChoice::Auto } else { ToolChoice::None };
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
        let run = AssertUnwindSafe(|| tool.call(&call.arguments, self.deadline));
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
mod tests {
    use std::collections::VecDeque;
    use std::sync::Mutex;

    use protocol::{EventSink, ModelCard, ToolError, ToolSpec, reply_pair};
    use serde_json::json;

    use super::*;

    /// Answers each request with the next script, and remembers what it was asked.
    struct Scripted {
        rounds: Mutex<VecDeque<Result<Vec<Event>, Fault>>>,
        requests: Mutex<Vec<Request>>,
        sinks: Mutex<Vec<EventSink>>,
        knows_tools: bool,
    }

    impl Service for Scripted {
        fn submit(&self, request: Request) -> Result<Reply, Fault> {
            let (sink, reply) = reply_pair(request.id.clone(), 64);
            self.requests.lock().unwrap().push(request);
            let round = self.rounds.lock().unwrap().pop_front().expect("a round is scripted");
            for event in round? {
                assert_eq!(sink.send(event), protocol::SendOutcome::Sent);
            }
            self.sinks.lock().unwrap().push(sink);
            Ok(reply)
        }

        fn describe(&self) -> Description {
            let card = ModelCard { id: "m".into(), tools: self.knows_tools, ..Default::default() };
            Description { models: vec![card], ..Default::default() }
        }
    }

    /// Gives its arguments back, or does what they say.
    struct Echo(ToolSpec);

    impl Echo {
        fn boxed(name: &str) -> Box<dyn Tool> {
            Box::new(Self(spec(name)))
        }
    }

    impl Tool for Echo {
        fn spec(&self) -> &ToolSpec {
            &self.0
        }

        fn call(&self, arguments: &str, _deadline: Instant) -> Result<String, ToolError> {
            match arguments {
                "fail" => Err(ToolError("it rains".into())),
                "panic" => panic!("a defect of a tool"),
                "large" => Ok("x".repeat(1001)),
                _ => Ok(arguments.to_owned()),
            }
        }
    }

    const LIMITS: ToolLimits = ToolLimits {
        rounds_max: 3,
        duration_max: Duration::from_secs(60),
        result_bytes_max: 1000,
        requests_max: 4,
    };

    fn spec(name: &str) -> ToolSpec {
        ToolSpec { name: name.into(), description: String::new(), parameters: json!({}) }
    }

    fn accepted() -> Event {
        Event::Accepted {
            id: protocol::RequestId("r".into()),
            model: "m".into(),
            prompt_tokens: 5,
            cached_tokens: 0,
        }
    }

    fn text(text: &str) -> Event {
        Event::Text { text: text.into(), tokens: 1 }
    }

    fn call(name: &str, arguments: &str) -> ToolCall {
        ToolCall { id: "abcdefghi".into(), name: name.into(), arguments: arguments.into() }
    }

    fn finished(reason: FinishReason, prompt_tokens: u32, completion_tokens: u32) -> Event {
        Event::Finished {
            reason,
            usage: Usage { prompt_tokens, completion_tokens, ..Usage::default() },
        }
    }

    fn calls(name: &str, arguments: &str) -> Result<Vec<Event>, Fault> {
        let call = Event::ToolCall(call(name, arguments));
        Ok(vec![accepted(), call, finished(FinishReason::ToolCalls, 5, 2)])
    }

    fn says(words: &str) -> Result<Vec<Event>, Fault> {
        Ok(vec![accepted(), text(words), finished(FinishReason::Stop, 9, 3)])
    }

    fn chat() -> Request {
        Request::new("r", Input::Chat(vec![Message::User { content: vec!["ask".into()] }]))
    }

    type Rounds = Vec<Result<Vec<Event>, Fault>>;

    fn service(rounds: Rounds) -> (Arc<Scripted>, ToolLoop) {
        let scripted = Arc::new(Scripted {
            rounds: Mutex::new(rounds.into()),
            requests: Mutex::default(),
            sinks: Mutex::default(),
            knows_tools: true,
        });
        let tools = vec![Echo::boxed("echo"), Echo::boxed("clock")];
        (Arc::clone(&scripted), ToolLoop::new(scripted, tools, LIMITS))
    }

    /// Every event of the answer, and every request that the room behind got.
    fn run(request: Request, rounds: Rounds) -> (Vec<Event>, Vec<Request>) {
        let (scripted, service) = service(rounds);
        let mut reply = service.submit(request).unwrap();
        let events = std::iter::from_fn(|| reply.recv()).collect();
        let requests = std::mem::take(&mut *scripted.requests.lock().unwrap());
        (events, requests)
    }

    fn results(request: &Request) -> Vec<String> {
        let Input::Chat(messages) = &request.input else { panic!("a chat") };
        let contents = messages.iter().filter_map(|message| match message {
            Message::Tool { content, .. } => Some(content.concat()),
            _ => None,
        });
        contents.collect()
    }

    #[test]
    fn a_local_call_is_run_and_the_client_sees_one_answer() {
        let (events, requests) = run(chat(), vec![calls("echo", "{\"a\":1}"), says("it is 1")]);
        let last = finished(FinishReason::Stop, 14, 5);
        assert_eq!(events, [accepted(), text("it is 1"), last]);

        let names: Vec<&str> = requests[0].tools.iter().map(|tool| &*tool.name).collect();
        assert_eq!(names, ["echo", "clock"]);
        let Input::Chat(messages) = &requests[1].input else { panic!("a chat") };
        let asked = Message::Assistant {
            content: None,
            tool_calls: vec![call("echo", "{\"a\":1}")],
            prefix: false,
        };
        let answered = Message::Tool {
            content: vec!["{\"a\":1}".into()],
            call_id: Some("abcdefghi".into()),
            name: Some("echo".into()),
        };
        assert_eq!(messages[1..], [asked, answered]);
    }

    #[test]
    fn built_in_tools_and_filters_stand_in_one_line() {
        let (scripted, _) = service(vec![
            calls("calculator", "{\"expression\":\"6 * 7\"}"),
            calls("clock", "{}"),
            says("42"),
        ]);
        let tools = ["calculator", "clock"].map(|name| tools::build(name).unwrap());
        let line = ToolLoop::new(Arc::clone(&scripted) as Arc<dyn Service>, tools.into(), LIMITS);
        let settings = json!({ "messages_max": 1, "answer_tokens_max": 100 });
        let length = filters::build("length", settings.as_object().unwrap()).unwrap();
        let line = crate::filtered::Filtered::new(Arc::new(line), vec![length], 4);

        let mut reply = line.submit(chat()).unwrap();
        let events: Vec<Event> = std::iter::from_fn(|| reply.recv()).collect();
        assert_eq!(events, [accepted(), text("42"), finished(FinishReason::Stop, 19, 7)]);
        let requests = scripted.requests.lock().unwrap();
        // The limit of messages is the client's; what the loop adds does not count.
        assert_eq!(results(&requests[2])[0], "{\"result\":\"42\"}");
        assert!(results(&requests[2])[1].contains("weekday"));
        assert_eq!(requests[2].limits.max_tokens, Some(96));
    }

    #[test]
    fn errors_panics_and_large_results_become_results() {
        for (arguments, result) in [
            ("fail", "{\"error\":\"it rains\"}"),
            ("panic", "{\"error\":\"the function failed\"}"),
            ("large", "{\"error\":\"the result has 1001 bytes, the limit is 1000; ask for less\"}"),
        ] {
            let (events, requests) = run(chat(), vec![calls("echo", arguments), says("sorry")]);
            assert_eq!(results(&requests[1]), [result]);
            assert_eq!(events.len(), 3);
        }
    }

    #[test]
    fn a_call_for_the_client_passes_all_calls_on_unchanged() {
        let mut request = chat();
        request.tools = vec![spec("weather"), spec("clock")];
        let events = vec![
            accepted(),
            Event::ToolCall(call("echo", "{}")),
            Event::ToolCall(call("weather", "{}")),
            finished(FinishReason::ToolCalls, 5, 2),
        ];
        let (answer, requests) = run(request, vec![Ok(events.clone())]);
        assert_eq!(answer, events);
        let names: Vec<&str> = requests[0].tools.iter().map(|tool| &*tool.name).collect();
        assert_eq!(names, ["weather", "clock", "echo"]);
    }

    #[test]
    fn a_function_of_the_client_hides_a_local_one_of_its_name() {
        let mut request = chat();
        request.tools = vec![spec("clock")];
        let round = calls("clock", "{}");
        let (answer, _) = run(request, vec![round.clone()]);
        assert_eq!(Ok(answer), round);
    }

    #[test]
    fn requests_that_want_no_functions_pass_as_they_are() {
        let forbidden = Request { tool_choice: ToolChoice::None, ..chat() };
        let other = Request { tool_choice: ToolChoice::Function("theirs".into()), ..chat() };
        let json = Request { format: Format::JsonObject, ..chat() };
        let raw = Request::new("r", Input::Text("ask".into()));
        let continued = Message::Assistant {
            content: Some(vec!["It".into()]),
            tool_calls: Vec::new(),
            prefix: true,
        };
        let prefix = Request::new("r", Input::Chat(vec![continued]));
        for request in [forbidden, other, json, raw, prefix] {
            let (events, requests) = run(request, vec![says("plain")]);
            assert_eq!(Ok(events), says("plain"));
            assert!(requests[0].tools.is_empty());
        }
    }

    #[test]
    fn a_model_without_functions_is_offered_none() {
        let scripted = Arc::new(Scripted {
            rounds: Mutex::new(vec![says("plain")].into()),
            requests: Mutex::default(),
            sinks: Mutex::default(),
            knows_tools: false,
        });
        let inner: Arc<dyn Service> = Arc::clone(&scripted) as Arc<dyn Service>;
        let service = ToolLoop::new(inner, vec![Echo::boxed("echo")], LIMITS);
        drop(service.submit(chat()).unwrap());
        assert!(scripted.requests.lock().unwrap()[0].tools.is_empty());
    }

    #[test]
    fn a_demand_for_a_call_is_made_once() {
        let request = Request { tool_choice: ToolChoice::Any, ..chat() };
        let (_, requests) = run(request, vec![calls("echo", "{}"), says("done")]);
        assert_eq!(requests[0].tool_choice, ToolChoice::Any);
        assert_eq!(requests[1].tool_choice, ToolChoice::Auto);
    }

    #[test]
    fn the_last_round_must_be_words() {
        let round = || calls("echo", "{}");
        let (events, requests) = run(chat(), vec![round(), round(), round(), says("enough")]);
        assert_eq!(requests[2].tool_choice, ToolChoice::Auto);
        assert_eq!(requests[3].tool_choice, ToolChoice::None);
        assert_eq!(events.last(), Some(&finished(FinishReason::Stop, 24, 9)));

        let (events, _) = run(chat(), vec![round(), round(), round(), round()]);
        assert!(
            matches!(events.last(), Some(Event::Failed(fault)) if fault.message.contains("3 rounds"))
        );
    }

    #[test]
    fn rounds_share_the_limit_of_tokens() {
        let mut request = chat();
        request.limits.max_tokens = Some(10);
        request.limits.min_tokens = 1;
        let (_, requests) = run(request.clone(), vec![calls("echo", "{}"), says("done")]);
        assert_eq!(requests[1].limits.max_tokens, Some(8));
        assert_eq!(requests[1].limits.min_tokens, 0);

        request.limits.max_tokens = Some(2);
        let (events, _) = run(request, vec![calls("echo", "{}")]);
        assert_eq!(events, [accepted(), finished(FinishReason::Length, 5, 2)]);
    }

    #[test]
    fn a_passed_deadline_runs_no_call() {
        let mut request = chat();
        request.limits.deadline = Some(Instant::now());
        let (_, requests) = run(request, vec![calls("echo", "{}"), says("late")]);
        assert_eq!(results(&requests[1]), ["{\"error\":\"there is no time left for calls\"}"]);
        assert_eq!(requests[1].tool_choice, ToolChoice::None);
    }

    #[test]
    fn a_full_queue_between_rounds_is_waited_for() {
        let busy = Err(Fault::new(FaultCode::Busy, "full"));
        let rounds = vec![calls("echo", "{}"), busy.clone(), busy, says("done")];
        let (events, requests) = run(chat(), rounds);
        assert_eq!(requests.len(), 4);
        assert_eq!(events.last(), Some(&finished(FinishReason::Stop, 14, 5)));
    }

    #[test]
    fn a_refused_round_fails_the_answer() {
        let refused = Err(Fault::new(FaultCode::ContextLength, "too long"));
        let (events, _) = run(chat(), vec![calls("echo", "{}"), refused]);
        assert!(
            matches!(events.last(), Some(Event::Failed(fault)) if fault.code == FaultCode::ContextLength)
        );
    }

    #[test]
    fn a_refused_first_round_is_refused_at_once() {
        let refused = Err(Fault::new(FaultCode::Busy, "full"));
        let (_, service) = service(vec![refused, says("free again")]);
        assert_eq!(service.submit(chat()).unwrap_err().code, FaultCode::Busy);
        assert!(service.submit(chat()).is_ok());
    }

    #[test]
    fn dropping_the_reply_cancels_the_round() {
        let (scripted, service) = service(vec![Ok(vec![accepted()])]);
        let reply = service.submit(chat()).unwrap();
        let sink = scripted.sinks.lock().unwrap()[0].clone();
        drop(reply);
        let start = Instant::now();
        while !sink.is_gone() {
            assert!(start.elapsed() < Duration::from_secs(10), "the round goes on");
            thread::yield_now();
        }
    }

    #[test]
    fn more_than_a_round_may_call_get_an_error_each() {
        let mut events = vec![accepted()];
        events.extend((0..34).map(|_| Event::ToolCall(call("echo", "1"))));
        events.push(finished(FinishReason::ToolCalls, 5, 2));
        let (_, requests) = run(chat(), vec![Ok(events), says("done")]);
        let results = results(&requests[1]);
        assert_eq!(results.len(), 34);
        assert_eq!(results.iter().filter(|result| *result == "1").count(), ROUND_CALLS_MAX);
    }
}
