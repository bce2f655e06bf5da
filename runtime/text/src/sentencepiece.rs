//! SentencePiece models: `tokenizer.model*` files and the "llama" vocabularies of GGUF.
//!
//! Why not the `tokenizers` crate: its merges are pairs of tokens, while SentencePiece looks up the
//! joined text, which also joins characters that are not tokens themselves, and it takes
//! user-defined symbols out first. The `.model` file is a protobuf message of which four fields
//! matter, so a bounded reader of the wire format replaces a generated one and its compiler.

use std::cmp::Reverse;

use crate::lexicon::{Decoding, Token, Vocabulary};
use crate::merge::{Piece, Pieces};
use crate::{TextError, wire};

const CONTAINER: &str = "SentencePiece model";
const SPACE: &str = "\u{2581}";
/// What SentencePiece prints for the unknown token unless the file says otherwise.
const UNKNOWN_SURFACE: &str = " \u{2047} ";

/// Cuts text as SentencePiece's byte-pair encoding does.
#[derive(Debug)]
pub(crate) struct SentencePiece {
    pieces: Pieces,
    /// Symbols that are taken out of the text before it is merged, longest first.
    symbols: Vec<(String, u32)>,
    /// The characters that begin them.
    symbol_leads: Vec<char>,
    bytes: Option<Box<[u32; 256]>>,
    unknown: u32,
    space_prefix: bool,
    /// No piece goes on behind a word into the next space, so words can be merged apart.
    words_are_apart: bool,
}

/// What a piece is for, numbered as in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PieceKind {
    Normal = 1,
    Unknown = 2,
    Control = 3,
    UserDefined = 4,
    Unused = 5,
    Byte = 6,
}

/// One entry of the model, as the container states it.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) text: String,
    pub(crate) score: f32,
    pub(crate) kind: PieceKind,
}

/// The settings of a model that change how text is cut.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) space_prefix: bool,
    pub(crate) unknown_surface: String,
}

impl Default for Settings {
    fn default() -> Self {
        Self { space_prefix: true, unknown_surface: UNKNOWN_SURFACE.into() }
    }
}

/// Reads a `.model` file.
pub(crate) fn parse(bytes: &[u8]) -> Result<(Vocabulary, SentencePiece), TextError> {
    let malformed = |error: wire::WireError| TextError::malformed(CONTAINER, error.to_string());
    let mut entries = Vec::new();
    let (mut trainer, mut normalizer): (&[u8], &[u8]) = (&[], &[]);
    for field in wire::fields(bytes) {
        match field.map_err(malformed)? {
            (1, wire::Value::Bytes(piece)) => entries.push(entry(piece).map_err(malformed)?),
            (2, wire::Value::Bytes(message)) => trainer = message,
            (3, wire::Value::Bytes(message)) => normalizer = message,
            _ => {}
        }
    }
    let unknown_surface = check_trainer(trainer)?;
    let space_prefix = check_normalizer(normalizer)?;
    SentencePiece::build(entries, Settings { space_prefix, unknown_surface })
}

fn entry(message: &[u8]) -> Result<Entry, wire::WireError> {
    let mut entry = Entry { text: String::new(), score: 0.0, kind: PieceKind::Normal };
    for field in wire::fields(message) {
        match field? {
            (1, wire::Value::Bytes(text)) => entry.text = wire::text(text)?,
            (2, wire::Value::Word32(bits)) => entry.score = f32::from_bits(bits),
            (3, wire::Value::Number(kind)) => {
                entry.kind = match kind {
                    1 => PieceKind::Normal,
                    2 => PieceKind::Unknown,
                    3 => PieceKind::Control,
                    4 => PieceKind::UserDefined,
                    5 => PieceKind::Unused,
                    6 => PieceKind::Byte,
                    _ => return Err(wire::WireError::new("a piece is of an unknown type")),
                }
            }
            _ => {}
        }
    }
    Ok(entry)
}

/// Refuses what cuts text differently; gives the surface of the unknown token.
fn check_trainer(message: &[u8]) -> Result<String, TextError> {
    // 1 is the default of the format: the unigram model.
    let (mut model_type, mut suffix, mut surface) = (1, 0, UNKNOWN_SURFACE.to_owned());
    for field in wire::fields(message) {
        match field.map_err(|error| TextError::malformed(CONTAINER, error.to_string()))? {
            (3, wire::Value::Number(number)) => model_type = number,
            (24, wire::Value::Number(number)) => suffix = number,
            (44, wire::Value::Bytes(text)) => {
                surface = wire::text(text)
                    .map_err(|error| TextError::malformed(CONTAINER, error.to_string()))?;
            }
            _ => {}
        }
    }
    if model_type != 2 {
        return Err(unsupported("a model type other than byte-pair encoding"));
    }
    if suffix != 0 {
        return Err(unsupported("white space as a suffix"));
    }
    Ok(surface)
}

