//! Models that other tools wrote.

use std::path::Path;
use std::sync::Arc;

use crate::forge::shared;
use weights::{Archive, Container, Encoding, Hyper, Part, RopePairing, TensorName};

/// `[vocabulary, hidden, feed_forward, layers, heads, kv_heads, head_dim, context]`
fn numbers(hyper: &Hyper) -> [u32; 8] {
    [
        hyper.vocabulary,
        hyper.hidden,
        hyper.feed_forward,
        hyper.layers,
        hyper.heads,
        hyper.kv_heads,
        hyper.head_dim,
        hyper.context_tokens_max,
    ]
}

fn all_names(hyper: &Hyper) -> Vec<TensorName> {
    let layers = 0..u16::try_from(hyper.layers).unwrap();
    let blocks = layers.flat_map(|layer| Part::ALL.map(|part| TensorName::Block { layer, part }));
    [TensorName::Embedding, TensorName::OutputNorm, TensorName::Output]
        .into_iter()
        .chain(blocks)
        .collect()
}

/// Opens, checks what every model has, and unpacks all of it to finite numbers.
fn open(path: &Path) -> Arc<dyn Archive> {
    let archive = weights::open(path).unwrap_or_else(|error| panic!("{error}"));
    for name in all_names(archive.hyper()) {
        let values = archive.tensor(name).unwrap().to_f32().unwrap();
        assert_eq!(values.len(), archive.hyper().shape_of(name).iter().product::<usize>());
        assert!(values.iter().all(|value| value.is_finite()), "{name:?} of {}", path.display());
    }
    archive
}

const STORIES: [u32; 8] = [512, 64, 172, 5, 8, 4, 8, 512];

#[test]
fn stories_are_the_same_model_in_every_container() {
    let Some(shared) = shared() else { return };
    let folder = shared.join("data/models/stories260K");
    let reference = open(&folder.join("hf-mistral-f32"));
    for name in [
        "hf-mistral-f32",
        "hf-mistral-bf16-sharded",
        "hf-llama-f16",
        "stories260K-f32.gguf",
        "stories260K-f16.gguf",
        "stories260K-q8_0.gguf",
        "stories260K-q5_1.gguf",
        "stories260K-q4_0.gguf",
    ] {
        let archive = open(&folder.join(name));
        let hyper = archive.hyper();
        assert_eq!(numbers(hyper), STORIES, "{name}");
        assert!(hyper.tied_embeddings && hyper.sliding_window.is_none(), "{name}");
        assert_eq!(hyper.rope_theta, 10_000.0);
        assert!((hyper.rms_epsilon - 1e-5).abs() < 1e-9);
        let gguf = archive.container() == Container::Gguf;
        let pairing = if gguf { RopePairing::Adjacent } else { RopePairing::HalfSplit };
        assert_eq!(hyper.pairing, pairing, "{name}");
        assert_eq!(archive.vocabulary().is_some(), gguf);
        assert_eq!(archive.tokenizer_path().is_some(), !gguf);
        for part in [Part::Value, Part::Down] {
            let tensor = TensorName::Block { layer: 3, part };
            let [values, expected] = [&archive, &reference]
                .map(|archive| archive.tensor(tensor).unwrap().to_f32().unwrap());
            let error = error(&values, &expected);
            let bound = match name {
                "stories260K-f32.gguf" | "hf-mistral-f32" => 0.0,
                "stories260K-q4_0.gguf" => 1e-2,
                "stories260K-q5_1.gguf" => 3e-3,
                _ => 1e-4,
            };
            assert!(error <= bound, "{name} {part:?}: {error}");
        }
    }
}

/// Squared error over squared size.
fn error(values: &[f32], expected: &[f32]) -> f64 {
    let squares = |each: &mut dyn Iterator<Item = f32>| -> f64 {
        each.map(|value| f64::from(value) * f64::from(value)).sum()
    };
    let mut differences = values.iter().zip(expected).map(|(value, expected)| value - expected);
    squares(&mut differences) / squares(&mut expected.iter().copied())
}

