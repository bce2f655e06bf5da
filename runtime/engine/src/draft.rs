//! Guesses of what an answer says next, from what was said before.
//!
//! Answers repeat their prompts: names, code, quotations. A guess is checked in the same step that
//! computes the next token, which costs little while weights are what a step waits for; so a guess
//! need not be right often to pay. What is kept is what would have been drawn without it.
//!
//! Source: prompt lookup decoding, Saxena 2023; the check is Leviathan et al. 2023, arXiv:2211.17192,
//! for guesses that are certain of themselves.

use std::ops::RangeInclusive;

use protocol::TokenId;

/// Tokens behind which a guess is looked for, at least and at most.
const MATCH_TOKENS: RangeInclusive<usize> = 2..=8;
/// Tokens that are searched, the latest.
const WINDOW_TOKENS: usize = 16_384;
/// How likely a guessed token is right, before anything was seen.
const HIT_RATE_FIRST: f64 = 0.5;
/// Share of a new guess in the mean.
const NEW: f64 = 0.2;
/// Steps without a guess after guesses that did not pay, first and at most.
const REST_STEPS: (u32, u32) = (8, 256);

/// Guesses for one answer, and how good they were.
#[derive(Debug)]
pub(crate) struct Drafter {
    /// What the client expects the answer to be.
    predicted: Vec<TokenId>,
    /// Whether what was said before is worth repeating.
    memory: Trust,
    /// Whether a second network is worth asking.
    network: Trust,
    /// The last guess is the network's.
    by_network: bool,
    tried: u32,
    kept: u32,
}

/// How good guesses of one kind were.
#[derive(Debug)]
struct Trust {
    hit_rate: f64,
    /// Steps until the next guess.
    rest: u32,
    next_rest: u32,
}

impl Drafter {
    pub(crate) fn new(predicted: Vec<TokenId>) -> Self {
        Self {
            predicted,
            memory: Trust::new(),
            network: Trust::new(),
            by_network: false,
            tried: 0,
            kept: 0,
        }
    }

    /// Guesses at most `most` tokens behind `tokens`, as many as pay.
    ///
    /// `gain`: how much more the box does for all in a step, when this answer has so many tokens to
    /// check and so many of them are right; 1 is as much as without.
    pub(crate) fn guess(
        &mut self,
        tokens: &[TokenId],
        most: usize,
        gain: impl Fn(usize, f64) -> f64,
    ) -> Vec<TokenId> {
        self.by_network = false;
        if self.memory.rests() {
            return Vec::new();
        }
        let mut guess = self.find(tokens, most);
        guess.truncate(self.memory.worth(guess.len(), gain));
        guess
    }

    /// How many tokens, at most `most`, a second network should guess; `gain` as for
    /// [`guess`](Self::guess).
    pub(crate) fn wish(&mut self, most: usize, gain: impl Fn(usize, f64) -> f64) -> usize {
        self.by_network = true;
        if self.network.rests() { 0 } else { self.network.worth(most, gain) }
    }

    /// What followed the same tokens before: in what the client expects, else in the conversation.
    fn find(&self, tokens: &[TokenId], most: usize) -> Vec<TokenId> {
        let recent = &tokens[tokens.len().saturating_sub(WINDOW_TOKENS)..];
        let sources = [&self.predicted[..], &recent[..recent.len().saturating_sub(1)]];
        let found = sources.iter().find_map(|source| continuation(source, recent));
        found.map_or_else(Vec::new, |found| found[..found.len().min(most)].to_vec())
    }

    /// Learns how many of the guessed tokens were right.
    pub(crate) fn note(&mut self, guessed: usize, right: usize) {
        if guessed == 0 {
            return;
        }
        self.tried += guessed as u32;
        self.kept += right as u32;
        let trust = if self.by_network { &mut self.network } else { &mut self.memory };
        trust.note(guessed, right);
    }

    /// Tokens that were guessed, and those of them that were right.
    pub(crate) fn tally(&self) -> (u32, u32) {
        (self.tried, self.kept)
    }
}

