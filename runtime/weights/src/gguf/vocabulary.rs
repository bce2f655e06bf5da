//! The vocabulary in a GGUF file's metadata.

use super::Keys;
use super::header::{Array, Kind};
use crate::hyper::VOCABULARY_MAX;
use crate::{TokenKind, Vocabulary, WeightsError};

pub(super) const MODEL: &str = "tokenizer.ggml.model";
pub(super) const TOKENS: &str = "tokenizer.ggml.tokens";
pub(super) const SCORES: &str = "tokenizer.ggml.scores";
pub(super) const KINDS: &str = "tokenizer.ggml.token_type";
const MERGES: &str = "tokenizer.ggml.merges";
/// Merges of a byte-pair vocabulary; there are about two for each token.
const MERGES_MAX: u64 = 4 * VOCABULARY_MAX;

/// The vocabulary, if the file has one.
pub(super) fn read(keys: &Keys<'_>) -> Result<Option<Vocabulary>, WeightsError> {
    let Some(model) = keys.text(MODEL)? else {
        return Ok(None);
    };
    if matches!(model, "none" | "no_vocab") {
        return Ok(None);
    }
    if !matches!(model, "llama" | "gpt2") {
        return Err(keys.unsupported(
            format!("tokenizer model {:?}", model.chars().take(60).collect::<String>()),
            "Only \"llama\" (SentencePiece) and \"gpt2\" (byte-pair) vocabularies are read.",
        ));
    }
    let tokens = texts(keys, TOKENS, VOCABULARY_MAX)?.ok_or_else(|| keys.missing(TOKENS))?;
    let count = tokens.len();
    Ok(Some(Vocabulary {
        model: model.to_owned(),
        pre: keys.text("tokenizer.ggml.pre")?.map(str::to_owned),
        scores: scores(keys, count)?,
        kinds: kinds(keys, count)?,
        merges: texts(keys, MERGES, MERGES_MAX)?.unwrap_or_default(),
        bos: token_id(keys, "tokenizer.ggml.bos_token_id", count)?,
        eos: token_id(keys, "tokenizer.ggml.eos_token_id", count)?,
        unknown: token_id(keys, "tokenizer.ggml.unknown_token_id", count)?,
        add_space_prefix: keys.bool("tokenizer.ggml.add_space_prefix")?,
        add_bos: keys.bool("tokenizer.ggml.add_bos_token")?,
        chat_template: keys.text("tokenizer.chat_template")?.map(str::to_owned),
        tokens,
    }))
}

fn texts(keys: &Keys<'_>, key: &str, limit: u64) -> Result<Option<Vec<String>>, WeightsError> {
    let Some(array) = keys.array(key)? else {
        return Ok(None);
    };
    keys.file.within(format!("the length of `{key}`"), array.count as u64, limit)?;
    let texts = array.texts().ok_or_else(|| keys.wrong(key, "an array of text"))?;
    Ok(Some(texts.map(str::to_owned).collect()))
}

/// An array with one element for each token.
fn of_tokens<'a>(
    keys: &Keys<'a>,
    key: &str,
    count: usize,
) -> Result<Option<Array<'a>>, WeightsError> {
    let Some(array) = keys.array(key)? else {
        return Ok(None);
    };
    if array.count != count {
        return Err(keys.wrong(key, format!("one element for each of {count} tokens")));
    }
    Ok(Some(array))
}

fn scores(keys: &Keys<'_>, count: usize) -> Result<Vec<f32>, WeightsError> {
    let Some(array) = of_tokens(keys, SCORES, count)? else {
        return Ok(Vec::new());
    };
    let words = array.words(Kind::F32).ok_or_else(|| keys.wrong(SCORES, "an array of f32"))?;
    let scores: Vec<f32> = words.map(f32::from_le_bytes).collect();
    if scores.iter().any(|score| score.is_nan()) {
        return Err(keys.wrong(SCORES, "numbers"));
    }
    Ok(scores)
}

fn kinds(keys: &Keys<'_>, count: usize) -> Result<Vec<TokenKind>, WeightsError> {
    let Some(array) = of_tokens(keys, KINDS, count)? else {
        return Ok(vec![TokenKind::Normal; count]);
    };
    let wrong = || keys.wrong(KINDS, "an array of i32 from 1 to 6");
    let words = array.words(Kind::I32).ok_or_else(wrong)?;
    words
        .map(|word| {
            let number = i32::from_le_bytes(word);
            TokenKind::ALL.into_iter().find(|kind| kind.number() == number).ok_or_else(wrong)
        })
        .collect()
}

fn token_id(keys: &Keys<'_>, key: &str, count: usize) -> Result<Option<u32>, WeightsError> {
    let Some(id) = keys.integer(key)? else {
        return Ok(None);
    };
    let known = u32::try_from(id).ok().filter(|&id| (id as usize) < count);
    known.map(Some).ok_or_else(|| keys.wrong(key, format!("a token id below {count}")))
}
