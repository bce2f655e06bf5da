//! The weights while they learn.

use std::collections::HashMap;

use anyhow::{Context as _, Result, anyhow};
use burn::module::{Module, Param, ParamId};
use burn::optim::GradientsParams;
use burn::tensor::{Device, Gradients, Tensor, TensorData};
use model::PlainWeights;
use weights::{Hyper, Part, TensorName};

use crate::initial::{self, Marks};

/// Everything that learns.
#[derive(Module, Debug)]
pub(crate) struct Parameters {
    /// Tokens' vectors: those that come in, and those that the output is measured by.
    /// `[vocabulary, hidden]` each
    pub(crate) tokens: Vec<Param<Tensor<2>>>,
    /// The matrices of the blocks, `[rows, cols]` each.
    pub(crate) matrices: Vec<Param<Tensor<2>>>,
    /// `[hidden]` each
    pub(crate) gains: Vec<Param<Tensor<1>>>,
}

/// Tensors of tokens' vectors.
const TOKENS: [TensorName; 2] = [TensorName::Embedding, TensorName::Output];

/// The names of matrices, tokens' vectors first, and those of gains.
pub(crate) fn names(hyper: &Hyper) -> (Vec<TensorName>, Vec<TensorName>) {
    let layers = u16::try_from(hyper.layers).expect("a small network");
    let blocks = (0..layers)
        .flat_map(|layer| Part::ALL.into_iter().map(move |part| TensorName::Block { layer, part }));
    let all = TOKENS.into_iter().chain([TensorName::OutputNorm]).chain(blocks);
    all.partition(|name| hyper.shape_of(*name).len() == 2)
}

impl Parameters {
    /// Weights to begin with.
    pub(crate) fn random(hyper: &Hyper, seed: u64, marks: Option<Marks>, device: &Device) -> Self {
        let mut values = initial::weights(hyper, seed, marks);
        Self::from_values(hyper, &mut values, device).expect("every tensor is there")
    }

    /// Weights that were saved.
    pub(crate) fn from_values(
        hyper: &Hyper,
        values: &mut HashMap<TensorName, Vec<f32>>,
        device: &Device,
    ) -> Result<Self> {
        let mut take = |name: TensorName| -> Result<TensorData> {
            let values = values.remove(&name).with_context(|| format!("{name:?} is not there"))?;
            Ok(TensorData::new(values, hyper.shape_of(name)))
        };
        let (matrices, gains) = names(hyper);
        // Numbered in order: what an optimizer saved of a parameter finds it again.
        let mut ids = 1..;
        let mut id = || ParamId::from(ids.next().expect("a number"));
        let mut matrices = matrices
            .into_iter()
            .map(|name| Ok(parameter(id(), take(name)?, device)))
            .collect::<Result<Vec<_>>>()?;
        Ok(Self {
            tokens: matrices.drain(..TOKENS.len()).collect(),
            matrices,
            gains: gains
                .into_iter()
                .map(|name| Ok(parameter(id(), take(name)?, device)))
                .collect::<Result<_>>()?,
        })
    }

    /// The same tensors by name, apart from training.
    pub(crate) fn plain(&self, hyper: &Hyper) -> PlainWeights {
        self.by_name(hyper, |tensor| tensor.inner(), |tensor| tensor.inner())
    }

    /// The same tensors by name, each the leaf of a graph of its own: threads whose graphs share a
    /// leaf lock each other out.
    pub(crate) fn leaves(&self, hyper: &Hyper) -> PlainWeights {
        self.by_name(
            hyper,
            |tensor| tensor.inner().autodiff().require_grad(),
            |tensor| tensor.inner().autodiff().require_grad(),
        )
    }

    fn by_name(
        &self,
        hyper: &Hyper,
        matrix: impl Fn(Tensor<2>) -> Tensor<2>,
        gain: impl Fn(Tensor<1>) -> Tensor<1>,
    ) -> PlainWeights {
        let (matrices, gains) = names(hyper);
        let matrices = matrices.into_iter().zip(self.all_matrices());
        let gains = gains.into_iter().zip(&self.gains);
        PlainWeights {
            matrices: matrices.map(|(name, parameter)| (name, matrix(parameter.val()))).collect(),
            gains: gains.map(|(name, parameter)| (name, gain(parameter.val()))).collect(),
        }
    }

    /// In the order of [`names`].
    fn all_matrices(&self) -> impl Iterator<Item = &Param<Tensor<2>>> {
        self.tokens.iter().chain(&self.matrices)
    }

    /// What a graph over [`leaves`](Self::leaves) says of these parameters.
    pub(crate) fn gradients(
        &self,
        hyper: &Hyper,
        leaves: &PlainWeights,
        mut of: Gradients,
    ) -> GradientsParams {
        let (matrices, gains) = names(hyper);
        let mut gradients = GradientsParams::new();
        for (name, parameter) in matrices.iter().zip(self.all_matrices()) {
            if let Some(gradient) = leaves.matrices[name].grad_remove(&mut of) {
                gradients.register(parameter.id, gradient);
            }
        }
        for (name, parameter) in gains.iter().zip(&self.gains) {
            if let Some(gradient) = leaves.gains[name].grad_remove(&mut of) {
                gradients.register(parameter.id, gradient);
            }
        }
        gradients
    }

    /// Gradients by name.
    #[cfg(test)]
    pub(crate) fn slopes(
        &self,
        hyper: &Hyper,
        gradients: &GradientsParams,
    ) -> Result<HashMap<TensorName, Vec<f32>>> {
        let (matrices, gains) = names(hyper);
        let matrices = matrices.into_iter().zip(self.all_matrices()).map(|(name, parameter)| {
            let gradient = gradients.get::<2>(parameter.id).context("a gradient")?;
            Ok((name, numbers(gradient.into_data())?))
        });
        let gains = gains.into_iter().zip(&self.gains).map(|(name, parameter)| {
            let gradient = gradients.get::<1>(parameter.id).context("a gradient")?;
            Ok((name, numbers(gradient.into_data())?))
        });
        matrices.chain(gains).collect()
    }

    /// Every tensor's numbers, in the order of [`names`].
    pub(crate) fn values(&self, hyper: &Hyper) -> Result<Vec<(TensorName, Vec<f32>)>> {
        let (matrices, gains) = names(hyper);
        let values = self.all_matrices().map(|parameter| parameter.val().into_data());
        let values = values.chain(self.gains.iter().map(|parameter| parameter.val().into_data()));
        matrices
            .into_iter()
            .chain(gains)
            .zip(values)
            .map(|(name, data)| Ok((name, numbers(data)?)))
            .collect()
    }
}

fn numbers(data: TensorData) -> Result<Vec<f32>> {
    data.try_into_vec().map_err(|error| anyhow!("a tensor of other numbers: {error:?}"))
}

fn parameter<const D: usize>(id: ParamId, data: TensorData, device: &Device) -> Param<Tensor<D>> {
    Param::initialized(id, Tensor::from_data(data, device).require_grad())
}
