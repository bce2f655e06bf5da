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
    /// As the kernels read them; in several where a device's buffers hold no more, each with some of the
    /// outputs.
    Packed(Vec<Packed>),
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
    /// Takes up to [`STACK_MAX`] matrices as all devices read them: moved into panels. One matrix may
    /// exceed what a buffer of the device holds, and lies in several then.
    ///
    /// Threads: all that compute.
    /// Errors: a row that is not whole blocks; memory that the system does not give; one of several
    /// matrices that no buffer of the device holds.
    /// Panics: on no matrix, on more than [`STACK_MAX`], and when their widths differ.
    pub fn new(matrices: &[RawTensor], device: &OpenDevice) -> Result<Self, WeightError> {
        let cols = matrices.first().expect("a matrix").shape[1];
        assert!(matrices.iter().all(|matrix| matrix.shape[1] == cols), "widths differ");
        assert!(matrices.len() <= STACK_MAX, "more than {STACK_MAX} matrices");
        if let [matrix] = matrices {
            let slices = slices_of(matrix, device)?;
            let packed = slices.iter().map(|slice| Packed::new(std::slice::from_ref(slice)));
            return Ok(Self { matrices: Matrices::Packed(packed.collect()) });
        }
        for matrix in matrices {
            within_a_buffer(layout_of(matrix).bytes()?, device)?;
        }
        let slices = matrices.iter().map(|matrix| slices_of(matrix, device));
        let parts = slices.collect::<Result<Vec<_>, _>>()?.concat();
        Ok(Self { matrices: Matrices::Packed(vec![Packed::new(&parts)]) })
    }

    /// Takes matrices as they are, on the device where they lie: for training. Operations with them
    /// are those of [`reference`](mod@crate::reference), which Burn can differentiate.
    ///
    /// Shapes: each `[rows, cols]`, all of the same `cols`.
    pub fn plain(matrices: Vec<Tensor<2>>) -> Self {
        Self { matrices: Matrices::Plain(matrices) }
    }
}

impl Packed {
    /// Up to [`STACK_MAX`] matrices, each in one buffer.
    fn new(parts: &[(PackedLayout, Tensor<1, Int>)]) -> Self {
        let panels = std::array::from_fn(|index| parts[index.min(parts.len() - 1)].1.clone());
        let layouts = std::array::from_fn(|index| parts.get(index).map(|(layout, _)| *layout));
        Self { panels, stack: Stack { parts: layouts } }
    }
}

fn layout_of(matrix: &RawTensor) -> PackedLayout {
    let RawTensor { ref shape, encoding, .. } = *matrix;
    PackedLayout { encoding, rows: shape[0], cols: shape[1] }
}

fn within_a_buffer(bytes: usize, device: &OpenDevice) -> Result<(), WeightError> {
    let bytes_max = device.buffer_bytes_max;
    if bytes as u64 <= bytes_max {
        return Ok(());
    }
    Err(WeightError::Buffer { bytes, bytes_max })
}

/// A matrix in panels, in as few buffers as the device needs for it.
fn slices_of(
    matrix: &RawTensor,
    device: &OpenDevice,
) -> Result<Vec<(PackedLayout, Tensor<1, Int>)>, WeightError> {
    let layout = layout_of(matrix);
    let length = layout.bytes()?;
    let (shared, property) = match matrix.layout {
        // The mapped bytes of a prepared file, without a copy.
        TensorLayout::Panels => (matrix.bytes.clone(), AllocationProperty::File),
        TensorLayout::Rows => {
            let mut memory = PanelMemory::new(length)?;
            memory.pack(layout.encoding, layout.cols, &matrix.bytes);
            (SharedBytes::from_owner(memory), AllocationProperty::Other)
        }
    };
    if within_a_buffer(length, device).is_ok() {
        return Ok(vec![(layout, tensor(Bytes::from_shared(shared, property), device)?)]);
    }
    let panels = panel_count(layout.rows);
    let panel = length / panels;
    within_a_buffer(panel, device)?;
    let panel_rows = panel / layout.encoding.row_bytes(layout.cols)?;
    // As few as can be, and of equal length but for the last one.
    let together = usize::try_from(device.buffer_bytes_max).unwrap_or(usize::MAX) / panel;
    let together = panels.div_ceil(panels.div_ceil(together));
    let slice = |first: usize| {
        let last = panels.min(first + together);
        let rows = layout.rows.min(last * panel_rows) - first * panel_rows;
        let bytes = Bytes::from_shared(shared.slice(first * panel..last * panel), property);
        Ok((PackedLayout { rows, ..layout }, tensor(bytes, device)?))
    };
    (0..panels).step_by(together).map(slice).collect()
}

/// `[bytes]`, on a GPU `[words]`
fn tensor(bytes: Bytes, device: &OpenDevice) -> Result<Tensor<1, Int>, WeightError> {
    let length = bytes.len();
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
    /// No buffer of the device holds it, beside those that are multiplied with it.
    #[error(
        "a matrix of the model has {bytes} bytes and the device's buffers hold {bytes_max}: take a smaller \
         encoding, or leave blocks to the CPU (device.gpu_layers)"
    )]
    Buffer {
        /// Its bytes.
        bytes: usize,
        /// Those of a buffer.
        bytes_max: u64,
    },
    /// The device does not take it.
    #[error("the device takes no matrix of the model: {0}")]
    Device(String),
}
