//! Logits to a token: a fixed chain of stages, closed by a draw.
//!
//! Each sequence has its own sampler with its own random numbers, so a seed gives the same answer
//! whatever else runs beside it. A greedy request asks the network for the likeliest token alone and
//! looks at all logits only when that token is not allowed, which is rare.

use std::collections::HashMap;
use std::sync::Arc;

use protocol::{Fault, FaultCode, Sampling, TokenId};
use rand::rngs::SysRng;
use rand_pcg::Pcg64;
use rand_pcg::rand_core::{Rng, SeedableRng, TryRng};
use text::TokenMask;

use crate::batch::{RowLogits, Want};
use crate::likelihood::{Likelihoods, RawRow};

/// What a sampler must know beside the request's wishes.
#[derive(Debug, Clone)]
pub(crate) struct Rules {
    /// Temperature of requests that name none.
    pub(crate) default_temperature: f32,
    /// Tokens that can be turned into text: ids at or above it are never drawn.
    pub(crate) drawable_tokens: u32,
    /// Tokens that must never be drawn.
    pub(crate) banned: Vec<TokenId>,
    /// Tokens that end an answer.
    pub(crate) ends: Arc<[TokenId]>,
    /// Tokens before which none of `ends` is drawn.
    pub(crate) answer_tokens_min: u32,
}

/// Candidates this far below the greatest logit are not looked at: each has less than 1e-12 of the
/// likeliest token's probability, a whole vocabulary of them less than a draw can resolve. Most of a
/// vocabulary is there, so what follows works on few candidates.
const NEGLIGIBLE: f32 = -27.6;

/// Draws the tokens of one sequence.
#[derive(Debug)]
pub(crate) struct Sampler {
    adjustments: Vec<Adjustment>,
    draw: Draw,
    rules: Rules,
    answer_tokens: u32,
    /// The likeliest token was asked for and is not allowed: all logits are needed.
    unsettled: bool,
    /// For requests that want to know how likely their tokens were.
    raw: Option<RawRow>,
}

/// A stage that moves logits. The variants are in the order of the chain.
#[derive(Debug)]
enum Adjustment {
    Penalties(Penalties),
    Bias(Vec<(TokenId, f32)>),
    Ban,
}

/// A stage that drops candidates. The variants are in the order of the chain.
#[derive(Debug)]
enum Cut {
    TopK(usize),
    Typical(f64),
    TopP(f64),
    MinP(f32),
}

/// The end of the chain.
#[derive(Debug)]
enum Draw {
    Likeliest,
    Weighted { temperature: f32, cuts: Vec<Cut>, rng: Box<Pcg64> },
}

/// A token that may be drawn; its logit is relative to the greatest and divided by the temperature.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Candidate {
    token: TokenId,
    logit: f32,
}

/// What became of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Choice {
    /// The next token.
    Token(TokenId),
    /// The same position is needed again, with [`Want::Logits`].
    Unsettled,
}

/// A row from which no token can be drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SampleError {
    #[error("the network gave a logit that is not a finite number, for token {token}")]
    NotFinite { token: usize },
    #[error("the network gave logits for {found} tokens, {wanted} are needed")]
    Width { found: usize, wanted: u32 },
    #[error("no token is left to draw from: all are banned, or do not fit the answer's shape")]
    NothingLeft,
}

impl Sampler {
    /// A sampler for one request.
    ///
    /// Errors: [`FaultCode::InvalidField`] for a value without meaning.
    pub(crate) fn new(
        sampling: &Sampling,
        rules: Rules,
        prompt: &[TokenId],
    ) -> Result<Self, Fault> {
        let temperature = check(sampling, &rules)?;
        let penalties = Penalties::new(sampling, prompt).map(Adjustment::Penalties);
        let bias = (!sampling.bias.is_empty()).then(|| Adjustment::Bias(sampling.bias.clone()));
        let adjustments = penalties.into_iter().chain(bias).chain([Adjustment::Ban]).collect();
        let draw = if temperature > 0.0 {
            let Sampling { top_k, typical_p, top_p, min_p, seed, .. } = *sampling;
            let top_k = (top_k > 0).then_some(Cut::TopK(top_k as usize));
            let typical = (typical_p < 1.0).then_some(Cut::Typical(f64::from(typical_p)));
            let top_p = (top_p < 1.0).then_some(Cut::TopP(f64::from(top_p)));
            let min_p = (min_p > 0.0).then_some(Cut::MinP(min_p));
            let seed = seed.map_or_else(fresh_seed, Ok)?;
            Draw::Weighted {
                temperature,
                cuts: top_k.into_iter().chain(typical).chain(top_p).chain(min_p).collect(),
                rng: Box::new(Pcg64::seed_from_u64(seed)),
            }
        } else {
            Draw::Likeliest
        };
        let raw = sampling.logprobs.map(RawRow::new);
        Ok(Self { adjustments, draw, rules, answer_tokens: 0, unsettled: false, raw })
    }

