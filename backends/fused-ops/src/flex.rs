//! The operations on the flex backend.

use burn::backend::Flex;
use burn::backend::flex::FlexTensor;
use burn::tensor::TensorData;
use cpu_kernels::{PackedMatrix, linear};

use crate::{FusedOps, PackedLayout};

impl FusedOps for Flex {
    fn packed_linear(x: FlexTensor, blocks: FlexTensor, layout: PackedLayout) -> FlexTensor {
        let x = x.to_contiguous();
        let x: &[f32] = x.as_slice().expect("activations are contiguous f32");
        let bytes: &[u8] = blocks.as_slice().expect("blocks are contiguous bytes");
        let PackedLayout { encoding, rows, cols } = layout;
        let tokens = x.len() / cols;
        let mut y = vec![0.0; tokens * rows];
        linear(PackedMatrix { bytes, encoding, rows, cols }, x, &mut y);
        FlexTensor::from_data(TensorData::new(y, [tokens, rows]))
    }
}
