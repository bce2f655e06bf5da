//! Guesses by a second, smaller network with the same vocabulary.
//!
//! It reads what the answers' own network reads, a part in each step, and says greedily what it would
//! write next: one round for each guessed token, all answers together. Its cache holds guesses that
//! turned out wrong as any cache does, behind what is true, to be written over. A network that fails
//! is not asked again; answers go on without it.

use std::collections::HashMap;
use std::time::Instant;

use protocol::{RequestId, TokenId};

use crate::batch::{Batch, Capacity, Forward, ForwardError, Row, RowLogits, Want};
use crate::pace::{Clock, fold};
use crate::pages::{Lease, Pages};
use crate::prefixes::Scope;

/// Tokens of a prompt that it reads in one step, so that answers hardly wait for it.
const READ_TOKENS: usize = 64;

/// The second network, and what it has read.
pub(crate) struct DraftModel {
    network: Option<Box<dyn Forward>>,
    capacity: Capacity,
    pages: Pages,
    tracks: HashMap<RequestId, Track>,
    /// Microseconds of a round of one token for each that asks.
    round_us: Option<f64>,
    clock: Clock,
}

/// What it has read of one sequence.
struct Track {
    lease: Lease,
    /// Those whose keys and values are in its cache; the last of them may be guesses.
    tokens: Vec<TokenId>,
}

/// A sequence that wants guesses.
pub(crate) struct Ask<'a> {
    pub(crate) id: &'a RequestId,
    pub(crate) scope: Option<&'a Scope>,
    /// Its tokens so far.
    pub(crate) tokens: &'a [TokenId],
    /// Guesses, at most.
    pub(crate) most: usize,
}

/// One sequence's tokens in a round.
struct Input {
    /// Index of its ask.
    ask: usize,
    tokens: Vec<TokenId>,
    /// Whether what follows them is wanted.
    wanted: bool,
}

impl DraftModel {
    pub(crate) fn new(network: Box<dyn Forward>) -> Self {
        let capacity = network.capacity();
        Self {
            network: Some(network),
            capacity,
            pages: Pages::new(&capacity),
            tracks: HashMap::new(),
            round_us: None,
            clock: Box::new(Instant::now),
        }
    }

    /// Microseconds that so many guesses take; none while that is not known, so that it is tried.
    pub(crate) fn guesses_us(&self, count: usize) -> f64 {
        self.round_us.unwrap_or(0.0) * count as f64
    }

    /// Forgets what it has read of all but these.
    pub(crate) fn keep_only(&mut self, is_known: impl Fn(&RequestId) -> bool) {
        for (_, track) in self.tracks.extract_if(|id, _| !is_known(id)) {
            self.pages.release(track.lease);
        }
    }

