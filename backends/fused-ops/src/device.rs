//! From a name in a profile to an open device.
//!
//! Burn opens a device on first use and panics when there is none, so every device is looked for
//! before it is touched. `auto` takes a real GPU or the CPU, never a software GPU: drivers of that
//! kind are known to compute wrong numbers and to crash. A GPU of either kind has to multiply
//! correctly before it counts as open.

mod check;

use std::fmt;
use std::str::FromStr;

use burn::tensor::Device;

/// Where a model computes, as a profile or a flag says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum BackendChoice {
    /// A GPU that this build can use and this box has, otherwise the CPU.
    #[default]
    Auto,
    /// The CPU.
    Flex,
    /// The CPU, by a backend that Burn has deprecated.
    NdArray,
    /// A GPU through Vulkan.
    Vulkan,
    /// A GPU through whatever graphics interface the box has.
    Wgpu,
    /// A GPU of Apple.
    Metal,
    /// A GPU of NVIDIA.
    Cuda,
}

/// A device, ready for tensors.
#[derive(Debug, Clone)]
pub struct OpenDevice {
    /// What tensors are made on.
    pub device: Device,
    /// For logs and answers, such as `flex` or `vulkan: Mali-G610`.
    pub name: String,
    /// What it was found as; never [`BackendChoice::Auto`].
    pub choice: BackendChoice,
    /// Whether it is a driver that pretends to be a GPU.
    pub software: bool,
    /// Whether its memory is that of the box, as a CPU's is and that of a GPU beside it on one chip.
    pub shares_memory: bool,
    /// Bytes of memory that its driver allows for; `None` for a CPU, and where nothing is said.
    pub memory_bytes: Option<u64>,
    /// Bytes of one buffer, and so of one tensor, at most.
    pub buffer_bytes_max: u64,
}

/// A device that [`open`] would find.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AvailableDevice {
    /// The choice that opens it.
    pub choice: BackendChoice,
    /// Its name, as in [`OpenDevice::name`].
    pub name: String,
    /// Whether it is a driver that pretends to be a GPU; `auto` takes none.
    pub software: bool,
}

/// No such device.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DeviceError {
    /// The word names no backend.
    #[error("unknown backend '{word}': use one of auto, flex, ndarray, vulkan, wgpu, metal, cuda")]
    UnknownBackend {
        /// As it came.
        word: String,
    },
    /// The backend was left out of this program.
    #[error("backend '{choice}' is not in this build; this build and this box have: {available}")]
    NotBuilt {
        /// What was asked for.
        choice: BackendChoice,
        /// What there is.
        available: String,
    },
    /// The backend finds no device.
    #[error(
        "backend '{choice}' finds no device on this box (is its driver installed?); \
         this build and this box have: {available}"
    )]
    NotPresent {
        /// What was asked for.
        choice: BackendChoice,
        /// What there is.
        available: String,
    },
    /// The device was found and does not work.
    #[error(
        "backend '{choice}' finds a device that does not start: {reason}; \
         this build and this box have: {available}"
    )]
    Broken {
        /// What was asked for.
        choice: BackendChoice,
        /// What the driver said.
        reason: String,
        /// What there is.
        available: String,
    },
}

impl BackendChoice {
    /// Every choice that names one backend, the ones that `auto` prefers first.
    pub const NAMED: [Self; 6] =
        [Self::Cuda, Self::Metal, Self::Vulkan, Self::Wgpu, Self::Flex, Self::NdArray];

    /// The word for it in profiles and flags.
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Flex => "flex",
            Self::NdArray => "ndarray",
            Self::Vulkan => "vulkan",
            Self::Wgpu => "wgpu",
            Self::Metal => "metal",
            Self::Cuda => "cuda",
        }
    }

    /// Whether this program has it.
    pub fn is_built(self) -> bool {
        match self {
            Self::Auto => true,
            Self::Flex => cfg!(feature = "flex"),
            Self::NdArray => cfg!(feature = "ndarray"),
            Self::Vulkan => cfg!(feature = "wgpu"),
            Self::Wgpu => cfg!(feature = "wgpu"),
            Self::Metal => cfg!(feature = "metal"),
            Self::Cuda => cfg!(feature = "cuda"),
        }
    }
}

impl fmt::Display for BackendChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for BackendChoice {
    type Err = DeviceError;

    fn from_str(word: &str) -> Result<Self, DeviceError> {
        std::iter::once(Self::Auto)
            .chain(Self::NAMED)
            .find(|choice| choice.name() == word)
            .ok_or_else(|| DeviceError::UnknownBackend { word: word.into() })
    }
}

