//! `tokenizer.json`, and byte-level vocabularies with merges, on the `tokenizers` crate.
//!
//! The crate cuts the text. Joining it again is done by the table of [`Vocabulary`], because the
//! crate's decoders want all tokens at once and an answer comes one by one.

use std::collections::HashMap;

use serde_json::Value;
use tokenizers::models::bpe::BPE;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;

use crate::TextError;
use crate::lexicon::{Decoding, Token, Vocabulary};
use crate::sentencepiece::byte_value;

const CONTAINER: &str = "tokenizer.json";
const SPACE: &str = "\u{2581}";

/// Cuts text as the file's pipeline does.
#[derive(Debug)]
pub(crate) struct HuggingFace {
    pipeline: tokenizers::Tokenizer,
}

/// Reads the file.
pub(crate) fn parse(content: &[u8]) -> Result<(Vocabulary, HuggingFace), TextError> {
    let mut pipeline = tokenizers::Tokenizer::from_bytes(content)
        .map_err(|error| TextError::malformed(CONTAINER, error.to_string()))?;
    // The crate's word for: control tokens in a text are text.
    pipeline.set_encode_special_tokens(true);
    let _ = pipeline.with_truncation(None);
    pipeline.with_padding(None);
    let decoding = decoding(&pipeline)?;
    let added = pipeline.get_added_tokens_decoder();
    let entries = pipeline.get_vocab(true);
    let highest = entries.values().copied().max().unwrap_or(0) as usize;
    if highest > 2 * entries.len() + 4096 {
        return Err(TextError::malformed(CONTAINER, "token ids leave most of their range unused"));
    }
    // Ids that nothing names say nothing.
    let mut tokens = vec![Token::Text(Vec::new()); highest + 1];
    for (text, id) in entries {
        let token = match added.get(&id) {
            Some(added) if added.special => Token::Control(text),
            Some(_) => Token::Text(text.into_bytes()),
            None => token(text, decoding),
        };
        tokens[id as usize] = token;
    }
    Ok((Vocabulary::new(tokens, decoding), HuggingFace { pipeline }))
}

fn decoding(pipeline: &tokenizers::Tokenizer) -> Result<Decoding, TextError> {
    let stated = serde_json::to_value(pipeline.get_decoder())
        .map_err(|error| TextError::malformed(CONTAINER, error.to_string()))?;
    let steps = match stated.get("decoders").and_then(Value::as_array) {
        Some(steps) => steps.as_slice(),
        None => std::slice::from_ref(&stated),
    };
    let step = |name: &str| {
        steps.iter().find(|step| step.get("type").and_then(Value::as_str) == Some(name))
    };
    if step("ByteLevel").is_some() {
        return Ok(Decoding::Bytes);
    }
    if step("ByteFallback").is_none() && step("Metaspace").is_none() {
        return Err(TextError::Tokenizer {
            container: CONTAINER,
            feature: "a decoder other than ByteLevel, ByteFallback or Metaspace".into(),
        });
    }
    let scheme = step("Metaspace").and_then(|step| step.get("prepend_scheme"));
    let prepends = scheme.is_some_and(|scheme| scheme.as_str() != Some("never"));
    Ok(Decoding::SentencePiece { strips_space: prepends || step("Strip").is_some() })
}

fn token(text: String, decoding: Decoding) -> Token {
    match decoding {
        Decoding::Bytes => Token::Text(bytes_of(&text)),
        Decoding::SentencePiece { .. } => match byte_value(&text) {
            Ok(byte) => Token::Byte(byte),
            Err(_) => Token::Text(text.replace(SPACE, " ").into_bytes()),
        },
    }
}

impl HuggingFace {
    /// A byte-level pipeline with GPT-2's way to cut words.
    pub(crate) fn byte_level(
        entries: HashMap<String, u32>,
        merges: Vec<(String, String)>,
    ) -> Result<Self, TextError> {
        let malformed = |error: tokenizers::Error| {
            TextError::malformed("byte-level vocabulary", error.to_string())
        };
        let entries: tokenizers::models::bpe::Vocab = entries.into_iter().collect();
        let model = BPE::builder().vocab_and_merges(entries, merges).build().map_err(malformed)?;
        let mut pipeline = tokenizers::Tokenizer::new(model);
        pipeline.with_pre_tokenizer(Some(ByteLevel::new(false, true, true)));
        Ok(Self { pipeline })
    }

    /// Cuts `text`, appending to `tokens`.
    pub(crate) fn encode(&self, text: &str, tokens: &mut Vec<u32>) -> Result<(), TextError> {
        let encoding = self
            .pipeline
            .encode_fast(text, false)
            .map_err(|error| TextError::Uncut { message: error.to_string() })?;
        tokens.extend_from_slice(encoding.get_ids());
        Ok(())
    }
}

/// The bytes that a byte-level token spells with one printable character each; characters that
/// stand for no byte stay as they are.
pub(crate) fn bytes_of(text: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    for character in text.chars() {
        match byte_of(character) {
            Some(byte) => bytes.push(byte),
            None => bytes.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    bytes
}

/// Printable Latin-1 characters stand for themselves; the other bytes, in order, are the characters
/// from U+0100 on.
fn byte_of(character: char) -> Option<u8> {
    let is_printable = |byte: u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    match u32::from(character) {
        code @ 0..=0xff => u8::try_from(code).ok().filter(|&byte| is_printable(byte)),
        code => (0..=255).filter(|&byte| !is_printable(byte)).nth(code as usize - 0x100),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn byte_level_characters_stand_for_every_byte_once() {
        let mut bytes: Vec<u8> =
            (0..0x200).filter_map(char::from_u32).filter_map(byte_of).collect();
        bytes.sort_unstable();
        assert_eq!(bytes, (0..=255).collect::<Vec<u8>>());
        assert_eq!(bytes_of("\u{120}the\u{10a}"), b" the\n");
    }
}
