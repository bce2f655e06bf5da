use super::*;
use crate::fixture::{END, capacity, serving};
use crate::script::Scripted;
use crate::{EngineError, EngineLimits, EngineService, Extras};

/// What follows a context, by its last two tokens and its length.
fn next_of(context: &[TokenId]) -> TokenId {
    let sum: u32 = context.iter().rev().take(2).map(|token| token.0).sum();
    if context.len() >= 28 { END } else { TokenId(3 + (sum + context.len() as u32) % 20) }
}

fn network(next: fn(&[TokenId]) -> TokenId) -> Scripted {
    Scripted::new(capacity(), next)
}

fn asks<'a>(ids: &'a [RequestId], tokens: &'a [Vec<TokenId>], most: usize) -> Vec<Ask<'a>> {
    let pairs = ids.iter().zip(tokens);
    pairs.map(|(id, tokens)| Ask { id, scope: None, tokens, most }).collect()
}

fn tokens(numbers: std::ops::Range<u32>) -> Vec<TokenId> {
    numbers.map(TokenId).collect()
}

#[test]
fn guesses_are_what_the_second_network_says() {
    let mut second = DraftModel::new(Box::new(network(next_of)));
    let ids = ["a", "b"].map(|id| RequestId(id.into()));
    let mut talks = [tokens(3..9), tokens(5..8)];
    for wrong in [false, true, false] {
        let guesses = second.guess(&asks(&ids, &talks, 3));
        for (talk, guesses) in talks.iter_mut().zip(guesses) {
            let mut expected = talk.clone();
            for guess in guesses {
                assert_eq!(guess, next_of(&expected));
                expected.push(guess);
            }
            assert_eq!(expected.len(), talk.len() + 3);
            // Some are taken, and one that it did not guess.
            talk.push(expected[talk.len()]);
            talk.push(if wrong { TokenId(4) } else { expected[talk.len()] });
        }
    }
    second.keep_only(|id| id.0 == "b");
    assert_eq!(second.tracks.len(), 1);
    second.keep_only(|_| false);
    assert!(second.pages_are_free());
}

#[test]
fn a_long_prompt_is_read_in_parts_and_one_without_room_gets_no_guess() {
    let larger = Capacity { context_tokens_max: 96, pages: 24, batch_tokens_max: 80, ..capacity() };
    let mut second = DraftModel::new(Box::new(Scripted::new(larger, next_of)));
    let ids = [RequestId("a".into())];
    let long = [(0..70).map(|at| TokenId(3 + at % 20)).collect::<Vec<_>>()];
    let found: Vec<usize> = (0..2).map(|_| second.guess(&asks(&ids, &long, 2))[0].len()).collect();
    assert_eq!(found, [0, 2]);
    let longer = [(0..95).map(|at| TokenId(3 + at % 20)).collect::<Vec<_>>()];
    assert_eq!(second.guess(&asks(&ids, &longer, 2)), [vec![]]);
}

#[test]
fn a_network_that_fails_is_not_asked_again() {
    let failing = network(next_of)
        .before_each_step(|_| Err(ForwardError::Rejected { tokens: 1, reason: "a test".into() }));
    let mut second = DraftModel::new(Box::new(failing));
    let ids = [RequestId("a".into())];
    let talks = [tokens(3..9)];
    assert_eq!(second.guess(&asks(&ids, &talks, 2)), [vec![]]);
    assert!(second.network.is_none() && second.pages_are_free());
    assert_eq!(second.guess(&asks(&ids, &talks, 2)), [vec![]]);
}

#[test]
fn another_vocabulary_is_refused() {
    let other = Capacity { vocabulary: capacity().vocabulary + 1, ..capacity() };
    let extras =
        Extras { draft_model: Some(Box::new(Scripted::echo(other, END))), ..Extras::default() };
    let started = EngineService::start_with(
        Box::new(network(next_of)),
        serving(),
        EngineLimits::default(),
        extras,
    );
    assert!(matches!(started.err(), Some(EngineError::DraftVocabulary { .. })));
}
