use protocol::{Event, EventSink, FinishReason, Input, RequestId, Task, Usage, reply_pair};

use super::*;

/// Keeps every answer open, so that the test is the engine.
#[derive(Default)]
struct Open {
    sinks: Mutex<Vec<EventSink>>,
    requests: Mutex<Vec<Request>>,
    is_full: std::sync::atomic::AtomicBool,
}

impl Service for Open {
    fn submit(&self, request: Request) -> Result<Reply, Fault> {
        if self.is_full.load(std::sync::atomic::Ordering::Relaxed) {
            return Err(Fault::new(FaultCode::Busy, "full").retry_after_ms(7));
        }
        let (sink, reply) = reply_pair(request.id.clone(), 16);
        self.sinks.lock().unwrap().push(sink);
        self.requests.lock().unwrap().push(request);
        Ok(reply)
    }

    fn describe(&self) -> Description {
        let card = ModelCard {
            id: "ministral".into(),
            aliases: vec!["small".into()],
            ..ModelCard::default()
        };
        Description { models: vec![card], ..Description::default() }
    }

    fn encode(&self, _request: Request) -> Result<Encoded, Fault> {
        Ok(Encoded::default())
    }

    fn embed(&self, _request: EmbedRequest) -> Result<Embeddings, Fault> {
        Ok(Embeddings { prompt_tokens: 70, ..Embeddings::default() })
    }
}

/// A service with these clients, and a clock that the test moves.
struct Stage {
    quotas: Quotas,
    open: Arc<Open>,
    now: Arc<Mutex<Instant>>,
}

impl Stage {
    fn new(clients: &[(&str, ClientLimits)]) -> Self {
        let clients = clients.iter().map(|(name, limits)| ClientConfig {
            name: (*name).to_owned(),
            key_sha256: Vec::new(),
            strictness: None,
            limits: limits.clone(),
        });
        let now = Arc::new(Mutex::new(Instant::now()));
        let (open, shown) = (Arc::new(Open::default()), Arc::clone(&now));
        let clock = Box::new(move || *shown.lock().unwrap());
        let service = Arc::clone(&open) as Arc<dyn Service>;
        Self { quotas: Quotas::with_clock(service, clients.collect(), clock), open, now }
    }

    fn pass(&self, time: Duration) {
        *self.now.lock().unwrap() += time;
    }

    fn ask(&self, client: &str) -> Result<Reply, Fault> {
        self.quotas.submit(request(client))
    }

    /// Asks and is answered, which costs so many tokens.
    fn ask_for(&self, client: &str, tokens: u32) -> Result<(), Fault> {
        let mut reply = self.ask(client)?;
        self.finish(tokens);
        while reply.recv().is_some() {}
        Ok(())
    }

    /// Ends the answer that was begun last.
    fn finish(&self, completion_tokens: u32) {
        let usage = Usage { completion_tokens, ..Usage::default() };
        let sink = self.open.sinks.lock().unwrap().pop().expect("an answer is open");
        sink.send(Event::Finished { reason: FinishReason::Stop, usage });
    }

    /// How long the client is told to wait, which must be the truth.
    fn wait_as_told(&self, client: &str) -> Duration {
        let fault = self.ask(client).expect_err("the limit is reached");
        assert_eq!(fault.code, FaultCode::RateLimited);
        let wait = Duration::from_millis(fault.retry_after_ms.expect("a time to come back"));
        self.pass(wait - Duration::from_millis(1));
        assert!(self.ask(client).is_err(), "it was told to wait for longer than it has to");
        self.pass(Duration::from_millis(1));
        wait
    }
}

fn request(client: &str) -> Request {
    let client = (!client.is_empty()).then(|| client.to_owned());
    Request { client, ..Request::new("r", Input::Text("hi".into())) }
}

fn limits() -> ClientLimits {
    ClientLimits::default()
}

#[test]
fn who_waits_exactly_as_long_as_it_was_told_is_served() {
    let three = ClientLimits { requests_per_minute: Some(3), ..limits() };
    let stage = Stage::new(&[("plc7", three)]);
    for _ in 0..3 {
        stage.ask_for("plc7", 1).unwrap();
    }
    assert_eq!(stage.wait_as_told("plc7"), Duration::from_secs(20));
    stage.ask_for("plc7", 1).unwrap();

    let hundred = ClientLimits { tokens_per_minute: Some(100), ..limits() };
    let stage = Stage::new(&[("plc7", hundred)]);
    stage.ask_for("plc7", 350).unwrap();
    // 251 tokens at 100 a minute.
    assert_eq!(stage.wait_as_told("plc7"), Duration::from_millis(150_600));
    stage.ask_for("plc7", 1).unwrap();

    let daily = ClientLimits { tokens_per_day: Some(1000), ..limits() };
    let stage = Stage::new(&[("plc7", daily)]);
    stage.ask_for("plc7", 999).unwrap();
    stage.pass(Duration::from_secs(3600));
    stage.ask_for("plc7", 999).unwrap();
    assert_eq!(stage.wait_as_told("plc7"), Duration::from_secs(23 * 3600));
    stage.ask_for("plc7", 1).unwrap();
}

