//! The same definition with weights that learn.

use std::collections::HashMap;

use burn::tensor::{Device, Tensor, TensorData};
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
    /// Blocks that early rows are read behind.
    half: u32,
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
            half: hyper.layers.div_ceil(2),
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
    /// the batch lies in slot `i`. The rows that are `early` are those of a network of the first half of the
    /// blocks: what they say the other half can use.
    ///
    /// Shapes: `early: [rows]` → `[rows, vocabulary]`
    /// Errors: the rule that the batch breaks.
    /// Source: Lee et al. 2014, arXiv:1409.5185 (deep supervision).
    pub fn logits(&self, batch: &Batch, early: &[bool]) -> Result<Tensor<2>, String> {
        if !batch.slots.iter().copied().eq(0..batch.slots.len() as u32) {
            return Err("its slots are not its tokens in order".into());
        }
        let embed = |tokens: &[TokenId], device: &Device| {
            let ids: Vec<u32> = tokens.iter().map(|token| token.0).collect();
            Ok(self.embedding.clone().select(0, indices(&ids, device)))
        };
        let step = upload(batch, &self.capacity, embed, self.mistral.devices())
            .map_err(|error| error.to_string())?;
        let rows = step.rows.ok_or("it has no rows")?;
        if early.len() != batch.rows.len() {
            return Err(format!("{} rows, and {} said to be early", batch.rows.len(), early.len()));
        }
        let caches = std::iter::repeat_with(|| LayerCache::Step);
        let (mut blocks, mut half) = (0, None);
        let last = self.mistral.stream(step.embedded, &step.stages, caches, |x| {
            blocks += 1;
            if blocks == self.half {
                half = Some(x.clone().select(0, rows.clone()));
            }
        });
        let last = last.select(0, rows);
        let x = match half {
            Some(half) => {
                half * shares(early, true, &last.device())
                    + last.clone() * shares(early, false, &last.device())
            }
            None => last,
        };
        Ok(self.mistral.logits(x))
    }
}

/// One for each row that is as asked, and nothing for the others. `[rows, 1]`
fn shares(early: &[bool], asked: bool, device: &Device) -> Tensor<2> {
    let shares: Vec<f32> = early.iter().map(|early| f32::from(*early == asked)).collect();
    Tensor::from_data(TensorData::new(shares, [early.len(), 1]), device)
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
