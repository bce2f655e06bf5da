//! Beginnings that are computed once, answers that are set aside, guesses and clients' turns.

use protocol::{Reuse, ReuseEnd};

use super::*;
use crate::draft_model::DraftModel;
use crate::pace::Pace;

/// An engine with more pages than [`Bench::new`] has, for beginnings that stay.
fn roomy(bounds: Bounds) -> Bench {
    Bench::with(Scripted::new(capacity(), next_of), bounds, 256)
}

fn cached(last: &Event) -> Option<u32> {
    match last {
        Event::Finished { usage, .. } => Some(usage.cached_tokens),
        _ => None,
    }
}

/// Tokens of all batches so far.
fn computed(bench: &Bench) -> usize {
    bench.batches.lock().unwrap().iter().map(|batch| batch.tokens.len()).sum()
}

#[test]
fn the_same_beginning_is_computed_once() {
    let mut bench = roomy(BOUNDS);
    let mut answers = Vec::new();
    for _ in 0..2 {
        let mut reply = bench.submit(short("r", "abcdefghijk", 4)).unwrap();
        bench.run();
        let (said, last) = read(&mut reply);
        answers.push((said, cached(&last)));
    }
    assert_eq!(answers[0].1, Some(0));
    assert_eq!(answers[1], (answers[0].0.clone(), Some(8)), "two pages of four");
    assert!(bench.engine.pages_are_free());
}

#[test]
fn an_answer_is_found_again_as_part_of_the_next_prompt() {
    let mut bench = roomy(BOUNDS);
    let mut reply = bench.submit(short("first", "abcdef", 12)).unwrap();
    bench.run();
    let (said, _) = read(&mut reply);
    let mut reply = bench.submit(short("second", &format!("abcdef{said}xyz"), 2)).unwrap();
    bench.run();
    let known = (6 + said.len() as u32 - 1) / 4 * 4;
    assert_eq!(cached(&read(&mut reply).1), Some(known));
}

#[test]
fn prompts_that_come_together_share_their_beginning() {
    let mut bench = roomy(BOUNDS);
    let letters = "abcdefghijklmnop";
    let mut replies = [1, 2, 3].map(|_| bench.submit(short("r", letters, 3)).unwrap());
    bench.run();
    let answers = replies.each_mut().map(read);
    assert!(answers.iter().all(|(said, _)| *said == answers[0].0));
    assert_eq!(answers.map(|(_, last)| cached(&last)), [Some(0), Some(12), Some(12)]);
    assert!(computed(&bench) <= 16 + 2 * 4 + 3 * 2, "{}", computed(&bench));
}

#[test]
fn a_client_with_its_own_beginnings_finds_no_other() {
    let mut bench = roomy(BOUNDS);
    bench.intake = Intake::new(serving(), &capacity(), 256, PrefixSharing::Client);
    let mut hits = Vec::new();
    for client in [Some("a"), Some("a"), Some("b"), None] {
        let mut request = short("r", "abcdefghijk", 2);
        request.client = client.map(str::to_owned);
        let mut reply = bench.submit(request).unwrap();
        bench.run();
        hits.extend(cached(&read(&mut reply).1));
    }
    assert_eq!(hits, [0, 8, 0, 0]);
}

#[test]
fn what_is_for_idle_times_makes_room_and_goes_on_where_it_was() {
    let mut bench = roomy(Bounds { sequences_max: 1, ..BOUNDS });
    let mut idle = short("idle", "abcdefghi", 12);
    idle.limits.priority = Priority::Batch;
    let mut idle = bench.submit(idle).unwrap();
    for _ in 0..4 {
        bench.step();
    }
    let before = computed(&bench);
    let mut urgent = bench.submit(short("urgent", "zy", 3)).unwrap();
    bench.step();
    assert!(matches!(urgent.recv(), Some(Event::Accepted { .. })), "it waits for nobody");
    bench.run();
    let mut alone = roomy(BOUNDS);
    let mut expected = alone.submit(short("alone", "abcdefghi", 12)).unwrap();
    alone.run();
    assert_eq!(read(&mut idle), read(&mut expected));
    let (urgent, _) = read(&mut urgent);
    assert_eq!(bench.gauges.snapshot().sequences_parked, 1);
    let all = computed(&bench) - before;
    let written = 12 + 2 + urgent.len();
    assert!(all <= written + 4, "{all}: no more than a page is computed again");
}

#[test]
fn the_client_of_whom_less_runs_is_next() {
    let mut bench = roomy(Bounds { sequences_max: 2, ..BOUNDS });
    let ask = |bench: &Bench, client: &str, id: &str| {
        let mut request = short(id, "ab", 6);
        request.client = Some(client.into());
        bench.submit(request).unwrap()
    };
    let mut replies: Vec<Reply> = [("a", "a1"), ("a", "a2"), ("a", "a3"), ("b", "b1")]
        .into_iter()
        .map(|(client, id)| ask(&bench, client, id))
        .collect();
    bench.step();
    let accepted: Vec<bool> = replies
        .iter_mut()
        .map(|reply| matches!(reply.recv_timeout(Duration::ZERO), Ok(Some(_))))
        .collect();
    assert_eq!(accepted, [true, false, false, true]);
    bench.run();
}

