//! A vocabulary of its own: byte-pair pieces learned from lessons, with the control tokens of
//! template version 3.

use std::collections::HashMap;

use anyhow::{Result, anyhow};
use protocol::TokenId;
use serde_json::json;
use text::{TemplateVersion, Tokenizer, prompt_texts};
use tokenizers::models::bpe::{BPE, BpeTrainer};
use weights::{TokenKind, Vocabulary};

use crate::dice::Dice;
use crate::lessons::{Lesson, Teacher, Wish};

/// The tokens of template version 3, at its ids.
pub(crate) const CONTROLS: [&str; 14] = [
    "<unk>",
    "<s>",
    "</s>",
    "[INST]",
    "[/INST]",
    "[TOOL_CALLS]",
    "[AVAILABLE_TOOLS]",
    "[/AVAILABLE_TOOLS]",
    "[TOOL_RESULTS]",
    "[/TOOL_RESULTS]",
    "[IMG]",
    "[PREFIX]",
    "[MIDDLE]",
    "[SUFFIX]",
];
const BYTES: usize = 256;
/// The first of the tokens that tell topics: those of single bytes, which nothing else needs there.
pub(crate) const TOPICS: usize = CONTROLS.len();
/// Stands for a space in pieces.
const SPACE: char = '▁';
/// Groups of lessons that the pieces are learned from.
const GROUPS: usize = 6000;

/// Learns a vocabulary of `size` tokens from what training sees.
pub(crate) fn learn(teacher: &Teacher, size: usize, seed: u64) -> Result<Vocabulary> {
    let mut words: HashMap<String, u64> = HashMap::new();
    let mut dice = Dice::new(seed);
    for _ in 0..GROUPS {
        let lessons = teacher.group(4, &Wish::TAUGHT, &mut dice);
        if let Some(Lesson { messages, tools, .. }) = lessons.first() {
            let with_tools = prompt_texts(TemplateVersion::V3, messages, tools)?;
            with_tools.iter().for_each(|text| count(text, &mut words));
        }
        for lesson in &lessons {
            texts(lesson)?.iter().for_each(|text| count(text, &mut words));
        }
    }
    let texts = words.into_iter().map(|(word, count)| (word.into(), count)).collect();
    let trainer = BpeTrainer::builder()
        .vocab_size(size - CONTROLS.len() - BYTES)
        .min_frequency(2)
        .show_progress(false)
        .build();
    let mut pieces = BPE::default();
    trainer
        .do_train(&texts, &mut pieces)
        .map_err(|error| anyhow!("learning the pieces: {error}"))?;
    let mut pieces: Vec<(String, u32)> = pieces.get_vocab().into_iter().collect();
    // Letters first, then what was joined, in the order in which it was.
    pieces.sort_by_key(|(_, id)| *id);
    Ok(assemble(pieces.into_iter().map(|(piece, _)| piece)))
}

fn assemble(pieces: impl Iterator<Item = String>) -> Vocabulary {
    let controls = CONTROLS.map(str::to_owned).into_iter();
    let bytes = (0..BYTES).map(|byte| format!("<0x{byte:02X}>"));
    of_tokens(controls.chain(bytes).chain(pieces).collect())
}

/// The vocabulary whose tokens these are: controls, bytes, pieces.
pub(crate) fn of_tokens(tokens: Vec<String>) -> Vocabulary {
    let kind = |id: usize| match id {
        0 => TokenKind::Unknown,
        _ if id < CONTROLS.len() => TokenKind::Control,
        _ if id < CONTROLS.len() + BYTES => TokenKind::Byte,
        _ => TokenKind::Normal,
    };
    let tokens = tokens.into_iter().enumerate().map(|(id, token)| (token, kind(id))).collect();
    Vocabulary {
        add_space_prefix: Some(true),
        add_bos: Some(true),
        ..Vocabulary::new("llama", tokens)
    }
}

/// Everything that is said in a lesson, tools apart, as a prompt spells it.
fn texts(lesson: &Lesson) -> Result<Vec<String>> {
    let mut texts = prompt_texts(TemplateVersion::V3, &lesson.messages, &[])?;
    texts.push(lesson.answer.text());
    Ok(texts)
}

/// Counts the stretches of a text inside which pieces may grow: words without the space before them,
/// so that a name is cut alike in a sentence and between quotes; single digits; runs of marks; and
/// the frames of JSON.
fn count(text: &str, words: &mut HashMap<String, u64>) {
    let text = text.replace(' ', "▁");
    *words.entry(SPACE.to_string()).or_default() += 1;
    let mut rest = text.as_str();
    while !rest.is_empty() {
        let length = frame(rest).unwrap_or_else(|| stretch(rest));
        let (word, behind) = rest.split_at(length);
        *words.entry(word.to_owned()).or_default() += 1;
        rest = behind;
    }
}

