//! How fast a device's memory is.

use crate::OpenDevice;

/// Bytes that a GPU's memory reads and writes in a second while words are copied, one figure for each
/// of some passes; `None` for a CPU, and where the device does not do it.
///
/// Threads: waits for the device, about a second.
pub fn copy_bandwidth(device: &OpenDevice) -> Option<Vec<f64>> {
    #[cfg(feature = "cube")]
    if !device.is_cpu() {
        return measured(device);
    }
    let _on_cpu = device;
    None
}

#[cfg(feature = "cube")]
fn measured(open: &OpenDevice) -> Option<Vec<f64>> {
    use std::time::Instant;

    use burn::tensor::{DType, Int, Tensor};

    const PASSES: usize = 5;
    const COPIES: usize = 8;
    // Less where time is dear and no figure matters.
    let words: usize = if open.software { 4 << 20 } else { 64 << 20 };
    let buffer = || Tensor::<1, Int>::zeros([words], (&open.device, DType::U32));
    let (from, to) = (words_of(buffer())?, words_of(buffer())?);
    let pass = || {
        let began = Instant::now();
        for _ in 0..COPIES {
            let to = to.clone().into_buffer_arg();
            cube_kernels::copy(&from.client, from.clone().into_buffer_arg(), to);
        }
        open.device.sync().ok()?;
        Some((2 * 4 * words * COPIES) as f64 / began.elapsed().as_secs_f64())
    };
    pass()?;
    (0..PASSES).map(|_| pass()).collect()
}

/// The buffer of a tensor.
#[cfg(feature = "cube")]
fn words_of(
    tensor: burn::tensor::Tensor<1, burn::tensor::Int>,
) -> Option<burn_cubecl::tensor::CubeTensor> {
    use burn::backend::{BackendTensor, DispatchTensorKind};
    match tensor.into_dispatch().kind {
        DispatchTensorKind::Cube(BackendTensor::Int(tensor)) => Some(tensor),
        _ => None,
    }
}
