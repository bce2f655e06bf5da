//! The vocabulary inside a GGUF file, as a tokenizer.

use std::collections::HashMap;

use weights::TokenKind;

use crate::TextError;
use crate::cutter::Cutter;
use crate::hugging_face::{HuggingFace, bytes_of};
use crate::lexicon::{Decoding, Token, Vocabulary};
use crate::merge::{Piece, Pieces};
use crate::sentencepiece::{Entry, PieceKind, SentencePiece, Settings};
use crate::tekken::Tekken;

const CONTAINER: &str = "GGUF vocabulary";

/// Builds the table and the cutter.
pub(crate) fn build(stated: &weights::Vocabulary) -> Result<(Vocabulary, Cutter), TextError> {
    let count = stated.tokens.len();
    if count == 0 || stated.kinds.len() != count {
        return Err(TextError::malformed(
            CONTAINER,
            format!("{count} tokens and {} token types", stated.kinds.len()),
        ));
    }
    match stated.model.as_str() {
        "llama" => sentencepiece(stated),
        "gpt2" => byte_level(stated),
        other => Err(TextError::Tokenizer {
            container: CONTAINER,
            feature: format!("tokenizer model {other:?} (\"llama\" and \"gpt2\" are known)"),
        }),
    }
}

fn sentencepiece(stated: &weights::Vocabulary) -> Result<(Vocabulary, Cutter), TextError> {
    if stated.scores.len() != stated.tokens.len() {
        return Err(TextError::malformed(CONTAINER, "tokens and scores differ in number"));
    }
    let entries = stated.tokens.iter().zip(&stated.scores).zip(&stated.kinds);
    let entries = entries
        .map(|((text, &score), kind)| {
            let kind = match kind {
                TokenKind::Normal => PieceKind::Normal,
                TokenKind::Unknown => PieceKind::Unknown,
                TokenKind::Control => PieceKind::Control,
                TokenKind::UserDefined => PieceKind::UserDefined,
                TokenKind::Unused => PieceKind::Unused,
                TokenKind::Byte => PieceKind::Byte,
            };
            Entry { text: text.clone(), score, kind }
        })
        .collect();
    let space_prefix = stated.add_space_prefix.unwrap_or(true);
    let settings = Settings { space_prefix, ..Settings::default() };
    let (vocabulary, cutter) = SentencePiece::build(entries, settings)?;
    Ok((vocabulary, Cutter::SentencePiece(cutter)))
}

fn byte_level(stated: &weights::Vocabulary) -> Result<(Vocabulary, Cutter), TextError> {
    let entries = stated.tokens.iter().zip(&stated.kinds);
    let table = entries
        .map(|(text, kind)| match kind {
            TokenKind::Normal => Token::Text(bytes_of(text)),
            TokenKind::Byte | TokenKind::UserDefined => Token::Text(text.clone().into_bytes()),
            TokenKind::Control | TokenKind::Unknown => Token::Control(text.clone()),
            TokenKind::Unused => Token::Text(Vec::new()),
        })
        .collect();
    let cutter = match stated.pre.as_deref() {
        Some("tekken") => Cutter::Tekken(ranked(&table)?),
        Some("gpt-2" | "default") | None => Cutter::HuggingFace(Box::new(merged(stated)?)),
        Some(other) => {
            return Err(TextError::Tokenizer {
                container: CONTAINER,
                feature: format!("pre-tokenizer {other:?} (\"tekken\" and \"gpt-2\" are known)"),
            });
        }
    };
    Ok((Vocabulary::new(table, Decoding::Bytes), cutter))
}

/// Tekken's ids are in the order of its ranks, which makes the listed merges redundant.
fn ranked(table: &Vec<Token>) -> Result<Tekken, TextError> {
    let mut pieces = Pieces::with_capacity(table.len());
    for (id, token) in (0..).zip(table) {
        if let Token::Text(bytes) = token
            && !bytes.is_empty()
            && pieces.insert(bytes, Piece { id, rank: id }).is_some()
        {
            return Err(TextError::malformed(CONTAINER, format!("token {id} repeats another")));
        }
    }
    if let Some(byte) = (0..=255u8).find(|&byte| pieces.find(&[byte]).is_none()) {
        return Err(TextError::malformed(CONTAINER, format!("no token for byte {byte:#04x}")));
    }
    Tekken::ranked(pieces)
}

fn merged(stated: &weights::Vocabulary) -> Result<HuggingFace, TextError> {
    let malformed = |what: String| TextError::malformed(CONTAINER, what);
    let mut entries = HashMap::with_capacity(stated.tokens.len());
    for ((id, text), kind) in (0..).zip(&stated.tokens).zip(&stated.kinds) {
        if *kind == TokenKind::Normal && entries.insert(text.clone(), id).is_some() {
            return Err(malformed(format!("token {id} repeats another")));
        }
    }
    let merges = stated.merges.iter().enumerate().map(|(index, merge)| {
        merge
            .split_once(' ')
            .map(|(left, right)| (left.to_owned(), right.to_owned()))
            .ok_or_else(|| malformed(format!("merge {index} is not two tokens")))
    });
    HuggingFace::byte_level(entries, merges.collect::<Result<_, _>>()?)
}
