//! The operations on the ndarray backend.
//!
//! Upstream has deprecated this backend in favour of flex; it stays while Burn has it.
#![expect(deprecated, reason = "the backend is deprecated as a whole")]

use burn::backend::NdArray;
use burn::tensor::TensorData;
use burn_ndarray::NdArrayTensor;
use cpu_kernels::{PackedMatrix, linear};

use crate::{FusedOps, PackedLayout};

impl FusedOps for NdArray {
    fn packed_linear(
        x: NdArrayTensor,
        blocks: NdArrayTensor,
        layout: PackedLayout,
    ) -> NdArrayTensor {
        let (NdArrayTensor::F32(x), NdArrayTensor::U8(blocks)) = (&x, &blocks) else {
            unreachable!("activations are f32 and blocks are bytes");
        };
        let (x, blocks) = (x.view(), blocks.view());
        let x = x.as_standard_layout();
        let x = x.as_slice().expect("a standard layout is contiguous");
        let bytes = blocks.as_slice().expect("blocks are contiguous bytes");
        let PackedLayout { encoding, rows, cols } = layout;
        let tokens = x.len() / cols;
        let mut y = vec![0.0; tokens * rows];
        linear(PackedMatrix { bytes, encoding, rows, cols }, x, &mut y);
        NdArrayTensor::from_data(TensorData::new(y, [tokens, rows]))
    }
}
