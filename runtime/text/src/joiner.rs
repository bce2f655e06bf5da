//! Joins what tokens say to whole characters, one token after the other.

use protocol::TokenId;

use crate::lexicon::{Decoding, Token, Vocabulary};

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
