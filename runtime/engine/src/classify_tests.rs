//! Labels that are scored beside answers: the same numbers as each label alone, whatever happens.

use protocol::{Classify, Scores, Task};

use super::*;
use crate::fixture::tokens;

/// Prefixes of one another, single tokens, and some that share a beginning.
const LABELS: [&str; 7] = ["on", "ontop", "o", "off", "x", "offset", "onset"];

/// Logits that depend on every token before them.
fn logits_of(context: &[TokenId]) -> Vec<f32> {
    let vocabulary = capacity().vocabulary;
    let logit = |token: u32| {
        let mut context = context.to_vec();
        context.push(TokenId(token));
        (next_of(&context).0 * 7 + token * 3) as f32 % 11.0 / 2.0 - 1.5
    };
    (0..vocabulary).map(logit).collect()
}

fn network() -> Scripted {
    Scripted::with_logits(capacity(), logits_of)
}

fn classify(id: &str, letters: &str, labels: &[&str]) -> Request {
    let mut request = request(id, letters);
    request.task = Task::Classify(Classify::new(labels.iter().map(ToString::to_string).collect()));
    request
}

/// The log-probability of a label and its end, each outcome by itself.
fn alone(letters: &str, label: &str) -> f64 {
    let mut context = tokens(letters);
    let path: Vec<TokenId> = tokens(label).into_iter().chain([END]).collect();
    let step = |token: TokenId| {
        let logits = logits_of(&context);
        let total: f64 = logits.iter().map(|logit| f64::from(*logit).exp()).sum();
        context.push(token);
        f64::from(logits[token.0 as usize]) - total.ln()
    };
    path.into_iter().map(step).sum()
}

/// The scores of a reply and its last event.
fn scores(reply: &mut Reply) -> (Option<Scores>, Event) {
    let mut scores = None;
    loop {
        match reply.recv() {
            Some(Event::Scores(found)) => assert!(scores.replace(found).is_none(), "said once"),
            Some(last) if last.is_last() => return (scores, last),
            Some(Event::Accepted { .. }) => {}
            other => panic!("a classification says nothing but scores: {other:?}"),
        }
    }
}

fn check(letters: &str, labels: &[&str], found: &Scores) {
    let logs: Vec<f64> = labels.iter().map(|label| alone(letters, label)).collect();
    let total: f64 = logs.iter().map(|log| log.exp()).sum();
    assert_eq!(found.labels.len(), labels.len());
    for ((label, log), found) in labels.iter().zip(logs).zip(&found.labels) {
        assert_eq!(*label, found.label);
        assert!((found.log_probability - log).abs() < 1e-9, "{label}: {found:?}, {log} alone");
        assert!((found.score - log.exp() / total).abs() < 1e-9, "{label}: {found:?}");
    }
}

#[test]
fn scores_are_those_of_each_label_alone() {
    for labels in [&LABELS[..], &["x"], &["on", "o"], &["abcdefghijklmnopqrstu", "abd"]] {
        for prompt in ["a", "abcd", "abcdefgh", "hello"] {
            let mut bench = Bench::new(network());
            let mut reply = bench.submit(classify("r", prompt, labels)).unwrap();
            bench.run();
            let (found, last) = scores(&mut reply);
            check(prompt, labels, &found.unwrap());
            assert_eq!(reason(&last), Some(FinishReason::Stop));
            assert!(bench.engine.pages_are_free());
        }
    }
}

#[test]
fn each_token_of_the_trie_is_computed_once() {
    let mut bench = Bench::new(network());
    let mut reply = bench.submit(classify("r", "abcdef", &LABELS)).unwrap();
    bench.run();
    let Event::Finished { usage, .. } = scores(&mut reply).1 else { panic!("it finishes") };
    // o n t o p, o n s e t, o f f s e t, x: shared beginnings once.
    let trie = 5 + 3 + 5 + 1;
    assert_eq!((usage.prompt_tokens, usage.completion_tokens), (6, trie));
    let computed: usize = bench.batches.lock().unwrap().iter().map(|b| b.tokens.len()).sum();
    assert_eq!(computed as u32, 6 + trie);
}

#[test]
fn what_follows_a_classification_is_as_without_it() {
    let prompts = ["abcdefghijk", "abcdefgh", "abcdefghon", "abcdefghoffset"];
    let plain = prompts.map(|prompt| {
        let mut bench = Bench::new(network());
        let mut reply = bench.submit(short("r", prompt, 6)).unwrap();
        bench.run();
        read(&mut reply).0
    });
    let mut bench = Bench::new(network());
    for (prompt, plain) in prompts.iter().zip(&plain) {
        for _ in 0..2 {
            let mut reply = bench.submit(classify("c", prompt, &LABELS)).unwrap();
            bench.run();
            check(prompt, &LABELS, &scores(&mut reply).0.unwrap());
            let mut reply = bench.submit(short("r", prompt, 6)).unwrap();
            bench.run();
            assert_eq!(read(&mut reply).0, *plain);
        }
    }
    assert!(bench.engine.pages_are_free());
}

