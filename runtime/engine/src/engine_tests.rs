use std::sync::Mutex;

use protocol::{Event, FinishReason, Priority, Reply, Request, TokenId, Usage};

use super::*;
use crate::batch::{RowLogits, Want};
use crate::fixture::{END, capacity, read, request, serving};
use crate::intake::{Intake, PrefixSharing};
use crate::script::Scripted;

/// An engine without a thread, driven step by step with a clock of its own.
struct Bench {
    engine: Engine<Box<dyn Forward>>,
    mailbox: flume::Sender<Mail>,
    intake: Intake,
    gauges: Arc<Gauges>,
    now: Instant,
    batches: Arc<Mutex<Vec<Batch>>>,
}

const BOUNDS: Bounds = Bounds {
    sequences_max: 4,
    batch_tokens_max: 8,
    prompt_chunk_tokens: 4,
    tile_tokens: 1,
    slowdown_max: None,
    draft_tokens_max: 0,
    open_answer_tokens: 8,
    leaving_max: 16,
    tells_found: false,
};

impl Bench {
    fn new(forward: Scripted) -> Self {
        Self::with(forward, BOUNDS, 256)
    }

    fn with(forward: Scripted, bounds: Bounds, reply_events_max: u32) -> Self {
        let batches = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&batches);
        let forward = Noted { forward, seen };
        let (mailbox, mails) = flume::bounded(64);
        let gauges = Arc::new(Gauges::default());
        Self {
            engine: Engine::new(Box::new(forward), bounds, mails, None, Arc::clone(&gauges)),
            mailbox,
            intake: Intake::new(serving(), &capacity(), reply_events_max, PrefixSharing::All),
            gauges,
            now: Instant::now(),
            batches,
        }
    }

    fn submit(&self, request: Request) -> Result<Reply, Fault> {
        let place = self.gauges.place(64).expect("tests keep within the places");
        let (submission, reply) = self.intake.accept(request, place, self.now)?;
        self.mailbox.try_send(Mail::Submit(submission)).expect("the mailbox has room");
        Ok(reply)
    }

    fn step(&mut self) -> Step {
        self.now += Duration::from_millis(1);
        self.engine.step(self.now).expect("no device is lost")
    }

    fn last_batch(&self) -> Batch {
        self.batches.lock().unwrap().last().expect("a step ran").clone()
    }

    /// Steps until nothing runs; ends what never ends.
    fn run(&mut self) {
        for _ in 0..10_000 {
            if self.step() != Step::Ran {
                return;
            }
        }
        panic!("the engine does not come to rest");
    }
}

/// Keeps every batch that a network gets.
struct Noted {
    forward: Scripted,
    seen: Arc<Mutex<Vec<Batch>>>,
}

impl Forward for Noted {
    fn capacity(&self) -> Capacity {
        self.forward.capacity()
    }

    fn forward(&mut self, batch: &Batch) -> Result<Logits, ForwardError> {
        self.seen.lock().unwrap().push(batch.clone());
        self.forward.forward(batch)
    }
}

fn echo() -> Scripted {
    Scripted::echo(capacity(), END)
}

/// Says `a` for ever.
fn endless() -> Scripted {
    Scripted::new(capacity(), |_: &[TokenId]| TokenId(3))
}

/// A request whose answer has `answer_tokens` tokens at most.
fn short(id: &str, letters: &str, answer_tokens: u32) -> Request {
    let mut request = request(id, letters);
    request.limits.max_tokens = Some(answer_tokens);
    request
}

