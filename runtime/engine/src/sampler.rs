//! Logits to a token: a fixed chain of stages, closed by a draw.
//!
//! Each sequence has its own sampler with its own random numbers, so a seed gives the same answer
//! whatever else runs beside it. A greedy request asks the network for the likeliest token alone,
//! others for the likeliest few; a row is looked at whole where those do not decide, which is rare, and
//! where penalties or a bias may move any token.

mod candidates;
mod head;

use std::collections::HashMap;
use std::sync::Arc;

use protocol::{Fault, FaultCode, Sampling, TokenId};
use rand::rngs::SysRng;
use rand_pcg::Pcg64;
use rand_pcg::rand_core::{Rng, SeedableRng, TryRng};
use text::TokenMask;

use candidates::{Cut, candidates, weighted};
use head::Weighed;

use crate::batch::{ForwardError, Likeliest, RowLogits, Want};
use crate::likelihood::{Likelihoods, RawRow};

pub(crate) use candidates::Candidate;

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

/// Draws the tokens of one sequence.
#[derive(Debug)]
pub(crate) struct Sampler {
    adjustments: Vec<Adjustment>,
    draw: Draw,
    rules: Rules,
    /// What a device weighs beside the head of a row.
    weighed: Weighed,
    answer_tokens: u32,
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

/// The end of the chain.
#[derive(Debug)]
enum Draw {
    Likeliest,
    Weighted { temperature: f32, cuts: Vec<Cut>, rng: Box<Pcg64> },
}

/// A row from which no token can be drawn.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SampleError {
    #[error(transparent)]
    Device(#[from] ForwardError),
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
        mut rules: Rules,
        prompt: &[TokenId],
    ) -> Result<Self, Fault> {
        rules.banned.sort_unstable();
        rules.banned.dedup();
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
        let weighed = Weighed::new(&rules.banned, rules.drawable_tokens);
        Ok(Self { adjustments, draw, rules, weighed, answer_tokens: 0, raw })
    }

    /// How much of the next row it needs, where `is_shaped` the tokens of a shape's mask alone are drawn.
    pub(crate) fn want(&self, is_shaped: bool) -> Want {
        let only_bans = matches!(self.adjustments[..], [Adjustment::Ban]);
        match &self.draw {
            _ if !only_bans || self.raw.is_some() => Want::Logits,
            Draw::Likeliest if is_shaped => Want::Likeliest(self.weighed.at(1.0)),
            Draw::Likeliest => Want::Argmax,
            Draw::Weighted { cuts, .. }
                if cuts.iter().any(|cut| matches!(cut, Cut::Typical(_))) =>
            {
                Want::Logits
            }
            Draw::Weighted { temperature, .. } => Want::Likeliest(self.weighed.at(*temperature)),
        }
    }

    /// Draws from a row, out of `mask` where there is one; `scratch` is overwritten.
    pub(crate) fn next(
        &mut self,
        row: RowLogits,
        mask: Option<&TokenMask>,
        scratch: &mut Vec<Candidate>,
    ) -> Result<TokenId, SampleError> {
        let unit = self.draw.unit();
        let token = match row {
            RowLogits::All(logits) => self.draw_from(logits, None, mask, unit, scratch)?,
            RowLogits::Argmax(token, _) if self.allows(token, mask) => token,
            RowLogits::Argmax(_, row) => self.draw_from(row.fetch()?, None, mask, unit, scratch)?,
            RowLogits::Likeliest(head) => match self.draw_from_head(&head, mask, unit, scratch) {
                Some(token) => token,
                None => {
                    let floor = Some(head::floor(&head));
                    self.draw_from(head.row.fetch()?, floor, mask, unit, scratch)?
                }
            },
        };
        self.note(token);
        Ok(token)
    }

    /// Draws where the head of a row decides.
    fn draw_from_head(
        &self,
        head: &Likeliest,
        mask: Option<&TokenMask>,
        unit: f64,
        scratch: &mut Vec<Candidate>,
    ) -> Option<TokenId> {
        let is_allowed = |token| self.allows(token, mask);
        let early = self.rules.ends_are_banned(self.answer_tokens);
        let weighed = self.weighed.without(if early { self.rules.ends.len() } else { 0 });
        let weighed = (weighed, mask.is_some());
        match &self.draw {
            Draw::Likeliest => {
                head::fill(head, 1.0, weighed, is_allowed, scratch)?;
                scratch.first().map(|candidate| candidate.token)
            }
            Draw::Weighted { temperature, cuts, .. } => {
                let rest = head::fill(head, *temperature, weighed, is_allowed, scratch)?;
                head::draw(scratch, rest, cuts, unit)
            }
        }
    }

    /// Draws from a whole row. Tokens whose logits reach `floor` come first, in the order of their rank.
    fn draw_from(
        &mut self,
        mut logits: Vec<f32>,
        floor: Option<f32>,
        mask: Option<&TokenMask>,
        unit: f64,
        scratch: &mut Vec<Candidate>,
    ) -> Result<TokenId, SampleError> {
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
        let token = match &self.draw {
            Draw::Likeliest => likeliest(logits),
            Draw::Weighted { temperature, cuts, .. } => {
                candidates(logits, *temperature, scratch);
                if let Some(floor) = floor {
                    head::rank_first(scratch, (floor - greatest(logits)) / temperature);
                }
                cuts.iter().for_each(|cut| cut.apply(scratch));
                weighted(scratch, unit)
            }
        };
        // A shape that is complete ends the answer, however short.
        let end = || mask.and_then(|mask| self.rules.ends.iter().find(|end| mask.allows(**end)));
        token.or_else(|| end().copied()).ok_or(SampleError::NothingLeft)
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

    /// Counts a token of the answer.
    pub(crate) fn note(&mut self, token: TokenId) {
        self.answer_tokens = self.answer_tokens.saturating_add(1);
        if let Some(Adjustment::Penalties(penalties)) = self.adjustments.first_mut() {
            penalties.note(token);
        }
    }

    fn allows(&self, token: TokenId, mask: Option<&TokenMask>) -> bool {
        token.0 < self.rules.drawable_tokens
            && self.rules.banned.binary_search(&token).is_err()
            && !(self.rules.ends_are_banned(self.answer_tokens) && self.rules.ends.contains(&token))
            && mask.is_none_or(|mask| mask.allows(token))
    }
}

impl Draw {
    /// A number in `[0, 1)` for a draw that needs one.
    fn unit(&mut self) -> f64 {
        match self {
            Self::Likeliest => 0.0,
            Self::Weighted { rng, .. } => unit(rng),
        }
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

#[cfg(test)]
#[path = "sampler_tests.rs"]
mod tests;
