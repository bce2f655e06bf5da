use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use protocol::{Event, FinishReason, Input, Message, ModelCard, TokenId, ToolSpec};
use text::TemplateVersion;

use super::*;
use crate::fixture::{END, capacity, codec_with_tools, read, request, serving};
use crate::intake::Alias;
use crate::script::Scripted;
use crate::{Batch, Logits};

fn limits() -> EngineLimits {
    EngineLimits { sequences_max: 1, queue_requests_max: 1, ..EngineLimits::default() }
}

fn start(forward: Scripted, limits: EngineLimits) -> EngineService {
    EngineService::start(Box::new(forward), serving(), limits).expect("the engine starts")
}

fn echo() -> Scripted {
    Scripted::echo(capacity(), END)
}

/// A network that computes a step for each message of the sender, and goes on when it is dropped.
fn gated(forward: Scripted) -> (flume::Sender<()>, Scripted) {
    let (open, gate) = flume::unbounded::<()>();
    let gated = forward.before_each_step(move |_| {
        let _ = gate.recv();
        Ok(())
    });
    (open, gated)
}

fn last_fault(service: &EngineService) -> FaultCode {
    let mut reply = service.submit(request("r", "abc")).expect("taken");
    match read(&mut reply).1 {
        Event::Failed(fault) => fault.code,
        other => panic!("{other:?} is no fault"),
    }
}

#[test]
fn several_threads_get_their_own_answers() {
    let service = start(echo(), EngineLimits::default());
    std::thread::scope(|scope| {
        for word in ["alpha", "beta", "gamma", "delta", "omega"] {
            let service = &service;
            scope.spawn(move || {
                for _ in 0..5 {
                    let mut reply = service.submit(request(word, word)).expect("taken");
                    assert_eq!(read(&mut reply).0, word);
                }
            });
        }
    });
    let counters = service.counters();
    assert_eq!((counters.requests_ok, counters.requests_failed), (25, 0));
    assert!(counters.steps > 0 && counters.busy_us >= counters.forward_us);
}

#[test]
fn names_and_aliases_lead_to_the_one_model() {
    let mut serving = serving();
    serving.card.aliases = vec!["pocket".into()];
    let versions = [("small", None), ("old", Some(TemplateVersion::V1))];
    serving.aliases = versions.map(|(name, version)| Alias { name: name.into(), version }).into();
    let service = EngineService::start(Box::new(echo()), serving, limits()).unwrap();
    for name in ["", "default", "tiny", "small", "old", "pocket"] {
        let mut request = request("r", "ab");
        request.model = name.into();
        let mut reply = service.submit(request).expect(name);
        let accepted = reply.recv().unwrap();
        assert!(matches!(accepted, Event::Accepted { model, .. } if model == "tiny"));
        read(&mut reply);
    }
    let mut stranger = request("r", "ab");
    stranger.model = "gpt".into();
    let fault = service.submit(stranger).unwrap_err();
    assert_eq!((fault.code, fault.param.as_deref()), (FaultCode::UnknownModel, Some("model")));
    assert!(fault.message.contains("tiny, small, old, pocket"), "{}", fault.message);
    assert_eq!(service.describe().models[0].aliases, ["small", "old", "pocket"]);
    assert_eq!(service.counters().requests_refused, 1);
}

#[test]
fn a_full_queue_is_busy_and_says_when_to_come_back() {
    let (open, forward) = gated(echo());
    let service = start(forward, limits());
    let mut running = service.submit(request("running", "ab")).unwrap();
    assert!(matches!(running.recv(), Some(Event::Accepted { .. })));
    let mut queued = service.submit(request("queued", "cd")).unwrap();
    let load = service.describe().load;
    assert_eq!((load.active, load.queued, load.queue_requests_max), (1, 1, 1));
    let refused = service.submit(request("refused", "ef")).unwrap_err();
    assert_eq!(refused.code, FaultCode::Busy);
    assert!(refused.retry_after_ms.is_some_and(|ms| ms >= 100));
    drop(open);
    assert_eq!(read(&mut running).0, "ab");
    assert_eq!(read(&mut queued).0, "cd");
    assert!(service.submit(request("again", "ef")).is_ok(), "there is room again");
}

