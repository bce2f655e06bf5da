//! How likely the tokens of an answer were, whatever brought them.

use protocol::{Format, TokenLogprob};

use super::*;

/// Logits that depend on every token before; the end is never likely.
fn logits(context: &[TokenId]) -> Vec<f32> {
    let last = context.iter().fold(7u32, |hash, token| hash.wrapping_mul(31) ^ token.0);
    let logit = |id: u32| ((id * 7 + last % 97) as f32 * 0.37).sin() * 3.0;
    let mut logits: Vec<f32> = (0..capacity().vocabulary).map(logit).collect();
    logits[END.0 as usize] = -20.0;
    logits
}

/// The same with a period, so that answers repeat what was said.
fn repeating(context: &[TokenId]) -> Vec<f32> {
    logits(&[TokenId(context.len() as u32 % 5)])
}

/// A token's probability by the book.
fn logprob(logits: &[f32], token: TokenId) -> f64 {
    let sum: f64 = logits.iter().map(|logit| f64::from(*logit).exp()).sum();
    f64::from(logits[token.0 as usize]) - sum.ln()
}

/// What was said, how likely its tokens were, and the end.
fn told(bench: &mut Bench, request: Request) -> (String, Vec<TokenLogprob>, Event) {
    let mut reply = bench.submit(request).unwrap();
    bench.run();
    let (mut said, mut told) = (String::new(), Vec::new());
    loop {
        match reply.recv().expect("a last event comes") {
            Event::Text { text, logprobs, .. } => {
                let spelled: Vec<u8> =
                    logprobs.iter().flat_map(|told| told.chosen.bytes.clone().unwrap()).collect();
                assert!(logprobs.is_empty() || spelled == text.as_bytes(), "{text}: {logprobs:?}");
                said.push_str(&text);
                told.extend(logprobs);
            }
            last if last.is_last() => return (said, told, last),
            _ => {}
        }
    }
}

/// Checks each likelihood against the logits of its context.
fn check(prompt: &[TokenId], told: &[TokenLogprob], logits: impl Fn(&[TokenId]) -> Vec<f32>) {
    let mut context = prompt.to_vec();
    for TokenLogprob { chosen, likeliest } in told {
        let row = logits(&context);
        for told in likeliest.iter().chain([chosen]) {
            let wanted = logprob(&row, told.token);
            assert!((f64::from(told.logprob) - wanted).abs() < 1e-5, "{told:?}, not {wanted}");
        }
        assert!(likeliest.is_sorted_by(|a, b| a.logprob >= b.logprob));
        context.push(chosen.token);
    }
}

#[test]
fn greedy_answers_tell_the_probabilities_of_the_raw_logits() {
    let mut bench = Bench::new(Scripted::with_logits(capacity(), logits));
    let plain = told(&mut bench, short("plain", "abc", 9));
    assert_eq!(plain.1, []);
    let mut request = short("told", "abc", 9);
    request.sampling.logprobs = Some(3);
    let (said, told, last) = told(&mut bench, request);
    assert_eq!((said, reason(&last)), (plain.0, reason(&plain.2)));
    assert_eq!(told.len(), 9);
    assert!(told.iter().all(|told| told.likeliest[0] == told.chosen && told.likeliest.len() == 3));
    check(&crate::fixture::tokens("abc"), &told, logits);
}

#[test]
fn what_moves_the_logits_does_not_move_what_is_told() {
    let mut request = short("r", "abc", 12);
    request.sampling = protocol::Sampling {
        temperature: Some(1.7),
        top_k: 4,
        presence_penalty: 1.5,
        bias: vec![(TokenId(9), 4.0)],
        seed: Some(3),
        logprobs: Some(20),
        ..protocol::Sampling::default()
    };
    let mut bench = Bench::new(Scripted::with_logits(capacity(), logits));
    let (_, told, _) = told(&mut bench, request);
    assert_eq!(told.len(), 12);
    check(&crate::fixture::tokens("abc"), &told, logits);
}

#[test]
fn an_end_is_not_told() {
    let mut bench = Bench::new(Scripted::saying(capacity(), crate::fixture::tokens("hi"), END));
    let mut request = request("r", "abc");
    request.sampling.logprobs = Some(0);
    let (said, told, last) = told(&mut bench, request);
    assert_eq!((said.as_str(), reason(&last)), ("hi", Some(FinishReason::Stop)));
    assert_eq!(told.len(), 2);
    assert!(told.iter().all(|told| told.likeliest.is_empty() && told.chosen.logprob > -1e-6));
}

#[test]
fn guesses_change_nothing_that_is_told() {
    let run = |draft_tokens_max| {
        let bounds = Bounds { draft_tokens_max, batch_tokens_max: 16, ..BOUNDS };
        let mut bench = Bench::with(Scripted::with_logits(capacity(), repeating), bounds, 256);
        let mut request = short("r", "abcde", 40);
        request.sampling.logprobs = Some(2);
        let answer = told(&mut bench, request);
        let steps = bench.batches.lock().unwrap().len();
        (answer, steps)
    };
    let ((said, told, _), plain) = run(0);
    let ((guessed_said, guessed_told, _), quick) = run(8);
    assert_eq!((said, told), (guessed_said, guessed_told));
    assert!(quick < plain, "{quick} steps with guesses, {plain} without");
}

#[test]
fn forced_tokens_get_their_rows_and_the_answer_stays_the_same() {
    for (draft_tokens_max, temperature) in [(0, 0.0), (8, 0.0), (0, 1.0), (8, 1.0)] {
        let bounds = Bounds { draft_tokens_max, ..BOUNDS };
        let mut bench = Bench::with(Scripted::with_logits(capacity(), logits), bounds, 256);
        let ask = |logprobs| {
            let mut request = short("r", "abc", 20);
            request.format = Format::Regex("[ab]cdef[gh]ijk[xyz]".into());
            request.sampling.temperature = Some(temperature);
            request.sampling.seed = Some(5);
            request.sampling.logprobs = logprobs;
            request
        };
        let (plain, none, plain_last) = told(&mut bench, ask(None));
        let (said, told, last) = told(&mut bench, ask(Some(1)));
        assert_eq!((plain.as_str(), none.len()), (said.as_str(), 0));
        assert_eq!(told.len(), 10, "{said}");
        check(&crate::fixture::tokens("abc"), &told, logits);
        let usage = |last: &Event| match last {
            Event::Finished { usage, .. } => (usage.completion_tokens, usage.forced_tokens),
            other => panic!("{other:?}"),
        };
        assert_eq!(usage(&plain_last), usage(&last), "{draft_tokens_max} {temperature} {said}");
        assert!(usage(&last).1 >= 7, "{:?}", usage(&last));
    }
}
