//! Draws from the head of a row, so that the rest of a vocabulary stays on the device.
//!
//! How much the other tokens weigh is known, and not which of them may be drawn: within bounds. The
//! token drawn moves one way along the ranks as the others weigh more, so what both bounds agree on is
//! what the whole row would give.

use protocol::TokenId;

use super::candidates::{Candidate, Cut, NEGLIGIBLE, by_rank, passes, reaches, weight};
use crate::batch::{Likeliest, Weighing};

/// What a device's sum of a vocabulary's weights may be off by, as a share of it.
const ROUNDING: f64 = 1e-4;

/// Which tokens a device weighs, and how many of them may not be drawn, or may and are not weighed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Weighed {
    first: u32,
    end: u32,
    /// Tokens before the first that may be drawn.
    missing: u32,
    /// Tokens from the first on that may not.
    surplus: u32,
}

/// The least and the most that all others may weigh beside the candidates of a head.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Rest {
    least: f64,
    most: f64,
}

impl Weighed {
    /// From where on to weigh so that least is wrong with it: banned tokens are the first of a
    /// vocabulary, nearly all of them. `banned` is sorted.
    pub(super) fn new(banned: &[TokenId], drawable_tokens: u32) -> Self {
        let banned = &banned[..banned.partition_point(|token| token.0 < drawable_tokens)];
        let count = banned.len() as u32;
        let behind = (1..).zip(banned).map(|(before, token)| (before, token.0 + 1));
        let places = std::iter::once((0, 0)).chain(behind).map(|(before, first)| Self {
            first,
            end: drawable_tokens,
            missing: first - before,
            surplus: count - before,
        });
        let best = places.min_by_key(|weighed| weighed.missing + weighed.surplus);
        best.unwrap_or(Self { first: 0, end: drawable_tokens, missing: 0, surplus: count })
    }

    /// Where so many more of the tokens that are weighed may not be drawn.
    pub(super) fn without(self, tokens: usize) -> Self {
        Self { surplus: self.surplus + tokens as u32, ..self }
    }

    pub(super) fn at(&self, temperature: f32) -> Weighing {
        Weighing { temperature, first: TokenId(self.first), end: TokenId(self.end) }
    }
}

/// Fills `scratch` with the tokens of a head that may be drawn, in the order of their rank; gives what the
/// others may weigh, where `is_shaped` as little as nothing. `None` where the head does not say.
pub(super) fn fill(
    head: &Likeliest,
    temperature: f32,
    (weighed, is_shaped): (Weighed, bool),
    is_allowed: impl Fn(TokenId) -> bool,
    scratch: &mut Vec<Candidate>,
) -> Option<Rest> {
    scratch.clear();
    let are_finite = head.tokens.iter().all(|(_, logit)| logit.is_finite());
    if !are_finite || !head.rest.is_finite() {
        return None;
    }
    let allowed = || head.tokens.iter().filter(|(token, _)| is_allowed(*token));
    let greatest = allowed().map(|(_, logit)| *logit).reduce(f32::max)?;
    let least = greatest + NEGLIGIBLE * temperature;
    for &(token, logit) in allowed().filter(|(_, logit)| *logit >= least) {
        scratch.push(Candidate { token, logit: (logit - greatest) / temperature });
    }
    scratch.sort_unstable_by(by_rank);
    let floor = floor(head);
    if floor < least {
        return Some(Rest { least: 0.0, most: 0.0 });
    }
    let beside = |logit: f32| f64::from((logit - greatest) / temperature).exp();
    let first = head.tokens.iter().map(|(_, logit)| *logit).fold(greatest, f32::max);
    let rest = f64::from(head.rest) * beside(first);
    let tokens = |count: u32| f64::from(count) * beside(floor);
    let neglected = f64::from(weighed.end) * f64::from(NEGLIGIBLE).exp();
    let known = rest * (1.0 - ROUNDING) - tokens(weighed.surplus) - neglected;
    let least = if is_shaped { 0.0 } else { known.max(0.0) };
    let most = rest * (1.0 + ROUNDING) + tokens(weighed.missing);
    most.is_finite().then_some(Rest { least, most })
}

/// The least logit of a head: that of any other token is below it.
pub(super) fn floor(head: &Likeliest) -> f32 {
    head.tokens.iter().map(|(_, logit)| *logit).fold(f32::INFINITY, f32::min)
}

/// Draws from ranked candidates; `None` where it takes more than these.
pub(super) fn draw(
    candidates: &[Candidate],
    rest: Rest,
    cuts: &[Cut],
    unit: f64,
) -> Option<TokenId> {
    let first = draw_beside(candidates, (rest.least, 0.0), cuts, unit)?;
    let last = draw_beside(candidates, (rest.most, 1.0), cuts, unit)?;
    (first == last).then(|| candidates[first].token)
}

/// The rank that is drawn where the others weigh `rest`, and that share of it where it is not known which
/// of them are dropped; `None` where it is one of theirs.
fn draw_beside(
    candidates: &[Candidate],
    (mut rest, share_left): (f64, f64),
    cuts: &[Cut],
    unit: f64,
) -> Option<usize> {
    let mut kept = candidates;
    for cut in cuts {
        let until = match cut {
            Cut::TopK(count) if *count <= kept.len() => *count,
            Cut::TopP(mass) => match reaches(kept, mass * (weight(kept) + rest)) {
                Some(last) => last + 1,
                None if rest > 0.0 => return None,
                None => kept.len(),
            },
            Cut::MinP(share) => {
                let until = kept.partition_point(|candidate| candidate.logit >= share.ln());
                if until == kept.len() {
                    rest *= share_left;
                    continue;
                }
                until
            }
            Cut::TopK(_) | Cut::Typical(_) if rest > 0.0 => return None,
            Cut::TopK(_) => kept.len(),
            Cut::Typical(_) => return None,
        };
        (kept, rest) = (&kept[..until], 0.0);
    }
    // Rounding may leave a crumb behind the last one.
    let crumb = || kept.len().checked_sub(1).filter(|_| rest == 0.0);
    passes(kept, unit * (weight(kept) + rest)).or_else(crumb)
}

/// Moves the candidates from this logit on to the front and ranks them, as a draw from the head does.
pub(super) fn rank_first(candidates: &mut Vec<Candidate>, floor: f32) {
    let (mut head, others): (Vec<_>, Vec<_>) =
        candidates.iter().partition(|candidate| candidate.logit >= floor);
    head.sort_unstable_by(by_rank);
    candidates.clear();
    candidates.extend(head.into_iter().chain(others));
}

#[cfg(test)]
#[path = "head_tests.rs"]
mod tests;
