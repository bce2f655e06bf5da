//! Bytes that nobody wrote by hand: mutated models, and a corpus of published attacks.

use std::fs;
use std::path::Path;
use std::process::Command;

use proptest::prelude::*;
use serde_json::Value;

use crate::forge::*;

/// Opens and reads everything; only that it comes back matters.
fn walk(path: &Path) -> Result<usize, weights::WeightsError> {
    let archive = weights::open(path)?;
    let mut values = 0;
    for layer in 0..u16::try_from(archive.hyper().layers).unwrap() {
        for part in weights::Part::ALL {
            values += archive.tensor(weights::TensorName::Block { layer, part })?.to_f32()?.len();
        }
    }
    Ok(values)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn a_mutated_gguf_file_opens_or_is_refused(
        edits in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 1..6),
        cut in proptest::option::of(any::<proptest::sample::Index>()),
    ) {
        let mut bytes = Gguf::sound().bytes();
        for (at, byte) in edits {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        let folder = folder(&[("m.gguf", &bytes)]);
        // Sound or not: it must come back, with values or an error that names the file.
        if let Err(error) = walk(&folder.path().join("m.gguf")) {
            prop_assert!(error.to_string().contains("m.gguf"));
        }
    }

    #[test]
    fn a_mutated_number_in_a_gguf_file_opens_or_is_refused(
        at in any::<proptest::sample::Index>(),
        number in prop_oneof![any::<u64>(), (0_u32..64).prop_map(|bit| 1 << bit), Just(u64::MAX)],
    ) {
        let mut bytes = Gguf::sound().bytes();
        let at = at.index(bytes.len() - 8);
        bytes[at..at + 8].copy_from_slice(&number.to_le_bytes());
        let folder = folder(&[("m.gguf", &bytes)]);
        if let Err(error) = walk(&folder.path().join("m.gguf")) {
            prop_assert!(error.to_string().contains("m.gguf"));
        }
    }

    #[test]
    fn a_mutated_safetensors_file_opens_or_is_refused(
        edits in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 1..6),
        at_config in proptest::option::of((any::<proptest::sample::Index>(), any::<u8>())),
    ) {
        let mut bytes = safetensors(&tensors(HUGGING_FACE_NAMES));
        for (at, byte) in edits {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        let mut config = CONFIG.as_bytes().to_vec();
        if let Some((at, byte)) = at_config {
            let at = at.index(config.len());
            config[at] = byte;
        }
        let folder = folder(&[("config.json", &config), ("model.safetensors", &bytes)]);
        if let Err(error) = walk(folder.path()) {
            prop_assert!(error.to_string().contains(&*folder.path().to_string_lossy()));
        }
    }
}

#[test]
fn the_corpus_of_malformed_files_is_refused() {
    let Some(shared) = shared() else { return };
    let corpus = tempfile::tempdir().unwrap();
    let python = std::env::var_os("ZONDA_PYTHON").unwrap_or_else(|| "python3".into());
    let made = Command::new(python)
        .arg(shared.join("tools/make_malformed.py"))
        .arg(shared.join("data/models/stories260K/stories260K-q4_0.gguf"))
        .arg(corpus.path())
        .output();
    if !made.is_ok_and(|made| made.status.success()) {
        println!("skipped: the corpus needs python3");
        return;
    }
    let index = fs::read(corpus.path().join("index.json")).unwrap();
    let index: Vec<Value> = serde_json::from_slice(&index).unwrap();
    let mut wrong = Vec::new();
    for line in &index {
        let text = |key: &str| line[key].as_str().unwrap();
        let path = corpus.path().join(text("file"));
        // The safetensors of the corpus are headers, not models.
        let opened = match text("kind") {
            "gguf" => walk(&path).map(drop),
            _ => weights::safetensors_contents(&path).map(drop),
        };
        let right = match text("expect") {
            "error" => opened.is_err(),
            "ok" => opened.is_ok(),
            _ => true,
        };
        if !right {
            wrong.push(format!("{} ({}): {opened:?}", text("file"), text("why")));
        }
        if text("kind") != "gguf" {
            assert!(weights::open(&path).is_err(), "{} has no configuration", text("file"));
        }
    }
    println!("{} files", index.len());
    assert!(wrong.is_empty(), "{wrong:#?}");
}
