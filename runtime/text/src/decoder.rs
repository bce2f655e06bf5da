//! Tokens of an answer to text, one by one: whole characters, stop texts, function calls.

use std::sync::Arc;

use protocol::{TokenId, TokenLogprob, ToolCall};

use crate::Stops;
use crate::codec::Prompt;
use crate::joiner::Joiner;
use crate::tokenizer::Tokenizer;
use crate::tool_calls::{Calls, Ids, parse};

/// A part of an answer that is ready to be shown.
#[derive(Debug, Clone, PartialEq)]
pub enum Piece {
    /// Whole characters, never empty.
    Text {
        /// What to append.
        text: String,
        /// Tokens since the last piece; 0 for a flush that took none.
        tokens: u32,
        /// The tokens whose text begins here, of those that came with their likelihood.
        logprobs: Vec<TokenLogprob>,
    },
    /// One whole function call.
    ToolCall(ToolCall),
    /// A stop text was met: the answer ends here, and nothing follows.
    Stop,
}

/// The state of one answer.
#[derive(Debug)]
pub struct Decoder {
    tokenizer: Arc<Tokenizer>,
    joiner: Joiner,
    stops: Stops,
    /// The token that announces function calls, where they are allowed.
    announces_calls: Option<TokenId>,
    section: Section,
    /// Text that may be the beginning of a stop text.
    held: String,
    /// Likelihoods of the tokens whose text was not shown yet, and where in `held` it begins.
    told: Vec<(usize, TokenLogprob)>,
    tokens: u32,
    ids: Ids,
}

#[derive(Debug)]
enum Section {
    Text,
    Calls(Calls),
    Ended,
}

impl Decoder {
    pub(crate) fn new(tokenizer: Arc<Tokenizer>, prompt: &Prompt) -> Self {
        // FNV-1a over the prompt: the same prompt names its calls the same.
        let seed = prompt.tokens.iter().fold(0xcbf2_9ce4_8422_2325, |hash: u64, token| {
            (hash ^ u64::from(token.0)).wrapping_mul(0x0100_0000_01b3)
        });
        Self {
            tokenizer,
            joiner: Joiner::new(!prompt.continues_text),
            stops: prompt.stops.clone(),
            announces_calls: prompt.announces_calls,
            section: Section::Text,
            held: String::new(),
            told: Vec::new(),
            tokens: 0,
            ids: Ids::new(seed),
        }
    }

    /// Takes the next token of the answer and gives what can be shown now.
    pub fn push(&mut self, token: TokenId) -> Vec<Piece> {
        self.take(token, None)
    }

    /// As [`Self::push`], for a token whose likelihood is shown with its text. That of a token whose
    /// text is never shown goes with it: steering tokens, function calls, stop texts.
    pub fn push_told(&mut self, told: TokenLogprob) -> Vec<Piece> {
        self.take(told.chosen.token, Some(told))
    }

    fn take(&mut self, token: TokenId, told: Option<TokenLogprob>) -> Vec<Piece> {
        let mut pieces = Vec::new();
        let announces = self.announces_calls == Some(token);
        let vocabulary = self.tokenizer.vocabulary();
        let told = told.filter(|_| !self.tokenizer.is_control(token));
        match &mut self.section {
            Section::Ended => return pieces,
            Section::Text if announces => {
                self.tokens += 1;
                self.joiner.finish(vocabulary, &mut self.held);
                self.release(true, &mut pieces);
                self.begin_calls();
            }
            Section::Text => {
                self.tokens += 1;
                let before = self.held.len();
                self.joiner.push(vocabulary, token, &mut self.held);
                // Its text ends where the held text does now, unless a part of it is still to come:
                // what the joiner held back of others comes before it.
                let begin = match self.tokenizer.says(token).len() {
                    0 => before,
                    bytes => self.held.len().saturating_sub(bytes).max(before),
                };
                self.told.extend(told.map(|told| (begin, told)));
                self.release(false, &mut pieces);
            }
            Section::Calls(calls) => {
                self.tokens += 1;
                self.joiner.push(vocabulary, token, &mut calls.text);
                self.told.extend(told.map(|told| (0, told)));
                if calls.is_whole() {
                    self.end_calls(&mut pieces);
                }
            }
        }
        pieces
    }

