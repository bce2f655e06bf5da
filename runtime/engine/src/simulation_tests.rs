//! Random schedules: whatever clients do, each request ends once, answers are right, limits hold
//! and no page is lost.

use proptest::prelude::*;

use super::*;
use crate::fixture::tokens;

const SEQUENCES: u32 = 3;
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
    },
    Steps(u8),
    Read(usize, u8),
    Cancel(usize),
    Drop(usize),
    Reject,
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
    )
        .prop_map(|(talk, prompt, max_tokens, class, client, deadline_ms, predicts)| {
            Deed::Submit { talk, prompt, max_tokens, class, client, deadline_ms, predicts }
        });
    let deed = prop_oneof![
        4 => submit,
        6 => (1u8..6).prop_map(Deed::Steps),
        4 => (any::<usize>(), 1u8..9).prop_map(|(which, events)| Deed::Read(which, events)),
        1 => any::<usize>().prop_map(Deed::Cancel),
        1 => any::<usize>().prop_map(Deed::Drop),
        1 => Just(Deed::Reject),
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
        match event {
            Event::Accepted { .. } => {
                assert!(!std::mem::replace(&mut self.accepted, true), "accepted once");
            }
            Event::Text { text, .. } => {
                assert!(self.accepted, "accepted comes first");
                self.heard.push_str(&text);
            }
            Event::ToolCall(_) => panic!("nobody called a tool"),
            last => self.last = Some(last),
        }
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

fn submit(bench: &Bench, number: usize, deed: &Deed) -> Option<Client> {
    let Deed::Submit { talk, prompt, max_tokens, class, client, deadline_ms, predicts } = *deed
    else {
        return None;
    };
    let (letters, expected) = conversation(talk, prompt, max_tokens);
    let mut request = request(&number.to_string(), &letters);
    request.limits.max_tokens = max_tokens;
    request.client = [None, Some("a"), Some("b")][usize::from(client)].map(str::to_owned);
    request.prediction = predicts.then(|| expected.clone());
    request.limits.deadline = deadline_ms.map(|ms| bench.now + Duration::from_millis(ms));
    request.limits.priority =
        [Priority::Batch, Priority::Normal, Priority::Interactive][usize::from(class)];
    if bench.gauges.in_flight() >= 60 {
        return None;
    }
    let reply = Some(bench.submit(request).expect("the request is sound"));
    Some(Client { reply, expected, heard: String::new(), accepted: false, last: None })
}

fn step(bench: &mut Bench) -> Step {
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
    outcome
}

fn simulate(deeds: &[Deed], sharing: PrefixSharing) {
    let reject = Arc::new(Mutex::new(false));
    let armed = Arc::clone(&reject);
    let network = Scripted::new(capacity(), next_of).before_each_step(move |batch| {
        let (tokens, reason) = (batch.tokens.len(), "as asked".into());
        let rejected = std::mem::take(&mut *armed.lock().unwrap());
        if rejected { Err(ForwardError::Rejected { tokens, reason }) } else { Ok(()) }
    });
    let mut bench = Bench::with(network, SIM, 2);
    bench.intake = Intake::new(serving(), &capacity(), 2, sharing);
    let mut clients: Vec<Client> = Vec::new();
    for deed in deeds {
        let pick = |which: &usize| which % clients.len().max(1);
        match deed {
            Deed::Submit { .. } => clients.extend(submit(&bench, clients.len(), deed)),
            Deed::Steps(steps) => {
                for _ in 0..*steps {
                    step(&mut bench);
                }
            }
            Deed::Reject => *reject.lock().unwrap() = true,
            Deed::Read(which, events) => {
                let at = pick(which);
                clients.get_mut(at).map(|client| client.listen(*events));
            }
            Deed::Cancel(which) => {
                let reply = clients.get(pick(which)).and_then(|client| client.reply.as_ref());
                reply.inspect(|reply| reply.canceller().cancel());
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
        if step(&mut bench) == Step::Idle && complete == clients.len() {
            break;
        }
    }
    clients.iter().for_each(Client::check);
    assert!(bench.engine.pages_are_free(), "pages are lost");
    assert_eq!((bench.gauges.in_flight(), bench.gauges.active()), (0, 0));
    let counters = bench.gauges.snapshot();
    let ended = counters.requests_ok + counters.requests_failed + counters.requests_cancelled;
    assert_eq!(ended, clients.len() as u64, "each request is counted once");
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
        simulate(&deeds, all[sharing]);
    }
}
