//! A real network of 22 million parameters, where it has been made.

use std::path::PathBuf;

use onnx::{Embedder, EmbedderConfig, Pooling, TextConfig};
use serde_json::Value;

/// One minus the cosine between both vectors, at most.
const COSINE_DISTANCE_MAX: f64 = 1e-6;

#[test]
fn minilm_gives_the_vectors_of_its_definition() {
    let Some(folder) = std::env::var_os("ZONDA_MINILM").map(PathBuf::from) else {
        println!("skipped: ZONDA_MINILM names no folder of tests/fixtures/onnx/minilm.py");
        return;
    };
    let embedder = Embedder::open(&EmbedderConfig {
        text: TextConfig {
            network: folder.join("model.onnx"),
            tokenizer: folder.join("tokenizer.json"),
            tokens_max: 256,
        },
        pooling: Pooling::Mean,
        normalize: true,
    })
    .expect("the network loads");
    assert_eq!(embedder.dimensions(), 384);
    let golden = std::fs::read(folder.join("golden.json")).expect("golden.json");
    let golden: Value = serde_json::from_slice(&golden).expect("JSON");
    let mut worst = 0.0_f64;
    for case in golden["cases"].as_array().expect("cases") {
        let embedded = embedder.embed(case["text"].as_str().expect("a text")).expect("a vector");
        let ids = case["ids"].as_array().expect("ids").len();
        assert_eq!(embedded.tokens as usize, ids);
        let wanted = case["embedding"].as_array().expect("a vector");
        let wanted = wanted.iter().map(|number| number.as_f64().expect("a number"));
        let cosine: f64 = wanted.zip(&embedded.vector).map(|(a, b)| a * f64::from(*b)).sum();
        worst = worst.max((1.0 - cosine).abs());
    }
    println!("padded to {:?}; worst distance {worst:.2e}", embedder.padded_lengths());
    assert!(worst <= COSINE_DISTANCE_MAX, "cosine distance {worst:.2e}");
}
