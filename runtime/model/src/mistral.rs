//! The Mistral architecture: a decoder of identical blocks, each attention and then a gated
//! feed-forward, both behind a norm and added to what came in.
//!
//! Source: Jiang et al. 2023, arXiv:2310.06825. Encodings and devices are values inside
//! [`Weight`]; nothing here knows them.

use burn::tensor::{Device, Tensor};
use fused_ops::{
    AttentionOptions, Heads, LayerCache, Norm, OpenDevice, Rotation, Weight, linear_add,
    norm_gated, norm_linear, rope_table,
};
use weights::{Hyper, Part, TensorName};

use crate::load::LoadError;
use crate::placement::Placement;
use crate::upload::{Step, StepTensors};

/// The network without its token embedding and its cache.
#[derive(Debug)]
pub(crate) struct Mistral {
    /// Blocks that run on one device after the other, in order.
    stages: Vec<Stage>,
    norm: Norm,
    output: Weight,
}

/// The blocks of one device.
#[derive(Debug)]
struct Stage {
    device: Device,
    blocks: Vec<Block>,
    rotation: Rotation,
}

/// Where the weights of a network come from: a file, or whoever trains it.
pub(crate) trait Source {
    /// What the network is like.
    fn hyper(&self) -> &Hyper;

    /// Matrices of the same width, to be multiplied in one pass.
    fn matrices(&mut self, names: &[TensorName], device: &OpenDevice) -> Result<Weight, LoadError>;

    /// The norm whose gains have this name.
    fn norm(&mut self, name: TensorName, device: &OpenDevice) -> Result<Norm, LoadError>;
}

impl Mistral {
    pub(crate) fn build(
        source: &mut dyn Source,
        placement: &Placement,
        context_tokens_max: usize,
    ) -> Result<Self, LoadError> {
        let hyper = source.hyper().clone();
        let layers = u16::try_from(hyper.layers).map_err(|_| LoadError::layers(&hyper))?;
        let mut stages = Vec::new();
        for (device, layers) in placement.stages(layers) {
            stages.push(Stage {
                device: device.device.clone(),
                blocks: layers
                    .map(|layer| Block::build(source, device, &hyper, layer))
                    .collect::<Result<_, _>>()?,
                rotation: Rotation {
                    table: rope_table(
                        context_tokens_max,
                        hyper.head_dim as usize,
                        hyper.rope_theta,
                        &device.device,
                    ),
                    pairing: hyper.pairing,
                },
            });
        }
        let last = placement.last();
        Ok(Self {
            stages,
            norm: source.norm(TensorName::OutputNorm, last)?,
            output: source.matrices(&[TensorName::Output], last)?,
        })
    }

    /// Reads the tokens of a step, with a cache for each layer, and gives the logits of its rows:
    /// `[rows, vocabulary]`, or nothing where it wants none.
    pub(crate) fn forward<'a>(
        &self,
        step: Step,
        caches: impl Iterator<Item = LayerCache<'a>>,
    ) -> Option<Tensor<2>> {
        let x = self.stream(step.embedded, &step.stages, caches, |_| ());
        Some(self.logits(x.select(0, step.rows?)))
    }

    /// What the last block says of each token, `[tokens, hidden]` as `embedded`. `behind` sees what each
    /// block says.
    pub(crate) fn stream<'a>(
        &self,
        embedded: Tensor<2>,
        steps: &[StepTensors],
        mut caches: impl Iterator<Item = LayerCache<'a>>,
        mut behind: impl FnMut(&Tensor<2>),
    ) -> Tensor<2> {
        let mut x = embedded;
        for (stage, step) in self.stages.iter().zip(steps) {
            x = x.to_device(&stage.device);
            for (block, mut cache) in stage.blocks.iter().zip(&mut caches) {
                x = block.forward(x, step, &stage.rotation, &mut cache);
                behind(&x);
            }
        }
        x
    }

    /// `[rows, hidden]` → `[rows, vocabulary]`
    pub(crate) fn logits(&self, x: Tensor<2>) -> Tensor<2> {
        norm_linear(x, &self.norm, &self.output)
    }

    /// The devices, in the order of the blocks.
    pub(crate) fn devices(&self) -> impl Iterator<Item = &Device> {
        self.stages.iter().map(|stage| &stage.device)
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
    fn build(
        source: &mut dyn Source,
        device: &OpenDevice,
        hyper: &Hyper,
        layer: u16,
    ) -> Result<Self, LoadError> {
        let name = |part| TensorName::Block { layer, part };
        Ok(Self {
            heads: heads(hyper),
            attention_norm: source.norm(name(Part::AttentionNorm), device)?,
            attention_inputs: source
                .matrices(&[Part::Query, Part::Key, Part::Value].map(name), device)?,
            attention_output: source.matrices(&[name(Part::AttentionOutput)], device)?,
            feed_forward_norm: source.norm(name(Part::FeedForwardNorm), device)?,
            gate_up: source.matrices(&[Part::Gate, Part::Up].map(name), device)?,
            down: source.matrices(&[name(Part::Down)], device)?,
        })
    }

    /// `[tokens, hidden]` → as it.
    fn forward(
        &self,
        x: Tensor<2>,
        step: &StepTensors,
        rotation: &Rotation,
        cache: &mut LayerCache<'_>,
    ) -> Tensor<2> {
        let qkv = norm_linear(x.clone(), &self.attention_norm, &self.attention_inputs);
        let seen = cache.attend(qkv, &step.slots, &step.map, &self.heads, rotation);
        let x = linear_add(seen, &self.attention_output, x);
        let open = norm_gated(x.clone(), &self.feed_forward_norm, &self.gate_up);
        linear_add(open, &self.down, x)
    }
}
