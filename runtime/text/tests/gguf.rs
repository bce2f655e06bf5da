//! Vocabularies inside GGUF files cut text as the tokenizers do that they were made from.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test panics to fail, and says when it is skipped"
)]

use std::path::{Path, PathBuf};

use protocol::TokenId;
use text::{TemplateVersion, Tokenizer};

fn shared_folder() -> Option<PathBuf> {
    let beside = PathBuf::from("../../../shared");
    let folder = std::env::var_os("ZONDA_SHARED").map_or(beside, PathBuf::from);
    if !folder.join("data/gguf_vocab").is_dir() {
        println!("skipped: no shared data");
        return None;
    }
    Some(folder.join("data"))
}

fn from_gguf(path: &Path) -> Tokenizer {
    let vocabulary = weights::gguf_vocabulary(path).unwrap().unwrap();
    Tokenizer::from_vocabulary(&vocabulary).unwrap()
}

/// Texts between marker lines, and one line of ids for each of them.
fn cases(folder: &Path, name: &str) -> Vec<(String, Vec<TokenId>)> {
    let read = |end: &str| {
        std::fs::read_to_string(folder.join(format!("gguf_vocab/{name}.gguf.{end}"))).unwrap()
    };
    let (texts, lines) = (read("inp"), read("out"));
    let texts = texts.split("\n__ggml_vocab_test__\n").map(str::to_owned);
    let ids = lines.lines().map(|line| {
        line.split_whitespace().map(|id| TokenId(id.parse().unwrap())).collect::<Vec<_>>()
    });
    texts.zip(ids).collect()
}

#[test]
fn foreign_vocabularies_give_the_ids_of_llama_cpp() {
    let Some(folder) = shared_folder() else {
        return;
    };
    for name in ["ggml-vocab-llama-spm", "ggml-vocab-gpt-2"] {
        let tokenizer = from_gguf(&folder.join(format!("gguf_vocab/{name}.gguf")));
        let cases = cases(&folder, name);
        assert!(cases.len() > 40, "{name} has too few cases");
        for (text, ids) in cases {
            assert_eq!(tokenizer.encode(&text).unwrap(), ids, "{name}: {text:?}");
        }
    }
}

#[test]
fn vocabulary_of_a_converted_model_is_that_of_its_tokenizer() {
    let Some(folder) = shared_folder() else {
        return;
    };
    let pairs = [
        ("tiny-random/tiny-v3-bf16.gguf", "tiny-random/tiny-v3/tokenizer.model"),
        ("stories260K/stories260K-f16.gguf", "stories260K/hf-llama-f16/tokenizer.model"),
    ];
    let texts = std::fs::read_to_string(folder.join("golden/prompts/raw.jsonl")).unwrap();
    for (model, original) in pairs {
        let model = folder.join("models").join(model);
        if !model.is_file() {
            println!("skipped: no {}", model.display());
            continue;
        }
        let converted = from_gguf(&model);
        let original = Tokenizer::from_file(&folder.join("models").join(original)).unwrap();
        assert_eq!(converted.vocabulary_size(), original.vocabulary_size());
        assert_eq!(converted.likely_version(), original.likely_version());
        assert_eq!((converted.bos(), converted.eos()), (original.bos(), original.eos()));
        for line in texts.lines() {
            let tokens = converted.encode(line).unwrap();
            assert_eq!(tokens, original.encode(line).unwrap());
            assert_eq!(converted.decode(&tokens), original.decode(&tokens));
        }
    }
}

#[test]
fn model_without_control_tokens_is_of_the_first_version() {
    let Some(folder) = shared_folder() else {
        return;
    };
    let path = folder.join("models/stories260K/hf-llama-f16/tokenizer.model");
    let tokenizer = Tokenizer::from_file(&path).unwrap();
    assert_eq!(tokenizer.likely_version(), TemplateVersion::V1);
    assert_eq!(tokenizer.vocabulary_size(), 512);
    let tokens = tokenizer.encode("Once upon a time").unwrap();
    assert_eq!(tokenizer.decode(&tokens), "Once upon a time");
}
