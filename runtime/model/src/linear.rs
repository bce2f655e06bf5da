//! One matrix, wherever and however it lies.

use burn::tensor::{AllocationProperty, Bytes, DType, Int, Tensor, TensorData};
use fused_ops::{OpenDevice, PackedLayout, packed_linear};
use weights::{RawTensor, WeightsError};

/// A weight matrix `[rows (out), cols (in)]`.
#[derive(Debug)]
pub(crate) enum Weight {
    /// As numbers on the device.
    Dense(Tensor<2>),
    /// As the bytes of the file, where the file's mapping left them.
    Packed {
        /// `[bytes]` of type U8
        blocks: Tensor<1, Int>,
        /// How they stand for numbers.
        layout: PackedLayout,
    },
}

impl Weight {
    /// Takes a matrix as the device reads it: mapped bytes without a copy, or unpacked.
    pub(crate) fn new(raw: RawTensor, device: &OpenDevice) -> Result<Self, WeightsError> {
        let (rows, cols) = (raw.shape[0], raw.shape[1]);
        if !device.reads_packed_weights() {
            let mut values = vec![0.0; rows * cols];
            raw.encoding.unpack(&raw.bytes, &mut values)?;
            let data = TensorData::new(values, [rows, cols]);
            return Ok(Self::Dense(Tensor::from_data(data, &device.device)));
        }
        let length = raw.bytes.len();
        let bytes = Bytes::from_shared(raw.bytes, AllocationProperty::File);
        let data = TensorData::from_bytes(bytes, [length], DType::U8);
        Ok(Self::Packed {
            blocks: Tensor::from_data(data, (&device.device, DType::U8)),
            layout: PackedLayout { encoding: raw.encoding, rows, cols },
        })
    }

    /// `[tokens, cols]` → `[tokens, rows]`
    pub(crate) fn apply(&self, x: Tensor<2>) -> Tensor<2> {
        match self {
            Self::Dense(weight) => x.matmul(weight.clone().transpose()),
            Self::Packed { blocks, layout } => packed_linear(x, blocks.clone(), *layout),
        }
    }
}
