//! Outcomes of a step to the answer: draws, guesses that were right, what leaves no choice.

use protocol::{Event, Fault, FaultCode, FinishReason, TokenId};
use text::Piece;

use super::{Ending, Sequence, Submission};
use crate::batch::RowLogits;
use crate::sampler::Candidate;

/// What one step did for a sequence.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Progress {
    /// Prompt tokens that the network has now seen.
    pub(crate) prompt_tokens: u32,
    /// Tokens that were drawn.
    pub(crate) answer_tokens: u32,
}

impl Sequence {
    /// Notes that the network has seen `computed` more tokens, and takes the outcomes: that of the
    /// last of them, and those of the guesses behind it, which count as far as they were right.
    pub(crate) fn advance(
        &mut self,
        computed: u32,
        rows: Vec<RowLogits>,
        scratch: &mut Vec<Candidate>,
    ) -> Progress {
        if self.request.labels.is_some() {
            return self.score(computed, rows);
        }
        let before = (self.computed_tokens.min(self.prompt_tokens), self.answer_tokens);
        self.computed_tokens += computed;
        self.forced_pending = 0;
        let draft = std::mem::take(&mut self.draft);
        let mut right = 0;
        for (row, guess) in rows.into_iter().zip(draft.iter().map(Some).chain([None])) {
            let Some(token) = self.choose(row, scratch) else {
                break;
            };
            if self.ending.is_some() || guess != Some(&token) {
                break;
            }
            right += 1;
            self.computed_tokens += 1;
        }
        self.request.drafter.note(draft.len(), right);
        self.append_forced();
        Progress {
            prompt_tokens: self.computed_tokens.min(self.prompt_tokens) - before.0,
            answer_tokens: self.answer_tokens - before.1,
        }
    }

    /// Draws the next token from a row and appends it; `None` where there is none.
    fn choose(&mut self, row: RowLogits, scratch: &mut Vec<Candidate>) -> Option<TokenId> {
        match self.draw(row, scratch) {
            Ok(token) => Some(token),
            Err(why) => {
                self.end(Ending::Failed(Fault::new(FaultCode::Internal, why)));
                None
            }
        }
    }

    fn draw(&mut self, row: RowLogits, scratch: &mut Vec<Candidate>) -> Result<TokenId, String> {
        if let Some(token) = self.settled.pop_front() {
            self.accept(token)?;
            self.request.sampler.take(token, row).map_err(|error| error.to_string())?;
            self.forced_tokens += 1;
            self.append(token);
            return Ok(token);
        }
        let Submission { constraint, sampler, .. } = &mut self.request;
        let mask = match constraint {
            Some(constraint) => constraint.mask().map_err(|error| error.to_string())?,
            None => None,
        };
        let token = sampler.next(row, mask, scratch).map_err(|error| error.to_string())?;
        self.accept(token)?;
        self.append(token);
        self.settle();
        Ok(token)
    }

    /// Notes what the shape leaves no choice about where each token has to say how likely it was.
    fn settle(&mut self) {
        if self.request.sampler.tells_likelihoods() && self.ending.is_none() {
            let constraint = self.request.constraint.as_mut();
            self.settled =
                constraint.map(|constraint| constraint.forced()).unwrap_or_default().into();
        }
    }

    fn accept(&mut self, token: TokenId) -> Result<(), String> {
        match &mut self.request.constraint {
            Some(constraint) => constraint.accept(token).map_err(|error| error.to_string()),
            None => Ok(()),
        }
    }

    /// Appends what the shape leaves no choice about: no outcome is needed for it, unless it has to
    /// say how likely it was.
    fn append_forced(&mut self) {
        if self.ending.is_some() || self.answer_tokens == 0 || self.pending_tokens() != 1 {
            return;
        }
        if self.request.sampler.tells_likelihoods() {
            return;
        }
        let constraint = self.request.constraint.as_mut();
        let forced = constraint.map(|constraint| constraint.forced()).unwrap_or_default();
        for token in forced {
            let room = self.answer_tokens < self.request.answer_tokens_max;
            if self.ending.is_some() || !room || !self.lease.holds(self.context_tokens() + 1) {
                return;
            }
            if let Err(why) = self.accept(token) {
                return self.end(Ending::Failed(Fault::new(FaultCode::Internal, why)));
            }
            self.request.sampler.note(token);
            self.forced_tokens += 1;
            self.forced_pending += 1;
            self.append(token);
        }
    }

    fn append(&mut self, token: TokenId) {
        self.answer_tokens += 1;
        if self.request.codec.is_end(token) {
            return self.finish(FinishReason::Stop);
        }
        self.tokens.push(token);
        let Submission { decoder, sampler, codec, .. } = &mut self.request;
        let pieces = match sampler.likelihoods(token) {
            Some(likelihoods) => decoder.push_told(likelihoods.spelled(codec.tokenizer())),
            None => decoder.push(token),
        };
        self.say(pieces);
        if self.answer_tokens >= self.request.answer_tokens_max && self.ending.is_none() {
            self.finish(self.request.limit_reason);
        }
    }

    /// Says what the decoder held back, then ends.
    fn finish(&mut self, reason: FinishReason) {
        let pieces = self.request.decoder.finish();
        self.say(pieces);
        let reason = match reason {
            FinishReason::Stop if self.called_tools => FinishReason::ToolCalls,
            reason => reason,
        };
        self.end(Ending::Finished(reason));
    }

    fn say(&mut self, pieces: Vec<Piece>) {
        for piece in pieces {
            match piece {
                Piece::Text { text, tokens, logprobs } => {
                    self.request.outbox.push(Event::Text { text, tokens, logprobs });
                }
                Piece::ToolCall(call) => {
                    self.called_tools = true;
                    self.request.outbox.push(Event::ToolCall(call));
                }
                Piece::Stop => return self.end(Ending::Finished(FinishReason::Stop)),
            }
        }
    }
}
