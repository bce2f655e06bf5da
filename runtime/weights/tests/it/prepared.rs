//! Prepared files: forged ones with one thing wrong, and what preparing makes of sound ones.

use std::fs;
use std::path::Path;

use proptest::prelude::*;

use crate::forge::*;
use weights::{Archive, Encoding, Part, TensorLayout, TensorName, WeightsError};

const MATRICES: [Part; 7] =
    [Part::Query, Part::Key, Part::Value, Part::AttentionOutput, Part::Gate, Part::Up, Part::Down];

/// A sound file whose tensor of this name claims to lie in panels.
fn with_panels(name: &str) -> Gguf {
    let mut forged = Gguf::sound().with("zonda.panels", u32_value(1));
    let tensor = forged.tensor(name);
    tensor.kind = 0x7A00;
    tensor.bytes.resize(16 * 4 * tensor.dimensions[0] as usize, 0);
    forged
}

fn says(forged: &Gguf, words: &str) {
    refused(forged.open(), words);
}

#[test]
fn panels_of_the_known_layout_are_read() {
    let archive = with_panels("blk.0.ffn_down.weight").open().unwrap();
    let down = archive.tensor(TensorName::Block { layer: 0, part: Part::Down }).unwrap();
    assert_eq!((down.layout, down.encoding), (TensorLayout::Panels, Encoding::F32));
    assert_eq!((&down.shape[..], down.bytes.len()), (&[4, 6][..], 16 * 6 * 4));
    assert!(matches!(down.to_f32(), Err(WeightsError::InPanels { encoding: "F32" })));
    let up = archive.tensor(TensorName::Block { layer: 0, part: Part::Up }).unwrap();
    assert_eq!(up.layout, TensorLayout::Rows);
    assert!(up.to_f32().is_ok());
}

#[test]
fn a_layout_that_is_not_known_is_refused() {
    let forged = || with_panels("output.weight");
    for value in [u32_value(0), u32_value(2), text_value("1"), f32_value(1.0)] {
        says(&forged().with("zonda.panels", value), "Prepare it again");
    }
    says(&forged().without("zonda.panels"), "`zonda.panels` is missing");
    // The key alone changes nothing.
    assert!(Gguf::sound().with("zonda.panels", u32_value(1)).open().is_ok());
}

#[test]
fn a_type_of_panels_over_no_encoding_is_refused() {
    for (kind, words) in [
        (0x7A00 + 99, "is no tensor type"),
        (0x7AFF, "is no tensor type"),
        (0x7B00, "is no tensor type"),
        (0x79FF, "is no tensor type"),
        (0x7A00 + 15, "encoding Q8_K"),
    ] {
        let mut forged = with_panels("output.weight");
        forged.tensor("output.weight").kind = kind;
        says(&forged, words);
    }
}

#[test]
fn only_matrices_of_products_lie_in_panels() {
    says(&with_panels("token_embd.weight"), "only matrices of products");
    says(&with_panels("output_norm.weight"), "is not a matrix");
    says(&with_panels("blk.0.attn_norm.weight"), "is not a matrix");
    let mut forged = with_panels("output.weight");
    forged.tensor("output.weight").dimensions = vec![4, 3, 1];
    says(&forged, "is not a matrix");
}

#[test]
fn sizes_of_panels_are_compared_with_the_file() {
    // Rows that are not filled up to 16.
    let mut forged = with_panels("blk.0.ffn_down.weight");
    forged.tensor("blk.0.ffn_down.weight").bytes.truncate(4 * 6 * 4);
    says(&forged, "reaches beyond");
    for dimensions in
        [vec![4, u64::MAX], vec![4, u64::MAX - 15], vec![u64::MAX, 4], vec![1, 1 << 60]]
    {
        let mut forged = with_panels("output.weight");
        forged.tensor("output.weight").dimensions = dimensions;
        assert!(forged.refusal().contains("tensor `output.weight`"));
    }
    let mut forged = with_panels("output.weight");
    forged.tensor("output.weight").kind = 0x7A00 + 12;
    says(&forged, "whole blocks");
}

#[test]
fn every_cut_of_a_prepared_file_is_refused() {
    let folder = folder(&[("m.gguf", &Gguf::sound().bytes())]);
    let path = prepare(folder.path(), "m.gguf", false).unwrap();
    let length = fs::metadata(&path).unwrap().len();
    let file = fs::File::options().write(true).open(&path).unwrap();
    for length in (0..length).rev().step_by(61) {
        file.set_len(length).unwrap();
        assert!(weights::open(&path).is_err(), "cut after {length} bytes");
    }
}

