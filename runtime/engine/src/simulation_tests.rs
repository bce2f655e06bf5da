//! Random schedules: whatever clients do, each request ends once, answers are right, limits hold
//! and no page is lost. Time is part of the schedule, so that a schedule repeats exactly.
//!
//! Checked after each step: no more than `sequences_max` run, `batch_tokens_max` tokens are in a step
//! and `prompt_chunk_tokens` of prompts beside answers; no more are in flight than there are places;
//! what was cancelled, left alone, or is late has ended; nothing rests that a reader does not hold up.
//! Where somebody was let in, nobody more urgent was left behind, waiting included, and at equal
//! urgency nobody of whose client less runs: equal clients never differ by more than one because of
//! whose turn it was.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use proptest::prelude::*;
use protocol::{Classify, Scores, Task};

use super::*;
use crate::fixture::tokens;
use crate::gauges::Counters;
use crate::scheduler::Standing;

const SEQUENCES: u32 = 3;
const IN_FLIGHT_MAX: u32 = 12;
/// Seconds in the queue that make a request one class more urgent.
const STEP_UP_S: u64 = 30;
const SIM: Bounds = Bounds {
    sequences_max: SEQUENCES,
    batch_tokens_max: 6,
    prompt_chunk_tokens: 3,
    tile_tokens: 1,
    slowdown_max: None,
    draft_tokens_max: 4,
    open_answer_tokens: 4,
    leaving_max: 64,
    tells_found: false,
};

#[derive(Debug, Clone)]
enum Deed {
    Submit {
        /// Which of the conversations that some have in common, and how much of it.
        talk: usize,
        prompt: usize,
        max_tokens: Option<u32>,
        class: u8,
        client: u8,
        deadline_ms: Option<u64>,
        /// Whether the client knows what it will hear.
        predicts: bool,
        /// Whether it asks for scores of labels instead.
        classifies: bool,
    },
    Steps(u8),
    Read(usize, u8),
    Cancel(usize),
    Drop(usize),
    Reject,
    /// Time passes; enough of it makes the waiting urgent.
    Pass(u8),
}

fn deeds() -> impl Strategy<Value = Vec<Deed>> {
    let submit = (
        0usize..5,
        1usize..30,
        prop::option::of(0u32..18),
        0u8..3,
        0u8..3,
        prop::option::of(1u64..40),
        any::<bool>(),
        prop::bool::weighted(0.3),
    )
        .prop_map(
            |(talk, prompt, max_tokens, class, client, deadline_ms, predicts, classifies)| {
                Deed::Submit {
                    talk,
                    prompt,
                    max_tokens,
                    class,
                    client,
                    deadline_ms,
                    predicts,
                    classifies,
                }
            },
        );
    let deed = prop_oneof![
        4 => submit,
        6 => (1u8..6).prop_map(Deed::Steps),
        4 => (any::<usize>(), 1u8..9).prop_map(|(which, events)| Deed::Read(which, events)),
        1 => any::<usize>().prop_map(Deed::Cancel),
        1 => any::<usize>().prop_map(Deed::Drop),
        1 => Just(Deed::Reject),
        1 => (1u8..40).prop_map(Deed::Pass),
    ];
    prop::collection::vec(deed, 1..50)
}

/// A client that checks what it hears.
struct Client {
    reply: Option<Reply>,
    expected: String,
    heard: String,
    accepted: bool,
    last: Option<Event>,
    deadline: Option<Instant>,
    is_cancelled: bool,
    name: Option<String>,
    /// 0 is the most urgent.
    urgency: u64,
    queued_at: Instant,
    /// All events, as they came.
    transcript: String,
}

impl Client {
    /// Takes up to `events` events; whether the answer is complete.
    fn listen(&mut self, events: u8) -> bool {
        for _ in 0..events {
            let Some(reply) = &mut self.reply else {
                return true;
            };
            match reply.recv_timeout(Duration::ZERO) {
                Err(_) => return false,
                Ok(None) => {
                    assert!(self.last.is_some(), "the answer has no last event");
                    return true;
                }
                Ok(Some(event)) => self.hear(event),
            }
        }
        false
    }

