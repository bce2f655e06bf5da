//! `tekken.json`: byte-level byte-pair encoding by rank inside words, and control tokens in front of
//! the text tokens.
//!
//! Why not the `tokenizers` crate: it wants merges, which this file does not list and which cost
//! seconds to derive from 130 000 ranks; merging by rank needs only the ranks.

use std::borrow::Cow;

use serde::Deserialize;

use crate::lexicon::{Decoding, Token, Vocabulary};
use crate::merge::{Piece, Pieces};
use crate::words::{PATTERN, Words};
use crate::{TemplateVersion, TextError};

const CONTAINER: &str = "tekken.json";
/// Files of encoding v7 and earlier may leave their control tokens out; these are meant.
const CONTROLS: [&str; 20] = [
    "<unk>",
    "<s>",
    "</s>",
    "[INST]",
    "[/INST]",
    "[AVAILABLE_TOOLS]",
    "[/AVAILABLE_TOOLS]",
    "[TOOL_RESULTS]",
    "[/TOOL_RESULTS]",
    "[TOOL_CALLS]",
    "[IMG]",
    "<pad>",
    "[IMG_BREAK]",
    "[IMG_END]",
    "[PREFIX]",
    "[MIDDLE]",
    "[SUFFIX]",
    "[SYSTEM_PROMPT]",
    "[/SYSTEM_PROMPT]",
    "[TOOL_CONTENT]",
];

/// Cuts text into words and merges the bytes of each.
#[derive(Debug)]
pub(crate) struct Tekken {
    words: Words,
    pieces: Pieces,
    /// Added to a rank to give the token's id.
    controls: u32,
}

#[derive(Deserialize)]
struct File<'a> {
    #[serde(borrow)]
    config: Config<'a>,
    #[serde(borrow)]
    vocab: Vec<Entry<'a>>,
    #[serde(borrow, default)]
    special_tokens: Option<Vec<Control<'a>>>,
}

#[derive(Deserialize)]
struct Config<'a> {
    #[serde(borrow)]
    pattern: Cow<'a, str>,
    default_vocab_size: u32,
    default_num_special_tokens: u32,
    #[serde(borrow)]
    version: Cow<'a, str>,
}

#[derive(Deserialize)]
struct Entry<'a> {
    rank: u32,
    #[serde(borrow)]
    token_bytes: Cow<'a, str>,
}

#[derive(Deserialize)]
struct Control<'a> {
    rank: u32,
    #[serde(borrow)]
    token_str: Cow<'a, str>,
}

/// Whether JSON is of this kind: its first kilobytes tell, without a parse of the whole.
pub(crate) fn looks_like(content: &[u8]) -> bool {
    let head = &content[..content.len().min(4096)];
    let has = |word: &[u8]| head.windows(word.len()).any(|window| window == word);
    has(b"\"default_vocab_size\"") || has(b"\"token_bytes\"")
}

/// Reads the file.
pub(crate) fn parse(content: &[u8]) -> Result<(Vocabulary, Tekken, TemplateVersion), TextError> {
    let file: File<'_> = serde_json::from_slice(content)
        .map_err(|error| TextError::malformed(CONTAINER, error.to_string()))?;
    let version = match &*file.config.version {
        "v3" => TemplateVersion::V3Tekken,
        "v7" => TemplateVersion::V7,
        other => {
            return Err(TextError::Tokenizer {
                container: CONTAINER,
                feature: format!("prompt encoding {other:?} (v3 and v7 are known)"),
            });
        }
    };
    if file.config.pattern != PATTERN {
        let feature = "a word pattern other than the published one".into();
        return Err(TextError::Tokenizer { container: CONTAINER, feature });
    }
    let controls = file.config.default_num_special_tokens;
    let texts = file
        .config
        .default_vocab_size
        .checked_sub(controls)
        .map(|texts| texts as usize)
        .filter(|&texts| (256..=file.vocab.len()).contains(&texts))
        .ok_or_else(|| {
            TextError::malformed(CONTAINER, "the vocabulary is smaller than config says")
        })?;
    let mut tokens = control_tokens(file.special_tokens.as_deref(), controls)?;
    let mut pieces = Pieces::with_capacity(texts);
    for (rank, entry) in (0..).zip(&file.vocab[..texts]) {
        let bytes = decode_base64(&entry.token_bytes)
            .filter(|bytes| !bytes.is_empty())
            .ok_or_else(|| at(rank, "has no valid token_bytes"))?;
        let is_own_byte = rank > 255 || bytes == [rank as u8];
        if entry.rank != rank || !is_own_byte {
            return Err(at(rank, "is out of order"));
        }
        if pieces.insert(&bytes, Piece { id: rank, rank }).is_some() {
            return Err(at(rank, "repeats the bytes of an earlier one"));
        }
        tokens.push(Token::Text(bytes));
    }
    let words = Words::new()?;
    Ok((Vocabulary::new(tokens, Decoding::Bytes), Tekken { words, pieces, controls }, version))
}

