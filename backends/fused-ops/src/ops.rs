//! The operations that need a kernel of ours.
#![cfg_attr(
    feature = "ndarray",
    expect(deprecated, reason = "the macro names the ndarray backend, deprecated as a whole")
)]

use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Backend, backend_extension};
use weights::RopePairing;

use crate::{KvLayout, PageSpan, Stack};

/// What becomes of the products of a stack of matrices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Products {
    /// They stand behind each other.
    Stacked,
    /// Of two matrices: the first one's, through `silu`, times the second one's.
    Gated,
}

/// What a layer's attention knows beside its tensors.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct HeadLayout {
    /// Query heads.
    pub heads: usize,
    /// How the cache lies in memory; its heads divide the query heads.
    pub cache: KvLayout,
    /// How positions turn the vectors of queries and keys.
    pub pairing: RopePairing,
    /// Multiplies each product of query and key.
    pub scale: f32,
    /// Tokens that a query sees, itself included; `None` sees all before it.
    pub window_tokens: Option<usize>,
}

/// What a backend computes by a kernel instead of by Burn's own operations.
///
/// No default bodies: a backend that is listed and lacks one does not compile. Panels and pages are
/// bytes on the CPU and words of 32 bits on GPUs, which have no smaller type; in memory they are the
/// same.
#[backend_extension(
    Flex: cfg(feature = "flex"),
    NdArray: cfg(feature = "ndarray"),
    Cube: cfg(feature = "cube"),
)]
pub trait FusedOps: Backend {
    /// See [`norm_linear`](crate::norm_linear) and [`norm_gated`](crate::norm_gated).
    ///
    /// Shapes: `x: [tokens, cols]`, `gain: [cols]`, the panels of each matrix of the stack
    /// `[bytes]` → `[tokens, rows]`. Panels beyond those of the stack are not read.
    #[allow(clippy::too_many_arguments, reason = "the macro finds tensors as arguments only")]
    fn norm_linear(
        x: FloatTensor<Self>,
        gain: FloatTensor<Self>,
        first: IntTensor<Self>,
        second: IntTensor<Self>,
        third: IntTensor<Self>,
        stack: Stack,
        epsilon: f32,
        products: Products,
    ) -> FloatTensor<Self>;

    /// See [`linear_add`](crate::linear_add).
    ///
    /// Shapes: `x: [tokens, cols]`, `panels: [bytes]`, `sum: [tokens, rows]` → as `sum`.
    fn linear_add(
        x: FloatTensor<Self>,
        panels: IntTensor<Self>,
        stack: Stack,
        sum: FloatTensor<Self>,
    ) -> FloatTensor<Self>;

    /// See [`KvPool::store`](crate::KvPool::store).
    ///
    /// Shapes: `pool: [bytes]`, `qkv: [tokens, (heads + 2 · kv_heads) · head_dim]`,
    /// `slots: [tokens]`, `positions: [tokens]`, `angles: [context, head_dim]` → as `pool`, in
    /// place when it is not shared.
    fn store_packed_kv(
        pool: IntTensor<Self>,
        qkv: FloatTensor<Self>,
        slots: IntTensor<Self>,
        positions: IntTensor<Self>,
        angles: FloatTensor<Self>,
        layout: HeadLayout,
    ) -> IntTensor<Self>;

    /// See [`KvPool::attend`](crate::KvPool::attend).
    ///
    /// Shapes: as [`store_packed_kv`](Self::store_packed_kv), `pages: [pages]`,
    /// `span_table: [4 · spans]`, the same as `spans` → `[tokens, heads · head_dim]`.
    #[allow(clippy::too_many_arguments, reason = "the macro finds tensors as arguments only")]
    fn attend_packed_kv(
        pool: IntTensor<Self>,
        qkv: FloatTensor<Self>,
        pages: IntTensor<Self>,
        positions: IntTensor<Self>,
        angles: FloatTensor<Self>,
        span_table: IntTensor<Self>,
        spans: Vec<PageSpan>,
        layout: HeadLayout,
    ) -> FloatTensor<Self>;

    /// See [`argmax`](crate::argmax).
    ///
    /// Shapes: `logits: [rows, width]` → `[rows]` of type I32.
    fn argmax(logits: FloatTensor<Self>) -> IntTensor<Self>;

    /// See [`likeliest`](crate::likeliest).
    ///
    /// Shapes: `logits: [rows, width]`, `weighing: [rows, 3]`: what numbers are divided by, the first
    /// index that counts, the first behind it that does not → `[rows, LIKELIEST_WORDS]` of type I32: how
    /// many are greatest, the bits of what the others weigh, 256 indices, the bits of 256 numbers. Where
    /// more are greatest than there is room for, or a number is not finite, the first word is beyond 256
    /// and the others say nothing.
    fn likeliest(logits: FloatTensor<Self>, weighing: FloatTensor<Self>) -> IntTensor<Self>;
}
