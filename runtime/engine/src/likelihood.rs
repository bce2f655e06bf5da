//! How likely the network found the tokens of an answer, for requests that want to know.
//!
//! What is told are the network's own words: the logits of a row before penalties, bias, bans, the
//! shape's mask and the temperature move them.

use protocol::{TokenId, TokenLogprob};
use text::Tokenizer;

use crate::sampler::greatest;

/// Logits this far below the greatest add nothing to a sum of probabilities: a whole vocabulary of
/// them is less than the last bit of an f32.
const NEGLIGIBLE: f32 = -40.0;

/// The row that the last token came from, as the network gave it.
#[derive(Debug)]
pub(crate) struct RawRow {
    likeliest_tokens: usize,
    logits: Vec<f32>,
}

/// The logarithms of a token's probability and of those of the likeliest tokens in its place.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Likelihoods {
    token: TokenId,
    logprob: f32,
    /// Likeliest first; the lower id wins a tie.
    likeliest: Vec<(TokenId, f32)>,
}

/// The logarithm of the sum of all tokens' weights, in two parts: together they would lose the smaller
/// one where logits are large.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Total {
    greatest: f64,
    rest: f64,
}

impl RawRow {
    pub(crate) fn new(likeliest_tokens: u8) -> Self {
        Self { likeliest_tokens: likeliest_tokens.into(), logits: Vec::new() }
    }

    /// Keeps a row of finite logits. `[drawable tokens]`
    pub(crate) fn keep(&mut self, logits: &[f32]) {
        self.logits.clear();
        self.logits.extend_from_slice(logits);
    }

    /// What the kept row says of a token; `None` for one that it does not have.
    pub(crate) fn likelihoods(&self, token: TokenId) -> Option<Likelihoods> {
        let logit = *self.logits.get(token.0 as usize)?;
        let total = Total::of(&self.logits);
        let logprob = |logit: f32| total.logprob(logit).clamp(f64::from(f32::MIN), 0.0) as f32;
        let likeliest = likeliest(&self.logits, self.likeliest_tokens);
        let likeliest = likeliest.into_iter().map(|(token, logit)| (token, logprob(logit)));
        Some(Likelihoods { token, logprob: logprob(logit), likeliest: likeliest.collect() })
    }
}

impl Likelihoods {
    /// With what the tokens say.
    pub(crate) fn spelled(self, tokenizer: &Tokenizer) -> TokenLogprob {
        let spell = |(token, logprob)| tokenizer.likelihood(token, logprob);
        TokenLogprob {
            chosen: spell((self.token, self.logprob)),
            likeliest: self.likeliest.into_iter().map(spell).collect(),
        }
    }
}

impl Total {
    /// Of finite logits.
    pub(crate) fn of(logits: &[f32]) -> Self {
        let greatest = greatest(logits);
        let counted = logits.iter().filter(|logit| **logit >= greatest + NEGLIGIBLE);
        let sum: f64 = counted.map(|logit| f64::from(logit - greatest).exp()).sum();
        Self { greatest: greatest.into(), rest: sum.ln() }
    }

    /// The logarithm of a token's probability, by its logit.
    pub(crate) fn logprob(&self, logit: f32) -> f64 {
        f64::from(logit) - self.greatest - self.rest
    }
}

fn likeliest(logits: &[f32], count: usize) -> Vec<(TokenId, f32)> {
    let mut best: Vec<(TokenId, f32)> = Vec::with_capacity(count + 1);
    for (id, &logit) in (0..).zip(logits) {
        let is_full = best.len() == count;
        if is_full && best.last().is_none_or(|(_, least)| logit <= *least) {
            continue;
        }
        let at = best.partition_point(|(_, other)| *other >= logit);
        best.insert(at, (TokenId(id), logit));
        best.truncate(count);
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(logits: &[f32], likeliest_tokens: u8, token: u32) -> Likelihoods {
        let mut row = RawRow::new(likeliest_tokens);
        row.keep(&[9.0; 99]);
        row.keep(logits);
        row.likelihoods(TokenId(token)).expect("the row has the token")
    }

    #[test]
    fn probabilities_are_those_of_the_logits() {
        let logits = [0.15f32, 0.5, 0.05, 0.3].map(|share| share.ln() + 7.0);
        let told = told(&logits, 4, 3);
        assert!((told.logprob - 0.3f32.ln()).abs() < 1e-6);
        let ids: Vec<u32> = told.likeliest.iter().map(|(token, _)| token.0).collect();
        assert_eq!(ids, [1, 3, 0, 2]);
        let sum: f32 = told.likeliest.iter().map(|(_, logprob)| logprob.exp()).sum();
        assert!((sum - 1.0).abs() < 1e-6, "{sum}");
        assert_eq!(told.likeliest[1], (TokenId(3), told.logprob));
    }

    #[test]
    fn the_lower_id_wins_a_tie_and_no_more_are_told_than_asked_for() {
        let ids = |count| {
            let told = told(&[1.0, 2.0, 1.0, 2.0, 0.0], count, 0);
            told.likeliest.iter().map(|(token, _)| token.0).collect::<Vec<_>>()
        };
        let none: [u32; 0] = [];
        assert_eq!(ids(0), none);
        assert_eq!(ids(1), [1]);
        assert_eq!(ids(3), [1, 3, 0]);
        assert_eq!(ids(20), [1, 3, 0, 2, 4]);
    }

    #[test]
    fn extreme_logits_give_finite_numbers() {
        for (token, expected) in [(0, f32::MIN), (1, 0.0)] {
            assert_eq!(told(&[f32::MIN, f32::MAX], 2, token).logprob, expected);
        }
        assert!(told(&[f32::MIN, f32::MIN], 2, 0).logprob < 0.0);
        let mut row = RawRow::new(1);
        row.keep(&[0.0]);
        assert_eq!(row.likelihoods(TokenId(1)), None);
    }
}
