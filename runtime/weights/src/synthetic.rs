//! Models of true sizes and random weights, so that a box can be measured before a file is there.

use std::path::Path;

use bytes::Bytes;
use half::f16;

use crate::archive::{Archive, Container, RawTensor, TensorLayout, TensorSummary};
use crate::{Encoding, Hyper, Part, RopePairing, TensorName, Vocabulary, WeightsError};

/// The dense models of the family whose speed people ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ModelShape {
    /// Mistral 7B v0.3.
    Mistral7b,
    /// Mistral NeMo 2407, 12B.
    Nemo12b,
    /// Mistral Small 2409, 22B.
    Small22b,
    /// Mistral Small 2501, 24B.
    Small24b,
    /// Mistral Large 2411, 123B.
    Large123b,
    /// Three layers of a few columns, for tests.
    Tiny,
}

/// Which encodings the matrices of a file have, as llama.cpp's converter chooses them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Mix {
    /// Mostly Q4_K, with Q6_K where it matters.
    Q4KM,
    /// Mostly Q5_K, with Q6_K where it matters.
    Q5KM,
    /// Q4_0 with an output of Q6_K.
    Q4_0,
    /// Q6_K.
    Q6K,
    /// Q8_0.
    Q8_0,
    /// 16-bit floats.
    F16,
}

impl ModelShape {
    /// All, smallest first.
    pub const ALL: [Self; 6] = [
        Self::Tiny,
        Self::Mistral7b,
        Self::Nemo12b,
        Self::Small22b,
        Self::Small24b,
        Self::Large123b,
    ];

    /// Its name on a command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tiny => "tiny",
            Self::Mistral7b => "7b",
            Self::Nemo12b => "12b",
            Self::Small22b => "22b",
            Self::Small24b => "24b",
            Self::Large123b => "123b",
        }
    }

    fn hyper(self) -> Hyper {
        // hidden, feed-forward, layers, heads, key heads, vocabulary, context, base of the angles
        let (hidden, feed_forward, layers, heads, kv_heads, vocabulary, context, theta) = match self
        {
            Self::Tiny => (512, 1024, 3, 8, 2, 1000, 2048, 1e6),
            Self::Mistral7b => (4096, 14336, 32, 32, 8, 32768, 32768, 1e6),
            Self::Nemo12b => (5120, 14336, 40, 32, 8, 131_072, 131_072, 1e6),
            Self::Small22b => (6144, 16384, 56, 48, 8, 32768, 32768, 1e6),
            Self::Small24b => (5120, 32768, 40, 32, 8, 131_072, 32768, 1e8),
            Self::Large123b => (12288, 28672, 88, 96, 8, 32768, 131_072, 1e6),
        };
        Hyper {
            name: Some(format!("{} of random weights", self.name())),
            license: None,
            vocabulary,
            hidden,
            feed_forward,
            layers,
            heads,
            kv_heads,
            head_dim: if self == Self::Tiny { 64 } else { 128 },
            context_tokens_max: context,
            rope_theta: theta,
            rms_epsilon: 1e-5,
            sliding_window: None,
            tied_embeddings: false,
            pairing: RopePairing::Adjacent,
        }
    }
}

impl Mix {
    /// All.
    pub const ALL: [Self; 6] =
        [Self::Q4KM, Self::Q5KM, Self::Q4_0, Self::Q6K, Self::Q8_0, Self::F16];

    /// Its name on a command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Q4KM => "q4_k_m",
            Self::Q5KM => "q5_k_m",
            Self::Q4_0 => "q4_0",
            Self::Q6K => "q6_k",
            Self::Q8_0 => "q8_0",
            Self::F16 => "f16",
        }
    }

    fn encoding(self, name: TensorName, layers: u16) -> Encoding {
        let base = match self {
            Self::Q4KM => Encoding::Q4K,
            Self::Q5KM => Encoding::Q5K,
            Self::Q4_0 => Encoding::Q4_0,
            Self::Q6K => Encoding::Q6K,
            Self::Q8_0 => Encoding::Q8_0,
            Self::F16 => Encoding::F16,
        };
        let finer = matches!(self, Self::Q4KM | Self::Q5KM);
        match name {
            TensorName::OutputNorm => Encoding::F32,
            TensorName::Output if finer || self == Self::Q4_0 => Encoding::Q6K,
            TensorName::Embedding | TensorName::Output => base,
            TensorName::Block { part, layer } => match part {
                Part::AttentionNorm | Part::FeedForwardNorm => Encoding::F32,
                Part::Value | Part::Down if finer && has_more_bits(layer, layers) => Encoding::Q6K,
                _ => base,
            },
        }
    }
}

/// The layers to which llama.cpp's mixes give more bits: the first and the last eighth, and every
/// third between them.
fn has_more_bits(layer: u16, layers: u16) -> bool {
    let eighth = layers / 8;
    layer < eighth || layer >= 7 * layers / 8 || (layer - eighth) % 3 == 2
}

/// A model of this shape, whose weights are made when they are asked for: noise, of a size that
/// keeps activations finite. The same weights each time.
pub fn synthetic(shape: ModelShape, mix: Mix) -> impl Archive {
    Synthetic { hyper: shape.hyper(), mix }
}

struct Synthetic {
    hyper: Hyper,
    mix: Mix,
}

impl Synthetic {
    fn layers(&self) -> u16 {
        u16::try_from(self.hyper.layers).expect("shapes have few layers")
    }