#[test]
fn the_longest_of_several_waits_is_told() {
    let limits = ClientLimits {
        requests_per_minute: Some(1),
        tokens_per_minute: Some(100),
        ..ClientLimits::default()
    };
    let stage = Stage::new(&[("plc7", limits)]);
    stage.ask_for("plc7", 299).unwrap();
    assert_eq!(stage.wait_as_told("plc7"), Duration::from_secs(120));
    stage.ask_for("plc7", 1).unwrap();
}

#[test]
fn a_place_is_free_when_the_answer_ends_or_is_given_up() {
    let two = ClientLimits { requests_max: Some(2), ..limits() };
    let stage = Stage::new(&[("plc7", two)]);
    let (first, mut second) = (stage.ask("plc7").unwrap(), stage.ask("plc7").unwrap());
    let fault = stage.ask("plc7").unwrap_err();
    assert_eq!((fault.code, fault.retry_after_ms), (FaultCode::RateLimited, Some(1000)));
    drop(first);
    let _third = stage.ask("plc7").unwrap();
    assert!(stage.ask("plc7").is_err());
    stage
        .open
        .sinks
        .lock()
        .unwrap()
        .remove(1)
        .send(Event::Finished { reason: FinishReason::Stop, usage: Usage::default() });
    second.recv();
    stage.ask("plc7").expect("the end frees it, though the reply is still held");
}

#[test]
fn tokens_of_an_answer_that_is_given_up_are_taken() {
    let hundred = ClientLimits { tokens_per_minute: Some(100), ..limits() };
    let stage = Stage::new(&[("plc7", hundred)]);
    let mut reply = stage.ask("plc7").unwrap();
    let sink = stage.open.sinks.lock().unwrap().pop().unwrap();
    let (id, model) = (RequestId("r".into()), "ministral".to_owned());
    sink.send(Event::Accepted { id, model, prompt_tokens: 60, cached_tokens: 0 });
    sink.send(Event::text("hello", 5));
    reply.recv();
    reply.recv();
    drop(reply);
    let tokens = stage.quotas.allowance(Some("plc7")).unwrap().tokens.unwrap();
    assert_eq!((tokens.limit, tokens.remaining), (100, 35));
    assert_eq!(tokens.reset, Duration::from_secs(39));
}

#[test]
fn a_request_that_the_queue_refuses_costs_nothing() {
    let one = ClientLimits { requests_per_minute: Some(1), requests_max: Some(1), ..limits() };
    let stage = Stage::new(&[("plc7", one)]);
    stage.open.is_full.store(true, std::sync::atomic::Ordering::Relaxed);
    for _ in 0..3 {
        assert_eq!(stage.ask("plc7").unwrap_err().retry_after_ms, Some(7));
    }
    stage.open.is_full.store(false, std::sync::atomic::Ordering::Relaxed);
    stage.ask_for("plc7", 1).unwrap();
}

#[test]
fn classifications_and_tokenizing_count() {
    let two = ClientLimits { requests_per_minute: Some(2), ..limits() };
    let stage = Stage::new(&[("plc7", two)]);
    let classify = Task::Classify(protocol::Classify::new(vec!["on".into(), "off".into()]));
    stage.quotas.submit(Request { task: classify, ..request("plc7") }).unwrap();
    stage.quotas.encode(request("plc7")).unwrap();
    assert_eq!(stage.ask("plc7").unwrap_err().code, FaultCode::RateLimited);
    assert_eq!(stage.quotas.encode(request("plc7")).unwrap_err().code, FaultCode::RateLimited);
}

#[test]
fn vectors_count_with_their_tokens_and_their_name() {
    let hundred = ClientLimits { tokens_per_minute: Some(100), ..limits() };
    let few = ClientLimits { models: vec!["minilm".into()], ..hundred };
    let stage = Stage::new(&[("plc7", few)]);
    let embed = |model: &str| {
        let (client, model) = (Some("plc7".to_owned()), model.to_owned());
        stage.quotas.embed(EmbedRequest { model, client, ..EmbedRequest::default() })
    };
    assert_eq!(embed("other").unwrap_err().code, FaultCode::Forbidden);
    embed("minilm").unwrap();
    embed("minilm").unwrap();
    let fault = embed("minilm").unwrap_err();
    assert_eq!((fault.code, fault.retry_after_ms), (FaultCode::RateLimited, Some(24_600)));
}