/// What stands before the name of a function, among tools and in calls alike.
pub(crate) const NAME: &str = "name\":▁\"";

/// What stands behind the description of a function, and nowhere else.
pub(crate) const PARAMETERS: &str = "parameters";

/// The token that a frame or a word is, where the vocabulary has it.
pub(crate) fn token(piece: &str, tokenizer: &Tokenizer) -> Option<TokenId> {
    let text = piece.replace(SPACE, " ");
    let tokens = tokenizer.encode(&text).ok()?;
    tokens.last().copied().filter(|token| tokenizer.decode(&[*token]) == text)
}

/// The tokens of a text that stands behind other text, without the space that begins a text.
pub(crate) fn inside(text: &str, tokenizer: &Tokenizer) -> Result<Vec<TokenId>> {
    let behind = tokenizer.encode(&format!("\"{text}"))?;
    let start = tokenizer.encode("\"")?.len();
    Ok(behind[start..].to_vec())
}

/// What all functions, calls and results have around their names and texts.
const FRAMES: [&str; 26] = [
    "[{\"type\":▁\"function\",▁\"function\":▁{\"",
    "},▁{\"type\":▁\"function\",▁\"function\":▁{\"",
    "\",▁\"parameters\":▁{\"type\":▁\"object\",▁\"properties\":▁{\"",
    "\",▁\"description\":▁\"",
    "\":▁{\"description\":▁\"",
    "\":▁{\"type\":▁\"string\"",
    "\":▁{\"type\":▁\"integer\"",
    "\":▁{\"type\":▁\"number\"",
    "\":▁{\"type\":▁\"boolean\"",
    "\",▁\"type\":▁\"string\"",
    "\",▁\"type\":▁\"integer\"",
    "\",▁\"type\":▁\"number\"",
    ",▁\"description\":▁\"",
    ",▁\"enum\":▁[\"",
    ",▁\"additionalProperties\":▁false}}",
    "},▁\"required\":▁[\"",
    "},▁\"",
    "\"]}}",
    NAME,
    "},▁{\"",
    "\",▁\"arguments\":▁{\"",
    "},▁\"id\":▁\"",
    "{\"content\":▁",
    ",▁\"call_id\":▁\"",
    "\",▁\"",
    "\":▁\"",
];

/// The length of the frame that a text begins with.
fn frame(text: &str) -> Option<usize> {
    FRAMES.iter().find(|frame| text.starts_with(**frame)).map(|frame| frame.len())
}

/// The length of the word, the digit, the space, or the run of marks that a text begins with.
fn stretch(text: &str) -> usize {
    #[derive(PartialEq)]
    enum Kind {
        Letter,
        Digit,
        Space,
        Mark,
    }
    let kind = |letter: char| match letter {
        SPACE => Kind::Space,
        letter if letter.is_alphabetic() => Kind::Letter,
        letter if letter.is_ascii_digit() => Kind::Digit,
        _ => Kind::Mark,
    };
    let mut letters = text.char_indices();
    let Some((_, first)) = letters.next() else { return 0 };
    let grows = matches!(kind(first), Kind::Letter | Kind::Mark);
    letters
        .find(|(_, letter)| !grows || kind(*letter) != kind(first))
        .map_or(text.len(), |(at, _)| at)
}

/// The same vocabulary for the `tokenizers` library: every pair whose joint is a piece may be
/// joined, the best pieces first, which is how SentencePiece cuts.
pub(crate) fn tokenizer_json(vocabulary: &Vocabulary) -> String {
    let ids: HashMap<&str, usize> =
        vocabulary.tokens.iter().enumerate().map(|(id, token)| (token.as_str(), id)).collect();
    let mut merges = Vec::new();
    for (token, kind) in vocabulary.tokens.iter().zip(&vocabulary.kinds) {
        if *kind != TokenKind::Normal {
            continue;
        }
        for (at, _) in token.char_indices().skip(1) {
            let (left, right) = token.split_at(at);
            if ids.contains_key(left) && ids.contains_key(right) {
                merges.push(json!([left, right]));
            }
        }
    }
    let added = CONTROLS.iter().enumerate().map(|(id, name)| {
        json!({"id": id, "content": name, "single_word": false, "lstrip": false, "rstrip": false,
               "normalized": false, "special": true})
    });
    let whole = json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added.collect::<Vec<_>>(),
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "▁"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]},
        "pre_tokenizer": null,
        "post_processor": null,
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
            {"type": "ByteFallback"},
            {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
        "model": {"type": "BPE", "dropout": null, "unk_token": "<unk>",
            "continuing_subword_prefix": null, "end_of_word_suffix": null, "fuse_unk": true,
            "byte_fallback": true, "ignore_merges": false, "vocab": ids, "merges": merges},
    });
    whole.to_string()
}

#[cfg(test)]
#[path = "vocabulary_tests.rs"]
#[allow(clippy::unwrap_used, reason = "a test may fail")]
mod tests;