impl OpenDevice {
    /// Whether its tensors lie in the memory of the program.
    pub fn is_cpu(&self) -> bool {
        matches!(self.choice, BackendChoice::Flex | BackendChoice::NdArray)
    }
}

/// Opens the device that a choice stands for.
///
/// A choice that names a backend takes its first device, a real GPU before a software one; `auto`
/// takes the first real GPU, otherwise the CPU.
///
/// Errors: the backend is not built in, finds no device, or its device does not start.
pub fn open(choice: BackendChoice) -> Result<OpenDevice, DeviceError> {
    if choice == BackendChoice::Auto {
        return open_auto();
    }
    if !choice.is_built() {
        return Err(DeviceError::NotBuilt { choice, available: listing() });
    }
    let mut found = candidates(choice);
    found.sort_by_key(|candidate| candidate.software);
    let Some(first) = found.into_iter().next() else {
        return Err(DeviceError::NotPresent { choice, available: listing() });
    };
    first.start().map_err(|reason| DeviceError::Broken { choice, reason, available: listing() })
}

/// Every device that this build can use on this box.
pub fn available() -> Vec<AvailableDevice> {
    BackendChoice::NAMED
        .into_iter()
        .flat_map(candidates)
        .filter_map(|candidate| candidate.start().ok())
        .map(|open| AvailableDevice {
            choice: open.choice,
            name: open.name,
            software: open.software,
        })
        .collect()
}

fn open_auto() -> Result<OpenDevice, DeviceError> {
    BackendChoice::NAMED
        .into_iter()
        .flat_map(candidates)
        .filter(|candidate| !candidate.software)
        .find_map(|candidate| candidate.start().ok())
        .ok_or_else(|| DeviceError::NotPresent {
            choice: BackendChoice::Auto,
            available: listing(),
        })
}

fn listing() -> String {
    let names: Vec<String> = available().into_iter().map(|device| device.name).collect();
    if names.is_empty() { "none".into() } else { names.join(", ") }
}

/// A device that was listed and not yet touched.
struct Candidate {
    choice: BackendChoice,
    device: Device,
    software: bool,
}

impl Candidate {
    /// Touches the device for the first time; a driver that panics gives its words.
    fn start(self) -> Result<OpenDevice, String> {
        let Self { choice, device, software } = self;
        #[cfg(feature = "cuda")]
        if choice == BackendChoice::Cuda {
            cube_kernels::check_cuda()?;
        }
        quietly(move || {
            let name = match adapter_name(&device) {
                None => choice.name().into(),
                Some(adapter) => format!("{choice}: {adapter}"),
            };
            let (memory_bytes, buffer_bytes_max) = memory(&device);
            let mut open = OpenDevice {
                shares_memory: shares_memory(&device),
                memory_bytes,
                buffer_bytes_max,
                device,
                name,
                choice,
                software,
            };
            if !open.is_cpu() {
                check::products(&mut open)?;
            }
            Ok(open)
        })?
    }
}

/// Lists without opening. A driver that panics here has no devices.
fn candidates(choice: BackendChoice) -> Vec<Candidate> {
    quietly(move || listed(choice))
        .unwrap_or_default()
        .into_iter()
        .map(|device| Candidate { choice, software: is_software(&device), device })
        .collect()
}

fn listed(choice: BackendChoice) -> Vec<Device> {
    match choice {
        #[cfg(feature = "flex")]
        BackendChoice::Flex => vec![Device::flex()],
        #[cfg(feature = "ndarray")]
        #[expect(deprecated, reason = "stays while Burn has it")]
        BackendChoice::NdArray => vec![Device::ndarray()],
        #[cfg(feature = "vulkan")]
        BackendChoice::Vulkan => enumerated(burn::tensor::DeviceType::Vulkan),
        #[cfg(all(feature = "wgpu", not(feature = "vulkan")))]
        BackendChoice::Vulkan => on_vulkan(enumerated(burn::tensor::DeviceType::Wgpu)),
        #[cfg(feature = "wgpu")]
        BackendChoice::Wgpu => enumerated(burn::tensor::DeviceType::Wgpu),
        #[cfg(feature = "metal")]
        BackendChoice::Metal => enumerated(burn::tensor::DeviceType::Metal),
        #[cfg(feature = "cuda")]
        BackendChoice::Cuda => enumerated(burn::tensor::DeviceType::Cuda),
        _ => Vec::new(),
    }
}

#[cfg(feature = "cube")]
fn enumerated(kind: burn::tensor::DeviceType) -> Vec<Device> {
    Device::enumerate(kind).into_vec()
}

