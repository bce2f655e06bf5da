//! The same definition with weights that learn.

use std::collections::HashMap;

use burn::tensor::{Device, Tensor};
use engine::{Batch, Capacity};
use fused_ops::{LayerCache, Norm, OpenDevice, Weight};
use protocol::TokenId;
use weights::{Hyper, TensorName};

use crate::load::LoadError;
use crate::mistral::{Mistral, Source};
use crate::placement::Placement;
use crate::upload::{indices, upload};

/// Weights by name, as tensors of the device: matrices `[rows, cols]`, gains `[width]`.
#[derive(Debug, Default, Clone)]
pub struct PlainWeights {
    /// The matrices.
    pub matrices: HashMap<TensorName, Tensor<2>>,
    /// The gains of the norms.
    pub gains: HashMap<TensorName, Tensor<1>>,
}

/// A network over tensors that Burn may differentiate, for one step of training: no packed weights,
/// no cache beyond the step, the reference operations.
#[derive(Debug)]
pub struct Learner {
    mistral: Mistral,
    embedding: Tensor<2>,
    capacity: Capacity,
}

impl Learner {
    /// Builds the network over these tensors, which it shares. `tokens_max`: tokens of a step, and
    /// of a sequence.
    ///
    /// Errors: more layers than there are numbers for.
    /// Panics: when a tensor of the architecture is missing.
    pub fn new(
        hyper: &Hyper,
        plain: &PlainWeights,
        device: &OpenDevice,
        tokens_max: u32,
    ) -> Result<Self, LoadError> {
        let mut given = Given { hyper, plain };
        let placement = Placement::whole(device.clone());
        Ok(Self {
            mistral: Mistral::build(&mut given, &placement, tokens_max as usize)?,
            embedding: given.matrix(TensorName::Embedding),
            capacity: Capacity {
                vocabulary: hyper.vocabulary,
                pages: tokens_max,
                page_tokens: 1,
                context_tokens_max: tokens_max,
                batch_tokens_max: tokens_max,
                tile_tokens: 1,
            },
        })
    }

    /// The logits of the batch's rows, which are one at least. Pages hold one token, and token `i` of
    /// the batch lies in slot `i`.
    ///
    /// Shapes: → `[rows, vocabulary]`
    /// Errors: the rule that the batch breaks.
    pub fn logits(&self, batch: &Batch) -> Result<Tensor<2>, String> {
        if !batch.slots.iter().copied().eq(0..batch.slots.len() as u32) {
            return Err("its slots are not its tokens in order".into());
        }
        let embed = |tokens: &[TokenId], device: &Device| {
            let ids: Vec<u32> = tokens.iter().map(|token| token.0).collect();
            Ok(self.embedding.clone().select(0, indices(&ids, device)))
        };
        let step = upload(batch, &self.capacity, embed, self.mistral.devices())
            .map_err(|error| error.to_string())?;
        let caches = std::iter::repeat_with(|| LayerCache::Step);
        self.mistral.forward(step, caches).ok_or_else(|| "it has no rows".into())
    }
}

/// Weights that somebody has already.
struct Given<'a> {
    hyper: &'a Hyper,
    plain: &'a PlainWeights,
}

impl Given<'_> {
    fn matrix(&self, name: TensorName) -> Tensor<2> {
        let tied = name == TensorName::Output && self.hyper.tied_embeddings;
        let name = if tied { TensorName::Embedding } else { name };
        self.plain.matrices.get(&name).unwrap_or_else(|| panic!("no matrix {name:?}")).clone()
    }
}

impl Source for Given<'_> {
    fn hyper(&self) -> &Hyper {
        self.hyper
    }

    fn matrices(
        &mut self,
        names: &[TensorName],
        _device: &OpenDevice,
    ) -> Result<Weight, LoadError> {
        Ok(Weight::plain(names.iter().map(|name| self.matrix(*name)).collect()))
    }

    fn norm(&mut self, name: TensorName, _device: &OpenDevice) -> Result<Norm, LoadError> {
        let gain = self.plain.gains.get(&name).unwrap_or_else(|| panic!("no gains {name:?}"));
        Ok(Norm { gain: gain.clone(), epsilon: self.hyper.rms_epsilon })
    }
}