#[test]
fn guesses_change_no_answer_and_save_steps() {
    let period = |context: &[TokenId]| TokenId(3 + context.len() as u32 % 5);
    let run = |draft_tokens_max| {
        let bounds = Bounds { draft_tokens_max, batch_tokens_max: 16, ..BOUNDS };
        let mut bench = Bench::with(Scripted::new(capacity(), period), bounds, 256);
        let mut reply = bench.submit(short("r", "defg", 40)).unwrap();
        bench.run();
        let steps = bench.batches.lock().unwrap().len();
        (read(&mut reply), steps)
    };
    let ((said, last), plain) = run(0);
    let ((guessed, guessed_last), quick) = run(8);
    assert_eq!(said, guessed);
    assert_eq!(reason(&last), reason(&guessed_last));
    assert_eq!(plain, 40);
    assert!(quick < plain, "{quick} steps with guesses");
    let Event::Finished { usage, .. } = guessed_last else { panic!("it finishes") };
    assert!(usage.guessed_right_tokens > 0);
    assert_eq!(usage.completion_tokens, 40);
}

/// An engine that believes to read a token of a prompt in a millisecond.
fn paced(bounds: Bounds) -> Bench {
    let mut bench = roomy(bounds);
    let mut pace = Pace::new(1);
    pace.note(8, 0, Duration::from_millis(8));
    bench.engine.set_pace(pace);
    bench
}

fn until(bench: &Bench, mut request: Request, milliseconds: u64) -> Reply {
    request.limits.deadline = Some(bench.now + Duration::from_millis(milliseconds));
    bench.submit(request).unwrap()
}

#[test]
fn a_deadline_that_cannot_be_met_is_refused_with_the_time_it_would_take() {
    let mut bench = paced(BOUNDS);
    let letters = "zyxwvutsrqponmlkjihgfedcba";
    let mut late = until(&bench, short("late", letters, 1), 20);
    let mut timely = until(&bench, short("timely", letters, 1), 60_000);
    bench.run();
    let Some(Event::Failed(fault)) = late.recv() else { panic!("it is refused") };
    assert_eq!((fault.code, fault.param.as_deref()), (FaultCode::Deadline, Some("deadline")));
    assert!(fault.message.contains("expected in 26 ms"), "{}", fault.message);
    assert!(fault.retry_after_ms.is_some());
    assert!(reason(&read(&mut timely).1).is_some());
}

#[test]
fn what_requests_have_in_common_is_waited_for_once() {
    let mut bench = paced(Bounds { sequences_max: 1, ..BOUNDS });
    let ask = |bench: &Bench, end: &str| {
        until(bench, short("r", &format!("{}{end}", "zyxwvutsrq".repeat(3)), 1), 100)
    };
    let mut replies = ["a", "b", "c", "d", "e", "f"].map(|end| ask(&bench, end));
    bench.run();
    assert!(replies.iter_mut().all(|reply| reason(&read(reply).1).is_some()), "none is refused");
}

#[test]
fn a_request_is_told_where_its_known_beginning_ends() {
    let mut bench = roomy(BOUNDS);
    let mut ask = |letters: &str| {
        let mut request = short("r", letters, 1);
        request.explains_reuse = true;
        let mut reply = bench.submit(request).unwrap();
        bench.run();
        let events = std::iter::from_fn(|| reply.recv());
        let told = events.filter_map(|event| match event {
            Event::Reused(Reuse { cached_tokens, end, text }) => Some((cached_tokens, end, text)),
            _ => None,
        });
        told.collect::<Vec<_>>()
    };
    let told = |cached, end, text: &str| vec![(cached, end, text.to_owned())];
    assert_eq!(ask("abcdefghijk"), told(0, ReuseEnd::Unknown, "abcdefghijk"));
    assert_eq!(ask("abcdefghijk"), told(8, ReuseEnd::Complete, "ijk"));
    assert_eq!(ask("abcdefzhijk"), told(4, ReuseEnd::Differs { token: 6 }, "zhijk"));
    assert_eq!(ask("abcdefghijklm"), told(8, ReuseEnd::Unknown, "ijklm"));
}

/// Answers of three requests, greedy and drawn; with a second network that says `second` if any. Also
/// the tokens that were guessed, and those of them that were right.
fn answered(second: Option<fn(&[TokenId]) -> TokenId>) -> (Vec<String>, u64, u64) {
    let mut bench = roomy(Bounds { draft_tokens_max: 3, ..BOUNDS });
    // Each step takes a millisecond, guesses no time.
    let start = bench.now;
    let mut told = start;
    bench.engine.set_clock(move || {
        told += Duration::from_millis(1);
        told
    });
    if let Some(second) = second {
        let mut second = DraftModel::new(Box::new(Scripted::new(capacity(), second)));
        second.set_clock(move || start);
        bench.engine.ask_second(second);
    }
    let prompts = ["abcdefgh", "hgfedcba", "ddd"].into_iter().zip(0..);
    let mut replies: Vec<Reply> = prompts
        .map(|(letters, seed)| {
            let mut request = short(letters, letters, 16);
            request.sampling.temperature = Some(if seed == 1 { 0.0 } else { 1.0 });
            request.sampling.seed = Some(seed);
            bench.submit(request).unwrap()
        })
        .collect();
    bench.run();
    let said = replies.iter_mut().map(|reply| read(reply).0).collect();
    let counters = bench.gauges.snapshot();
    (said, counters.guessed_tokens, counters.guessed_right_tokens)
}

/// As [`next_of`], and wrong each third time.
fn nearly(context: &[TokenId]) -> TokenId {
    let right = next_of(context);
    if context.len().is_multiple_of(3) { TokenId(3 + (right.0 + 1) % 20) } else { right }
}

#[test]
fn answers_are_the_same_with_a_second_network() {
    let (plain, ..) = answered(None);
    let (with, tried, right) = answered(Some(next_of));
    assert_eq!(with, plain);
    assert!(right > 10, "{right} of {tried}");
    let (with, tried, right) = answered(Some(nearly));
    assert_eq!(with, plain);
    assert!(right > 0 && right < tried, "{right} of {tried}");
    let (with, ..) = answered(Some(|_| TokenId(3)));
    assert_eq!(with, plain);
}