impl Trust {
    fn new() -> Self {
        Self { hit_rate: HIT_RATE_FIRST, rest: 0, next_rest: REST_STEPS.0 }
    }

    /// Whether there is no guess in this step.
    fn rests(&mut self) -> bool {
        let rests = self.rest > 0;
        self.rest = self.rest.saturating_sub(1);
        rests
    }

    /// How many guesses pay, at most `most`. Where none does, there are none for some steps.
    fn worth(&mut self, most: usize, gain: impl Fn(usize, f64) -> f64) -> usize {
        let (mut best, mut best_gain, mut right, mut chance) = (0, 1.0, 0.0, 1.0);
        for count in 1..=most {
            chance *= self.hit_rate;
            right += chance;
            let gain = gain(count, right);
            if gain > best_gain {
                (best, best_gain) = (count, gain);
            }
        }
        if best == 0 && most > 0 {
            self.rest = self.next_rest;
            self.next_rest = (self.next_rest * 2).min(REST_STEPS.1);
            // So that there is a next guess at all.
            self.hit_rate = HIT_RATE_FIRST;
        }
        best
    }

    fn note(&mut self, guessed: usize, right: usize) {
        // What follows a wrong token was not put to the test.
        let tested = (right + 1).min(guessed);
        self.hit_rate += NEW * (right as f64 / tested as f64 - self.hit_rate);
        if right > 0 {
            self.next_rest = REST_STEPS.0;
        }
    }
}

/// What stands in `source` behind the longest end of `tokens` that occurs there, the last such place.
fn continuation<'a>(source: &'a [TokenId], tokens: &[TokenId]) -> Option<&'a [TokenId]> {
    let last = *tokens.last()?;
    let mut best = (*MATCH_TOKENS.start() - 1, None);
    for at in (1..source.len()).rev() {
        if source[at - 1] != last {
            continue;
        }
        let pairs = source[..at].iter().rev().zip(tokens.iter().rev());
        let equal = pairs.take(*MATCH_TOKENS.end()).take_while(|(a, b)| a == b).count();
        if equal > best.0 {
            best = (equal, Some(&source[at..]));
        }
        if equal == *MATCH_TOKENS.end() {
            break;
        }
    }
    best.1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(text: &str) -> Vec<TokenId> {
        text.bytes().map(|byte| TokenId(byte.into())).collect()
    }

    fn guess(drafter: &mut Drafter, said: &str, most: usize) -> String {
        let guess = drafter.guess(&tokens(said), most, |_, right| 1.0 + right);
        guess.into_iter().map(|token| char::from(token.0 as u8)).collect()
    }

    #[test]
    fn the_latest_longest_match_is_continued() {
        let mut drafter = Drafter::new(Vec::new());
        assert_eq!(guess(&mut drafter, "one two, one three; one t", 4), "hree");
        assert_eq!(guess(&mut drafter, "two one tw. three one ti. two one t", 2), "w.");
        assert_eq!(guess(&mut drafter, "abc", 4), "");
        assert_eq!(guess(&mut drafter, "xyzz", 4), "", "what is looked for is not found in itself");
        assert_eq!(guess(&mut drafter, "abab", 4), "a");
    }

    #[test]
    fn what_the_client_expects_comes_first() {
        let mut drafter = Drafter::new(tokens("fn main() { run(); }"));
        assert_eq!(guess(&mut drafter, "main(x) ... fn main(", 4), ") { ");
    }

    #[test]
    fn guesses_that_do_not_pay_stop_and_are_tried_again() {
        let mut drafter = Drafter::new(Vec::new());
        let said = tokens("abcdabcdab");
        let dear = |count: usize, right: f64| (1.0 + right) / (1.0 + 0.3 * count as f64);
        let mut guesses = 0;
        for _ in 0..600 {
            let guess = drafter.guess(&said, 4, dear).len();
            guesses += usize::from(guess > 0);
            drafter.note(guess, 0);
        }
        assert!((8..40).contains(&guesses), "{guesses}");
        drafter.note(4, 4);
        assert_eq!(drafter.tally().1, 4);
    }
}