    /// How much of the next row it needs.
    pub(crate) fn want(&self) -> Want {
        let only_bans = matches!(self.adjustments[..], [Adjustment::Ban]);
        match self.draw {
            Draw::Likeliest if only_bans && self.raw.is_none() && !self.unsettled => Want::Argmax,
            _ => Want::Logits,
        }
    }

    /// Draws from a row, out of `mask` where there is one; `scratch` is overwritten.
    pub(crate) fn next(
        &mut self,
        row: RowLogits,
        mask: Option<&TokenMask>,
        scratch: &mut Vec<Candidate>,
    ) -> Result<Choice, SampleError> {
        let mut logits = match row {
            RowLogits::Argmax(token) if self.allows(token) => return Ok(self.drawn(token)),
            RowLogits::Argmax(_) => {
                self.unsettled = true;
                return Ok(Choice::Unsettled);
            }
            RowLogits::All(logits) => logits,
        };
        let logits = drawable(&mut logits, self.rules.drawable_tokens)?;
        if let Some(raw) = &mut self.raw {
            raw.keep(logits);
        }
        for adjustment in &self.adjustments {
            adjustment.apply(logits, &self.rules, self.answer_tokens);
        }
        if let Some(mask) = mask {
            keep(logits, mask);
        }
        let token = match &mut self.draw {
            Draw::Likeliest => likeliest(logits),
            Draw::Weighted { temperature, cuts, rng } => {
                candidates(logits, *temperature, scratch);
                cuts.iter().for_each(|cut| cut.apply(scratch));
                weighted(scratch, unit(rng))
            }
        };
        // A shape that is complete ends the answer, however short.
        let end = || mask.and_then(|mask| self.rules.ends.iter().find(|end| mask.allows(**end)));
        let token = token.or_else(|| end().copied()).ok_or(SampleError::NothingLeft)?;
        Ok(self.drawn(token))
    }

    /// Takes a token that was settled without its row, which says how likely it was.
    pub(crate) fn take(&mut self, token: TokenId, row: RowLogits) -> Result<(), SampleError> {
        if let (RowLogits::All(mut logits), Some(raw)) = (row, &mut self.raw) {
            raw.keep(drawable(&mut logits, self.rules.drawable_tokens)?);
        }
        self.note(token);
        Ok(())
    }

    /// Whether it is to say how likely the tokens are, so that each of them needs its row.
    pub(crate) fn tells_likelihoods(&self) -> bool {
        self.raw.is_some()
    }

    /// How likely the token of the last row was, where that is wanted.
    pub(crate) fn likelihoods(&self, token: TokenId) -> Option<Likelihoods> {
        self.raw.as_ref()?.likelihoods(token)
    }

    fn drawn(&mut self, token: TokenId) -> Choice {
        self.unsettled = false;
        self.note(token);
        Choice::Token(token)
    }

    /// Counts a token of the answer.
    pub(crate) fn note(&mut self, token: TokenId) {
        self.answer_tokens = self.answer_tokens.saturating_add(1);
        if let Some(Adjustment::Penalties(penalties)) = self.adjustments.first_mut() {
            penalties.note(token);
        }
    }

    fn allows(&self, token: TokenId) -> bool {
        token.0 < self.rules.drawable_tokens
            && !self.rules.banned.contains(&token)
            && !(self.rules.ends_are_banned(self.answer_tokens) && self.rules.ends.contains(&token))
    }
}

impl Candidate {
    /// Its probability, relative to the likeliest token's.
    fn weight(&self) -> f64 {
        f64::from(self.logit.exp())
    }
}

impl Rules {
    fn ends_are_banned(&self, answer_tokens: u32) -> bool {
        answer_tokens < self.answer_tokens_min
    }
}

