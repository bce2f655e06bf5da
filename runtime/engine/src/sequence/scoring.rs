//! Outcomes of a step to scores of labels, instead of an answer.

use protocol::{Event, Fault, FaultCode, FinishReason};

use super::writing::Progress;
use super::{Ending, Sequence, WRITING_TOKENS};
use crate::batch::RowLogits;

impl Sequence {
    /// Notes that the network has seen `computed` more tokens, takes the outcomes of those that were
    /// not known, and goes on with the next branch when those of this one are in.
    pub(super) fn score(&mut self, computed: u32, rows: Vec<RowLogits>) -> Progress {
        let before = (self.computed_tokens.min(self.prompt_tokens), self.answer_tokens);
        self.computed_tokens += computed;
        self.forced_pending = 0;
        if let Err(why) = self.take_rows(rows) {
            self.end(Ending::Failed(Fault::new(FaultCode::Internal, why)));
        } else if self.pending_tokens() == 0 {
            self.branch();
        }
        Progress {
            prompt_tokens: self.computed_tokens.min(self.prompt_tokens).saturating_sub(before.0),
            answer_tokens: self.answer_tokens - before.1,
        }
    }

    fn take_rows(&mut self, rows: Vec<RowLogits>) -> Result<(), String> {
        if let Some(labels) = &mut self.request.labels {
            rows.into_iter()
                .try_for_each(|row| labels.take(row))
                .map_err(|error| error.to_string())?;
            self.answer_tokens = (labels.taken() as u32).saturating_sub(1);
        }
        Ok(())
    }

    /// Gives up the path behind the branch point, whose places are its own alone, and appends the
    /// next one; says the scores when there is none.
    fn branch(&mut self) {
        let Some(labels) = &self.request.labels else {
            return;
        };
        let Some(run) = labels.next_run(WRITING_TOKENS as usize) else {
            self.request.outbox.push(Event::Scores(labels.scores()));
            return self.end(Ending::Finished(FinishReason::Stop));
        };
        self.tokens.truncate(self.prompt_tokens as usize + run.kept);
        self.computed_tokens = self.context_tokens();
        self.forced_pending = run.tokens.len() as u32 - 1;
        self.tokens.extend(run.tokens);
    }

    /// The position of the first token whose outcome is wanted and not known.
    pub(super) fn first_unknown(&self) -> u32 {
        let depth = self.request.labels.as_ref().and_then(|labels| labels.next_depth());
        depth.map_or(self.prompt_tokens - 1, |depth| self.prompt_tokens + depth as u32)
    }
}
