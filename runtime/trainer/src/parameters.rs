//! The weights while they learn.

use std::collections::HashMap;

use anyhow::{Context as _, Result};
use burn::module::{Module, Param, ParamId};
use burn::optim::GradientsParams;
use burn::tensor::{Device, Gradients, Tensor, TensorData};
use model::PlainWeights;
use weights::{Hyper, Part, TensorName};

use crate::dice::Dice;

/// Everything that learns, in the order of [`names`].
#[derive(Module, Debug)]
pub(crate) struct Parameters {
    /// Tokens' vectors, which are the output's rows too. `[vocabulary, hidden]`
    pub(crate) embedding: Param<Tensor<2>>,
    /// `[rows, cols]` each
    pub(crate) matrices: Vec<Param<Tensor<2>>>,
    /// `[hidden]` each
    pub(crate) gains: Vec<Param<Tensor<1>>>,
}

/// The names of matrices, and those of gains.
pub(crate) fn names(hyper: &Hyper) -> (Vec<TensorName>, Vec<TensorName>) {
    let layers = u16::try_from(hyper.layers).expect("a small network");
    let all = (0..layers)
        .flat_map(|layer| Part::ALL.into_iter().map(move |part| TensorName::Block { layer, part }))
        .chain([TensorName::OutputNorm]);
    all.partition(|name| hyper.shape_of(*name).len() == 2)
}

impl Parameters {
    /// Random weights: small vectors, and matrices that keep the size of what goes through them.
    pub(crate) fn random(hyper: &Hyper, seed: u64, device: &Device) -> Self {
        let mut dice = Dice::new(seed);
        let mut matrix = |name: TensorName| {
            let shape = hyper.shape_of(name);
            let (rows, cols) = (shape[0], shape[1]);
            // What is added to the stream once in each block starts small.
            let added =
                matches!(name, TensorName::Block { part: Part::AttentionOutput | Part::Down, .. });
            let scale = match name {
                TensorName::Embedding => 0.02,
                _ if added => 0.5 / ((2 * hyper.layers) as f32 * cols as f32).sqrt(),
                _ => 0.7 / (cols as f32).sqrt(),
            };
            (0..rows * cols).map(|_| scale * dice.normal()).collect::<Vec<f32>>()
        };
        let (matrices, gains) = names(hyper);
        let mut values = HashMap::new();
        for name in std::iter::once(TensorName::Embedding).chain(matrices) {
            values.insert(name, matrix(name));
        }
        for name in gains {
            values.insert(name, vec![1.0; hyper.shape_of(name)[0]]);
        }
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
        Ok(Self {
            embedding: parameter(id(), take(TensorName::Embedding)?, device),
            matrices: matrices
                .into_iter()
                .map(|name| Ok(parameter(id(), take(name)?, device)))
                .collect::<Result<_>>()?,
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
        let mut plain = PlainWeights::default();
        plain.matrices.insert(TensorName::Embedding, matrix(self.embedding.val()));
        let values = self.matrices.iter().map(|parameter| matrix(parameter.val()));
        plain.matrices.extend(matrices.into_iter().zip(values));
        let values = self.gains.iter().map(|parameter| gain(parameter.val()));
        plain.gains.extend(gains.into_iter().zip(values));
        plain
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
        let matrices = std::iter::once((&TensorName::Embedding, &self.embedding))
            .chain(matrices.iter().zip(&self.matrices));
        for (name, parameter) in matrices {
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
        let read = |data: TensorData| {
            data.try_into_vec::<f32>().map_err(|error| anyhow::anyhow!("{error:?}"))
        };
        let mut slopes = HashMap::new();
        let matrices = std::iter::once(TensorName::Embedding).chain(matrices);
        for (name, parameter) in
            matrices.zip(std::iter::once(&self.embedding).chain(&self.matrices))
        {
            let gradient = gradients.get::<2>(parameter.id).context("a gradient")?;
            slopes.insert(name, read(gradient.into_data())?);
        }
        for (name, parameter) in gains.into_iter().zip(&self.gains) {
            let gradient = gradients.get::<1>(parameter.id).context("a gradient")?;
            slopes.insert(name, read(gradient.into_data())?);
        }
        Ok(slopes)
    }

    /// Every tensor's numbers, the embedding first.
    pub(crate) fn values(&self, hyper: &Hyper) -> Result<Vec<(TensorName, Vec<f32>)>> {
        let plain = self.plain(hyper);
        let (matrices, gains) = names(hyper);
        let read = |data: TensorData| {
            data.try_into_vec::<f32>().map_err(|error| anyhow::anyhow!("{error:?}"))
        };
        let mut values = Vec::new();
        for name in std::iter::once(TensorName::Embedding).chain(matrices) {
            values.push((name, read(plain.matrices[&name].to_data())?));
        }
        for name in gains {
            values.push((name, read(plain.gains[&name].to_data())?));
        }
        Ok(values)
    }
}

fn parameter<const D: usize>(id: ParamId, data: TensorData, device: &Device) -> Param<Tensor<D>> {
    Param::initialized(id, Tensor::from_data(data, device).require_grad())
}
