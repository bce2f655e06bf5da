//! How answers end: by themselves, by their readers, by the clock, by a failure.

use super::*;

#[test]
fn cancel_in_the_middle_of_a_prompt_frees_its_pages_in_one_step() {
    let mut bench = Bench::new(endless());
    let mut reply = bench.submit(request("r", &"x".repeat(30))).unwrap();
    bench.step();
    assert!(!bench.engine.pages_are_free());
    reply.canceller().cancel();
    assert_eq!(bench.step(), Step::Idle);
    assert!(bench.engine.pages_are_free());
    let (said, last) = read(&mut reply);
    assert_eq!((said.as_str(), reason(&last)), ("", Some(FinishReason::Cancelled)));
    assert_eq!(bench.gauges.snapshot().requests_cancelled, 1);
}

#[test]
fn cancel_in_the_queue_ends_a_request_that_was_never_accepted() {
    let mut bench = Bench::with(endless(), Bounds { sequences_max: 1, ..BOUNDS }, 256);
    let _first = bench.submit(request("first", "a")).unwrap();
    let mut second = bench.submit(request("second", "a")).unwrap();
    bench.step();
    second.canceller().cancel();
    bench.step();
    assert_eq!(fault(&second.recv().unwrap()), Some(FaultCode::Cancelled));
    assert_eq!(second.recv(), None);
}

#[test]
fn a_dropped_reply_releases_its_pages() {
    let mut bench = Bench::new(endless());
    let reply = bench.submit(request("r", "abc")).unwrap();
    bench.step();
    drop(reply);
    assert_eq!(bench.step(), Step::Idle);
    assert!(bench.engine.pages_are_free());
    assert_eq!(bench.gauges.snapshot().requests_cancelled, 1);
}

#[test]
fn a_slow_reader_pauses_its_own_sequence_only() {
    let mut bench = Bench::with(endless(), BOUNDS, 2);
    let mut slow = bench.submit(short("slow", "a", 20)).unwrap();
    let mut quick = bench.submit(short("quick", "b", 40)).unwrap();
    let mut heard = 0;
    for _ in 0..30 {
        bench.step();
        while quick.recv_timeout(Duration::ZERO).is_ok_and(|event| event.is_some()) {
            heard += 1;
        }
    }
    assert!(heard >= 29, "the quick one lost steps: {heard}");
    assert_eq!(bench.last_batch().spans.len(), 1, "the slow one is paused");
    assert!(matches!(slow.recv(), Some(Event::Accepted { .. })));
    for _ in 0..6 {
        assert!(matches!(slow.recv(), Some(Event::Text { .. })));
        bench.step();
    }
}

#[test]
fn an_ended_answer_holds_no_pages_while_its_reader_is_slow() {
    let mut bench = Bench::with(echo(), BOUNDS, 1);
    let mut reply = bench.submit(short("r", "ab", 1)).unwrap();
    bench.step();
    assert_eq!(bench.step(), Step::Stuck);
    assert!(matches!(reply.recv(), Some(Event::Accepted { .. })));
    assert_eq!(bench.gauges.in_flight(), 0);
    assert!(bench.engine.pages_are_free());
    bench.step();
    assert!(matches!(reply.recv(), Some(Event::Text { .. })));
    assert_eq!(bench.step(), Step::Idle);
    assert_eq!(reason(&reply.recv().unwrap()), Some(FinishReason::Length));
}

#[test]
fn a_deadline_ends_a_request_in_the_queue_and_in_the_middle() {
    let mut bench = Bench::with(endless(), Bounds { sequences_max: 1, ..BOUNDS }, 256);
    let replies = ["first", "second"].map(|id| {
        let mut request = request(id, "abc");
        request.limits.deadline = Some(bench.now + Duration::from_millis(5));
        bench.submit(request).unwrap()
    });
    bench.run();
    let mut lengths = Vec::new();
    for mut reply in replies {
        let (said, last) = read(&mut reply);
        assert_eq!(fault(&last), Some(FaultCode::Deadline));
        lengths.push(said.len());
    }
    assert_eq!(lengths, [4, 0]);
    assert!(bench.engine.pages_are_free());
}

#[test]
fn a_deadline_in_the_past_is_refused_at_once() {
    let bench = Bench::new(echo());
    let mut request = request("r", "a");
    request.limits.deadline = Some(bench.now);
    assert_eq!(bench.submit(request).unwrap_err().code, FaultCode::Deadline);
    assert_eq!(bench.gauges.in_flight(), 0, "its place is free again");
}

