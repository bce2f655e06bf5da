//! The shape of an answer: a text, or function calls behind the token that announces them.
//!
//! Text without a format costs nothing: the constraint sleeps until calls are announced.

use protocol::TokenId;

use super::automaton::Automaton;
use crate::{Constraint, ConstraintError, TokenMask};

/// Tokens that one look ahead gives; what is forced behind them is given by the next.
const FORCED_MAX: usize = 64;

/// What stands in front of calls, or instead of them.
pub(super) enum Text {
    /// Any text, of any length.
    Free,
    /// A text of this grammar, and then no calls.
    Shaped(Box<Automaton>),
    /// None: the answer is calls.
    Forbidden,
}

/// Calls and the token in front of them.
pub(super) struct Calls {
    pub(super) announced_by: TokenId,
    pub(super) list: Automaton,
}

/// One answer on its way.
pub(super) struct Answer {
    text: Text,
    calls: Option<Calls>,
    end: TokenId,
    /// Tokens in front of the calls.
    text_tokens: usize,
    is_announced: bool,
    /// Tokens that end the answer; one is enough, more do no harm.
    ends: usize,
    mask: TokenMask,
    /// `mask` is for this place.
    is_current: bool,
}

impl Answer {
    pub(super) fn new(
        text: Text,
        calls: Option<Calls>,
        end: TokenId,
        vocabulary_size: usize,
    ) -> Self {
        Self {
            text,
            calls,
            end,
            text_tokens: 0,
            is_announced: false,
            ends: 0,
            mask: TokenMask::none(vocabulary_size),
            is_current: false,
        }
    }

    /// The token that would announce calls here.
    fn announcer(&self) -> Option<TokenId> {
        let calls = self.calls.as_ref().filter(|_| !self.is_announced && self.ends == 0)?;
        let is_here = match self.text {
            Text::Free | Text::Forbidden => true,
            Text::Shaped(_) => self.text_tokens == 0,
        };
        is_here.then_some(calls.announced_by)
    }

    /// The grammar that holds here; `None` where there is none.
    fn automaton(&mut self) -> Option<&mut Automaton> {
        match (&mut self.calls, &mut self.text) {
            (Some(calls), _) if self.is_announced => Some(&mut calls.list),
            (_, Text::Shaped(automaton)) => Some(automaton),
            (_, Text::Free | Text::Forbidden) => None,
        }
    }

    fn is_free(&self) -> bool {
        matches!(self.text, Text::Free) && !self.is_announced && self.ends == 0
    }

    fn accepted(&self) -> usize {
        let calls = self.calls.as_ref().filter(|_| self.is_announced);
        let calls = calls.map_or(0, |calls| 1 + calls.list.accepted());
        self.text_tokens + calls + self.ends
    }

    fn end(&mut self) -> Result<(), ConstraintError> {
        let may_end = self.ends > 0
            || match self.automaton() {
                Some(automaton) => automaton.may_end()?,
                None => self.is_free(),
            };
        if !may_end {
            return Err(ConstraintError::Unfit(self.end));
        }
        self.ends += 1;
        Ok(())
    }
}

impl Constraint for Answer {
    fn mask(&mut self) -> Result<Option<&TokenMask>, ConstraintError> {
        if self.is_free() {
            return Ok(None);
        }
        if !self.is_current {
            let mut mask = std::mem::replace(&mut self.mask, TokenMask::none(0));
            mask.clear();
            let mut filled = Ok(());
            if self.ends > 0 {
                mask.allow(self.end);
            } else if let Some(automaton) = self.automaton() {
                filled = automaton.fill(&mut mask);
            }
            if let Some(announcer) = self.announcer() {
                mask.allow(announcer);
            }
            self.mask = mask;
            filled?;
            self.is_current = true;
        }
        Ok(Some(&self.mask))
    }

    fn accept(&mut self, token: TokenId) -> Result<(), ConstraintError> {
        if token == self.end {
            self.end()?;
        } else if self.ends > 0 {
            return Err(ConstraintError::Unfit(token));
        } else if self.announcer() == Some(token) {
            self.is_announced = true;
        } else {
            let is_free = self.is_free();
            match self.automaton() {
                Some(automaton) => automaton.accept(token)?,
                None if is_free => {}
                None => return Err(ConstraintError::Unfit(token)),
            }
            self.text_tokens += usize::from(!self.is_announced);
        }
        self.is_current = false;
        Ok(())
    }

    fn forced(&mut self) -> Vec<TokenId> {
        if self.ends > 0 || self.is_free() {
            return Vec::new();
        }
        let mut forced = Vec::new();
        match (&self.text, self.announcer()) {
            (Text::Forbidden, Some(announcer)) => {
                forced.push(announcer);
                if let Some(calls) = &mut self.calls {
                    forced.extend(calls.list.forced());
                }
            }
            (_, Some(_)) => {}
            (_, None) => {
                let end = self.end;
                if let Some(automaton) = self.automaton() {
                    forced.extend(automaton.forced());
                    if forced.is_empty() && automaton.has_ended() {
                        forced.push(end);
                    }
                }
            }
        }
        forced.truncate(FORCED_MAX);
        forced
    }

    fn rollback(&mut self, tokens: usize) -> Result<(), ConstraintError> {
        let accepted = self.accepted();
        if tokens > accepted {
            return Err(ConstraintError::TooFar { tokens, accepted });
        }
        self.is_current = false;
        let mut rest = tokens;
        let ends = rest.min(self.ends);
        self.ends -= ends;
        rest -= ends;
        if let Some(calls) = self.calls.as_mut().filter(|_| self.is_announced && rest > 0) {
            let back = rest.min(calls.list.accepted());
            calls.list.rollback(back)?;
            rest -= back;
            if rest > 0 {
                self.is_announced = false;
                rest -= 1;
            }
        }
        if let Text::Shaped(automaton) = &mut self.text {
            automaton.rollback(rest)?;
        }
        self.text_tokens -= rest;
        Ok(())
    }
}
