//! The Mistral architecture: a decoder of identical blocks, each attention and then a gated
//! feed-forward, both behind a norm and added to what came in.
//!
//! Source: Jiang et al. 2023, arXiv:2310.06825. Encodings and devices are values inside
//! [`Weight`]; nothing here knows them.

use burn::tensor::activation::silu;
use burn::tensor::{Int, Tensor};
use fused_ops::{AttentionOptions, paged_attention, rms_norm, rope, rope_table};
use weights::{Hyper, Part, RopePairing, TensorName};

use crate::linear::Weight;
use crate::load::{LoadError, Loader};
use crate::pool::{LayerPool, Pool};
use crate::upload::StepTensors;

/// The network without its token embedding and its cache.
#[derive(Debug)]
pub(crate) struct Mistral {
    blocks: Vec<Block>,
    norm: Norm,
    output: Weight,
    rotation: Rotation,
}

impl Mistral {
    pub(crate) fn load(
        loader: &mut Loader<'_>,
        context_tokens_max: usize,
    ) -> Result<Self, LoadError> {
        let hyper = loader.hyper().clone();
        let layers = 0..u16::try_from(hyper.layers).map_err(|_| LoadError::layers(&hyper))?;
        Ok(Self {
            blocks: layers
                .map(|layer| Block::load(loader, &hyper, layer))
                .collect::<Result<_, _>>()?,
            norm: Norm::load(loader, &hyper, TensorName::OutputNorm)?,
            output: loader.matrix(TensorName::Output)?,
            rotation: Rotation {
                table: rope_table(
                    context_tokens_max,
                    hyper.head_dim as usize,
                    hyper.rope_theta,
                    &loader.device().device,
                ),
                pairing: hyper.pairing,
            },
        })
    }

    /// Reads the tokens of a step, caches their keys and values, and gives the logits of its rows:
    /// `[rows, vocabulary]`, or nothing where it wants none.
    pub(crate) fn forward(&self, step: StepTensors, pool: &mut Pool) -> Option<Tensor<2>> {
        let mut x = step.embedded.clone(); // [tokens, hidden]
        for (block, pool) in self.blocks.iter().zip(pool.layers()) {
            x = block.forward(x, &step, &self.rotation, pool);
        }
        let x = x.select(0, step.rows?); // [rows, hidden]
        Some(self.output.apply(self.norm.apply(x)))
    }
}

#[derive(Debug)]
struct Block {
    attention_norm: Norm,
    attention: Attention,
    feed_forward_norm: Norm,
    feed_forward: FeedForward,
}

impl Block {
    fn load(loader: &mut Loader<'_>, hyper: &Hyper, layer: u16) -> Result<Self, LoadError> {
        let name = |part| TensorName::Block { layer, part };
        Ok(Self {
            attention_norm: Norm::load(loader, hyper, name(Part::AttentionNorm))?,
            attention: Attention::load(loader, hyper, layer)?,
            feed_forward_norm: Norm::load(loader, hyper, name(Part::FeedForwardNorm))?,
            feed_forward: FeedForward {
                gate: loader.matrix(name(Part::Gate))?,
                up: loader.matrix(name(Part::Up))?,
                down: loader.matrix(name(Part::Down))?,
            },
        })
    }

    /// `[tokens, hidden]` → as it.
    fn forward(
        &self,
        x: Tensor<2>,
        step: &StepTensors,
        rotation: &Rotation,
        pool: &mut LayerPool,
    ) -> Tensor<2> {
        let normed = self.attention_norm.apply(x.clone());
        let x = x + self.attention.forward(normed, step, rotation, pool);
        let normed = self.feed_forward_norm.apply(x.clone());
        x + self.feed_forward.forward(normed)
    }
}

/// Attention in which several query heads share one head of keys and values.
#[derive(Debug)]
struct Attention {
    query: Weight,
    key: Weight,
    value: Weight,
    output: Weight,
    heads: usize,
    head_dim: usize,
    options: AttentionOptions,
}

impl Attention {
    fn load(loader: &mut Loader<'_>, hyper: &Hyper, layer: u16) -> Result<Self, LoadError> {
        let name = |part| TensorName::Block { layer, part };
        Ok(Self {
            query: loader.matrix(name(Part::Query))?,
            key: loader.matrix(name(Part::Key))?,
            value: loader.matrix(name(Part::Value))?,
            output: loader.matrix(name(Part::AttentionOutput))?,
            heads: hyper.heads as usize,
            head_dim: hyper.head_dim as usize,
            options: AttentionOptions {
                kv_heads: hyper.kv_heads as usize,
                scale: 1.0 / f64::from(hyper.head_dim).sqrt(),
                window_tokens: hyper.sliding_window.map(|tokens| tokens as usize),
            },
        })
    }

    /// `[tokens, hidden]` → as it.
    fn forward(
        &self,
        x: Tensor<2>,
        step: &StepTensors,
        rotation: &Rotation,
        pool: &mut LayerPool,
    ) -> Tensor<2> {
        let tokens = x.dims()[0];
        let (heads, kv_heads, head_dim) = (self.heads, self.options.kv_heads, self.head_dim);
        let positions = &step.map.positions;
        let query = self.query.apply(x.clone()).reshape([tokens, heads, head_dim]);
        let key = self.key.apply(x.clone()).reshape([tokens, kv_heads, head_dim]);
        let value = self.value.apply(x); // [tokens, kv_heads * head_dim]
        let query = rotation.apply(query, positions);
        let key = rotation.apply(key, positions).reshape([tokens, kv_heads * head_dim]);
        pool.store(key, value, &step.slots);
        let (keys, values) = pool.read();
        let seen = paged_attention(query, keys, values, &step.map, self.options);
        self.output.apply(seen.reshape([tokens, heads * head_dim]))
    }
}

/// A feed-forward whose inner half is switched by its other half.
///
/// Source: Shazeer 2020, arXiv:2002.05202, `SwiGLU`.
#[derive(Debug)]
struct FeedForward {
    gate: Weight,
    up: Weight,
    down: Weight,
}

impl FeedForward {
    /// `[tokens, hidden]` → as it.
    fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        let open = silu(self.gate.apply(x.clone())); // [tokens, feed_forward]
        self.down.apply(open * self.up.apply(x))
    }
}

#[derive(Debug)]
struct Norm {
    gain: Tensor<1>,
    epsilon: f64,
}

impl Norm {
    fn load(loader: &Loader<'_>, hyper: &Hyper, name: TensorName) -> Result<Self, LoadError> {
        Ok(Self { gain: loader.vector(name)?, epsilon: hyper.rms_epsilon })
    }

    fn apply(&self, x: Tensor<2>) -> Tensor<2> {
        rms_norm(x, self.gain.clone(), self.epsilon)
    }
}

/// How positions turn queries and keys.
#[derive(Debug)]
struct Rotation {
    table: Tensor<2>,
    pairing: RopePairing,
}

impl Rotation {
    fn apply(&self, x: Tensor<3>, positions: &Tensor<1, Int>) -> Tensor<3> {
        rope(x, positions.clone(), self.table.clone(), self.pairing)
    }
}