#[test]
fn several_requests_are_admitted_together_or_never() {
    let limits = ClientLimits {
        requests_per_minute: Some(6),
        requests_max: Some(4),
        ..ClientLimits::default()
    };
    let stage = Stage::new(&[("plc7", limits)]);
    let admits = |requests, at_once| stage.quotas.admits(Some("plc7"), requests, at_once);
    assert_eq!(admits(4, 4), Ok(()));
    assert_eq!(admits(6, 1), Ok(()));
    assert_eq!(admits(7, 1).unwrap_err().code, FaultCode::InvalidField);
    assert_eq!(admits(5, 5).unwrap_err().code, FaultCode::InvalidField);
    for _ in 0..3 {
        stage.ask_for("plc7", 1).unwrap();
    }
    let fault = admits(4, 4).unwrap_err();
    assert_eq!((fault.code, fault.retry_after_ms), (FaultCode::RateLimited, Some(10_000)));
    stage.pass(Duration::from_secs(10));
    assert_eq!(admits(4, 4), Ok(()));
    assert_eq!(stage.quotas.admits(Some("other"), 1000, 1000), Ok(()), "nothing limits it");
}

#[test]
fn models_and_the_length_of_answers_are_confined() {
    let confined = ClientLimits {
        models: vec!["ministral".into(), "house".into()],
        max_tokens: Some(100),
        ..limits()
    };
    let stage = Stage::new(&[("plc7", confined)]);
    let named = |model: &str| Request { model: model.into(), ..request("plc7") };
    for model in ["", "default", "ministral", "small", "house"] {
        stage.quotas.submit(named(model)).unwrap();
    }
    let fault = stage.quotas.submit(named("codestral")).unwrap_err();
    assert_eq!((fault.code, fault.param.as_deref()), (FaultCode::Forbidden, Some("model")));
    assert_eq!(stage.quotas.encode(named("codestral")).unwrap_err().code, FaultCode::Forbidden);

    let asked = stage.open.requests.lock().unwrap().pop().unwrap();
    assert_eq!(asked.limits.max_tokens, Some(100), "who names no length gets this one");
    let mut long = request("plc7");
    long.limits.max_tokens = Some(101);
    let fault = stage.quotas.submit(long).unwrap_err();
    assert_eq!((fault.code, fault.param.as_deref()), (FaultCode::InvalidField, Some("max_tokens")));
}

#[test]
fn each_client_has_its_own_account() {
    let one = ClientLimits { requests_per_minute: Some(1), ..limits() };
    let stage = Stage::new(&[("a", one.clone()), ("*", one)]);
    // The nameless are one client; names without an entry are each their own.
    for client in ["a", "b", "c", ""] {
        stage.ask_for(client, 1).unwrap();
        assert_eq!(stage.ask(client).unwrap_err().code, FaultCode::RateLimited, "{client}");
    }
}

#[test]
fn without_entries_nobody_is_limited() {
    let one = ClientLimits { requests_per_minute: Some(1), ..limits() };
    for stage in [Stage::new(&[]), Stage::new(&[("a", one)])] {
        for _ in 0..100 {
            stage.ask_for("b", 1_000_000).unwrap();
            stage.ask_for("", 1_000_000).unwrap();
        }
        assert_eq!(stage.quotas.allowance(Some("b")), None);
    }
}

#[test]
fn many_names_share_one_account_and_forget_nothing() {
    let one = ClientLimits { requests_per_minute: Some(1), ..limits() };
    let stage = Stage::new(&[("a", one.clone()), ("*", one)]);
    let name = |number: usize| format!("name{number}");
    for number in 0..=UNLISTED_CLIENTS_MAX {
        stage.ask_for(&name(number), 1).unwrap();
    }
    stage.ask_for("one more", 1).expect("the account of the crowd");
    assert_eq!(stage.ask("another").unwrap_err().code, FaultCode::RateLimited);
    assert_eq!(stage.ask(&name(0)).unwrap_err().code, FaultCode::RateLimited, "still known");
    stage.ask_for("a", 1).expect("who is listed always has its own");
    assert!(stage.quotas.accounts.lock().len() <= UNLISTED_CLIENTS_MAX + 3);
    stage.pass(Duration::from_secs(60));
    stage.ask_for("another", 1).expect("those at rest have made room");
    assert!(stage.quotas.accounts.lock().len() <= 2);
}