    fn hear(&mut self, event: Event) {
        assert!(self.last.is_none(), "something follows the last event");
        self.transcript.push_str(&format!("{event:?}\n"));
        match event {
            Event::Accepted { .. } => {
                assert!(!std::mem::replace(&mut self.accepted, true), "accepted once");
            }
            Event::Text { text, .. } => {
                assert!(self.accepted, "accepted comes first");
                self.heard.push_str(&text);
            }
            Event::Scores(scores) => {
                assert!(self.accepted, "accepted comes first");
                self.heard.push_str(&told(&scores));
            }
            Event::ToolCall(_) => panic!("nobody called a tool"),
            last => self.last = Some(last),
        }
    }

    /// How urgent it is by now; the least goes first.
    fn class(&self, now: Instant) -> u64 {
        self.urgency.saturating_sub(now.duration_since(self.queued_at).as_secs() / STEP_UP_S)
    }

    /// Whether it still wants its answer.
    fn is_alive(&self, now: Instant) -> bool {
        let is_late = self.deadline.is_some_and(|deadline| deadline <= now);
        self.reply.is_some() && !self.is_cancelled && !is_late
    }

    fn check(&self) {
        assert!(self.expected.starts_with(&self.heard), "{} / {}", self.heard, self.expected);
        match self.last.as_ref() {
            None => assert!(self.reply.is_none(), "an answer has no end"),
            Some(Event::Finished { reason: FinishReason::Cancelled, .. } | Event::Failed(_)) => {}
            Some(_) => assert_eq!(self.heard, self.expected),
        }
        if let Some(Event::Finished { .. }) = self.last {
            assert!(self.accepted, "a finished request was accepted");
        }
    }
}

/// The prompt's letters and the answer that the network must give.
fn conversation(talk: usize, prompt: usize, max_tokens: Option<u32>) -> (String, String) {
    // The first letters are the same in all talks.
    let letter = |at: usize| (at.saturating_sub(9) * talk * 7 + at * at) % 26;
    let letters: String = (0..prompt).map(|at| char::from(b'a' + letter(at) as u8)).collect();
    let mut context = tokens(&letters);
    let room = capacity().context_tokens_max - prompt as u32;
    let mut answer = String::new();
    for _ in 0..max_tokens.unwrap_or(room) {
        let token = next_of(&context);
        if token == END {
            break;
        }
        context.push(token);
        answer.push(char::from(b'a' + (token.0 - 3) as u8));
    }
    (letters, answer)
}

/// Labels of all kinds; the first is what the network says next.
fn labels(letters: &str) -> Vec<String> {
    let first = match next_of(&tokens(letters)) {
        END => 'a',
        token => char::from(b'a' + (token.0 - 3) as u8),
    };
    [format!("{first}"), format!("{first}on"), format!("{first}onto"), format!("{first}{first}")]
        .into()
}

fn told(scores: &Scores) -> String {
    scores.labels.iter().map(|label| format!("{} {:.9};", label.label, label.score)).collect()
}

/// What the network must say of labels, each by itself.
fn expected_scores(letters: &str) -> String {
    let rest = f64::from(capacity().vocabulary - 1);
    let log_probability = |label: &String| {
        let mut context = tokens(letters);
        let path = tokens(label).into_iter().chain([END]);
        let step = |token: TokenId| {
            let logit = if next_of(&context) == token { 64.0 } else { 0.0 };
            context.push(token);
            logit - (64f64.exp() + rest).ln()
        };
        path.map(step).sum::<f64>()
    };
    told(&Scores::of_logs(labels(letters).into_iter().map(|label| {
        let log = log_probability(&label);
        (label, log)
    })))
}

fn submit(bench: &Bench, number: usize, deed: &Deed) -> Option<Client> {
    let Deed::Submit { talk, prompt, max_tokens, class, client, deadline_ms, predicts, classifies } =
        *deed
    else {
        return None;
    };
    let (letters, mut expected) = conversation(talk, prompt, max_tokens);
    let mut request = request(&number.to_string(), &letters);
    request.limits.max_tokens = max_tokens;
    if classifies {
        expected = expected_scores(&letters);
        request.task = Task::Classify(Classify::new(labels(&letters)));
    }
    request.client = [None, Some("a"), Some("b")][usize::from(client)].map(str::to_owned);
    request.prediction = (predicts && !classifies).then(|| expected.clone());
    request.limits.deadline = deadline_ms.map(|ms| bench.now + Duration::from_millis(ms));
    request.limits.priority =
        [Priority::Batch, Priority::Normal, Priority::Interactive][usize::from(class)];
    if bench.gauges.in_flight() >= IN_FLIGHT_MAX {
        assert!(bench.gauges.place(IN_FLIGHT_MAX).is_none(), "a place beyond the limit");
        return None;
    }
    let (deadline, name) = (request.limits.deadline, request.client.clone());
    let reply = Some(bench.submit(request).expect("the request is sound"));
    Some(Client {
        reply,
        expected,
        heard: String::new(),
        accepted: false,
        last: None,
        deadline,
        is_cancelled: false,
        name,
        urgency: 2 - u64::from(class),
        queued_at: bench.now,
        transcript: String::new(),
    })
}

