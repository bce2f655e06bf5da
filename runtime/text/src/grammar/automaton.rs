//! One compiled grammar on its way through an answer.

use llguidance::Matcher;
use protocol::TokenId;

use crate::{ConstraintError, TokenMask};

/// A grammar and where in it the answer is.
pub(super) struct Automaton {
    matcher: Matcher,
    accepted: usize,
}

impl Automaton {
    pub(super) fn new(matcher: Matcher) -> Self {
        Self { matcher, accepted: 0 }
    }

    /// Tokens taken so far.
    pub(super) fn accepted(&self) -> usize {
        self.accepted
    }

    /// Puts the tokens that may come next into `mask`, the one that ends the answer included.
    pub(super) fn fill(&mut self, mask: &mut TokenMask) -> Result<(), ConstraintError> {
        let allowed = self.matcher.compute_mask_or_eos().map_err(|error| stuck(&error))?;
        mask.copy_halves(allowed.as_slice());
        Ok(())
    }

    /// Whether the text may end here.
    pub(super) fn may_end(&mut self) -> Result<bool, ConstraintError> {
        self.matcher.is_accepting().map_err(|error| stuck(&error))
    }

    /// Whether the text has to end here.
    pub(super) fn has_ended(&self) -> bool {
        self.matcher.is_stopped() && !self.matcher.is_error()
    }

    pub(super) fn accept(&mut self, token: TokenId) -> Result<(), ConstraintError> {
        // Asks first: a token that does not fit would break the matcher for good.
        let taken = self.matcher.try_consume_tokens(&[token.0]).map_err(|error| stuck(&error))?;
        if taken == 0 {
            return Err(ConstraintError::Unfit(token));
        }
        self.accepted += 1;
        Ok(())
    }

    pub(super) fn forced(&mut self) -> Vec<TokenId> {
        self.matcher.compute_ff_tokens().into_iter().map(TokenId).collect()
    }

    /// `tokens` is at most what was accepted.
    pub(super) fn rollback(&mut self, tokens: usize) -> Result<(), ConstraintError> {
        self.matcher.rollback(tokens).map_err(|error| stuck(&error))?;
        self.accepted -= tokens;
        Ok(())
    }
}

fn stuck(error: &impl ToString) -> ConstraintError {
    let text = error.to_string();
    let message = text.lines().next().unwrap_or_default().to_owned();
    ConstraintError::Stuck { message }
}