impl Adjustment {
    fn apply(&self, logits: &mut [f32], rules: &Rules, answer_tokens: u32) {
        match self {
            Self::Penalties(penalties) => penalties.apply(logits),
            Self::Bias(bias) => {
                for (token, added) in bias {
                    if let Some(logit) = logits.get_mut(token.0 as usize) {
                        *logit = finite(*logit + added);
                    }
                }
            }
            Self::Ban => {
                let early = rules.ends_are_banned(answer_tokens);
                let ends = if early { &rules.ends[..] } else { &[] };
                for token in rules.banned.iter().chain(ends) {
                    if let Some(logit) = logits.get_mut(token.0 as usize) {
                        *logit = f32::NEG_INFINITY;
                    }
                }
            }
        }
    }
}

impl Cut {
    fn apply(&self, candidates: &mut Vec<Candidate>) {
        match self {
            Self::TopK(kept) => top_k(candidates, *kept),
            Self::Typical(mass) => typical(candidates, *mass),
            Self::TopP(mass) => top_p(candidates, *mass),
            Self::MinP(share) => min_p(candidates, *share),
        }
    }
}

/// How often tokens occurred, and what that costs them.
///
/// Presence and frequency look at the answer, repetition at prompt and answer.
#[derive(Debug)]
struct Penalties {
    presence: f32,
    frequency: f32,
    repetition: f32,
    /// Occurrences in the answer, of every token of prompt and answer.
    occurred: HashMap<TokenId, u32>,
}

impl Penalties {
    fn new(sampling: &Sampling, prompt: &[TokenId]) -> Option<Self> {
        let (presence, frequency) = (sampling.presence_penalty, sampling.frequency_penalty);
        let repetition = sampling.repetition_penalty;
        if presence == 0.0 && frequency == 0.0 && repetition == 1.0 {
            return None;
        }
        let occurred = prompt.iter().map(|token| (*token, 0)).collect();
        Some(Self { presence, frequency, repetition, occurred })
    }

    fn note(&mut self, token: TokenId) {
        *self.occurred.entry(token).or_insert(0) += 1;
    }

    fn apply(&self, logits: &mut [f32]) {
        for (token, &times) in &self.occurred {
            let Some(logit) = logits.get_mut(token.0 as usize) else {
                continue;
            };
            let by = if *logit > 0.0 { self.repetition.recip() } else { self.repetition };
            let present = if times > 0 { self.presence } else { 0.0 };
            *logit = finite(*logit * by - present - self.frequency * times as f32);
        }
    }
}

/// Checks the numbers of a request and gives its temperature.
fn check(sampling: &Sampling, rules: &Rules) -> Result<f32, Fault> {
    let temperature = sampling.temperature.unwrap_or(rules.default_temperature);
    let fields = [
        ("temperature", temperature, 0.0..=100.0),
        ("top_p", sampling.top_p, 0.0..=1.0),
        ("typical_p", sampling.typical_p, 0.0..=1.0),
        ("min_p", sampling.min_p, 0.0..=1.0),
        ("presence_penalty", sampling.presence_penalty, -100.0..=100.0),
        ("frequency_penalty", sampling.frequency_penalty, -100.0..=100.0),
        ("repetition_penalty", sampling.repetition_penalty, 0.01..=100.0),
    ];
    for (name, value, range) in fields {
        if !range.contains(&value) {
            let (from, to) = (range.start(), range.end());
            let message = format!("{name} is {value}; it must be between {from} and {to}");
            return Err(Fault::new(FaultCode::InvalidField, message).at(name));
        }
    }
    if let Some(count) = sampling.logprobs.filter(|count| *count > Sampling::LOGPROBS_MAX) {
        let most = Sampling::LOGPROBS_MAX;
        let message = format!("top_logprobs is {count}; it must be at most {most}");
        return Err(Fault::new(FaultCode::InvalidField, message).at("top_logprobs"));
    }
    for (token, added) in &sampling.bias {
        if token.0 >= rules.drawable_tokens || !(-1e6..=1e6).contains(added) {
            let message = format!(
                "logit_bias gives {added} to token {}; the model has {} tokens, and a bias must be \
                 between -1000000 and 1000000",
                token.0, rules.drawable_tokens
            );
            return Err(Fault::new(FaultCode::InvalidField, message).at("logit_bias"));
        }
    }
    Ok(temperature)
}

