//! Weight matrices, wherever and however they lie.

use std::io;

use burn::tensor::{AllocationProperty, Bytes, DType, Int, Tensor, TensorData};
use bytes::Bytes as SharedBytes;
use cpu_kernels::{PanelMemory, panel_bytes, panel_count};
use weights::{Encoding, RawTensor, TensorLayout, WeightsError};

use crate::OpenDevice;

/// Matrices of a stack at most.
pub const STACK_MAX: usize = 3;

/// One matrix of a stack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PackedLayout {
    /// The file's encoding.
    pub encoding: Encoding,
    /// Outputs.
    pub rows: usize,
    /// Inputs.
    pub cols: usize,
}

impl PackedLayout {
    /// Bytes of its panels.
    ///
    /// # Errors
    /// A row is not whole blocks.
    pub fn bytes(&self) -> Result<usize, WeightsError> {
        let row_bytes = self.encoding.row_bytes(self.cols)?;
        let wrong = WeightsError::RowLength {
            encoding: self.encoding.name(),
            block_values: self.encoding.block_values(),
            values: self.cols,
        };
        panel_bytes(self.encoding, self.cols)
            .and_then(|panel| panel.checked_mul(panel_count(self.rows)))
            .filter(|bytes| *bytes >= row_bytes)
            .ok_or(wrong)
    }
}

/// Matrices of the same width, each with its panels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stack {
    parts: [Option<PackedLayout>; STACK_MAX],
}

impl Stack {
    /// Its matrices, in order.
    pub fn parts(&self) -> impl Iterator<Item = PackedLayout> {
        self.parts.iter().flatten().copied()
    }

    /// Outputs of all of them.
    pub fn rows(&self) -> usize {
        self.parts().map(|part| part.rows).sum()
    }
}

/// One matrix, or several of the same width that are multiplied in one pass.
#[derive(Debug)]
pub struct Weight {
    pub(crate) matrices: Matrices,
}

/// How the matrices of a [`Weight`] lie.
#[derive(Debug)]
pub(crate) enum Matrices {
    /// As the kernels read them.
    Packed(Box<Packed>),
    /// As numbers that may learn, each `[rows, cols]`; multiplied by Burn's own operations.
    Plain(Vec<Tensor<2>>),
}

/// Matrices in panels.
#[derive(Debug)]
pub(crate) struct Packed {
    /// The panels of each, in the encodings of the file: `[bytes]` of type U8, on GPUs words of type
    /// U32; those beyond the stack's are one of its own.
    pub(crate) panels: [Tensor<1, Int>; STACK_MAX],
    /// How they stand for numbers.
    pub(crate) stack: Stack,
}

impl Weight {
    /// Takes up to [`STACK_MAX`] matrices as all devices read them: moved into panels.
    ///
    /// Threads: all that compute.
    /// Errors: a row that is not whole blocks; memory that the system does not give.
    /// Panics: on no matrix, on more than [`STACK_MAX`], and when their widths differ.
    pub fn new(matrices: &[RawTensor], device: &OpenDevice) -> Result<Self, WeightError> {
        let cols = matrices.first().expect("a matrix").shape[1];
        assert!(matrices.iter().all(|matrix| matrix.shape[1] == cols), "widths differ");
        let mut stack = Stack { parts: [None; STACK_MAX] };
        for (part, matrix) in stack.parts.iter_mut().zip(matrices) {
            let (rows, cols) = (matrix.shape[0], matrix.shape[1]);
            *part = Some(PackedLayout { encoding: matrix.encoding, rows, cols });
        }
        assert_eq!(stack.parts().count(), matrices.len(), "more than {STACK_MAX} matrices");
        let panels = matrices.iter().zip(stack.parts());
        let panels: Vec<_> = panels
            .map(|(matrix, layout)| panels_of(matrix, layout, device))
            .collect::<Result<_, _>>()?;
        let panels = std::array::from_fn(|index| panels[index.min(panels.len() - 1)].clone());
        Ok(Self { matrices: Matrices::Packed(Box::new(Packed { panels, stack })) })
    }

    /// Takes matrices as they are, on the device where they lie: for training. Operations with them
    /// are those of [`reference`](mod@crate::reference), which Burn can differentiate.
    ///
    /// Shapes: each `[rows, cols]`, all of the same `cols`.
    pub fn plain(matrices: Vec<Tensor<2>>) -> Self {
        Self { matrices: Matrices::Plain(matrices) }
    }
}

/// `[bytes]`
fn panels_of(
    matrix: &RawTensor,
    layout: PackedLayout,
    device: &OpenDevice,
) -> Result<Tensor<1, Int>, WeightError> {
    let length = layout.bytes()?;
    let (shared, property) = match matrix.layout {
        // The mapped bytes of a prepared file, without a copy.
        TensorLayout::Panels => (matrix.bytes.clone(), AllocationProperty::File),
        TensorLayout::Rows => {
            let mut memory = PanelMemory::new(length)?;
            memory.pack(matrix.encoding, matrix.shape[1], &matrix.bytes);
            (SharedBytes::from_owner(memory), AllocationProperty::Other)
        }
    };
    let bytes = Bytes::from_shared(shared, property);
    if device.is_cpu() {
        let data = TensorData::from_bytes(bytes, [length], DType::U8);
        return Ok(Tensor::from_data(data, (&device.device, DType::U8)));
    }
    let data = TensorData::from_bytes(bytes, [length / 4], DType::U32);
    // Of its own size, and not beside what comes and goes.
    let tensor = device.device.memory_persistent_allocations(data, |data| {
        Tensor::from_data(data, (&device.device, DType::U32))
    });
    // What is on its way is held in memory once more, and that is one matrix at most.
    device.device.sync().map_err(|error| WeightError::Device(error.to_string()))?;
    Ok(tensor)
}

/// A matrix cannot be taken.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WeightError {
    /// Its bytes are not what its shape says.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// The system gives no memory for it.
    #[error("no memory for a matrix of the model: {0}")]
    Memory(#[from] io::Error),
    /// The device does not take it.
    #[error("the device takes no matrix of the model: {0}")]
    Device(String),
}