    fn names(&self) -> impl Iterator<Item = TensorName> {
        TensorName::all_but_output(self.layers()).chain([TensorName::Output])
    }

    fn bytes_of(&self, name: TensorName) -> (Vec<usize>, Encoding, usize) {
        let shape = self.hyper.shape_of(name);
        let encoding = self.mix.encoding(name, self.layers());
        let cols = shape.last().copied().unwrap_or(0);
        let rows: usize = shape.iter().rev().skip(1).product();
        let bytes = encoding.row_bytes(cols).expect("shapes are whole blocks") * rows;
        (shape, encoding, bytes)
    }
}

impl Archive for Synthetic {
    fn hyper(&self) -> &Hyper {
        &self.hyper
    }

    fn tensor(&self, name: TensorName) -> Result<RawTensor, WeightsError> {
        let (shape, encoding, length) = self.bytes_of(name);
        let bytes = match encoding {
            // Gains.
            Encoding::F32 => 1f32.to_le_bytes().repeat(length / 4),
            _ => {
                let inputs = shape.last().copied().unwrap_or(1);
                noise(encoding, length, 1.0 / (inputs as f32).sqrt())
            }
        };
        Ok(RawTensor { shape, encoding, layout: TensorLayout::Rows, bytes: Bytes::from(bytes) })
    }

    fn release(&self, _name: TensorName) {}

    fn vocabulary(&self) -> Option<&Vocabulary> {
        None
    }

    fn tokenizer_path(&self) -> Option<&Path> {
        None
    }

    fn container(&self) -> Container {
        Container::Gguf
    }

    fn tensors(&self) -> Vec<TensorSummary> {
        let summary = |name: TensorName| {
            let (shape, encoding, bytes) = self.bytes_of(name);
            let name = name.spelled(Container::Gguf);
            TensorSummary { name, shape, encoding, bytes: bytes as u64 }
        };
        self.names().map(summary).collect()
    }

    fn file_bytes(&self) -> u64 {
        self.names().map(|name| self.bytes_of(name).2 as u64).sum()
    }

    fn modified_unix(&self) -> u64 {
        0
    }
}

/// Blocks that repeat: as many as a cache of the processor does not hold, and no divisor of a row.
const BLOCKS: usize = 4999;

/// So many bytes of blocks whose numbers deviate by about `deviation`.
fn noise(encoding: Encoding, length: usize, deviation: f32) -> Vec<u8> {
    let block_bytes = encoding.block_bytes();
    let mut random = 0x9e37_79b9_7f4a_7c15u64;
    let mut next = || {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random
    };
    let mut pool = Vec::with_capacity(BLOCKS * block_bytes);
    for _ in 0..BLOCKS {
        let first = pool.len();
        match encoding {
            Encoding::F16 => {
                let unit = (next() >> 40) as f32 / (1u64 << 23) as f32 - 1.0;
                pool.extend(f16::from_f32(unit * deviation * 1.7).to_le_bytes());
            }
            _ => pool.extend((0..block_bytes).map(|_| next().to_le_bytes()[3])),
        }
        for (at, part) in scales(encoding) {
            let scale = f16::from_f32(deviation * part).to_le_bytes();
            pool[first + at..][..2].copy_from_slice(&scale);
        }
    }
    let mut bytes = pool.repeat(length / pool.len());
    bytes.extend_from_slice(&pool[..length - bytes.len()]);
    bytes
}

/// Where a block's scale and minimum lie, and what they are so that random integers have a mean of
/// zero and deviate by one.
fn scales(encoding: Encoding) -> &'static [(usize, f32)] {
    match encoding {
        Encoding::Q8_0 => &[(0, 1.0 / 74.0)],
        Encoding::Q4_0 => &[(0, 1.0 / 4.6)],
        Encoding::Q4K => &[(0, 1.0 / 210.0), (2, 7.5 / 210.0)],
        Encoding::Q5K => &[(0, 1.0 / 430.0), (2, 15.5 / 430.0)],
        Encoding::Q6K => &[(208, 1.0 / 1370.0)],
        _ => &[],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_have_the_family_s_sizes() {
        // Parameters in billions, as the models' makers state them.
        let stated = [7.25, 12.2, 22.2, 23.6, 122.6];
        for (shape, stated) in ModelShape::ALL.into_iter().skip(1).zip(stated) {
            let archive = synthetic(shape, Mix::Q4KM);
            let parameters: usize =
                archive.tensors().iter().map(|tensor| tensor.shape.iter().product::<usize>()).sum();
            let billions = parameters as f64 / 1e9;
            assert!((billions - stated).abs() < 0.1, "{}: {billions}", shape.name());
        }
    }

    #[test]
    fn noise_has_its_deviation_in_every_mix() {
        for mix in Mix::ALL {
            let archive = Synthetic { hyper: ModelShape::Tiny.hyper(), mix };
            for name in archive.names() {
                let tensor = archive.tensor(name).unwrap();
                let values = tensor.to_f32().unwrap();
                assert_eq!(values.len(), tensor.shape.iter().product::<usize>());
                if tensor.encoding == Encoding::F32 {
                    assert!(values.iter().all(|value| *value == 1.0));
                    continue;
                }
                let square: f32 = values.iter().map(|value| value * value).sum();
                let found = (square / values.len() as f32).sqrt();
                let wanted = 1.0 / (tensor.shape[1] as f32).sqrt();
                assert!((0.7..1.4).contains(&(found / wanted)), "{mix:?} {name:?}: {found}");
            }
        }
    }
}