#[test]
fn classifications_and_answers_share_steps_and_beginnings() {
    let mut bench = Bench::new(network());
    let mut labelled: Vec<Reply> = ["x", "y"]
        .map(|end| bench.submit(classify("c", &format!("abcdefgh{end}"), &LABELS)).unwrap())
        .into();
    let mut written = bench.submit(short("r", "abcdefghz", 8)).unwrap();
    bench.run();
    let steps = bench.batches.lock().unwrap().iter().filter(|batch| batch.spans.len() == 3).count();
    assert!(steps > 0, "all three in one step");
    for (reply, end) in labelled.iter_mut().zip(["x", "y"]) {
        let (found, last) = scores(reply);
        check(&format!("abcdefgh{end}"), &LABELS, &found.unwrap());
        let Event::Finished { usage, .. } = last else { panic!("it finishes") };
        assert!(end == "x" || usage.cached_tokens == 8, "{usage:?}");
    }
    let mut alone = Bench::new(network());
    let mut expected = alone.submit(short("r", "abcdefghz", 8)).unwrap();
    alone.run();
    assert_eq!(read(&mut written).0, read(&mut expected).0);
}

#[test]
fn a_cancel_or_a_deadline_in_the_middle_ends_it_and_frees_its_pages() {
    for steps in 1..5 {
        let mut bench = Bench::new(network());
        let mut reply = bench.submit(classify("r", "abcdef", &LABELS)).unwrap();
        let mut late = classify("late", "abcdef", &LABELS);
        late.limits.deadline = Some(bench.now + Duration::from_micros(1_000 * steps + 500));
        let mut late = bench.submit(late).unwrap();
        for _ in 0..steps {
            bench.step();
        }
        reply.canceller().cancel();
        bench.run();
        let (found, last) = scores(&mut reply);
        assert_eq!((found, reason(&last)), (None, Some(FinishReason::Cancelled)));
        assert_eq!(fault(&scores(&mut late).1), Some(FaultCode::Deadline));
        assert!(bench.engine.pages_are_free());
    }
}

#[test]
fn parking_in_the_middle_changes_no_score() {
    let mut parked = 0;
    for steps in 1..9 {
        let bounds = Bounds { sequences_max: 1, ..BOUNDS };
        let mut bench = Bench::with(network(), bounds, 256);
        let mut idle = classify("idle", "abcdefghi", &LABELS);
        idle.limits.priority = Priority::Batch;
        let mut idle = bench.submit(idle).unwrap();
        for _ in 0..steps {
            bench.step();
        }
        // Takes every page, so that nothing of the other's stays.
        let mut urgent = bench.submit(short("urgent", "zyxwvutsrqponmlkjihgfedcba", 20)).unwrap();
        bench.run();
        assert!(reason(&read(&mut urgent).1).is_some());
        check("abcdefghi", &LABELS, &scores(&mut idle).0.unwrap());
        assert!(bench.engine.pages_are_free());
        parked += bench.gauges.snapshot().sequences_parked;
    }
    assert!(parked > 4, "{parked}");
}

#[test]
fn a_slow_reader_still_gets_its_scores() {
    let mut bench = Bench::with(network(), BOUNDS, 1);
    let mut reply = bench.submit(classify("r", "abc", &LABELS)).unwrap();
    let mut found = None;
    for _ in 0..100 {
        bench.step();
        if let Ok(Some(Event::Scores(scores))) = reply.recv_timeout(Duration::ZERO) {
            found = Some(scores);
        }
    }
    check("abc", &LABELS, &found.unwrap());
}

#[test]
fn labels_that_cannot_be_told_apart_or_are_too_many_are_refused() {
    let bench = Bench::new(network());
    let refused = |letters: &str, labels: &[&str]| {
        let fault = bench.submit(classify("r", letters, labels)).unwrap_err();
        (fault.code, fault.param.unwrap_or_default())
    };
    let bad = |param: &str| (FaultCode::BadRequest, param.to_owned());
    assert_eq!(refused("a", &[]), bad("labels"));
    assert_eq!(refused("a", &["x"; 257]), bad("labels"));
    assert_eq!(refused("a", &["x", " "]), bad("labels[1]"));
    assert_eq!(refused("a", &["x", "y", "x"]), bad("labels[2]"));
    assert_eq!(refused("a", &[&"x".repeat(64)]), bad("labels[0]"));
    let overflow = (FaultCode::ContextLength, "input".to_owned());
    assert_eq!(refused(&"a".repeat(40), &["abcdefghi"]), overflow);
    assert!(bench.submit(classify("r", &"a".repeat(40), &["abcdefg"])).is_ok());
}
