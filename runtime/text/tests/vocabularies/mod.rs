//! Small vocabularies of each kind, made here.

use std::sync::Arc;

use serde_json::json;
use text::Tokenizer;
use weights::{TokenKind, Vocabulary};

pub(crate) const CONTROLS: [&str; 17] = [
    "<s>",
    "</s>",
    "[INST]",
    "[/INST]",
    "[TOOL_CALLS]",
    "[AVAILABLE_TOOLS]",
    "[/AVAILABLE_TOOLS]",
    "[TOOL_RESULTS]",
    "[/TOOL_RESULTS]",
    "[PREFIX]",
    "[MIDDLE]",
    "[SUFFIX]",
    "[SYSTEM_PROMPT]",
    "[/SYSTEM_PROMPT]",
    "[TOOL_CONTENT]",
    "[IMG]",
    "<pad>",
];
pub(crate) const WORDS: [&str; 16] =
    ["▁", "▁▁", "a", "b", "ab", "▁a", "é", "]", "[", "[I", "<", "/", "s", ">", "\u{fffd}", "▁the"];

/// As SentencePiece: unknown, controls, bytes, words.
pub(crate) fn sentencepiece() -> Arc<Tokenizer> {
    let mut tokens = vec![("<unk>".to_owned(), TokenKind::Unknown)];
    tokens.extend(CONTROLS.map(|name| (name.to_owned(), TokenKind::Control)));
    tokens.extend((0..256).map(|byte| (format!("<0x{byte:02X}>"), TokenKind::Byte)));
    tokens.extend(WORDS.map(|word| (word.to_owned(), TokenKind::Normal)));
    Arc::new(Tokenizer::from_vocabulary(&vocabulary("llama", None, tokens)).unwrap())
}

/// As tekken: controls, then bytes and words in the order of their ranks.
pub(crate) fn tekken() -> Arc<Tokenizer> {
    let printable = |byte: &u32| matches!(byte, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
    let spelled = |byte: u32| match printable(&byte) {
        true => byte,
        false => 0x100 + (0..byte).filter(|byte| !printable(byte)).count() as u32,
    };
    let mut tokens: Vec<_> = CONTROLS.map(|name| (name.to_owned(), TokenKind::Control)).into();
    let byte = |byte| (char::from_u32(spelled(byte)).unwrap().to_string(), TokenKind::Normal);
    tokens.extend((0..256).map(byte));
    tokens.extend(["ab", "Ġa", "Ã©", "[I"].map(|word| (word.to_owned(), TokenKind::Normal)));
    Arc::new(Tokenizer::from_vocabulary(&vocabulary("gpt2", Some("tekken"), tokens)).unwrap())
}

/// As a `tokenizer.json` of a SentencePiece vocabulary.
pub(crate) fn hugging_face() -> Arc<Tokenizer> {
    let names = ["<unk>"].into_iter().chain(CONTROLS);
    let bytes = (0..256).map(|byte| format!("<0x{byte:02X}>"));
    let all = names.clone().map(str::to_owned).chain(bytes).chain(WORDS.map(str::to_owned));
    let entries: serde_json::Map<_, _> = all.zip(0..).map(|(text, id)| (text, json!(id))).collect();
    let added = names.zip(0..).map(|(name, id)| {
        json!({"id": id, "content": name, "single_word": false, "lstrip": false, "rstrip": false,
               "normalized": false, "special": true})
    });
    let content = json!({
        "version": "1.0", "truncation": null, "padding": null, "pre_tokenizer": null,
        "post_processor": null,
        "added_tokens": added.collect::<Vec<_>>(),
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "▁"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]},
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
            {"type": "ByteFallback"}, {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
        "model": {"type": "BPE", "unk_token": "<unk>", "fuse_unk": true, "byte_fallback": true,
                  "vocab": entries, "merges": [["▁", "▁"], ["a", "b"], ["▁", "a"]]}
    });
    let tokenizer = Tokenizer::from_bytes(content.to_string().as_bytes()).unwrap();
    assert_eq!(tokenizer.vocabulary_size(), 18 + 256 + WORDS.len());
    Arc::new(tokenizer)
}

pub(crate) fn vocabulary(
    model: &str,
    pre: Option<&str>,
    tokens: Vec<(String, TokenKind)>,
) -> Vocabulary {
    Vocabulary { pre: pre.map(str::to_owned), ..Vocabulary::new(model, tokens) }
}