    /// What it would write behind each of the asks' tokens; nothing for those that it has not read to
    /// the end yet, or has no room for.
    pub(crate) fn guess(&mut self, asks: &[Ask<'_>]) -> Vec<Vec<TokenId>> {
        let mut guesses = vec![Vec::new(); asks.len()];
        let mut inputs = self.unread(asks);
        while !inputs.is_empty() {
            let began = (self.clock)();
            let found = match self.round(asks, &inputs) {
                Ok(found) => found,
                Err(error) => {
                    tracing::error!(%error, "the draft model is not asked any more");
                    self.network = None;
                    self.keep_only(|_| false);
                    return vec![Vec::new(); asks.len()];
                }
            };
            // Where a prompt is read the time says nothing about guesses.
            if inputs.iter().all(|input| input.tokens.len() <= 2) {
                let took = (self.clock)().saturating_duration_since(began).as_secs_f64() * 1e6;
                fold(&mut self.round_us, took);
            }
            let wanted = inputs.iter().filter(|input| input.wanted).map(|input| input.ask);
            let next = wanted.zip(found).filter_map(|(ask, token)| {
                guesses[ask].push(token);
                let more = guesses[ask].len() < asks[ask].most;
                more.then(|| Input { ask, tokens: vec![token], wanted: true })
            });
            inputs = next.collect();
        }
        guesses
    }

    /// The first tokens that it has not read of each ask, as far as a step has room for them.
    fn unread(&mut self, asks: &[Ask<'_>]) -> Vec<Input> {
        let mut left = self.capacity.batch_tokens_max as usize;
        let mut inputs = Vec::new();
        for (index, ask) in asks.iter().enumerate() {
            if self.network.is_none() || !self.follow(ask) {
                continue;
            }
            let known = self.tracks[ask.id].tokens.len();
            let unread = &ask.tokens[known..];
            let count = unread.len().min(READ_TOKENS).min(left);
            if count > 0 {
                left -= count;
                let wanted = count == unread.len();
                inputs.push(Input { ask: index, tokens: unread[..count].to_vec(), wanted });
            }
        }
        inputs
    }

    /// Brings a track to what is true of it, and gets pages for what may follow; whether there are.
    fn follow(&mut self, ask: &Ask<'_>) -> bool {
        let tokens_max = ask.tokens.len() + ask.most;
        if tokens_max > self.capacity.context_tokens_max as usize {
            return false;
        }
        let tokens_max = tokens_max as u32;
        let Some(track) = self.tracks.get_mut(ask.id) else {
            let lease = self.pages.lease(ask.scope.cloned(), ask.tokens, tokens_max);
            let Some(lease) = lease else {
                return false;
            };
            let tokens = ask.tokens[..lease.published_tokens() as usize].to_vec();
            self.tracks.insert(ask.id.clone(), Track { lease, tokens });
            return true;
        };
        let equal = track.tokens.iter().zip(ask.tokens).take_while(|(read, own)| read == own);
        // The last token is always to be read: what follows it is wanted.
        let known = equal.count().min(ask.tokens.len() - 1);
        track.tokens.truncate(known);
        self.pages.publish(&mut track.lease, ask.tokens, known as u32);
        self.pages.raise(&mut track.lease, &[], tokens_max)
    }

    /// Reads some tokens of each; what follows those that want it, in their order.
    fn round(&mut self, asks: &[Ask<'_>], inputs: &[Input]) -> Result<Vec<TokenId>, ForwardError> {
        let mut batch = Batch::default();
        for input in inputs {
            let Some(track) = self.tracks.get_mut(asks[input.ask].id) else { continue };
            let from = track.tokens.len() as u32;
            let context_tokens = from + input.tokens.len() as u32;
            if let Err(error) = self.pages.extend(&mut track.lease, context_tokens) {
                return Err(rejected(&batch, error.to_string()));
            }
            batch.add(&track.lease, from, [&input.tokens[..]]);
            if input.wanted {
                let token = batch.tokens.len() as u32 - 1;
                batch.rows.push(Row { token, want: Want::Argmax });
            }
            track.tokens.extend_from_slice(&input.tokens);
        }
        let Some(network) = &mut self.network else {
            return Ok(Vec::new());
        };
        let rows = network.forward(&batch)?.rows;
        let token = |row: RowLogits| match row {
            RowLogits::Argmax(token, _) => Ok(token),
            _ => Err(rejected(&batch, "it gave logits for a token".into())),
        };
        let found: Vec<TokenId> = rows.into_iter().map(token).collect::<Result<_, _>>()?;
        if found.len() != batch.rows.len() {
            return Err(rejected(&batch, "it gave another number of rows".into()));
        }
        Ok(found)
    }
}

fn rejected(batch: &Batch, reason: String) -> ForwardError {
    ForwardError::Rejected { tokens: batch.tokens.len(), reason }
}

#[cfg(test)]
impl DraftModel {
    /// Whether it holds no page.
    pub(crate) fn pages_are_free(&self) -> bool {
        self.pages.all_free()
    }

    /// Has its time told by another clock.
    pub(crate) fn set_clock(&mut self, clock: impl FnMut() -> Instant + Send + 'static) {
        self.clock = Box::new(clock);
    }
}

#[cfg(test)]
#[path = "draft_model_tests.rs"]
mod tests;