/// Refuses rewriting of text; gives whether a space goes in front.
fn check_normalizer(message: &[u8]) -> Result<bool, TextError> {
    let (mut space_prefix, mut removes_spaces, mut escapes, mut rewrites) = (1, 1, 1, false);
    for field in wire::fields(message) {
        match field.map_err(|error| TextError::malformed(CONTAINER, error.to_string()))? {
            (2 | 6, wire::Value::Bytes(rules)) => rewrites |= !rules.is_empty(),
            (3, wire::Value::Number(number)) => space_prefix = number,
            (4, wire::Value::Number(number)) => removes_spaces = number,
            (5, wire::Value::Number(number)) => escapes = number,
            _ => {}
        }
    }
    if rewrites {
        return Err(unsupported("text normalization rules"));
    }
    if removes_spaces != 0 || escapes == 0 {
        return Err(unsupported("removal or bare spelling of spaces"));
    }
    Ok(space_prefix != 0)
}

fn unsupported(feature: &str) -> TextError {
    TextError::Tokenizer { container: CONTAINER, feature: feature.into() }
}

impl SentencePiece {
    /// Sorts the entries by what they are for.
    pub(crate) fn build(
        entries: Vec<Entry>,
        settings: Settings,
    ) -> Result<(Vocabulary, Self), TextError> {
        let ranks = ranks(&entries)?;
        let mut pieces = Pieces::with_capacity(entries.len());
        let mut symbols = Vec::new();
        let mut bytes = [None; 256];
        let mut unknown = None;
        let mut words_are_apart = true;
        let mut tokens = Vec::with_capacity(entries.len());
        for ((id, entry), rank) in (0..).zip(&entries).zip(ranks) {
            tokens.push(token(entry, &settings)?);
            match entry.kind {
                PieceKind::Unknown if unknown.replace(id).is_some() => {
                    return Err(TextError::malformed(CONTAINER, "two unknown tokens"));
                }
                PieceKind::Byte => bytes[usize::from(byte_value(&entry.text)?)] = Some(id),
                PieceKind::Normal | PieceKind::UserDefined => {
                    if entry.text.is_empty() {
                        return Err(TextError::malformed(CONTAINER, "a piece without text"));
                    }
                    words_are_apart &= !entry.text.trim_start_matches(SPACE).contains(SPACE);
                    if entry.kind == PieceKind::UserDefined {
                        symbols.push((entry.text.clone(), id));
                    }
                    if pieces.insert(entry.text.as_bytes(), Piece { id, rank }).is_some() {
                        return Err(TextError::malformed(
                            CONTAINER,
                            format!("piece {id} repeats the text of an earlier one"),
                        ));
                    }
                }
                PieceKind::Unknown | PieceKind::Control | PieceKind::Unused => {}
            }
        }
        let unknown = unknown.ok_or_else(|| TextError::malformed(CONTAINER, "no unknown token"))?;
        symbols.sort_by_key(|(text, _)| Reverse(text.len()));
        let bytes = all(&bytes);
        let vocabulary = Vocabulary::new(
            tokens,
            Decoding::SentencePiece { strips_space: settings.space_prefix },
        );
        let space_prefix = settings.space_prefix;
        let mut symbol_leads: Vec<char> =
            symbols.iter().filter_map(|(symbol, _)| symbol.chars().next()).collect();
        symbol_leads.sort_unstable();
        symbol_leads.dedup();
        let cutter =
            Self { pieces, symbols, symbol_leads, bytes, unknown, space_prefix, words_are_apart };
        Ok((vocabulary, cutter))
    }

    /// Cuts `text`, appending to `tokens`.
    pub(crate) fn encode(&self, text: &str, tokens: &mut Vec<u32>) {
        if text.is_empty() {
            return;
        }
        self.encode_behind(if self.space_prefix { SPACE } else { "" }, text, tokens);
    }

    /// Cuts `text` that goes on behind other text, appending to `tokens`.
    pub(crate) fn encode_continued(&self, text: &str, tokens: &mut Vec<u32>) {
        self.encode_behind("", text, tokens);
    }

    fn encode_behind(&self, prefix: &str, text: &str, tokens: &mut Vec<u32>) {
        let mut escaped = String::with_capacity(text.len() + text.len() / 2);
        escaped.push_str(prefix);
        for (index, word) in text.split(' ').enumerate() {
            if index > 0 {
                escaped.push_str(SPACE);
            }
            escaped.push_str(word);
        }
        let mut starts = Vec::new();
        let mut rest = escaped.as_str();
        while let Some((before, symbol, after)) = self.next_symbol(rest) {
            self.encode_plain(before, &mut starts, tokens);
            tokens.push(symbol);
            rest = after;
        }
        self.encode_plain(rest, &mut starts, tokens);
    }