/// A token that depends on every token before it; sometimes the end.
fn next_of(context: &[TokenId]) -> TokenId {
    let hash = context.iter().fold(0xcbf2_9ce4_8422_2325u64, |hash, token| {
        (hash ^ u64::from(token.0)).wrapping_mul(0x0100_0000_01b3)
    });
    let hash = (hash ^ (hash >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 33;
    if hash.is_multiple_of(17) { END } else { TokenId((hash % 26) as u32 + 3) }
}

fn reason(last: &Event) -> Option<FinishReason> {
    match last {
        Event::Finished { reason, .. } => Some(*reason),
        _ => None,
    }
}

fn fault(last: &Event) -> Option<FaultCode> {
    match last {
        Event::Failed(fault) => Some(fault.code),
        _ => None,
    }
}

#[test]
fn a_prompt_is_continued_until_its_end_token() {
    let mut bench = Bench::new(echo());
    let mut reply = bench.submit(request("r", "hello")).unwrap();
    bench.run();
    assert_eq!(
        reply.recv(),
        Some(Event::Accepted {
            id: protocol::RequestId("r".into()),
            model: "tiny".into(),
            prompt_tokens: 5,
            cached_tokens: 0
        })
    );
    let (said, last) = read(&mut reply);
    assert_eq!(said, "hello");
    let usage = Usage { prompt_tokens: 5, completion_tokens: 6, ..Usage::default() };
    assert_eq!(last, Event::Finished { reason: FinishReason::Stop, usage });
    assert!(bench.engine.pages_are_free());
    let counters = bench.gauges.snapshot();
    assert_eq!((counters.prompt_tokens, counters.answer_tokens), (5, 6));
    assert_eq!((counters.requests_ok, bench.gauges.in_flight()), (1, 0));
}

#[test]
fn the_last_prompt_token_gives_the_first_answer_token() {
    let mut bench = Bench::new(echo());
    let mut reply = bench.submit(request("r", "abc")).unwrap();
    assert_eq!(bench.step(), Step::Ran);
    assert!(matches!(reply.recv(), Some(Event::Accepted { .. })));
    assert_eq!(reply.recv(), Some(Event::text("a", 1)));
}

#[test]
fn answers_in_writing_come_before_prompts() {
    let mut bench = Bench::new(endless());
    let _first = bench.submit(short("first", "ab", 9)).unwrap();
    bench.step();
    let _second = bench.submit(short("second", "cdefghijkl", 9)).unwrap();
    bench.step();
    let batch = bench.last_batch();
    let shares: Vec<u32> = batch.spans.iter().map(|span| span.query_tokens).collect();
    assert_eq!(shares, [1, 4], "one token for the answer, one chunk for the prompt");
    assert_eq!(batch.rows.len(), 1, "a half-read prompt has no row");
}

#[test]
fn a_long_prompt_delays_no_answer() {
    let mut bench = Bench::new(endless());
    let mut first = bench.submit(short("first", "ab", 9)).unwrap();
    bench.step();
    let _second = bench.submit(short("second", &"x".repeat(30), 9)).unwrap();
    assert!(matches!(first.recv(), Some(Event::Accepted { .. })));
    for _ in 0..8 {
        bench.step();
        let event = first.recv_timeout(Duration::ZERO).expect("every step says something");
        assert!(matches!(event, Some(Event::Text { .. })));
    }
}

#[test]
fn a_prompt_alone_takes_the_whole_step() {
    let mut bench = Bench::new(endless());
    let _reply = bench.submit(request("r", &"x".repeat(12))).unwrap();
    bench.step();
    assert_eq!(bench.last_batch().tokens.len(), 8);
    bench.step();
    assert_eq!(bench.last_batch().tokens.len(), 4);
}

#[test]
fn a_higher_priority_goes_first_and_equals_wait_in_line() {
    let mut bench = Bench::with(echo(), Bounds { sequences_max: 1, ..BOUNDS }, 256);
    let classes = [
        ("batch", Priority::Batch),
        ("one", Priority::Normal),
        ("two", Priority::Normal),
        ("now", Priority::Interactive),
    ];
    let mut replies: Vec<Reply> = classes
        .into_iter()
        .map(|(id, priority)| {
            let mut request = request(id, "a");
            request.limits.priority = priority;
            bench.submit(request).unwrap()
        })
        .collect();
    let mut order = Vec::new();
    for _ in 0..20 {
        bench.step();
        for reply in &mut replies {
            if let Ok(Some(Event::Accepted { id, .. })) = reply.recv_timeout(Duration::ZERO) {
                order.push(id.0);
            }
        }
    }
    assert_eq!(order, ["now", "one", "two", "batch"]);
}

#[test]
fn a_request_waits_until_its_pages_are_free() {
    let mut bench = Bench::new(endless());
    let _long = bench.submit(short("long", "ab", 46)).unwrap();
    let mut wide = bench.submit(short("wide", "cd", 30)).unwrap();
    bench.step();
    assert_eq!(bench.last_batch().spans.len(), 1, "12 of 16 pages are promised, 8 are needed");
    assert!(wide.recv_timeout(Duration::ZERO).is_err(), "not accepted yet");
    bench.run();
    assert_eq!(read(&mut wide).0.len(), 30);
    assert!(bench.engine.pages_are_free());
}

#[test]
fn answers_of_no_stated_length_share_the_pages_and_all_reach_their_end() {
    let mut bench = Bench::new(Scripted::new(capacity(), |context: &[TokenId]| {
        TokenId(3 + (context.len() as u32 + context[0].0) % 26)
    }));
    let mut replies = ["a", "b", "c"].map(|id| bench.submit(request(id, id)).unwrap());
    bench.step();
    assert_eq!(bench.last_batch().spans.len(), 3, "nobody waits for a whole context");
    bench.run();
    for (first, reply) in (0u8..).zip(&mut replies) {
        let (said, last) = read(reply);
        let expected: String = (0..47).map(|at| char::from(b'a' + (at + 4 + first) % 26)).collect();
        assert_eq!((said, reason(&last)), (expected, Some(FinishReason::ModelLength)));
    }
    assert!(bench.gauges.snapshot().sequences_parked > 0, "16 pages are too few for all at once");
    assert!(bench.engine.pages_are_free());
}

#[test]
fn a_paused_sequence_gives_its_pages_to_one_that_runs() {
    let mut bench = Bench::with(endless(), BOUNDS, 2);
    let mut slow = bench.submit(short("slow", "a", 47)).unwrap();
    let mut quick = bench.submit(request("quick", "b")).unwrap();
    let mut heard = 0;
    for _ in 0..60 {
        bench.step();
        while quick.recv_timeout(Duration::ZERO).is_ok_and(|event| event.is_some()) {
            heard += 1;
        }
    }
    assert_eq!(heard, 1 + 47 + 1, "accepted, all of its context, finished");
    assert_eq!(bench.gauges.snapshot().sequences_parked, 1);
    let mut said = 0;
    while let Ok(event) = slow.recv_timeout(Duration::ZERO) {
        bench.step();
        match event {
            Some(Event::Text { .. }) => said += 1,
            Some(_) => {}
            None => break,
        }
    }
    assert_eq!(said, 47, "computed anew, it goes on where it was");
}

#[test]
fn what_does_not_fit_into_the_context_is_refused_with_numbers() {
    let bench = Bench::new(echo());
    let refused = bench.submit(short("r", "ab", 47)).unwrap_err();
    assert_eq!((refused.code, refused.code.status()), (FaultCode::ContextLength, 400));
    assert_eq!(refused.param.as_deref(), Some("max_tokens"));
    assert!(refused.message.contains("at most 46"), "{}", refused.message);
    for letters in [48, 49] {
        let refused = bench.submit(request("r", &"x".repeat(letters))).unwrap_err();
        assert_eq!(refused.code, FaultCode::ContextLength);
    }
    assert!(bench.submit(request("r", &"x".repeat(47))).is_ok());
}

#[test]
fn empty_prompts_and_foreign_tokens_are_refused() {
    let bench = Bench::new(echo());
    let empty = bench.submit(request("r", "")).unwrap_err();
    assert_eq!(empty.code.status(), 400);
    let mut foreign = request("r", "");
    foreign.input = protocol::Input::Tokens(vec![TokenId(3), TokenId(4_000)]);
    let foreign = bench.submit(foreign).unwrap_err();
    assert!(foreign.message.contains("4000"), "{}", foreign.message);
}

#[test]
fn greedy_requests_ask_for_the_likeliest_token_alone() {
    let mut bench = Bench::new(echo());
    let _greedy = bench.submit(short("greedy", "a", 9)).unwrap();
    let mut drawn = short("drawn", "a", 9);
    drawn.sampling.temperature = Some(1.0);
    let _drawn = bench.submit(drawn).unwrap();
    bench.step();
    let wants: Vec<Want> = bench.last_batch().rows.iter().map(|row| row.want).collect();
    assert!(matches!(wants[..], [Want::Argmax, Want::Likeliest(_)]), "{wants:?}");
}

#[test]
fn a_likeliest_token_that_is_not_allowed_is_passed_over_in_the_same_step() {
    let mut bench = Bench::new(Scripted::with_logits(capacity(), |context: &[TokenId]| {
        let mut logits = vec![0.0; capacity().vocabulary as usize];
        logits[END.0 as usize] = 9.0;
        logits[context.len() + 2] = 5.0;
        logits
    }));
    let mut request = request("r", "abc");
    request.limits.min_tokens = 2;
    let mut reply = bench.submit(request).unwrap();
    bench.run();
    let (said, last) = read(&mut reply);
    assert_eq!((said.as_str(), reason(&last)), ("cd", Some(FinishReason::Stop)));
    assert_eq!(bench.batches.lock().unwrap().len(), 3, "a step for each token");
}

#[test]
fn a_seed_gives_the_same_answer_alone_and_among_eight() {
    let flat = || {
        let logits = |context: &[TokenId]| {
            let slope = (context.len() % 5) as f32 * 0.1;
            (0..capacity().vocabulary).map(|id| (id as f32 * 0.7).sin() + slope).collect()
        };
        let bounds = Bounds { sequences_max: 8, ..BOUNDS };
        Bench::with(Scripted::with_logits(capacity(), logits), bounds, 256)
    };
    let seeded = |seed| {
        let mut request = request("r", "abc");
        request.sampling.temperature = Some(0.9);
        request.sampling.top_p = 0.95;
        request.sampling.seed = Some(seed);
        request.limits.max_tokens = Some(6);
        request
    };
    let mut alone = flat();
    let mut reply = alone.submit(seeded(5)).unwrap();
    alone.run();
    let (expected, _) = read(&mut reply);

    let mut crowded = flat();
    let mut replies: Vec<Reply> =
        [1, 2, 3, 4, 5, 6, 7, 8].map(|seed| crowded.submit(seeded(seed)).unwrap()).into();
    crowded.run();
    let answers: Vec<String> = replies.iter_mut().map(|reply| read(reply).0).collect();
    assert_eq!(answers[4], expected);
    assert!(answers.iter().any(|answer| *answer != expected), "seeds matter");
}

#[path = "endings_tests.rs"]
mod endings;

#[path = "classify_tests.rs"]
mod classify;

#[path = "simulation_tests.rs"]
mod simulation;

#[path = "sharing_tests.rs"]
mod sharing;

#[path = "likelihood_tests.rs"]
mod likelihoods;