fn at(rank: u32, what: &str) -> TextError {
    TextError::malformed(CONTAINER, format!("vocabulary entry {rank} {what}"))
}

/// The control tokens by id; ids that the file does not name are control tokens without use.
fn control_tokens(listed: Option<&[Control<'_>]>, count: u32) -> Result<Vec<Token>, TextError> {
    let default: Vec<Control<'_>>;
    let listed = match listed {
        Some(listed) => listed,
        None => {
            default = (0..)
                .zip(CONTROLS)
                .map(|(rank, name)| Control { rank, token_str: name.into() })
                .collect();
            &default
        }
    };
    let malformed = |message: String| TextError::malformed(CONTAINER, message);
    if listed.len() > count as usize || count > 1 << 20 {
        return Err(malformed(format!("{} control tokens where {count} are meant", listed.len())));
    }
    let mut names: Vec<Option<String>> = vec![None; count as usize];
    for control in listed {
        let slot = names
            .get_mut(control.rank as usize)
            .filter(|slot| slot.is_none())
            .ok_or_else(|| malformed(format!("control token {} is misplaced", control.rank)))?;
        *slot = Some(control.token_str.clone().into_owned());
    }
    let name = |(id, name): (usize, Option<String>)| {
        Token::Control(name.unwrap_or_else(|| format!("<SPECIAL_{id}>")))
    };
    Ok(names.into_iter().enumerate().map(name).collect())
}

impl Tekken {
    /// The cutter of a vocabulary whose ids are in the order of their ranks.
    pub(crate) fn ranked(pieces: Pieces) -> Result<Self, TextError> {
        Ok(Self { words: Words::new()?, pieces, controls: 0 })
    }

    /// Cuts `text`, appending to `tokens`.
    pub(crate) fn encode(&self, text: &str, tokens: &mut Vec<u32>) {
        let mut starts = Vec::new();
        self.words.cut(text, |word| {
            if let Some(piece) = self.pieces.find(word.as_bytes()) {
                tokens.push(piece.id + self.controls);
                return;
            }
            starts.clear();
            starts.extend(0..word.len() as u32);
            self.pieces.merge(word.as_bytes(), &mut starts);
            for (index, &start) in starts.iter().enumerate() {
                let end = starts.get(index + 1).map_or(word.len(), |&end| end as usize);
                let piece = self.pieces.find(&word.as_bytes()[start as usize..end]);
                tokens
                    .push(piece.expect("merging leaves single bytes or pieces").id + self.controls);
            }
        });
    }
}

/// Bytes of standard base64 with padding; `None` where it is malformed.
fn decode_base64(text: &str) -> Option<Vec<u8>> {
    let digits = text.trim_end_matches('=');
    if !text.len().is_multiple_of(4) || text.len() - digits.len() > 2 {
        return None;
    }
    let mut bytes = Vec::with_capacity(digits.len() * 3 / 4);
    for quad in digits.as_bytes().chunks(4) {
        let mut bits = 0u32;
        for &digit in quad {
            let value = match digit {
                b'A'..=b'Z' => digit - b'A',
                b'a'..=b'z' => digit - b'a' + 26,
                b'0'..=b'9' => digit - b'0' + 52,
                b'+' => 62,
                b'/' => 63,
                _ => return None,
            };
            bits = bits << 6 | u32::from(value);
        }
        bits <<= 6 * (4 - quad.len());
        bytes.extend_from_slice(&bits.to_be_bytes()[1..quad.len()]);
    }
    Some(bytes)
}
