//! The file's statement of the architecture, checked and, where it is known to be wrong, corrected.

use std::path::Path;

use crate::{Part, TensorName, WeightsError};

/// Token ids of a vocabulary.
pub(crate) const VOCABULARY_MAX: u64 = 1 << 20;
pub(crate) const HIDDEN_MAX: u32 = 1 << 17;
pub(crate) const FEED_FORWARD_MAX: u32 = 1 << 20;
pub(crate) const LAYERS_MAX: u32 = 1024;
pub(crate) const HEADS_MAX: u32 = 4096;
pub(crate) const HEAD_DIM_MAX: u32 = 1024;
pub(crate) const CONTEXT_TOKENS_MAX: u32 = 1 << 24;

/// Which two numbers of a head the rotary embedding turns together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RopePairing {
    /// `(0, 1), (2, 3), …`: GGUF's `llama` and Mistral's own files.
    Adjacent,
    /// `(0, n/2), (1, n/2 + 1), …`: Hugging Face.
    HalfSplit,
}

/// The hyper-parameters of a dense Mistral model.
#[derive(Debug, Clone, PartialEq)]
pub struct Hyper {
    /// What the file calls itself.
    pub name: Option<String>,
    /// The licence that the file states.
    pub license: Option<String>,
    /// Token ids.
    pub vocabulary: u32,
    /// Width of the residual stream.
    pub hidden: u32,
    /// Width inside the feed-forward.
    pub feed_forward: u32,
    /// Blocks.
    pub layers: u32,
    /// Query heads.
    pub heads: u32,
    /// Key and value heads; divides `heads`.
    pub kv_heads: u32,
    /// Width of a head. Read from the file: `hidden / heads` is wrong for half of the family.
    pub head_dim: u32,
    /// The longest context the weights were trained for.
    pub context_tokens_max: u32,
    /// Base of the rotary angles.
    pub rope_theta: f64,
    /// Added under the root of every norm.
    pub rms_epsilon: f64,
    /// Tokens a query looks back on, itself included, where the file limits them.
    pub sliding_window: Option<u32>,
    /// Whether the output projection is the embedding.
    pub tied_embeddings: bool,
    /// How the rows of `Query` and `Key` are laid out.
    pub pairing: RopePairing,
}

impl Hyper {
    /// The shape a tensor of this architecture has, rows first.
    pub fn shape_of(&self, name: TensorName) -> Vec<usize> {
        let [vocabulary, hidden, feed_forward] =
            [self.vocabulary, self.hidden, self.feed_forward].map(|count| count as usize);
        let head_dim = self.head_dim as usize;
        let [query, key] = [self.heads, self.kv_heads].map(|heads| heads as usize * head_dim);
        match name {
            TensorName::Embedding | TensorName::Output => vec![vocabulary, hidden],
            TensorName::OutputNorm => vec![hidden],
            TensorName::Block { part, .. } => match part {
                Part::AttentionNorm | Part::FeedForwardNorm => vec![hidden],
                Part::Query => vec![query, hidden],
                Part::Key | Part::Value => vec![key, hidden],
                Part::AttentionOutput => vec![hidden, query],
                Part::Gate | Part::Up => vec![feed_forward, hidden],
                Part::Down => vec![hidden, feed_forward],
            },
        }
    }

    /// Checks how the numbers fit together and settles the context: a known model's own length,
    /// else what the file claims.
    ///
    /// The counts were checked against their limits where they were read.
    pub(crate) fn settle(
        mut self,
        claimed: Option<u32>,
        path: &Path,
        context_key: &str,
    ) -> Result<Self, WeightsError> {
        let wrong = |key: &str, found: String, expected: String| {
            Err(WeightsError::WrongValue {
                path: path.to_owned(),
                key: key.into(),
                found,
                expected,
            })
        };
        if !self.heads.is_multiple_of(self.kv_heads) {
            let expected = format!("a divisor of the {} query heads", self.heads);
            return wrong("the number of key-value heads", self.kv_heads.to_string(), expected);
        }
        if !self.head_dim.is_multiple_of(2) || self.head_dim > HEAD_DIM_MAX {
            let expected = format!("an even number up to {HEAD_DIM_MAX}");
            return wrong("the head size", self.head_dim.to_string(), expected);
        }
        if !(self.rope_theta.is_finite() && self.rope_theta > 0.0) {
            return wrong("the rotary base", self.rope_theta.to_string(), "above 0".into());
        }
        if !(self.rms_epsilon > 0.0 && self.rms_epsilon < 1.0) {
            return wrong("the norm's epsilon", self.rms_epsilon.to_string(), "from 0 to 1".into());
        }
        self.context_tokens_max = known_context(&self).or(claimed).ok_or_else(|| {
            WeightsError::MissingKey { path: path.to_owned(), key: context_key.to_owned() }
        })?;
        Ok(self)
    }
}

