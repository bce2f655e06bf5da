//! A model in memory, of made-up weights.

use std::collections::HashMap;
use std::path::Path;

use weights::{
    Archive, Container, Encoding, Hyper, Part, RawTensor, RopePairing, TensorLayout, TensorName,
    TensorSummary, Vocabulary, WeightsError,
};

/// A model in memory.
pub(crate) struct Made {
    pub(crate) hyper: Hyper,
    tensors: HashMap<TensorName, RawTensor>,
}

impl Made {
    pub(crate) fn new(hyper: Hyper) -> Self {
        let (hidden, vocabulary) = (hyper.hidden as usize, hyper.vocabulary as usize);
        let mut made = Self { hyper, tensors: HashMap::new() };
        made.add(TensorName::Embedding, vec![vocabulary, hidden]);
        made.add(TensorName::OutputNorm, vec![hidden]);
        if !made.hyper.tied_embeddings {
            made.add(TensorName::Output, vec![vocabulary, hidden]);
        }
        for layer in 0..made.hyper.layers as u16 {
            for part in Part::ALL {
                made.add(TensorName::Block { layer, part }, made.shape(part));
            }
        }
        made
    }

    fn shape(&self, part: Part) -> Vec<usize> {
        let hyper = &self.hyper;
        let (hidden, dim) = (hyper.hidden as usize, hyper.head_dim as usize);
        let (query, kv) = (hyper.heads as usize * dim, hyper.kv_heads as usize * dim);
        let feed_forward = hyper.feed_forward as usize;
        match part {
            Part::AttentionNorm | Part::FeedForwardNorm => vec![hidden],
            Part::Query => vec![query, hidden],
            Part::Key | Part::Value => vec![kv, hidden],
            Part::AttentionOutput => vec![hidden, query],
            Part::Gate | Part::Up => vec![feed_forward, hidden],
            Part::Down => vec![hidden, feed_forward],
        }
    }

    /// Noise of a scale that keeps activations near 1; gains of norms lie around 1.
    fn add(&mut self, name: TensorName, shape: Vec<usize>) {
        let mut state = self.tensors.len() as u64 + 1;
        let (offset, scale) =
            if shape.len() == 1 { (1.0, 0.3) } else { (0.0, 2.0 / (shape[1] as f32).sqrt()) };
        let values = (0..shape.iter().product()).flat_map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(99_991);
            let noise = (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0;
            (offset + scale * noise).to_le_bytes()
        });
        let bytes: Vec<u8> = values.collect();
        self.tensors.insert(
            name,
            RawTensor {
                shape,
                encoding: Encoding::F32,
                bytes: bytes.into(),
                layout: TensorLayout::Rows,
            },
        );
    }

    pub(crate) fn numbers(&self, name: TensorName) -> Vec<f64> {
        let raw = self.tensor(name).unwrap();
        raw.bytes
            .chunks_exact(4)
            .map(|b| f64::from(f32::from_le_bytes(b.try_into().unwrap())))
            .collect()
    }
}

impl Archive for Made {
    fn hyper(&self) -> &Hyper {
        &self.hyper
    }

    fn tensor(&self, name: TensorName) -> Result<RawTensor, WeightsError> {
        let name = match name {
            TensorName::Output if self.hyper.tied_embeddings => TensorName::Embedding,
            name => name,
        };
        self.tensors.get(&name).cloned().ok_or_else(|| WeightsError::MissingTensor {
            path: "made".into(),
            tensor: format!("{name:?}"),
        })
    }

    fn release(&self, _name: TensorName) {}

    fn vocabulary(&self) -> Option<&Vocabulary> {
        None
    }

    fn tokenizer_path(&self) -> Option<&Path> {
        None
    }

    fn container(&self) -> Container {
        Container::HuggingFace
    }

    fn tensors(&self) -> Vec<TensorSummary> {
        Vec::new()
    }

    fn file_bytes(&self) -> u64 {
        self.tensors.values().map(|raw| raw.bytes.len() as u64).sum()
    }

    fn modified_unix(&self) -> u64 {
        0
    }
}

/// Head size apart from hidden / heads, and every other quirk by choice.
pub(crate) fn hyper(pairing: RopePairing, kv_heads: u32, window: Option<u32>, tied: bool) -> Hyper {
    Hyper {
        name: None,
        license: None,
        vocabulary: 50,
        hidden: 24,
        feed_forward: 36,
        layers: 2,
        heads: 12,
        kv_heads,
        head_dim: 8,
        context_tokens_max: 100,
        rope_theta: 1e4,
        rms_epsilon: 1e-5,
        sliding_window: window,
        tied_embeddings: tied,
        pairing,
    }
}

pub(crate) fn variants() -> Vec<Made> {
    use RopePairing::{Adjacent, HalfSplit};
    [
        hyper(Adjacent, 4, None, false),
        hyper(HalfSplit, 1, None, true),
        hyper(HalfSplit, 12, Some(5), false),
        hyper(Adjacent, 2, Some(3), true),
    ]
    .map(Made::new)
    .into()
}
