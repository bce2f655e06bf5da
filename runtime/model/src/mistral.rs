//! The Mistral architecture: a decoder of identical blocks, each attention and then a gated
//! feed-forward, both behind a norm and added to what came in.
//!
//! Source: Jiang et al. 2023, arXiv:2310.06825. Encodings and devices are values inside
//! [`Weight`]; nothing here knows them.

use burn::tensor::Tensor;
use fused_ops::{
    AttentionOptions, Heads, KvPool, Norm, Rotation, Weight, linear_add, norm_gated, norm_linear,
    rope_table,
};
use weights::{Hyper, Part, TensorName};

use crate::load::{LoadError, Loader};
use crate::pool::Pool;
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
            norm: loader.norm(TensorName::OutputNorm)?,
            output: loader.matrices(&[TensorName::Output])?,
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
        Some(norm_linear(x, &self.norm, &self.output))
    }
}

/// What the heads of each layer are.
pub(crate) fn heads(hyper: &Hyper) -> Heads {
    Heads {
        heads: hyper.heads as usize,
        head_dim: hyper.head_dim as usize,
        options: AttentionOptions {
            kv_heads: hyper.kv_heads as usize,
            scale: 1.0 / f64::from(hyper.head_dim).sqrt(),
            window_tokens: hyper.sliding_window.map(|tokens| tokens as usize),
        },
    }
}

/// Attention in which several query heads share one head of keys and values, then a feed-forward
/// whose inner half is switched by its other half.
#[derive(Debug)]
struct Block {
    heads: Heads,
    attention_norm: Norm,
    /// Query, key and value.
    attention_inputs: Weight,
    attention_output: Weight,
    feed_forward_norm: Norm,
    gate_up: Weight,
    down: Weight,
}

impl Block {
    fn load(loader: &mut Loader<'_>, hyper: &Hyper, layer: u16) -> Result<Self, LoadError> {
        let name = |part| TensorName::Block { layer, part };
        Ok(Self {
            heads: heads(hyper),
            attention_norm: loader.norm(name(Part::AttentionNorm))?,
            attention_inputs: loader.matrices(&[Part::Query, Part::Key, Part::Value].map(name))?,
            attention_output: loader.matrices(&[name(Part::AttentionOutput)])?,
            feed_forward_norm: loader.norm(name(Part::FeedForwardNorm))?,
            gate_up: loader.matrices(&[Part::Gate, Part::Up].map(name))?,
            down: loader.matrices(&[name(Part::Down)])?,
        })
    }

    /// `[tokens, hidden]` → as it.
    fn forward(
        &self,
        x: Tensor<2>,
        step: &StepTensors,
        rotation: &Rotation,
        pool: &mut KvPool,
    ) -> Tensor<2> {
        let qkv = norm_linear(x.clone(), &self.attention_norm, &self.attention_inputs);
        pool.store(&qkv, &step.slots, &step.map, &self.heads, rotation);
        let seen = pool.attend(qkv, &step.map, &self.heads, rotation);
        let x = linear_add(seen, &self.attention_output, x);
        let open = norm_gated(x.clone(), &self.feed_forward_norm, &self.gate_up);
        linear_add(open, &self.down, x)
    }
}
