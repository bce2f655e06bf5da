//! The small embedder of the fixtures against its reference, and what is no network.

use std::path::{Path, PathBuf};

use onnx::{Embedder, EmbedderConfig, OnnxError, Pooling, TextConfig};
use serde_json::Value;

/// One minus the cosine between both vectors, at most.
const COSINE_DISTANCE_MAX: f64 = 1e-6;

fn fixture(name: &str) -> PathBuf {
    Path::new("../../tests/fixtures/onnx").join(name)
}

fn config(network: PathBuf, pooling: Pooling) -> EmbedderConfig {
    let text = TextConfig { network, tokenizer: fixture("tokenizer.json"), tokens_max: 64 };
    EmbedderConfig { text, pooling, normalize: true }
}

fn golden() -> Vec<Value> {
    let file = std::fs::read(fixture("golden.json")).expect("golden.json");
    let mut golden: Value = serde_json::from_slice(&file).expect("JSON");
    serde_json::from_value(golden["texts"].take()).expect("a list")
}

#[test]
fn vectors_are_those_of_the_definition() {
    for (pooling, key) in [(Pooling::Mean, "mean"), (Pooling::Cls, "cls")] {
        let embedder = Embedder::open(&config(fixture("embedder.onnx"), pooling)).expect("loads");
        assert_eq!((embedder.dimensions(), embedder.tokens_max()), (32, 64));
        assert!(embedder.padded_lengths().is_empty(), "no text is padded");
        for case in golden() {
            let text = case["text"].as_str().expect("a text");
            let found = embedder.embed(text).expect("a vector");
            assert_eq!(found.tokens as usize, case["ids"].as_array().expect("ids").len(), "{text}");
            assert_eq!(found.is_truncated, text.starts_with("the pump"), "{text}");
            let wanted = case[key].as_array().expect("a vector").iter();
            let wanted = wanted.map(|number| number.as_f64().expect("a number"));
            let cosine: f64 = wanted.zip(&found.vector).map(|(a, b)| a * f64::from(*b)).sum();
            assert!((1.0 - cosine).abs() < COSINE_DISTANCE_MAX, "{text}: {cosine}");
        }
    }
}

#[test]
fn a_shorter_vector_is_the_beginning_in_unit_length() {
    let embedder = Embedder::open(&config(fixture("embedder.onnx"), Pooling::Mean)).expect("loads");
    let whole = embedder.embed("Turn on the kitchen light.").expect("a vector");
    let mut short = whole.clone();
    short.shorten(8);
    let length: f32 = short.vector.iter().map(|number| number * number).sum::<f32>().sqrt();
    assert!((length - 1.0).abs() < 1e-6);
    let factor = whole.vector[0] / short.vector[0];
    assert!(short.vector.iter().zip(&whole.vector).all(|(a, b)| (a * factor - b).abs() < 1e-6));
    assert_eq!(short.vector.len(), 8);
}

#[test]
fn a_file_that_is_missing_or_another_thing_says_so() {
    let refused = |network| Embedder::open(&config(network, Pooling::Mean)).err().expect("refused");
    assert!(matches!(refused(fixture("nothing.onnx")), OnnxError::Read { .. }));
    assert!(matches!(refused(fixture("golden.json")), OnnxError::Malformed { .. }));
    assert!(matches!(refused(fixture("detector.onnx")), OnnxError::Unfit { .. }));
    let mut swapped = config(fixture("embedder.onnx"), Pooling::Mean);
    swapped.text.tokenizer = fixture("embedder.onnx");
    assert!(matches!(Embedder::open(&swapped), Err(OnnxError::Malformed { .. })));
}

/// Cut and changed files end in an error or in a network, never in a panic that comes through.
#[test]
fn damaged_files_are_errors() {
    let sound = std::fs::read(fixture("embedder.onnx")).expect("the fixture");
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("damaged.onnx");
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let mut refused = 0;
    for round in 0..24_usize {
        let mut bytes = sound.clone();
        if round % 3 == 0 {
            bytes.truncate(sound.len() * round / 24);
        }
        // The graph's nodes stand at the beginning, the weights behind them.
        for _ in 0..4 {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            let length = bytes.len().clamp(1, 12_000) as u64;
            if let Some(byte) = bytes.get_mut((random % length) as usize) {
                *byte ^= (random >> 56) as u8 | 1;
            }
        }
        std::fs::write(&path, &bytes).expect("written");
        refused += usize::from(Embedder::open(&config(path.clone(), Pooling::Mean)).is_err());
    }
    assert!(refused >= 12, "{refused} of 24 damaged files are refused");
}