#[test]
fn the_context_is_what_card_and_network_both_allow() {
    let context = |stated| {
        let mut serving = serving();
        serving.card = ModelCard { context_tokens_max: stated, ..serving.card };
        let service = EngineService::start(Box::new(echo()), serving, limits()).unwrap();
        service.describe().models[0].context_tokens_max
    };
    assert_eq!([context(0), context(32), context(4096)], [48, 32, 48]);
}

#[test]
fn a_function_call_ends_the_answer_as_a_call_and_not_as_text() {
    let codec = codec_with_tools();
    let written = r#"[{"name": "weather", "arguments": {"city": "Zurich"}}]"#;
    let mut words = vec![TokenId(5)];
    words.extend(codec.tokenizer().encode(written).unwrap());
    let capacity = Capacity {
        vocabulary: u32::try_from(codec.tokenizer().vocabulary_size()).unwrap(),
        pages: 64,
        page_tokens: 16,
        context_tokens_max: 1024,
        batch_tokens_max: 64,
        tile_tokens: 1,
    };
    let serving = Serving { codec, ..serving() };
    let network = Scripted::saying(capacity, words.clone(), END);
    let service = EngineService::start(Box::new(network), serving, limits()).unwrap();
    let content = vec!["How is the weather?".into()];
    let mut request = request("r", "");
    request.input = Input::Chat(vec![Message::User { content }]);
    request.tools = vec![ToolSpec {
        name: "weather".into(),
        description: "Tells the weather.".into(),
        parameters: [("type", "object")].into_iter().collect(),
        strict: true,
    }];
    let mut reply = service.submit(request.clone()).unwrap();
    assert!(matches!(reply.recv(), Some(Event::Accepted { .. })));
    let Some(Event::ToolCall(call)) = reply.recv() else { panic!("a call and no text") };
    assert_eq!((call.name.as_str(), call.arguments.as_str()), ("weather", r#"{"city": "Zurich"}"#));
    let Some(Event::Finished { reason, usage }) = reply.recv() else { panic!("then the end") };
    assert_eq!(reason, FinishReason::ToolCalls);
    assert_eq!(usage.completion_tokens as usize, words.len() + 1);

    request.tools.clear();
    request.limits.max_tokens = Some(4);
    request.limits.min_tokens = 4;
    let mut reply = service.submit(request).unwrap();
    let (said, _) = read(&mut reply);
    assert_eq!(said, r#" [{""#, "without tools, the next best token begins the answer");
}

#[test]
fn shutdown_lets_answers_end_and_takes_no_more() {
    let (open, forward) = gated(echo());
    let service = start(forward, limits());
    let mut reply = service.submit(request("r", "abc")).unwrap();
    assert!(matches!(reply.recv(), Some(Event::Accepted { .. })));
    std::thread::scope(|scope| {
        scope.spawn(|| service.shutdown(Duration::from_secs(60)));
        while service.is_serving() {
            std::thread::yield_now();
        }
        let refused = service.submit(request("late", "abc")).unwrap_err();
        assert_eq!(refused.code, FaultCode::Unavailable);
        drop(open);
    });
    assert_eq!(read(&mut reply).0, "abc");
    service.shutdown(Duration::ZERO);
}

#[test]
fn shutdown_cancels_what_takes_too_long() {
    let endless = Scripted::new(capacity(), |_: &[TokenId]| TokenId(3));
    let (open, forward) = gated(endless);
    let service = start(forward, limits());
    let mut reply = service.submit(request("r", "abc")).unwrap();
    assert!(matches!(reply.recv(), Some(Event::Accepted { .. })));
    std::thread::scope(|scope| {
        scope.spawn(|| service.shutdown(Duration::ZERO));
        while service.is_serving() {
            std::thread::yield_now();
        }
        // The mail that closes is on its way or there: some step soon finds it.
        while !reply.recv_timeout(Duration::from_millis(1)).is_ok_and(|event| {
            matches!(event, Some(Event::Finished { reason: FinishReason::Cancelled, .. }))
        }) {
            let _ = open.send(());
        }
    });
}

#[test]
fn dropping_the_service_ends_what_is_in_flight() {
    let service = start(Scripted::new(capacity(), |_: &[TokenId]| TokenId(3)), limits());
    let mut limited = request("r", "abc");
    limited.limits.max_tokens = Some(40);
    let mut reply = service.submit(limited).unwrap();
    drop(service);
    assert!(read(&mut reply).1.is_last());
}

#[test]
fn a_panic_fails_what_ran_and_the_engine_goes_on() {
    let steps = AtomicU32::new(0);
    let forward = echo().before_each_step(move |_| {
        assert_ne!(steps.fetch_add(1, Relaxed), 1, "the second step panics");
        Ok(())
    });
    let service = start(forward, limits());
    assert_eq!(last_fault(&service), FaultCode::Internal);
    let mut reply = service.submit(request("r", "xyz")).unwrap();
    assert_eq!(read(&mut reply).0, "xyz");
    let counters = service.counters();
    assert_eq!((counters.restarts, counters.requests_failed, counters.requests_ok), (1, 1, 1));
    assert!(service.is_serving());
}

#[test]
fn too_many_panics_close_the_service() {
    let forward = echo().before_each_step(|_| panic!("every step panics"));
    let service = start(forward, limits());
    for _ in 0..RESTARTS_MAX {
        assert_eq!(last_fault(&service), FaultCode::Internal);
    }
    assert_eq!(last_fault(&service), FaultCode::Unavailable);
    assert!(!service.is_serving());
    let refused = service.submit(request("r", "abc")).unwrap_err();
    assert_eq!(refused.code, FaultCode::Unavailable);
}

#[test]
fn a_lost_device_fails_everything_and_closes_the_service() {
    let (open, gate) = flume::unbounded::<()>();
    let forward = echo().before_each_step(move |_| {
        let _ = gate.recv();
        Err(ForwardError::DeviceLost { reason: "unplugged".into() })
    });
    let service = start(forward, limits());
    let mut replies =
        ["running", "queued"].map(|id| service.submit(request(id, "abc")).expect("taken"));
    drop(open);
    for reply in &mut replies {
        let (_, last) = read(reply);
        assert!(matches!(last, Event::Failed(fault) if fault.code == FaultCode::Unavailable));
    }
    assert!(!service.is_serving());
    assert_eq!(service.submit(request("r", "a")).unwrap_err().code, FaultCode::Unavailable);
}

/// Loses its device in each step of more than four tokens.
struct Unplugged {
    network: Scripted,
    revivals: Arc<AtomicU32>,
}

impl Forward for Unplugged {
    fn capacity(&self) -> Capacity {
        self.network.capacity()
    }

    fn forward(&mut self, batch: &Batch) -> Result<Logits, ForwardError> {
        if batch.tokens.len() > 4 {
            return Err(ForwardError::DeviceLost { reason: "unplugged".into() });
        }
        self.network.forward(batch)
    }

    fn revive(&mut self) -> Result<(), ForwardError> {
        self.revivals.fetch_add(1, Relaxed);
        self.network = echo();
        Ok(())
    }
}

#[test]
fn a_lost_device_is_left_for_another_a_few_times() {
    let revivals = Arc::new(AtomicU32::new(0));
    let network = Unplugged { network: echo(), revivals: Arc::clone(&revivals) };
    let service = EngineService::start(Box::new(network), serving(), limits()).unwrap();
    for revival in 1..=RESTARTS_MAX {
        let mut reply = service.submit(request("long", "abcdefgh")).unwrap();
        let (_, last) = read(&mut reply);
        assert!(matches!(last, Event::Failed(fault) if fault.code == FaultCode::Unavailable));
        let mut reply = service.submit(request("r", "xyz")).unwrap();
        assert_eq!(read(&mut reply).0, "xyz");
        assert_eq!(revivals.load(Relaxed) as usize, revival);
    }
    let mut reply = service.submit(request("long", "abcdefgh")).unwrap();
    assert!(matches!(read(&mut reply).1, Event::Failed(_)));
    assert!(!service.is_serving());
    assert_eq!(revivals.load(Relaxed) as usize, RESTARTS_MAX);
}

#[test]
fn limits_and_networks_without_room_do_not_start() {
    let refused = |capacity: Capacity, limits: EngineLimits| {
        EngineService::start(Box::new(Scripted::echo(capacity, END)), serving(), limits).err()
    };
    let none = EngineLimits { sequences_max: 0, ..limits() };
    assert!(matches!(
        refused(capacity(), none),
        Some(EngineError::ZeroLimit { name: "sequences_max" })
    ));
    let empty = Capacity { pages: 0, ..capacity() };
    assert!(matches!(refused(empty, limits()), Some(EngineError::NoCapacity(_))));
}
