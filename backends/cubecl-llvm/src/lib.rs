//! What `cubecl-cuda` names of `cubecl-llvm`, without LLVM.
//!
//! CubeCL can build CUDA kernels in two ways: as LLVM's intermediate language, or as CUDA C++
//! through NVRTC, the compiler that comes with NVIDIA's run-time libraries. The first way links a
//! bundle of LLVM that a build script downloads; the second needs nothing at build time, but the
//! dependency on the first cannot be turned off. With the feature `cuda-cpp` nothing here is ever
//! called; this crate stands in the place of the real one so that nothing is downloaded.
#![forbid(unsafe_code)]

use cubecl_core::prelude::KernelDefinition;
use cubecl_environment::backtrace::BackTrace;
use cubecl_server::compiler::CompilationError;
use cubecl_server::kernel::BufferIOAttr;

/// NVIDIA's intermediate language.
pub mod nvptx {
    /// Its versions.
    pub mod ptx_version {
        use std::fmt;

        /// No version: this crate writes none.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum PtxVersion {}

        impl PtxVersion {
            /// None, whatever the driver reads.
            pub fn for_driver(_driver: i32) -> Option<Self> {
                None
            }
        }

        impl fmt::Display for PtxVersion {
            fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
                match *self {}
            }
        }
    }
}

/// What all targets share.
pub mod shared {
    /// What a device has and LLVM cannot express.
    pub mod lowered_features {
        use cubecl_core::ir::DeviceProperties;

        /// Kinds of GPU.
        #[derive(Clone, Copy, Debug)]
        pub enum GpuTarget {
            /// NVIDIA's.
            Nvptx,
        }

        /// Takes nothing away: no kernel goes through LLVM.
        pub fn restrict_features(_properties: &mut DeviceProperties, _target: GpuTarget) {}
    }
}

/// What LLVM would write for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum LlvmTarget {
    /// The processor.
    #[default]
    Cpu,
    /// NVIDIA's GPUs.
    Nvptx,
}

/// What a compilation would be asked for.
#[derive(Clone, Debug, Default)]
#[expect(missing_docs, reason = "names of the crate that this one stands for")]
pub struct PlironOptions {
    pub cpu_buffer_alignment: Option<u32>,
    pub arch: Option<()>,
    pub sm_arch: Option<cubecl_core::ir::nvidia::SmArch>,
    pub ptx_version: Option<nvptx::ptx_version::PtxVersion>,
    pub grid_constants: bool,
}

/// A compiled kernel.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "names of the crate that this one stands for")]
pub struct NvptxModule {
    pub ptx: Vec<core::ffi::c_char>,
    pub entrypoint: String,
    pub ir: String,
    pub shared_memory_size: usize,
    pub io: Vec<BufferIOAttr>,
}

/// What a compilation would give.
#[derive(Clone)]
pub enum PlironArtifact {
    /// Code of this processor.
    Jit(()),
    /// Code of an NVIDIA GPU.
    NvptxCode(NvptxModule),
}

/// The compiler that is not here.
#[derive(Clone, Debug, Default)]
pub struct PlironCompiler {
    /// What it would write for.
    pub target: LlvmTarget,
}

impl PlironCompiler {
    /// Fails.
    ///
    /// # Errors
    /// Always: this build has no LLVM.
    pub fn compile(
        &mut self,
        _kernel: KernelDefinition,
        _options: &PlironOptions,
    ) -> Result<PlironArtifact, CompilationError> {
        Err(CompilationError::Generic {
            reason: "this build has no LLVM; it builds CUDA kernels through NVRTC".to_owned(),
            backtrace: BackTrace::capture(),
        })
    }

    /// As the real one's.
    pub fn extension(&self) -> &'static str {
        "ll"
    }

    /// As the real one's.
    pub fn lang_tag(&self) -> &'static str {
        "llvm"
    }
}
