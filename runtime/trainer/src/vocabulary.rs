//! A vocabulary of its own: byte-pair pieces learned from lessons, with the control tokens of
//! template version 3.

use std::collections::HashMap;
use std::io;

use anyhow::{Result, anyhow};
use protocol::{Message, ToolSpec};
use serde::Serialize as _;
use serde_json::{Value, json};
use tokenizers::models::bpe::{BPE, BpeTrainer};
use weights::{TokenKind, Vocabulary};

use crate::dice::Dice;
use crate::lessons::{Answer, Lesson, Shares, Teacher};

/// The tokens of template version 3, at its ids.
const CONTROLS: [&str; 14] = [
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
/// Stands for a space in pieces.
const SPACE: char = '▁';
/// Groups of lessons that the pieces are learned from.
const GROUPS: usize = 6000;

/// Learns a vocabulary of `size` tokens from what training sees.
pub(crate) fn learn(teacher: &Teacher, size: usize, seed: u64) -> Result<Vocabulary> {
    let mut words: HashMap<String, u64> = HashMap::new();
    let mut dice = Dice::new(seed);
    for _ in 0..GROUPS {
        let lessons = teacher.group(4, Shares::TAUGHT, None, None, &mut dice);
        if let Some(lesson) = lessons.first() {
            count(&tools_text(&lesson.tools), &mut words);
        }
        lessons.iter().flat_map(texts).for_each(|text| count(&text, &mut words));
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
    of_tokens(
        controls.chain((0..BYTES).map(|byte| format!("<0x{byte:02X}>"))).chain(pieces).collect(),
    )
}

/// The vocabulary whose tokens these are: controls, bytes, pieces.
pub(crate) fn of_tokens(tokens: Vec<String>) -> Vocabulary {
    let mut kinds = vec![TokenKind::Control; CONTROLS.len()];
    kinds[0] = TokenKind::Unknown;
    kinds.resize(CONTROLS.len() + BYTES, TokenKind::Byte);
    let first = kinds.len();
    kinds.resize(tokens.len(), TokenKind::Normal);
    // The sooner a piece was joined, the sooner it is joined again.
    let score = |id: usize| if id < first { 0.0 } else { -((id - first) as f32) };
    Vocabulary {
        model: "llama".into(),
        pre: None,
        scores: (0..tokens.len()).map(score).collect(),
        tokens,
        kinds,
        merges: Vec::new(),
        bos: Some(1),
        eos: Some(2),
        unknown: Some(0),
        add_space_prefix: Some(true),
        add_bos: Some(true),
        chat_template: None,
    }
}

/// Everything that is said in a lesson, as the template spells it.
fn texts(lesson: &Lesson) -> Vec<String> {
    let mut texts = Vec::new();
    for message in &lesson.messages {
        match message {
            Message::User { content } | Message::System { content } => texts.push(content.concat()),
            Message::Assistant { content, tool_calls, .. } => {
                texts.extend(content.as_ref().map(|content| content.concat()));
                for call in tool_calls {
                    let arguments: Value =
                        serde_json::from_str(&call.arguments).unwrap_or_default();
                    let call = json!([{"name": call.name, "arguments": arguments, "id": call.id}]);
                    texts.push(python(&call));
                }
            }
            Message::Tool { content, call_id, .. } => {
                let content = content.concat();
                let content = serde_json::from_str(&content).unwrap_or(Value::String(content));
                texts.push(python(&json!({"content": content, "call_id": call_id})));
            }
        }
    }
    texts.push(answer_text(&lesson.answer));
    texts
}

/// An answer without its control tokens.
pub(crate) fn answer_text(answer: &Answer) -> String {
    match answer {
        Answer::Text(text) => text.clone(),
        Answer::Calls(calls) => {
            let calls =
                calls.iter().map(|call| json!({"name": call.name, "arguments": call.arguments}));
            python(&Value::Array(calls.collect()))
        }
    }
}

/// Tools as a prompt spells them.
pub(crate) fn tools_text(tools: &[ToolSpec]) -> String {
    let function = |tool: &ToolSpec| {
        json!({"type": "function", "function": {
            "name": tool.name, "description": tool.description, "parameters": tool.parameters}})
    };
    python(&Value::Array(tools.iter().map(function).collect()))
}

/// JSON with a space behind each comma and colon, as prompts have it.
fn python(value: &Value) -> String {
    struct Spaced;
    impl serde_json::ser::Formatter for Spaced {
        fn begin_array_value<W: ?Sized + io::Write>(
            &mut self,
            w: &mut W,
            first: bool,
        ) -> io::Result<()> {
            w.write_all(if first { b"" } else { b", " })
        }
        fn begin_object_key<W: ?Sized + io::Write>(
            &mut self,
            w: &mut W,
            first: bool,
        ) -> io::Result<()> {
            w.write_all(if first { b"" } else { b", " })
        }
        fn begin_object_value<W: ?Sized + io::Write>(&mut self, w: &mut W) -> io::Result<()> {
            w.write_all(b": ")
        }
    }
    let mut bytes = Vec::new();
    let mut serializer = serde_json::Serializer::with_formatter(&mut bytes, Spaced);
    value.serialize(&mut serializer).expect("a value becomes text");
    String::from_utf8(bytes).expect("JSON is text")
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

/// What all functions, calls and results have around their names and texts.
const FRAMES: [&str; 26] = [
    "[{\"type\":▁\"function\",▁\"function\":▁{\"name\":▁\"",
    "},▁{\"type\":▁\"function\",▁\"function\":▁{\"name\":▁\"",
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
    "[{\"name\":▁\"",
    "},▁{\"name\":▁\"",
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