#[test]
fn tiny_models_state_their_numbers() {
    let Some(shared) = shared() else { return };
    let folder = shared.join("data/models/tiny-random");
    for (name, expected, window, tied) in [
        ("tiny-k", [512, 256, 512, 2, 8, 2, 32, 512], None, false),
        ("tiny-nemo", [131_072, 40, 112, 2, 4, 2, 32, 1024], None, true),
        ("tiny-swa-v1", [32_000, 64, 96, 3, 8, 2, 8, 512], Some(16), false),
        ("tiny-v3", [32_768, 64, 160, 2, 8, 2, 16, 2048], None, false),
        ("tiny-v7", [32_768, 96, 224, 2, 12, 1, 8, 2048], None, false),
        ("tiny-v3-bf16.gguf", [32_768, 64, 160, 2, 8, 2, 16, 2048], None, false),
        ("tiny-v3-q8_0.gguf", [32_768, 64, 160, 2, 8, 2, 16, 2048], None, false),
    ] {
        let archive = open(&folder.join(name));
        assert_eq!(numbers(archive.hyper()), expected, "{name}");
        assert_eq!(archive.hyper().sliding_window, window, "{name}");
        assert_eq!(archive.hyper().tied_embeddings, tied, "{name}");
    }
}

#[test]
fn every_encoding_of_one_model_is_near_its_original() {
    let Some(shared) = shared() else { return };
    let folder = shared.join("data/models/tiny-random");
    let original = open(&folder.join("tiny-k"));
    let part = Part::Gate;
    let gate = TensorName::Block { layer: 1, part };
    let expected = original.tensor(gate).unwrap().to_f32().unwrap();
    for (name, encoding, bound) in [
        ("IQ4_NL", Encoding::Iq4Nl, 1e-2),
        ("Q2_K", Encoding::Q2K, 2e-1),
        ("Q3_K_M", Encoding::Q3K, 5e-2),
        ("Q4_0", Encoding::Q4_0, 1e-2),
        ("Q4_1", Encoding::Q4_1, 1e-2),
        ("Q4_K_M", Encoding::Q4K, 1e-2),
        ("Q5_0", Encoding::Q5_0, 3e-3),
        ("Q5_1", Encoding::Q5_1, 3e-3),
        ("Q5_K_M", Encoding::Q5K, 3e-3),
        ("Q6_K", Encoding::Q6K, 1e-3),
        ("Q8_0", Encoding::Q8_0, 1e-4),
    ] {
        let archive = open(&folder.join(format!("tiny-k-{name}.gguf")));
        assert_eq!(numbers(archive.hyper()), numbers(original.hyper()), "{name}");
        let tensor = archive.tensor(gate).unwrap();
        assert_eq!(tensor.encoding, encoding, "{name}");
        let error = error(&tensor.to_f32().unwrap(), &expected);
        println!("{name}: {error:.2e}");
        assert!(error <= bound, "{name}: {error}");
    }
}

#[test]
fn a_vocabulary_comes_whole_out_of_the_file() {
    let Some(shared) = shared() else { return };
    let archive = open(&shared.join("data/models/tiny-random/tiny-v3-q8_0.gguf"));
    let vocabulary = archive.vocabulary().unwrap();
    assert_eq!((vocabulary.model.as_str(), vocabulary.pre.as_deref()), ("llama", Some("default")));
    assert_eq!(vocabulary.tokens.len(), 32_768);
    assert_eq!(vocabulary.kinds.len(), 32_768);
    assert_eq!(vocabulary.scores.len(), 32_768);
    assert_eq!(vocabulary.tokens[3], "[INST]");
    assert_eq!((vocabulary.bos, vocabulary.eos), (Some(1), Some(2)));
    assert!(vocabulary.chat_template.is_some());
    assert_eq!(archive.hyper().name.as_deref(), Some("Tiny v3"));
}

#[test]
fn a_file_of_nothing_but_vocabulary_gives_it() {
    let Some(shared) = shared() else { return };
    for (name, model, tokens, merges) in [
        ("ggml-vocab-llama-spm.gguf", "llama", 32_000, false),
        ("ggml-vocab-gpt-2.gguf", "gpt2", 50_257, true),
    ] {
        let path = shared.join("data/gguf_vocab").join(name);
        let vocabulary = weights::gguf_vocabulary(&path).unwrap().unwrap();
        assert_eq!((vocabulary.model.as_str(), vocabulary.tokens.len()), (model, tokens));
        assert_eq!(vocabulary.merges.is_empty(), !merges, "{name}");
        assert!(weights::open(&path).is_err(), "{name} is no model");
    }
}