/// Not the layout of kernels: each panel's bytes backwards, rows that lack in front.
fn backwards(encoding: Encoding, cols: usize, rows: &[u8], panels: &mut [u8]) {
    let panel = 16 * encoding.row_bytes(cols).unwrap();
    assert_eq!(panels.len(), rows.len().next_multiple_of(panel));
    for (rows, panel) in rows.chunks(panel).zip(panels.chunks_exact_mut(panel)) {
        panel.fill(0);
        panel.iter_mut().rev().zip(rows).for_each(|(panel, row)| *panel = *row);
    }
}

fn prepare(folder: &Path, name: &str, replace: bool) -> Result<std::path::PathBuf, WeightsError> {
    let output = folder.join("prepared.gguf");
    let mut shares = vec![0.0];
    let bytes = weights::prepare(&folder.join(name), &output, replace, backwards, &mut |share| {
        shares.push(share);
    })?;
    assert!(shares.is_sorted() && shares.last() == Some(&1.0), "{shares:?}");
    assert_eq!(fs::metadata(&output).unwrap().len(), bytes);
    Ok(output)
}

fn names(archive: &dyn Archive) -> Vec<TensorName> {
    let layers = u16::try_from(archive.hyper().layers).unwrap();
    let blocks =
        (0..layers).flat_map(|layer| Part::ALL.map(|part| TensorName::Block { layer, part }));
    [TensorName::Embedding, TensorName::OutputNorm, TensorName::Output]
        .into_iter()
        .chain(blocks)
        .collect()
}

fn same_model_in_panels(source: &dyn Archive, prepared: &dyn Archive) {
    assert_eq!(source.hyper(), prepared.hyper());
    assert_eq!(source.vocabulary(), prepared.vocabulary());
    assert_eq!(source.tensors().len(), prepared.tensors().len());
    for name in names(source) {
        let [rows, panels] = [source, prepared].map(|archive| archive.tensor(name).unwrap());
        assert_eq!((&rows.shape, rows.encoding), (&panels.shape, panels.encoding));
        let matrix = match name {
            TensorName::Embedding | TensorName::OutputNorm => false,
            TensorName::Output => !source.hyper().tied_embeddings,
            TensorName::Block { part, .. } => MATRICES.contains(&part),
        };
        if !matrix {
            assert_eq!((rows.layout, &rows.bytes), (panels.layout, &panels.bytes), "{name:?}");
            continue;
        }
        assert_eq!(panels.layout, TensorLayout::Panels, "{name:?}");
        let mut expected = vec![0xff; panels.bytes.len()];
        backwards(rows.encoding, rows.shape[1], &rows.bytes, &mut expected);
        assert!(panels.bytes == expected, "{name:?}");
    }
}

#[test]
fn preparing_moves_matrices_and_keeps_the_rest() {
    let odd = array_value(0, 3, &[1, 2, 3]);
    let sound = Gguf::sound()
        .with("general.alignment", u32_value(32))
        .with("zonda.source", text_value("older.gguf"))
        .with("somebody.else", odd);
    let mut tied = sound.clone();
    tied.tensors.retain(|tensor| tensor.name != "output.weight");
    for forged in [sound.clone(), tied, Gguf { version: 2, ..sound }] {
        let folder = folder(&[("m.gguf", &forged.bytes())]);
        let path = prepare(folder.path(), "m.gguf", false).unwrap();
        let source = weights::open(&folder.path().join("m.gguf")).unwrap();
        let prepared = weights::open(&path).unwrap();
        same_model_in_panels(source.as_ref(), prepared.as_ref());
        let bytes = fs::read(&path).unwrap();
        let holds = |words: &[u8]| bytes.windows(words.len()).any(|window| window == words);
        for (key, value) in &forged.keys {
            let own = ["general.alignment", "zonda.source"].contains(&&key[..]);
            assert_eq!(holds(&[text(key), value.clone()].concat()), !own, "{key}");
        }
        assert!(holds(&[text("zonda.panels"), u32_value(1)].concat()));
        assert!(holds(&[text("zonda.source"), text_value("m.gguf")].concat()));
        assert!(holds(&[text("general.alignment"), u32_value(4096)].concat()));
        // The name under which it was written is gone.
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
    }
}

