//! Rewrites a model's file so that its matrices lie as the CPU's kernels read them.

use std::path::Path;

use weights::WeightsError;

/// Writes the GGUF file `source` to `output` with its matrices in panels, which are then mapped at
/// loading and not moved; gives the new file's bytes.
///
/// `replace` permits to replace a file. `progress` is told the share that is done, from 0 to 1.
///
/// # Errors
/// As [`weights::prepare`].
pub fn prepare(
    source: &Path,
    output: &Path,
    replace: bool,
    progress: &mut dyn FnMut(f32),
) -> Result<u64, WeightsError> {
    weights::prepare(source, output, replace, fused_ops::pack, progress)
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use fused_ops::{pack, panel_bytes, panel_count};
    use weights::{Archive, Part, TensorLayout, TensorName};

    use super::*;

    /// Every tensor, in panels where it is, against what packing makes of the source's.
    fn check(model: &Path) {
        let name = model.file_name().unwrap().to_string_lossy().into_owned();
        let output = std::env::temp_dir().join(format!("zonda-{}-{name}", std::process::id()));
        prepare(model, &output, true, &mut |_| {}).unwrap();
        let [source, prepared] = [model, &output].map(|path| weights::open(path).unwrap());
        // The mapping outlives the folder's entry for the file.
        std::fs::remove_file(&output).unwrap();
        let layers = u16::try_from(source.hyper().layers).unwrap();
        let blocks =
            (0..layers).flat_map(|layer| Part::ALL.map(|part| TensorName::Block { layer, part }));
        let others = [TensorName::Embedding, TensorName::OutputNorm, TensorName::Output];
        let mut matrices = 0;
        for tensor in blocks.chain(others) {
            let tensor_of = |archive: &dyn Archive| archive.tensor(tensor).unwrap();
            let (rows, panels) = (tensor_of(source.as_ref()), tensor_of(prepared.as_ref()));
            assert_eq!((&rows.shape, rows.encoding), (&panels.shape, panels.encoding));
            if panels.layout == TensorLayout::Rows {
                assert!(rows.bytes == panels.bytes, "{name} {tensor:?}");
                continue;
            }
            matrices += 1;
            let panel = panel_bytes(rows.encoding, rows.shape[1]).unwrap();
            let mut expected = vec![0xff; panel_count(rows.shape[0]) * panel];
            pack(rows.encoding, rows.shape[1], &rows.bytes, &mut expected);
            assert!(panels.bytes == expected, "{name} {tensor:?}");
        }
        let output = usize::from(!source.hyper().tied_embeddings);
        assert_eq!(matrices, 7 * usize::from(layers) + output, "{name}");
    }

    #[test]
    fn small_models_lie_in_the_panels_of_the_kernels() {
        check(Path::new("../../tests/fixtures/tiny/tiny.gguf"));
        check(Path::new("../daemon/models/zonda.gguf"));
    }

    #[test]
    fn released_models_lie_in_the_panels_of_the_kernels() {
        let beside = PathBuf::from("../../../shared");
        let models =
            std::env::var_os("ZONDA_SHARED").map_or(beside, PathBuf::from).join("data/models");
        if !models.is_dir() {
            println!("skipped: no shared data");
            return;
        }
        for name in ["stories260K/stories260K-q4_0.gguf", "stories260K/stories260K-q5_1.gguf"] {
            check(&models.join(name));
        }
        for name in ["Q2_K", "Q3_K_M", "Q4_K_M", "Q5_K_M", "Q6_K", "IQ4_NL"] {
            check(&models.join(format!("tiny-random/tiny-k-{name}.gguf")));
        }
    }
}