fn ended(counters: &Counters) -> u64 {
    counters.requests_ok + counters.requests_failed + counters.requests_cancelled
}

/// Checks who was let in by the step between two standings, if nobody left meanwhile.
fn check_turns(before: &Standing, after: &Standing, clients: &[Client], now: Instant) {
    let client = |id: &String| &clients[id.parse::<usize>().expect("names are numbers")];
    let running =
        |name: &Option<String>| after.active.iter().filter(|id| client(id).name == *name).count();
    let let_in: Vec<&String> =
        after.active.iter().filter(|id| !before.active.contains(id)).collect();
    // One that was set aside afterwards, for another of its client, ran when turns were taken.
    let nobody_left = before.active.iter().all(|id| after.active.contains(id));
    for (at, id) in let_in.iter().enumerate() {
        let (own, is_last) = (client(id), at + 1 == let_in.len());
        for other in &after.waiting {
            let theirs = client(other);
            let (class, urgency) = (own.class(now), theirs.class(now));
            assert!(class <= urgency, "{id} was let in before {other}, which is more urgent");
            let is_fair =
                own.name == theirs.name || running(&own.name) <= running(&theirs.name) + 1;
            assert!(
                !is_last || !nobody_left || class < urgency || is_fair,
                "{id} was let in before {other}, of whose client less runs"
            );
        }
    }
}

/// One step of the engine and what must hold after it.
fn step(bench: &mut Bench, clients: &mut [Client], elapsed_us: &AtomicU64) -> Step {
    let (began, before) = (elapsed_us.load(Relaxed), bench.engine.standing());
    let ended_before = ended(&bench.gauges.snapshot());
    let outcome = bench.step();
    if outcome == Step::Ran {
        let batch = bench.last_batch();
        assert!(batch.tokens.len() <= SIM.batch_tokens_max as usize);
        assert!(batch.spans.len() <= SEQUENCES as usize);
        let (reading, writing) = bench.engine.planned();
        assert_eq!(reading + writing, batch.tokens.len() as u32);
        assert!(writing == 0 || reading <= SIM.prompt_chunk_tokens, "a long chunk: {reading}");
    }
    assert!(bench.gauges.active() <= SEQUENCES);
    let in_flight = bench.gauges.in_flight();
    assert!(in_flight <= IN_FLIGHT_MAX, "{in_flight} in flight");
    let alive = clients.iter().filter(|client| client.is_alive(bench.now)).count();
    assert!(in_flight as usize <= alive, "{in_flight} in flight, {alive} wanted");
    if ended(&bench.gauges.snapshot()) == ended_before {
        check_turns(&before, &bench.engine.standing(), clients, bench.now);
    }
    if outcome == Step::Stuck {
        let heard = |clients: &[Client]| -> usize {
            clients.iter().map(|client| client.transcript.len()).sum()
        };
        let before = heard(clients);
        for client in clients.iter_mut() {
            client.listen(1);
        }
        assert!(heard(clients) > before, "it rests, and no reader holds anything up");
    }
    bench.now += Duration::from_micros(elapsed_us.load(Relaxed) - began);
    outcome
}

/// What a schedule did: what each client heard, what the network computed, what was counted.
type Record = (Vec<String>, Vec<Batch>, Counters);