/// The same adapters, pinned to Vulkan: without Burn's own Vulkan compiler, kernels go there as WGSL.
#[cfg(all(feature = "wgpu", not(feature = "vulkan")))]
fn on_vulkan(devices: Vec<Device>) -> Vec<Device> {
    use burn::backend::{CubeDevice, DispatchDevice, WgpuBackend};
    let pinned = devices.iter().filter_map(|device| match device.as_dispatch() {
        DispatchDevice::Cube(CubeDevice::Wgpu(wgpu)) => {
            Some(Device::new(CubeDevice::Wgpu(wgpu.clone().on(WgpuBackend::Vulkan))))
        }
        _ => None,
    });
    pinned.collect()
}

#[cfg(feature = "wgpu")]
fn is_software(device: &Device) -> bool {
    use burn::backend::{CubeDevice, DispatchDevice, WgpuDeviceKind};
    match device.as_dispatch() {
        DispatchDevice::Cube(CubeDevice::Wgpu(wgpu)) => {
            matches!(wgpu.kind, WgpuDeviceKind::Cpu | WgpuDeviceKind::Other(_))
        }
        _ => false,
    }
}

#[cfg(not(feature = "wgpu"))]
fn is_software(_device: &Device) -> bool {
    false
}

/// Software and integrated GPUs, and those of NVIDIA's boards with one memory.
#[cfg(feature = "cube")]
fn shares_memory(device: &Device) -> bool {
    use burn::backend::{CubeDevice, DispatchDevice};
    match device.as_dispatch() {
        #[cfg(feature = "wgpu")]
        DispatchDevice::Cube(CubeDevice::Wgpu(wgpu)) => !matches!(
            wgpu.kind,
            burn::backend::WgpuDeviceKind::DiscreteGpu(_)
                | burn::backend::WgpuDeviceKind::VirtualGpu(_)
        ),
        #[cfg(feature = "cuda")]
        DispatchDevice::Cube(CubeDevice::Cuda(_)) => std::fs::read("/proc/device-tree/compatible")
            .is_ok_and(|words| String::from_utf8_lossy(&words).contains("nvidia,tegra")),
        DispatchDevice::Cube(_) => false,
        _ => true,
    }
}

#[cfg(not(feature = "cube"))]
fn shares_memory(_device: &Device) -> bool {
    true
}

/// What a driver says of its memory: bytes in all, where it says so, and of one buffer.
#[cfg(feature = "cube")]
fn memory(device: &Device) -> (Option<u64>, u64) {
    use burn::backend::DispatchDevice;
    match device.as_dispatch() {
        DispatchDevice::Cube(cube) => {
            let client = cube.client();
            let memory = &client.properties().memory;
            (memory.max_memory(), memory.max_page_size)
        }
        _ => (None, u64::MAX),
    }
}

#[cfg(not(feature = "cube"))]
fn memory(_device: &Device) -> (Option<u64>, u64) {
    (None, u64::MAX)
}

#[cfg(feature = "cube")]
fn adapter_name(device: &Device) -> Option<String> {
    device.identity().map(|identity| identity.name)
}

#[cfg(not(feature = "cube"))]
fn adapter_name(_device: &Device) -> Option<String> {
    None
}

/// Runs what may panic inside a driver, and gives the panic's words.
fn quietly<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)).map_err(|panic| {
        let words = panic.downcast_ref::<&str>().map(ToString::to_string);
        words
            .or_else(|| panic.downcast_ref::<String>().cloned())
            .unwrap_or_else(|| "the driver panicked".into())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_choice_reads_back_from_its_name() {
        for choice in BackendChoice::NAMED.into_iter().chain([BackendChoice::Auto]) {
            assert_eq!(choice.to_string().parse(), Ok(choice));
        }
    }

    #[test]
    fn unknown_backend_names_the_known_ones() {
        let error = "gpu".parse::<BackendChoice>().unwrap_err().to_string();
        assert!(error.contains("'gpu'") && error.contains("flex"), "{error}");
    }

    #[test]
    fn auto_opens_a_device_that_is_not_software() {
        let open = open(BackendChoice::Auto).unwrap();
        assert!(!open.software);
        assert_ne!(open.choice, BackendChoice::Auto);
    }

    #[test]
    fn missing_backend_lists_what_is_here() {
        let here = available();
        for choice in BackendChoice::NAMED {
            if here.iter().any(|device| device.choice == choice) {
                assert_eq!(open(choice).unwrap().choice, choice);
            } else {
                let error = open(choice).unwrap_err().to_string();
                assert!(error.contains(choice.name()), "{error}");
                assert!(here.iter().all(|device| error.contains(&device.name)), "{error}");
            }
        }
    }
}