    /// The first user-defined symbol in `text`, with what stands before and behind it.
    fn next_symbol<'a>(&self, text: &'a str) -> Option<(&'a str, u32, &'a str)> {
        let mut from = 0;
        while let Some(found) = text[from..].find(self.symbol_leads.as_slice()) {
            let at = from + found;
            let hit = self.symbols.iter().find(|(symbol, _)| text[at..].starts_with(symbol));
            if let Some((symbol, id)) = hit {
                return Some((&text[..at], *id, &text[at + symbol.len()..]));
            }
            from = at + text[at..].chars().next().map_or(1, char::len_utf8);
        }
        None
    }

    fn encode_plain(&self, text: &str, starts: &mut Vec<u32>, tokens: &mut Vec<u32>) {
        if !self.words_are_apart {
            return self.encode_word(text, starts, tokens);
        }
        let mut rest = text;
        while !rest.is_empty() {
            let lead = rest.len() - rest.trim_start_matches(SPACE).len();
            let end = rest[lead..].find(SPACE).map_or(rest.len(), |at| lead + at);
            self.encode_word(&rest[..end], starts, tokens);
            rest = &rest[end..];
        }
    }

    fn encode_word(&self, word: &str, starts: &mut Vec<u32>, tokens: &mut Vec<u32>) {
        starts.clear();
        starts.extend(word.char_indices().map(|(at, _)| at as u32));
        self.pieces.merge(word.as_bytes(), starts);
        for (index, &start) in starts.iter().enumerate() {
            let end = starts.get(index + 1).map_or(word.len(), |&end| end as usize);
            let piece = &word.as_bytes()[start as usize..end];
            match (self.pieces.find(piece), &self.bytes) {
                (Some(found), _) => tokens.push(found.id),
                (None, Some(bytes)) => {
                    tokens.extend(piece.iter().map(|&byte| bytes[usize::from(byte)]));
                }
                // A run of what the vocabulary cannot say is one unknown token.
                (None, None) if tokens.last() == Some(&self.unknown) => {}
                (None, None) => tokens.push(self.unknown),
            }
        }
    }
}

/// Dense ranks of the scores: the best is 0, equal scores share one.
fn ranks(entries: &[Entry]) -> Result<Vec<u32>, TextError> {
    let mut scores: Vec<f32> = entries.iter().map(|entry| entry.score).collect();
    if let Some(id) = scores.iter().position(|score| score.is_nan()) {
        return Err(TextError::malformed(
            CONTAINER,
            format!("the score of piece {id} is no number"),
        ));
    }
    // Adding 0 turns -0 into 0, which the format takes for equal.
    scores.iter_mut().for_each(|score| *score += 0.0);
    let own = scores.clone();
    scores.sort_unstable_by(|a, b| b.total_cmp(a));
    scores.dedup();
    let rank = |score: &f32| scores.partition_point(|other| other > score) as u32;
    Ok(own.iter().map(rank).collect())
}

fn token(entry: &Entry, settings: &Settings) -> Result<Token, TextError> {
    Ok(match entry.kind {
        PieceKind::Control => Token::Control(entry.text.clone()),
        PieceKind::Unknown => {
            Token::Unknown { name: entry.text.clone(), surface: settings.unknown_surface.clone() }
        }
        PieceKind::Byte => Token::Byte(byte_value(&entry.text)?),
        PieceKind::Normal | PieceKind::UserDefined | PieceKind::Unused => {
            Token::Text(entry.text.replace(SPACE, " ").into_bytes())
        }
    })
}

/// The byte that a piece such as `<0x0A>` stands for.
pub(crate) fn byte_value(text: &str) -> Result<u8, TextError> {
    text.strip_prefix("<0x")
        .and_then(|rest| rest.strip_suffix('>'))
        .filter(|digits| digits.len() == 2)
        .and_then(|digits| u8::from_str_radix(digits, 16).ok())
        .ok_or_else(|| TextError::malformed(CONTAINER, "a byte piece is not spelled <0x00>"))
}

/// The byte pieces, if the model has all of them.
fn all(bytes: &[Option<u32>; 256]) -> Option<Box<[u32; 256]>> {
    let mut found = Box::new([0; 256]);
    for (slot, byte) in found.iter_mut().zip(bytes) {
        *slot = (*byte)?;
    }
    Some(found)
}
