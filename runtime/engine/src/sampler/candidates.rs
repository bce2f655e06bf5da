//! The tokens that may be drawn, what drops some of them, and the draw.

use protocol::TokenId;

use super::greatest;

/// Candidates this far below the greatest logit are not looked at: each has less than 1e-12 of the
/// likeliest token's probability, a whole vocabulary of them less than a draw can resolve. Most of a
/// vocabulary is there, so what follows works on few candidates.
pub(super) const NEGLIGIBLE: f32 = -27.6;

/// A token that may be drawn; its logit is relative to the greatest and divided by the temperature.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Candidate {
    pub(super) token: TokenId,
    pub(super) logit: f32,
}

/// A stage that drops candidates. The variants are in the order of the chain.
#[derive(Debug)]
pub(super) enum Cut {
    TopK(usize),
    Typical(f64),
    TopP(f64),
    MinP(f32),
}

impl Candidate {
    /// Its probability, relative to the likeliest token's.
    fn weight(&self) -> f64 {
        f64::from(self.logit.exp())
    }
}

impl Cut {
    pub(super) fn apply(&self, candidates: &mut Vec<Candidate>) {
        match self {
            Self::TopK(kept) => top_k(candidates, *kept),
            Self::Typical(mass) => typical(candidates, *mass),
            Self::TopP(mass) => top_p(candidates, *mass),
            Self::MinP(share) => min_p(candidates, *share),
        }
    }
}

/// Fills `scratch` with the tokens that have a chance, in the order of their ids.
pub(super) fn candidates(logits: &[f32], temperature: f32, scratch: &mut Vec<Candidate>) {
    scratch.clear();
    let greatest = greatest(logits);
    if greatest == f32::NEG_INFINITY {
        return;
    }
    let least = greatest + NEGLIGIBLE * temperature;
    for (id, &logit) in (0..).zip(logits) {
        if logit >= least {
            let logit = (logit - greatest) / temperature;
            scratch.push(Candidate { token: TokenId(id), logit });
        }
    }
}

/// Likeliest first; the lower id wins a tie.
pub(super) fn by_rank(a: &Candidate, b: &Candidate) -> std::cmp::Ordering {
    b.logit.total_cmp(&a.logit).then(a.token.cmp(&b.token))
}

fn top_k(candidates: &mut Vec<Candidate>, kept: usize) {
    if kept >= candidates.len() {
        return;
    }
    candidates.select_nth_unstable_by(kept, by_rank);
    candidates.truncate(kept);
    candidates.sort_unstable_by(by_rank);
}

/// Keeps the smallest set of candidates whose probability reaches `mass`, those first whose surprise
/// (the negative logarithm of their probability) is nearest to the expected one, the entropy. The
/// likeliest candidate may be among those that go.
fn typical(candidates: &mut Vec<Candidate>, mass: f64) {
    let total = weight(candidates);
    let surprise = |candidate: &Candidate| total.ln() - f64::from(candidate.logit);
    let entropy: f64 =
        candidates.iter().map(|candidate| candidate.weight() / total * surprise(candidate)).sum();
    let distance = |candidate: &Candidate| (surprise(candidate) - entropy).abs();
    candidates
        .sort_unstable_by(|a, b| distance(a).total_cmp(&distance(b)).then_with(|| by_rank(a, b)));
    keep_mass(candidates, mass * total);
}

/// Keeps the smallest set of likeliest candidates whose probability reaches `mass`.
fn top_p(candidates: &mut Vec<Candidate>, mass: f64) {
    let total = weight(candidates);
    // All candidates below this weight have, together, less than what may be cut off, so the set
    // lies above it and only few candidates need to be sorted. A little lower, for rounding.
    let least = 0.999 * total * (1.0 - mass) / candidates.len().max(1) as f64;
    let least = least.ln() as f32;
    candidates.retain(|candidate| candidate.logit >= least);
    candidates.sort_unstable_by(by_rank);
    keep_mass(candidates, mass * total);
}

/// Keeps the first candidates, as many as it takes to reach this weight.
fn keep_mass(candidates: &mut Vec<Candidate>, weight: f64) {
    if let Some(last) = reaches(candidates, weight) {
        candidates.truncate(last + 1);
    }
}

/// The first candidate with which this weight is reached.
pub(super) fn reaches(candidates: &[Candidate], weight: f64) -> Option<usize> {
    let mut reached = 0.0;
    candidates.iter().position(|candidate| {
        reached += candidate.weight();
        reached >= weight
    })
}

/// Keeps what is likely enough beside the likeliest candidate that is left.
fn min_p(candidates: &mut Vec<Candidate>, share: f32) {
    let greatest = candidates.iter().map(|candidate| candidate.logit);
    let least = greatest.fold(f32::NEG_INFINITY, f32::max) + share.ln();
    candidates.retain(|candidate| candidate.logit >= least);
}

/// Draws with the candidates' probabilities: `unit` in `[0, 1)` picks the place.
pub(super) fn weighted(candidates: &[Candidate], unit: f64) -> Option<TokenId> {
    let drawn = passes(candidates, unit * weight(candidates));
    // Rounding may leave a crumb behind the last one.
    let drawn = drawn.or_else(|| candidates.len().checked_sub(1))?;
    candidates.get(drawn).map(|candidate| candidate.token)
}

/// The first candidate with which more than this weight is there.
pub(super) fn passes(candidates: &[Candidate], mut weight: f64) -> Option<usize> {
    candidates.iter().position(|candidate| {
        weight -= candidate.weight();
        weight < 0.0
    })
}

/// What candidates weigh together.
pub(super) fn weight(candidates: &[Candidate]) -> f64 {
    candidates.iter().map(Candidate::weight).sum()
}