#[test]
fn answers_end_at_their_limit_and_at_the_end_of_the_context() {
    let mut bench = Bench::new(endless());
    let mut limited = bench.submit(short("limited", "ab", 3)).unwrap();
    let mut open = bench.submit(request("open", "ab")).unwrap();
    let mut silent = bench.submit(short("silent", "ab", 0)).unwrap();
    bench.run();
    for _ in 0..4 {
        bench.step();
    }
    let (said, last) = read(&mut limited);
    assert_eq!((said.len(), reason(&last)), (3, Some(FinishReason::Length)));
    let (said, last) = read(&mut open);
    assert_eq!((said.len(), reason(&last)), (46, Some(FinishReason::ModelLength)));
    let (said, last) = read(&mut silent);
    assert_eq!((said.len(), reason(&last)), (0, Some(FinishReason::Length)));
    assert!(bench.engine.pages_are_free());
}

#[test]
fn a_stop_text_ends_the_answer_and_is_not_part_of_it() {
    let mut bench = Bench::new(echo());
    let mut request = request("r", "hello");
    request.limits.stop = vec!["l".into()];
    let mut reply = bench.submit(request).unwrap();
    bench.run();
    let (said, last) = read(&mut reply);
    assert_eq!((said.as_str(), reason(&last)), ("he", Some(FinishReason::Stop)));
}

#[test]
fn a_rejected_batch_fails_its_sequences_only() {
    let mut steps = 0;
    let forward = echo().before_each_step(move |batch| {
        steps += 1;
        let (tokens, reason) = (batch.tokens.len(), "too hot".into());
        if steps == 2 { Err(ForwardError::Rejected { tokens, reason }) } else { Ok(()) }
    });
    let mut bench = Bench::with(forward, Bounds { sequences_max: 1, ..BOUNDS }, 256);
    let mut first = bench.submit(request("first", "abc")).unwrap();
    let mut second = bench.submit(request("second", "xyz")).unwrap();
    bench.run();
    assert_eq!(fault(&read(&mut first).1), Some(FaultCode::Internal));
    assert_eq!(read(&mut second).0, "xyz");
    assert!(bench.engine.pages_are_free());
}

#[test]
fn a_logit_that_is_no_number_fails_its_sequence_only() {
    let mut bench = Bench::new(Scripted::with_logits(capacity(), |context: &[TokenId]| {
        let mut logits = vec![0.0; capacity().vocabulary as usize];
        let is_poisoned = context[0] == TokenId(3);
        logits[5] = if is_poisoned { f32::NAN } else { 60.0 };
        logits
    }));
    let replies = ["a", "b"].map(|letter| {
        let mut request = request(letter, letter);
        request.sampling.temperature = Some(0.5);
        request.limits.max_tokens = Some(3);
        bench.submit(request).unwrap()
    });
    bench.run();
    let [mut poisoned, mut sound] = replies;
    assert_eq!(fault(&read(&mut poisoned).1), Some(FaultCode::Internal));
    assert_eq!(reason(&read(&mut sound).1), Some(FinishReason::Length));
}

#[test]
fn a_network_that_forgets_rows_fails_the_batch() {
    struct Forgetful;
    impl Forward for Forgetful {
        fn capacity(&self) -> Capacity {
            capacity()
        }
        fn forward(&mut self, _: &Batch) -> Result<Logits, ForwardError> {
            Ok(Logits { rows: vec![RowLogits::All(Vec::new()), RowLogits::All(Vec::new())] })
        }
    }
    let mut bench = Bench::new(echo());
    bench.engine.forward = Box::new(Forgetful);
    let mut reply = bench.submit(request("r", "a")).unwrap();
    bench.run();
    assert_eq!(fault(&read(&mut reply).1), Some(FaultCode::Internal));
    assert!(bench.engine.pages_are_free());
}

#[test]
fn closing_lets_what_is_in_flight_end() {
    let mut bench = Bench::new(echo());
    let mut reply = bench.submit(request("r", "abc")).unwrap();
    bench.step();
    bench.mailbox.send(Mail::Close(bench.now + Duration::from_secs(9))).unwrap();
    while bench.step() != Step::Closed {}
    assert_eq!(read(&mut reply).0, "abc");
}

#[test]
fn closing_cancels_what_is_late() {
    let mut bench = Bench::with(endless(), Bounds { sequences_max: 1, ..BOUNDS }, 256);
    let mut running = bench.submit(request("running", "abc")).unwrap();
    let mut queued = bench.submit(request("queued", "abc")).unwrap();
    bench.step();
    bench.mailbox.send(Mail::Close(bench.now)).unwrap();
    assert_eq!(bench.step(), Step::Closed);
    assert_eq!(reason(&read(&mut running).1), Some(FinishReason::Cancelled));
    assert_eq!(fault(&read(&mut queued).1), Some(FaultCode::Unavailable));
    assert!(bench.engine.pages_are_free());
}
