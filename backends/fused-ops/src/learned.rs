//! Operations of training that are one node of Burn's graph each, with slopes of our own: the same as those
//! of [`reference`](mod@crate::reference), in fewer passes over memory.

use std::sync::Arc;

use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Backend, Dispatch, backend_extension};
use burn::tensor::{Device, Tensor};
use weights::RopePairing;

use crate::weight::STACK_MAX;
use crate::{Heads, Norm, PageMap, PageSpan, Products, Rotation, Wanted};

mod flex;
#[cfg(test)]
mod tests;

/// What attention over the tokens of a step knows beside its tensors.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StepHeads {
    /// Query heads.
    pub heads: usize,
    /// Heads of keys, and of values.
    pub kv_heads: usize,
    /// Numbers of a head.
    pub head_dim: usize,
    /// Multiplies each product of query and key.
    pub scale: f32,
    /// How positions turn the vectors of queries and keys.
    pub pairing: RopePairing,
}

/// What a backend learns by operations of ours.
#[backend_extension(Flex, Autodiff)]
pub trait LearnedOps: Backend {
    /// See [`norm_linear`](crate::norm_linear) and [`norm_gated`](crate::norm_gated).
    ///
    /// Shapes: `x: [tokens, cols]`, `gain: [cols]`, `count` matrices `[rows, cols]` → `[tokens, rows]`.
    #[allow(clippy::too_many_arguments, reason = "the macro finds tensors as arguments only")]
    fn learned_products(
        x: FloatTensor<Self>,
        gain: FloatTensor<Self>,
        first: FloatTensor<Self>,
        second: FloatTensor<Self>,
        third: FloatTensor<Self>,
        count: usize,
        epsilon: f32,
        products: Products,
    ) -> FloatTensor<Self>;

    /// See [`linear_add`](crate::linear_add).
    ///
    /// Shapes: `x: [tokens, cols]`, `matrix: [rows, cols]`, `sum: [tokens, rows]` → as `sum`.
    fn learned_linear_add(
        x: FloatTensor<Self>,
        matrix: FloatTensor<Self>,
        sum: FloatTensor<Self>,
    ) -> FloatTensor<Self>;

    /// See [`LayerCache::attend`](crate::LayerCache::attend).
    ///
    /// Shapes: `qkv: [tokens, (heads + 2 · kv_heads) · head_dim]`, `angles: [context, head_dim]`,
    /// `positions: [tokens]`, `slots: [slots of all spans]` → `[tokens, heads · head_dim]`.
    fn learned_attend(
        qkv: FloatTensor<Self>,
        angles: FloatTensor<Self>,
        positions: IntTensor<Self>,
        slots: IntTensor<Self>,
        spans: Vec<PageSpan>,
        heads: StepHeads,
    ) -> FloatTensor<Self>;

    /// See [`log_likelihoods`](crate::log_likelihoods).
    ///
    /// Shapes: `logits: [rows, width]` → `[rows, 1]`.
    fn learned_log_likelihoods(
        logits: FloatTensor<Self>,
        wanted: Arc<[Wanted]>,
    ) -> FloatTensor<Self>;
}

/// Whether these operations are for this device.
pub(crate) fn has(device: &Device) -> bool {
    device.clone().without_autodiff() == Device::flex()
}

pub(crate) fn products(
    x: Tensor<2>,
    norm: &Norm,
    matrices: &[Tensor<2>],
    products: Products,
) -> Tensor<2> {
    let [first, second, third]: [Tensor<2>; STACK_MAX] =
        std::array::from_fn(|at| matrices[at.min(matrices.len() - 1)].clone());
    Tensor::from_dispatch(<Dispatch as LearnedOps>::learned_products(
        x.into_dispatch(),
        norm.gain.clone().into_dispatch(),
        first.into_dispatch(),
        second.into_dispatch(),
        third.into_dispatch(),
        matrices.len(),
        norm.epsilon as f32,
        products,
    ))
}

pub(crate) fn linear_add(x: Tensor<2>, matrix: Tensor<2>, sum: Tensor<2>) -> Tensor<2> {
    Tensor::from_dispatch(<Dispatch as LearnedOps>::learned_linear_add(
        x.into_dispatch(),
        matrix.into_dispatch(),
        sum.into_dispatch(),
    ))
}

/// Of a step whose pages hold one token each.
pub(crate) fn attend(
    qkv: Tensor<2>,
    map: &PageMap,
    heads: &Heads,
    rotation: &Rotation,
) -> Tensor<2> {
    let Heads { heads, head_dim, options } = *heads;
    let (kv_heads, scale) = (options.kv_heads, options.scale as f32);
    Tensor::from_dispatch(<Dispatch as LearnedOps>::learned_attend(
        qkv.into_dispatch(),
        rotation.table.clone().into_dispatch(),
        map.positions.clone().into_dispatch(),
        map.pages.clone().into_dispatch(),
        map.spans.clone(),
        StepHeads { heads, kv_heads, head_dim, scale, pairing: rotation.pairing },
    ))
}

pub(crate) fn log_likelihoods(logits: Tensor<2>, wanted: Vec<Wanted>) -> Tensor<2> {
    Tensor::from_dispatch(<Dispatch as LearnedOps>::learned_log_likelihoods(
        logits.into_dispatch(),
        wanted.into(),
    ))
}