#[test]
fn released_models_are_prepared_in_every_encoding() {
    let Some(shared) = shared() else { return };
    let models = shared.join("data/models");
    for name in [
        "stories260K/stories260K-f32.gguf",
        "stories260K/stories260K-q5_1.gguf",
        "stories260K/stories260K-q4_0.gguf",
        "tiny-random/tiny-v3-bf16.gguf",
        "tiny-random/tiny-k-Q2_K.gguf",
        "tiny-random/tiny-k-Q3_K_M.gguf",
        "tiny-random/tiny-k-Q4_K_M.gguf",
    ] {
        let folder = folder(&[]);
        let source = weights::open(&models.join(name)).unwrap();
        let path = prepare(folder.path(), models.join(name).to_str().unwrap(), false).unwrap();
        let prepared = weights::open(&path).unwrap();
        same_model_in_panels(source.as_ref(), prepared.as_ref());
        let encodings = [&source, &prepared].map(|archive| {
            archive.tensors().into_iter().map(|t| (t.name, t.encoding)).collect::<Vec<_>>()
        });
        assert_eq!(encodings[0], encodings[1], "{name}");
    }
}

#[test]
fn what_cannot_be_prepared_leaves_nothing_behind() {
    let mut cut = Gguf::sound().bytes();
    cut.truncate(cut.len() - 100);
    let folder = folder(&[
        ("m.gguf", &Gguf::sound().bytes()),
        ("cut.gguf", &cut),
        ("model.safetensors", &safetensors(&tensors(HUGGING_FACE_NAMES))),
        ("notes.txt", b"not a model"),
    ]);
    let at = folder.path();
    let says = |name: &str, words: &str| {
        let said = prepare(at, name, true).unwrap_err().to_string();
        assert!(said.contains(words), "{name}: expected {words:?} in: {said}");
        assert_eq!(fs::read_dir(at).unwrap().count(), 4, "{name}");
    };
    says("cut.gguf", "reaches beyond");
    says("model.safetensors", "loaded directly");
    says("notes.txt", "begins with GGUF");
    says("", "loaded directly");
    says("nowhere.gguf", "cannot open");

    let path = prepare(at, "m.gguf", false).unwrap();
    let there = fs::read(&path).unwrap();
    let again = |name: &str, replace| prepare(at, name, replace).unwrap_err().to_string();
    assert!(again("m.gguf", false).contains("is there already"));
    assert!(again("prepared.gguf", true).contains("Name another output"));
    fs::rename(&path, at.join("first.gguf")).unwrap();
    assert!(again("first.gguf", false).contains("It was made of \"m.gguf\""));
    prepare(at, "m.gguf", false).unwrap();
    prepare(at, "m.gguf", true).unwrap();
    assert!(fs::read(&path).unwrap() == there);
    assert_eq!(fs::read_dir(at).unwrap().count(), 6);
}

#[cfg(target_os = "linux")]
#[test]
fn a_folder_that_cannot_be_written_is_said() {
    let folder = folder(&[("m.gguf", &Gguf::sound().bytes())]);
    let output = Path::new("/proc/zonda/prepared.gguf");
    let source = folder.path().join("m.gguf");
    let error = weights::prepare(&source, output, false, backwards, &mut |_| {}).unwrap_err();
    assert!(error.to_string().starts_with("cannot write /proc/zonda/"), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn a_mutated_source_is_prepared_or_refused(
        edits in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut bytes = Gguf::sound().bytes();
        for (at, byte) in edits {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        let folder = folder(&[("m.gguf", &bytes)]);
        let opens = weights::open(&folder.path().join("m.gguf")).is_ok();
        let prepared = prepare(folder.path(), "m.gguf", false);
        prop_assert_eq!(opens, prepared.is_ok());
        prop_assert!(prepared.map_or(true, |path| weights::open(&path).is_ok()));
    }

    #[test]
    fn a_mutated_number_in_a_prepared_file_opens_or_is_refused(
        at in any::<proptest::sample::Index>(),
        number in prop_oneof![any::<u64>(), (0_u32..64).prop_map(|bit| 1 << bit), Just(u64::MAX)],
    ) {
        let mut bytes = with_panels("output.weight").bytes();
        let at = at.index(bytes.len() - 8);
        bytes[at..at + 8].copy_from_slice(&number.to_le_bytes());
        if let Ok(archive) = open_bytes("m.gguf", &bytes) {
            for name in names(archive.as_ref()) {
                let tensor = archive.tensor(name).unwrap();
                prop_assert_eq!(tensor.layout == TensorLayout::Rows, tensor.to_f32().is_ok());
            }
        }
    }
}
