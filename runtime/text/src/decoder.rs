//! Tokens of an answer to text, one by one: whole characters, stop texts, function calls.

use std::sync::Arc;

use protocol::{TokenId, ToolCall};

use crate::Stops;
use crate::codec::Prompt;
use crate::tokenizer::{Decoding, Token, Tokenizer, Vocabulary};
use crate::tool_calls::{Calls, Ids, parse};

/// A part of an answer that is ready to be shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// Whole characters, never empty.
    Text {
        /// What to append.
        text: String,
        /// Tokens since the last piece; 0 for a flush that took none.
        tokens: u32,
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
            tokens: 0,
            ids: Ids::new(seed),
        }
    }

    /// Takes the next token of the answer and gives what can be shown now.
    pub fn push(&mut self, token: TokenId) -> Vec<Piece> {
        let mut pieces = Vec::new();
        let announces = self.announces_calls == Some(token);
        let vocabulary = self.tokenizer.vocabulary();
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
                self.joiner.push(vocabulary, token, &mut self.held);
                self.release(false, &mut pieces);
            }
            Section::Calls(calls) => {
                self.tokens += 1;
                self.joiner.push(vocabulary, token, &mut calls.text);
                if calls.is_whole() {
                    self.end_calls(&mut pieces);
                }
            }
        }
        pieces
    }

    /// Ends the answer and gives what was held back: beginnings of stop texts, incomplete characters
    /// as U+FFFD, and calls that began, as calls where they can be read and as text where not.
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
                self.joiner.finish(vocabulary, &mut calls.text);
                self.end_calls(&mut pieces);
            }
        }
        self.section = Section::Ended;
        pieces
    }

    fn begin_calls(&mut self) {
        if !matches!(self.section, Section::Ended) {
            self.joiner = Joiner::new(true);
            self.section = Section::Calls(Calls::default());
        }
    }

    fn end_calls(&mut self, pieces: &mut Vec<Piece>) {
        let Section::Calls(calls) = std::mem::replace(&mut self.section, Section::Text) else {
            return;
        };
        match parse(&calls.text, &mut self.ids) {
            Some(calls) => pieces.extend(calls.into_iter().map(Piece::ToolCall)),
            None if calls.text.is_empty() => {}
            None => pieces.push(Piece::Text { text: calls.text, tokens: self.tokens }),
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
            pieces.push(Piece::Text { text, tokens: std::mem::take(&mut self.tokens) });
        }
        if stop.is_some() {
            self.held.clear();
            self.section = Section::Ended;
            pieces.push(Piece::Stop);
        }
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

/// The state between tokens: an incomplete character, and replacement characters that the next
/// token may still turn into one.
#[derive(Debug)]
pub(crate) struct Joiner {
    /// The space that encoding put in front of a text is still to come.
    expects_space: bool,
    took_space: bool,
    is_empty: bool,
    bytes: Vec<u8>,
    replaced: usize,
}

impl Joiner {
    /// `begins_text`: the first token is the beginning of a text, not its continuation.
    pub(crate) fn new(begins_text: bool) -> Self {
        Self {
            expects_space: begins_text,
            took_space: false,
            is_empty: true,
            bytes: Vec::new(),
            replaced: 0,
        }
    }

    /// Appends to `out` what is certain.
    pub(crate) fn push(&mut self, vocabulary: &Vocabulary, token: TokenId, out: &mut String) {
        let decoding = vocabulary.decoding;
        match (vocabulary.token(token), decoding) {
            (None, _) => {}
            (Some(Token::Byte(byte)), _) => {
                self.bytes.push(*byte);
                self.is_empty = false;
                self.join_bytes(decoding, out);
            }
            (Some(Token::Text(bytes)), Decoding::Bytes) => {
                self.bytes.extend_from_slice(bytes);
                self.join_bytes(decoding, out);
            }
            (Some(Token::Text(bytes)), Decoding::SentencePiece { strips_space }) => {
                self.end_bytes(decoding, out);
                self.expects_space &= !self.took_space && self.is_empty;
                self.took_space =
                    strips_space && self.expects_space && bytes.first() == Some(&b' ');
                let bytes = &bytes[usize::from(self.took_space)..];
                self.is_empty &= bytes.is_empty();
                self.say(&String::from_utf8_lossy(bytes), out);
            }
            (Some(Token::Control(_)), _) => {
                self.end_bytes(decoding, out);
                self.expects_space &= !self.took_space && self.is_empty;
                self.took_space = false;
            }
            (Some(Token::Unknown { surface, .. }), _) => {
                self.end_bytes(decoding, out);
                self.is_empty = false;
                self.say(surface, out);
            }
        }
    }

    /// Appends to `out` what was held back.
    pub(crate) fn finish(&mut self, vocabulary: &Vocabulary, out: &mut String) {
        self.end_bytes(vocabulary.decoding, out);
        out.extend(std::iter::repeat_n(char::REPLACEMENT_CHARACTER, self.replaced));
        self.replaced = 0;
    }

    /// Says the whole characters at the beginning of `bytes`.
    fn join_bytes(&mut self, decoding: Decoding, out: &mut String) {
        let bytes = std::mem::take(&mut self.bytes);
        let mut rest = bytes.as_slice();
        while let Err(error) = std::str::from_utf8(rest) {
            let (valid, broken) = rest.split_at(error.valid_up_to());
            self.say(&String::from_utf8_lossy(valid), out);
            rest = broken;
            let Some(invalid) = error.error_len() else {
                break;
            };
            self.say("\u{fffd}", out);
            // SentencePiece replaces each byte, everybody else each cut-off character.
            let skipped = if decoding == Decoding::Bytes { invalid } else { 1 };
            rest = &broken[skipped..];
        }
        if let Ok(valid) = std::str::from_utf8(rest) {
            self.say(valid, out);
            rest = &[];
        }
        self.bytes.extend_from_slice(rest);
    }

    /// Says what is left of a character that nothing completes any more.
    fn end_bytes(&mut self, decoding: Decoding, out: &mut String) {
        let replaced = match decoding {
            Decoding::Bytes => usize::from(!self.bytes.is_empty()),
            Decoding::SentencePiece { .. } => self.bytes.len(),
        };
        self.bytes.clear();
        for _ in 0..replaced {
            self.say("\u{fffd}", out);
        }
    }

    /// Appends text, but holds replacement characters at its end back.
    fn say(&mut self, text: &str, out: &mut String) {
        let certain = text.trim_end_matches(char::REPLACEMENT_CHARACTER);
        if !certain.is_empty() {
            out.extend(std::iter::repeat_n(char::REPLACEMENT_CHARACTER, self.replaced));
            self.replaced = 0;
            out.push_str(certain);
        }
        self.replaced += (text.len() - certain.len()) / char::REPLACEMENT_CHARACTER.len_utf8();
    }
}
