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
    open_answer_tokens: 4,
    leaving_max: 64,
};

#[derive(Debug, Clone)]
enum Deed {
    Submit { prompt: usize, max_tokens: Option<u32>, class: u8, deadline_ms: Option<u64> },
    Steps(u8),
    Read(usize, u8),
    Cancel(usize),
    Drop(usize),
    Reject,
}

fn deeds() -> impl Strategy<Value = Vec<Deed>> {
    let submit = (1usize..30, prop::option::of(0u32..18), 0u8..3, prop::option::of(1u64..40))
        .prop_map(|(prompt, max_tokens, class, deadline_ms)| Deed::Submit {
            prompt,
            max_tokens,
            class,
            deadline_ms,
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
fn conversation(number: usize, prompt: usize, max_tokens: Option<u32>) -> (String, String) {
    let letters: String =
        (0..prompt).map(|at| char::from(b'a' + ((number * 7 + at * at) % 26) as u8)).collect();
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
    let Deed::Submit { prompt, max_tokens, class, deadline_ms } = *deed else {
        return None;
    };
    let (letters, expected) = conversation(number, prompt, max_tokens);
    let mut request = request(&number.to_string(), &letters);
    request.limits.max_tokens = max_tokens;
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
        // A single token is an answer's, or a prompt's last, when its row is wanted.
        let writing = batch.spans.iter().any(|span| {
            let row = |row: &Row| row.token == span.query_start;
            span.query_tokens == 1 && batch.rows.iter().any(row)
        });
        let reading: u32 =
            batch.spans.iter().map(|span| span.query_tokens).filter(|tokens| *tokens > 1).sum();
        assert!(!writing || reading <= SIM.prompt_chunk_tokens, "a chunk is too long: {reading}");
    }
    assert!(bench.gauges.active() <= SEQUENCES);
    outcome
}

fn simulate(deeds: &[Deed]) {
    let reject = Arc::new(Mutex::new(false));
    let armed = Arc::clone(&reject);
    let network = Scripted::new(capacity(), next_of).before_each_step(move |batch| {
        let (tokens, reason) = (batch.tokens.len(), "as asked".into());
        let rejected = std::mem::take(&mut *armed.lock().unwrap());
        if rejected { Err(ForwardError::Rejected { tokens, reason }) } else { Ok(()) }
    });
    let mut bench = Bench::with(network, SIM, 2);
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

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, ..ProptestConfig::default() })]
    #[test]
    fn every_request_ends_once_and_no_page_is_lost(deeds in deeds()) {
        simulate(&deeds);
    }
}