/// A released model whose files are known to claim a wrong context here and there.
struct Known {
    /// `[layers, hidden, feed_forward, heads, kv_heads, head_dim]`
    shape: [u32; 6],
    /// Where another family shares the shape.
    vocabulary: Option<u32>,
    /// Tells releases of one shape apart, and a release from a tune for longer contexts.
    rope_theta: f64,
    context_tokens: u32,
}

/// Recognised by numbers, not by name: files are renamed, numbers are not. Where two releases
/// share all of them (Large 2407 and 2411; Small 2409 and Codestral 22B), the context is the same.
/// Source: the models' cards.
const KNOWN: [Known; 6] = [
    // Mistral 7B v0.3
    Known {
        shape: [32, 4096, 14336, 32, 8, 128],
        vocabulary: Some(32768),
        rope_theta: 1e6,
        context_tokens: 32_768,
    },
    // NeMo 12B 2407
    Known {
        shape: [40, 5120, 14336, 32, 8, 128],
        vocabulary: None,
        rope_theta: 1e6,
        context_tokens: 131_072,
    },
    // Small 2409
    Known {
        shape: [56, 6144, 16384, 48, 8, 128],
        vocabulary: None,
        rope_theta: 1e6,
        context_tokens: 32_768,
    },
    // Large 2407 and 2411
    Known {
        shape: [88, 12288, 28672, 96, 8, 128],
        vocabulary: None,
        rope_theta: 1e6,
        context_tokens: 131_072,
    },
    // Small 24B 2501
    Known {
        shape: [40, 5120, 32768, 32, 8, 128],
        vocabulary: None,
        rope_theta: 1e8,
        context_tokens: 32_768,
    },
    // Small 24B 3.1 and 3.2
    Known {
        shape: [40, 5120, 32768, 32, 8, 128],
        vocabulary: None,
        rope_theta: 1e9,
        context_tokens: 131_072,
    },
];

fn known_context(hyper: &Hyper) -> Option<u32> {
    let shape = [
        hyper.layers,
        hyper.hidden,
        hyper.feed_forward,
        hyper.heads,
        hyper.kv_heads,
        hyper.head_dim,
    ];
    let known = KNOWN.iter().find(|known| {
        known.shape == shape
            && known.vocabulary.is_none_or(|count| count == hyper.vocabulary)
            && known.rope_theta == hyper.rope_theta
    })?;
    Some(known.context_tokens)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stated(shape: [u32; 6], vocabulary: u32, rope_theta: f64) -> Hyper {
        let [layers, hidden, feed_forward, heads, kv_heads, head_dim] = shape;
        Hyper {
            name: None,
            license: None,
            vocabulary,
            hidden,
            feed_forward,
            layers,
            heads,
            kv_heads,
            head_dim,
            context_tokens_max: 0,
            rope_theta,
            rms_epsilon: 1e-5,
            sliding_window: None,
            tied_embeddings: false,
            pairing: RopePairing::Adjacent,
        }
    }

    fn context(shape: [u32; 6], vocabulary: u32, theta: f64, claimed: u32) -> u32 {
        let settled = stated(shape, vocabulary, theta).settle(Some(claimed), Path::new("m"), "c");
        settled.unwrap().context_tokens_max
    }

    #[test]
    fn known_models_override_what_files_claim() {
        let small = [56, 6144, 16384, 48, 8, 128];
        assert_eq!(context(small, 32768, 1e6, 131_072), 32_768);
        assert_eq!(context([88, 12288, 28672, 96, 8, 128], 32768, 1e6, 32_768), 131_072);
        assert_eq!(context([40, 5120, 14336, 32, 8, 128], 131_072, 1e6, 1_024_000), 131_072);
        assert_eq!(context([40, 5120, 32768, 32, 8, 128], 131_072, 1e8, 131_072), 32_768);
        assert_eq!(context([40, 5120, 32768, 32, 8, 128], 131_072, 1e9, 32_768), 131_072);
        assert_eq!(context([32, 4096, 14336, 32, 8, 128], 32768, 1e6, 8192), 32_768);
    }

    #[test]
    fn a_neighbour_of_the_same_shape_keeps_its_claim() {
        assert_eq!(context([32, 4096, 14336, 32, 8, 128], 128_256, 5e5, 8192), 8192);
        assert_eq!(context([40, 5120, 14336, 32, 8, 128], 131_072, 4e6, 262_144), 262_144);
    }

    #[test]
    fn numbers_that_do_not_fit_together_are_refused() {
        let refused = |shape, theta| {
            stated(shape, 8, theta).settle(Some(8), Path::new("m"), "c").unwrap_err().to_string()
        };
        assert!(refused([1, 8, 8, 3, 2, 2], 1e4).contains("divisor of the 3 query heads"));
        assert!(refused([1, 8, 8, 2, 2, 3], 1e4).contains("even number"));
        assert!(refused([1, 8, 8, 2, 2, 4], f64::NAN).contains("rotary base"));
        let unsaid = stated([1, 8, 8, 2, 2, 4], 8, 1e4).settle(None, Path::new("m"), "c");
        assert!(matches!(unsaid, Err(WeightsError::MissingKey { key, .. }) if key == "c"));
    }
}