    /// Ends the answer and gives what was held back: beginnings of stop texts, incomplete characters
    /// as U+FFFD, and the calls that are whole. What is left of a call that was cut off is no text
    /// for a reader and is dropped.
    pub fn finish(&mut self) -> Vec<Piece> {
        let mut pieces = Vec::new();
        let vocabulary = self.tokenizer.vocabulary();
        match &mut self.section {
            Section::Ended => return pieces,
            Section::Text => {
                self.joiner.finish(vocabulary, &mut self.held);
                self.release(true, &mut pieces);
            }
            Section::Calls(calls) => {
                let calls = std::mem::take(calls);
                if let Some(calls) = parse(&calls.into_whole(), &mut self.ids) {
                    pieces.extend(calls.into_iter().map(Piece::ToolCall));
                }
            }
        }
        self.section = Section::Ended;
        self.told.clear();
        pieces
    }

    fn begin_calls(&mut self) {
        if !matches!(self.section, Section::Ended) {
            self.joiner = Joiner::new(true);
            self.told.clear();
            self.section = Section::Calls(Calls::default());
        }
    }

    fn end_calls(&mut self, pieces: &mut Vec<Piece>) {
        let Section::Calls(calls) = std::mem::replace(&mut self.section, Section::Text) else {
            return;
        };
        let told = std::mem::take(&mut self.told);
        match parse(&calls.text, &mut self.ids) {
            Some(calls) => pieces.extend(calls.into_iter().map(Piece::ToolCall)),
            None if calls.text.is_empty() => {}
            None => pieces.push(Piece::Text {
                text: calls.text,
                tokens: self.tokens,
                logprobs: told.into_iter().map(|(_, told)| told).collect(),
            }),
        }
        self.tokens = 0;
    }

    /// Moves what is no beginning of a stop text, or `all`, from `held` to `pieces`.
    fn release(&mut self, all: bool, pieces: &mut Vec<Piece>) {
        let stop = self.stops.find(&self.held);
        let end = match stop {
            Some(at) => at,
            None if all => self.held.len(),
            None => self.held.len() - self.stops.begun(&self.held),
        };
        if end > 0 {
            let rest = self.held.split_off(end);
            let text = std::mem::replace(&mut self.held, rest);
            let tokens = std::mem::take(&mut self.tokens);
            pieces.push(Piece::Text { text, tokens, logprobs: self.tell(end) });
        }
        if stop.is_some() {
            self.held.clear();
            self.told.clear();
            self.section = Section::Ended;
            pieces.push(Piece::Stop);
        }
    }

    /// The likelihoods that belong to the first `end` bytes of what was held.
    fn tell(&mut self, end: usize) -> Vec<TokenLogprob> {
        let shown = self.told.iter().take_while(|(begin, _)| *begin < end).count();
        let logprobs = self.told.drain(..shown).map(|(_, told)| told).collect();
        self.told.iter_mut().for_each(|(begin, _)| *begin -= end);
        logprobs
    }
}

/// Joins tokens to text as they come, without stop texts and function calls.
///
/// What [`Self::push`] gave, one after the other, and [`Self::finish`] are together what
/// [`Tokenizer::decode`] gives for all tokens at once.
#[derive(Debug)]
pub struct StreamDecoder {
    tokenizer: Arc<Tokenizer>,
    joiner: Joiner,
}

impl StreamDecoder {
    /// Begins a text.
    pub fn new(tokenizer: Arc<Tokenizer>) -> Self {
        Self { tokenizer, joiner: Joiner::new(true) }
    }

    /// The text that became certain by this token; empty while a character is incomplete.
    pub fn push(&mut self, token: TokenId) -> String {
        let mut text = String::new();
        self.joiner.push(self.tokenizer.vocabulary(), token, &mut text);
        text
    }

    /// The text that was held back; what is incomplete becomes U+FFFD.
    pub fn finish(&mut self) -> String {
        let mut text = String::new();
        self.joiner.finish(self.tokenizer.vocabulary(), &mut text);
        text
    }
}