fn simulate(deeds: &[Deed], sharing: PrefixSharing) -> Record {
    let reject = Arc::new(Mutex::new(false));
    let armed = Arc::clone(&reject);
    let elapsed_us = Arc::new(AtomicU64::new(0));
    let passing = Arc::clone(&elapsed_us);
    let network = Scripted::new(capacity(), next_of).before_each_step(move |batch| {
        // Tokens cost little beside a step, and no two steps cost the same.
        let noise = batch.tokens.iter().fold(7, |hash, token| hash * 31 % 1009 + token.0);
        passing.fetch_add(400 + 60 * batch.tokens.len() as u64 + u64::from(noise % 97), Relaxed);
        let (tokens, reason) = (batch.tokens.len(), "as asked".into());
        let rejected = std::mem::take(&mut *armed.lock().unwrap());
        if rejected { Err(ForwardError::Rejected { tokens, reason }) } else { Ok(()) }
    });
    let mut bench = Bench::with(network, SIM, 2);
    bench.intake = Intake::new(serving(), &capacity(), 2, sharing);
    let (start, told) = (bench.now, Arc::clone(&elapsed_us));
    bench.engine.set_clock(move || start + Duration::from_micros(told.load(Relaxed)));
    let mut clients: Vec<Client> = Vec::new();
    for deed in deeds {
        let pick = |which: &usize| which % clients.len().max(1);
        match deed {
            Deed::Submit { .. } => clients.extend(submit(&bench, clients.len(), deed)),
            Deed::Steps(steps) => {
                for _ in 0..*steps {
                    step(&mut bench, &mut clients, &elapsed_us);
                }
            }
            Deed::Reject => *reject.lock().unwrap() = true,
            Deed::Pass(seconds) => bench.now += Duration::from_secs((*seconds).into()),
            Deed::Read(which, events) => {
                let at = pick(which);
                clients.get_mut(at).map(|client| client.listen(*events));
            }
            Deed::Cancel(which) => {
                let at = pick(which);
                if let Some(client) = clients.get_mut(at) {
                    client.reply.iter().for_each(|reply| reply.canceller().cancel());
                    client.is_cancelled = true;
                }
            }
            Deed::Drop(which) => {
                let at = pick(which);
                clients.get_mut(at).map(|client| client.reply.take());
            }
        }
    }
    for round in 0.. {
        assert!(round < 5_000, "some answer never ends");
        let complete =
            clients.iter_mut().map(|client| client.listen(9)).filter(|done| *done).count();
        let outcome = step(&mut bench, &mut clients, &elapsed_us);
        if outcome == Step::Idle && complete == clients.len() {
            break;
        }
    }
    clients.iter().for_each(Client::check);
    assert!(bench.engine.pages_are_free(), "pages are lost");
    assert_eq!((bench.gauges.in_flight(), bench.gauges.active()), (0, 0));
    let counters = bench.gauges.snapshot();
    assert_eq!(ended(&counters), clients.len() as u64, "each request is counted once");
    let batches = std::mem::take(&mut *bench.batches.lock().unwrap());
    (clients.into_iter().map(|client| client.transcript).collect(), batches, counters)
}

/// What the client expects is guessed, and the time of steps decides how much of it.
#[test]
fn a_schedule_with_guesses_repeats_exactly() {
    let talk = |talk, prompt| Deed::Submit {
        talk,
        prompt,
        max_tokens: Some(17),
        class: 1,
        client: 0,
        deadline_ms: None,
        predicts: true,
        classifies: false,
    };
    let deeds: Vec<Deed> = (0..4).flat_map(|n| [talk(n, 3 + 2 * n), Deed::Steps(3)]).collect();
    let (heard, batches, counters) = simulate(&deeds, PrefixSharing::All);
    assert!(counters.guessed_tokens > 0, "{counters:?}");
    assert!(counters.forward_us > 0, "{counters:?}");
    assert_eq!(simulate(&deeds, PrefixSharing::All), (heard, batches, counters));
}

/// A few schedules; `PROPTEST_CASES` asks for more.
fn cases() -> ProptestConfig {
    match std::env::var_os("PROPTEST_CASES") {
        Some(_) => ProptestConfig::default(),
        None => ProptestConfig { cases: 192, ..ProptestConfig::default() },
    }
}

proptest! {
    #![proptest_config(cases())]
    #[test]
    fn every_request_ends_once_and_no_page_is_lost(deeds in deeds(), sharing in 0usize..3) {
        let all = [PrefixSharing::All, PrefixSharing::Client, PrefixSharing::Off];
        let record = simulate(&deeds, all[sharing]);
        prop_assert!(simulate(&deeds, all[sharing]) == record, "it does not repeat");
    }
}
