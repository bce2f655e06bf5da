use std::collections::VecDeque;
use std::sync::Mutex;

use protocol::{EventSink, ModelCard, ToolError, ToolSpec, reply_pair};
use serde_json::json;

use super::*;

#[path = "tool_loop_approval_tests.rs"]
mod approval;

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

    fn needs_approval(&self) -> bool {
        self.0.name.starts_with("open")
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
    ToolSpec { name: name.into(), description: String::new(), parameters: json!({}), strict: false }
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
    Event::text(text, 1)
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
    (Arc::clone(&scripted), ToolLoop::new(scripted, tools, Vec::new(), LIMITS))
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
    let line =
        ToolLoop::new(Arc::clone(&scripted) as Arc<dyn Service>, tools.into(), Vec::new(), LIMITS);
    let settings = json!({ "messages_max": 1, "answer_tokens_max": 100 });
    let length = filters::build("length", settings.as_object().unwrap()).unwrap();
    let line = crate::filtered::Filtered::new(Arc::new(line), vec![length], Vec::new(), 4);

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

/// Gives its own arguments back, marked.
struct Guest(ToolSpec);

impl Tool for Guest {
    fn spec(&self) -> &ToolSpec {
        &self.0
    }

    fn call(&self, arguments: &str, _deadline: Instant) -> Result<String, ToolError> {
        Ok(format!("[{arguments}]"))
    }

    fn call_while(
        &self,
        arguments: &str,
        deadline: Instant,
        wanted: &dyn Fn() -> bool,
    ) -> Result<String, ToolError> {
        if arguments == "wait" {
            while wanted() {
                thread::yield_now();
            }
            return Err(ToolError("nobody wants it".into()));
        }
        self.call(arguments, deadline)
    }
}

#[derive(Default)]
struct Guests(Mutex<Vec<Arc<dyn Tool>>>);

impl Toolbox for Guests {
    fn tools(&self) -> Vec<Arc<dyn Tool>> {
        self.0.lock().unwrap().clone()
    }
}

fn with_guests(rounds: Rounds, names: &[&str]) -> (Arc<Scripted>, ToolLoop, Arc<Guests>) {
    let guests = Arc::<Guests>::default();
    let tools = names.iter().map(|name| Arc::new(Guest(spec(name))) as Arc<dyn Tool>);
    guests.0.lock().unwrap().extend(tools);
    let (scripted, mut service) = service(rounds);
    service.boxes.push(Arc::clone(&guests) as Arc<dyn Toolbox>);
    (scripted, service, guests)
}

#[test]
fn a_toolbox_is_looked_into_once_for_each_request() {
    let rounds = vec![calls("echo", "1"), says("done"), says("plain")];
    let (scripted, service, guests) = with_guests(rounds, &["echo", "pump"]);
    let mut reply = service.submit(chat()).unwrap();
    guests.0.lock().unwrap().clear();
    while reply.recv().is_some() {}
    drop(service.submit(chat()).unwrap());
    let requests = scripted.requests.lock().unwrap();
    let names = |request: &Request| -> Vec<String> {
        request.tools.iter().map(|tool| tool.name.clone()).collect()
    };
    assert_eq!(names(&requests[0]), ["echo", "pump", "clock"]);
    assert_eq!(results(&requests[1]), ["[1]"], "the guest hides the tool of the box");
    assert_eq!(names(&requests[2]), ["echo", "clock"]);
}

#[test]
fn a_cancelled_request_does_not_wait_for_its_tool() {
    let (_, service, _) = with_guests(vec![calls("pump", "wait")], &["pump"]);
    let mut reply = service.submit(chat()).unwrap();
    assert_eq!(reply.recv(), Some(accepted()));
    reply.canceller().cancel();
    assert_eq!(reply.recv(), Some(finished(FinishReason::Cancelled, 5, 2)));
}

#[test]
fn an_end_waits_for_what_is_between_two_rounds() {
    let (scripted, service, _) = with_guests(vec![calls("pump", "wait")], &["pump"]);
    let mut reply = service.submit(chat()).unwrap();
    assert_eq!(reply.recv(), Some(accepted()));
    service.wait_until_idle(Instant::now() + Duration::from_millis(1));
    reply.canceller().cancel();
    service.wait_until_idle(Instant::now() + Duration::from_secs(10));
    assert_eq!(reply.recv(), Some(finished(FinishReason::Cancelled, 5, 2)));
    assert_eq!(scripted.requests.lock().unwrap().len(), 1);
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
    let service = ToolLoop::new(inner, vec![Echo::boxed("echo")], Vec::new(), LIMITS);
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
