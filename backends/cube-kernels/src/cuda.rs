//! What CUDA needs beside its driver.

use std::path::Path;

/// Whether kernels can be compiled: NVRTC wants CUDA's headers, and CubeCL asks for their place only
/// when it is too late to say what is missing.
///
/// # Errors
/// What to install.
pub fn check_cuda() -> Result<(), String> {
    let header = |folder: &Path| folder.join("include/cuda_fp16.h");
    match cubecl::cuda::install::cuda_path() {
        Some(folder) if header(&folder).is_file() => Ok(()),
        Some(folder) => Err(format!(
            "CUDA's headers are not in {}: install cuda-cudart-dev, or set CUDA_PATH",
            folder.display()
        )),
        None => {
            Err("CUDA's headers are not found: install cuda-cudart-dev, or set CUDA_PATH".into())
        }
    }
}
