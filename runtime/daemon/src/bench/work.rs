//! What a model asks of the box for each token, and the share of a limit that a speed comes to.

use weights::{Archive, Encoding, TensorName, TensorSummary};

/// A multiplication and an addition for each parameter.
const OPS_PER_PARAMETER: f64 = 2.0;

/// What one token costs. Attention is not counted: it depends on the context.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Work {
    /// Bytes of all weights.
    pub(super) weight_bytes: u64,
    /// Bytes of weights that one step of decoding reads.
    pub(super) step_bytes: u64,
    /// Parameters that each token is multiplied with.
    pub(super) parameters: u64,
    /// Whether most of those bytes are packed integers, so that int8 arithmetic is the limit.
    pub(super) packed: bool,
}

impl Work {
    pub(super) fn of(archive: &dyn Archive) -> Self {
        let embedding = archive.tensor(TensorName::Embedding).ok().map(|tensor| TensorSummary {
            name: String::new(),
            encoding: tensor.encoding,
            bytes: tensor.bytes.len() as u64,
            shape: tensor.shape,
        });
        let tied = archive.hyper().tied_embeddings;
        Self::counted(&archive.tensors(), embedding.filter(|_| !tied))
    }

    /// `embedding` is left out of what a step reads: it reads one row of it. A tied one is also the
    /// output's matrix and read as a whole.
    fn counted(tensors: &[TensorSummary], embedding: Option<TensorSummary>) -> Self {
        let parameters = |tensor: &TensorSummary| tensor.shape.iter().product::<usize>() as u64;
        let weight_bytes = tensors.iter().map(|tensor| tensor.bytes).sum();
        let (row_bytes, row_parameters) =
            embedding.as_ref().map_or((0, 0), |tensor| (tensor.bytes, parameters(tensor)));
        let packed_of = |tensor: &TensorSummary| match tensor.encoding {
            Encoding::F32 | Encoding::F16 | Encoding::Bf16 => 0,
            _ => tensor.bytes,
        };
        let packed_bytes: u64 = tensors.iter().map(packed_of).sum();
        let packed_bytes = packed_bytes - embedding.as_ref().map_or(0, packed_of);
        let step_bytes = weight_bytes - row_bytes;
        Self {
            weight_bytes,
            step_bytes,
            parameters: tensors.iter().map(parameters).sum::<u64>() - row_parameters,
            packed: 2 * packed_bytes > step_bytes,
        }
    }

    /// The share of `bandwidth` (bytes/s) that decoding takes for weights, at so many tokens per
    /// second of all sequences together: they share one reading of the weights.
    pub(super) fn bandwidth_share(&self, tokens_per_s: f64, sequences: u32, bandwidth: f64) -> f64 {
        tokens_per_s / f64::from(sequences) * self.step_bytes as f64 / bandwidth
    }

    /// The share of `peak` (operations/s) that reading a prompt takes at so many tokens per second.
    pub(super) fn arithmetic_share(&self, tokens_per_s: f64, peak: f64) -> f64 {
        tokens_per_s * OPS_PER_PARAMETER * self.parameters as f64 / peak
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensor(encoding: Encoding, shape: [usize; 2], bytes: u64) -> TensorSummary {
        TensorSummary { name: "t".into(), shape: shape.to_vec(), encoding, bytes }
    }

    fn model() -> [TensorSummary; 3] {
        [
            tensor(Encoding::F16, [100, 10], 2000),
            tensor(Encoding::Q8_0, [64, 32], 2176),
            tensor(Encoding::F32, [10, 1], 40),
        ]
    }

    #[test]
    fn an_embedding_of_its_own_costs_a_row() {
        let work = Work::counted(&model(), Some(model()[0].clone()));
        let expected =
            Work { weight_bytes: 4216, step_bytes: 2216, parameters: 2058, packed: true };
        assert_eq!(work, expected);
    }

    #[test]
    fn a_tied_embedding_is_read_and_multiplied_as_a_whole() {
        let work = Work::counted(&model(), None);
        let expected =
            Work { weight_bytes: 4216, step_bytes: 4216, parameters: 3058, packed: true };
        assert_eq!(work, expected);
    }

    #[test]
    fn plain_floats_have_no_int8_limit() {
        let floats = [tensor(Encoding::F16, [8, 8], 128), tensor(Encoding::Q8_0, [1, 32], 34)];
        assert!(!Work::counted(&floats, None).packed);
    }

    #[test]
    fn several_sequences_share_one_reading_of_the_weights() {
        let work = Work { weight_bytes: 0, step_bytes: 4_000, parameters: 8_000, packed: true };
        assert_eq!(work.bandwidth_share(10.0, 1, 80_000.0), 0.5);
        assert_eq!(work.bandwidth_share(40.0, 8, 80_000.0), 0.25);
        assert_eq!(work.arithmetic_share(50.0, 1_600_000.0), 0.5);
    }
}
