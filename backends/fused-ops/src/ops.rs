//! The operations that need a kernel of ours.
#![cfg_attr(
    feature = "ndarray",
    expect(deprecated, reason = "the macro names the ndarray backend, deprecated as a whole")
)]

use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Backend, backend_extension};
use weights::Encoding;

/// How the bytes of a packed matrix stand for numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PackedLayout {
    /// The file's encoding.
    pub encoding: Encoding,
    /// Outputs.
    pub rows: usize,
    /// Inputs.
    pub cols: usize,
}

/// What a backend computes by a kernel instead of by Burn's own operations.
///
/// No default bodies: a backend that is listed and lacks one does not compile. The GPU backends
/// are not listed, because their weights are dense, see [`OpenDevice::reads_packed_weights`].
///
/// [`OpenDevice::reads_packed_weights`]: crate::OpenDevice::reads_packed_weights
#[backend_extension(Flex: cfg(feature = "flex"), NdArray: cfg(feature = "ndarray"))]
pub trait FusedOps: Backend {
    /// `x · Wᵀ` with `W` as the blocks of a file.
    ///
    /// Shapes: `x: [tokens, cols]`, `blocks: [bytes]` of type U8 → `[tokens, rows]`.
    fn packed_linear(
        x: FloatTensor<Self>,
        blocks: IntTensor<Self>,
        layout: PackedLayout,
    ) -> FloatTensor<Self>;
}