fn fresh_seed() -> Result<u64, Fault> {
    SysRng.try_next_u64().map_err(|error| {
        let message = format!("the system gives no random numbers ({error}); send a seed");
        Fault::new(FaultCode::Internal, message)
    })
}

/// A uniform number in `[0, 1)` with 53 random bits.
fn unit(rng: &mut Pcg64) -> f64 {
    const BITS: u32 = f64::MANTISSA_DIGITS;
    (rng.next_u64() >> (u64::BITS - BITS)) as f64 / (1u64 << BITS) as f64
}

fn finite(logit: f32) -> f32 {
    logit.clamp(f32::MIN, f32::MAX)
}

/// The logits of the tokens that can be drawn, all of them finite.
pub(crate) fn drawable(
    logits: &mut [f32],
    drawable_tokens: u32,
) -> Result<&mut [f32], SampleError> {
    // Without a way out of the loop the compiler looks at many logits at once.
    let are_finite = logits.iter().fold(true, |all, logit| all & logit.is_finite());
    if !are_finite {
        let token = logits.iter().position(|logit| !logit.is_finite()).unwrap_or_default();
        return Err(SampleError::NotFinite { token });
    }
    let found = logits.len();
    logits
        .get_mut(..drawable_tokens as usize)
        .ok_or(SampleError::Width { found, wanted: drawable_tokens })
}

/// Takes away all tokens that a mask does not allow.
fn keep(logits: &mut [f32], mask: &TokenMask) {
    for (word, logits) in mask.words().iter().zip(logits.chunks_mut(64)) {
        for (bit, logit) in logits.iter_mut().enumerate() {
            *logit = if word >> bit & 1 == 1 { *logit } else { f32::NEG_INFINITY };
        }
    }
}

/// Fills `scratch` with the tokens that have a chance, in the order of their ids.
fn candidates(logits: &[f32], temperature: f32, scratch: &mut Vec<Candidate>) {
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

/// The greatest logit; minus infinity where there is none.
pub(crate) fn greatest(logits: &[f32]) -> f32 {
    const LANES: usize = 16;
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let (chunks, rest) = logits.as_chunks::<LANES>();
    for chunk in chunks {
        for (lane, &logit) in lanes.iter_mut().zip(chunk) {
            *lane = if logit > *lane { logit } else { *lane };
        }
    }
    lanes.iter().chain(rest).copied().fold(f32::NEG_INFINITY, f32::max)
}

/// The token of the greatest logit, the first of them where several are.
fn likeliest(logits: &[f32]) -> Option<TokenId> {
    let greatest = greatest(logits);
    let is_likeliest = |&logit: &f32| logit == greatest && greatest > f32::NEG_INFINITY;
    (0..).zip(logits).find(|(_, logit)| is_likeliest(logit)).map(|(id, _)| TokenId(id))
}

/// Likeliest first; the lower id wins a tie.
fn by_rank(a: &Candidate, b: &Candidate) -> std::cmp::Ordering {
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
    let total: f64 = candidates.iter().map(Candidate::weight).sum();
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
    let total: f64 = candidates.iter().map(Candidate::weight).sum();
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
    let mut reached = 0.0;
    let kept = candidates.iter().position(|candidate| {
        reached += candidate.weight();
        reached >= weight
    });
    if let Some(last) = kept {
        candidates.truncate(last + 1);
    }
}

/// Keeps what is likely enough beside the likeliest candidate that is left.
fn min_p(candidates: &mut Vec<Candidate>, share: f32) {
    let greatest = candidates.iter().map(|candidate| candidate.logit);
    let least = greatest.fold(f32::NEG_INFINITY, f32::max) + share.ln();
    candidates.retain(|candidate| candidate.logit >= least);
}

/// Draws with the candidates' probabilities: `unit` in `[0, 1)` picks the place.
fn weighted(candidates: &[Candidate], unit: f64) -> Option<TokenId> {
    let total: f64 = candidates.iter().map(Candidate::weight).sum();
    let mut left = unit * total;
    let drawn = candidates.iter().find(|candidate| {
        left -= candidate.weight();
        left < 0.0
    });
    // Rounding may leave a crumb behind the last one.
    drawn.or_else(|| candidates.last()).map(|candidate| candidate.token)
}

#[cfg(test)]
#[path = "sampler_tests.rs"]
mod tests;
