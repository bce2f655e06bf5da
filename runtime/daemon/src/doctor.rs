//! `zonda doctor`: what each backend needs, and what of it this build and this box have.

use std::io::Write;
use std::path::{Path, PathBuf};

use model::BackendChoice;

use crate::error::AssembleError;

/// Files that the driver of a backend brings. One of each list is enough.
struct Need {
    what: &'static str,
    /// Beginnings of file names.
    names: &'static [&'static str],
    folders: &'static [&'static str],
    advice: &'static str,
}

/// Where libraries lie, beside what `LD_LIBRARY_PATH` says.
const LIBRARIES: &[&str] = &[
    "/usr/lib/x86_64-linux-gnu",
    "/usr/lib/aarch64-linux-gnu",
    "/usr/lib/aarch64-linux-gnu/nvidia",
    "/usr/lib/aarch64-linux-gnu/tegra",
    "/usr/lib64",
    "/usr/lib",
    "/usr/local/cuda/lib64",
    "/usr/local/cuda/targets/x86_64-linux/lib",
    "/usr/local/cuda/targets/aarch64-linux/lib",
    "/opt/cuda/lib64",
];

const VULKAN: &[Need] = &[
    Need {
        what: "Vulkan's loader",
        names: &["libvulkan.so"],
        folders: LIBRARIES,
        advice: "install libvulkan1",
    },
    Need {
        what: "a Vulkan driver",
        names: &[""],
        folders: &["/usr/share/vulkan/icd.d", "/etc/vulkan/icd.d"],
        advice: "install the driver of the GPU, on Debian mesa-vulkan-drivers for Intel, AMD and Arm; or \
                 name its file in VK_DRIVER_FILES",
    },
];

const CUDA: &[Need] = &[
    Need {
        what: "NVIDIA's driver",
        names: &["libcuda.so"],
        folders: LIBRARIES,
        advice: "install the driver; in a container, start it with the GPU",
    },
    Need {
        what: "NVRTC, which compiles kernels",
        names: &["libnvrtc.so"],
        folders: LIBRARIES,
        advice: "install CUDA's run-time libraries, on Debian and Ubuntu cuda-nvrtc; JetPack has them",
    },
    Need {
        what: "CUDA's headers, which kernels include",
        names: &["cuda_fp16.h"],
        folders: &[
            "/usr/local/cuda/include",
            "/usr/local/cuda/targets/x86_64-linux/include",
            "/usr/local/cuda/targets/aarch64-linux/include",
            "/opt/cuda/include",
            "/usr/include",
        ],
        advice: "install cuda-cudart-dev, and name CUDA's folder in CUDA_PATH where it is not \
                 /usr/local/cuda",
    },
    Need {
        what: "CUDA's headers of matrix units",
        names: &["mma.hpp"],
        folders: &[
            "/usr/local/cuda/include/crt",
            "/usr/local/cuda/targets/x86_64-linux/include/crt",
            "/usr/local/cuda/targets/aarch64-linux/include/crt",
            "/opt/cuda/include/crt",
            "/usr/include/crt",
        ],
        advice: "install cuda-crt; without it, prompts are read without matrix units",
    },
];

/// Prints a paragraph for each backend.
///
/// Errors: the output takes no more.
pub(crate) fn doctor(output: &mut dyn Write) -> Result<(), AssembleError> {
    let devices = model::available_devices();
    for choice in BackendChoice::NAMED {
        let found: Vec<&str> = devices
            .iter()
            .filter(|device| device.choice == choice)
            .map(|device| device.name.as_str())
            .collect();
        writeln!(output, "{choice}")?;
        if !found.is_empty() {
            writeln!(output, "  works: {}", found.join(", "))?;
            continue;
        }
        if choice.is_built() {
            if let Err(error) = model::open_device(choice) {
                writeln!(output, "  {error}")?;
            }
        } else {
            writeln!(output, "  not in this build: cargo build --release --features {choice}")?;
        }
        for need in needs(choice) {
            match need.found() {
                Some(path) => writeln!(output, "  {}: {}", need.what, path.display())?,
                None => writeln!(output, "  {}: not found; {}", need.what, need.advice)?,
            }
        }
    }
    Ok(())
}

fn needs(choice: BackendChoice) -> &'static [Need] {
    match choice {
        BackendChoice::Vulkan => VULKAN,
        BackendChoice::Wgpu if cfg!(target_os = "linux") => VULKAN,
        BackendChoice::Cuda => CUDA,
        _ => &[],
    }
}

impl Need {
    fn found(&self) -> Option<PathBuf> {
        let named = |name: &str| std::env::var_os(name).unwrap_or_default();
        let cuda = PathBuf::from(named("CUDA_PATH"));
        let searched = std::env::split_paths(&named("LD_LIBRARY_PATH")).collect::<Vec<_>>();
        // A driver may be named by itself.
        let single = std::env::split_paths(&named("VK_DRIVER_FILES")).collect::<Vec<_>>();
        if self.folders.iter().any(|folder| folder.contains("vulkan"))
            && let Some(file) = single.into_iter().find(|file| file.is_file())
        {
            return Some(file);
        }
        let folders = self.folders.iter().map(PathBuf::from);
        let of_cuda = ["include", "include/crt", "lib64"].map(|folder| cuda.join(folder));
        let folders = of_cuda.into_iter().chain(searched).chain(folders);
        folders.into_iter().find_map(|folder| self.in_folder(&folder))
    }

    fn in_folder(&self, folder: &Path) -> Option<PathBuf> {
        let entries = std::fs::read_dir(folder).ok()?;
        entries.filter_map(Result::ok).map(|entry| entry.path()).find(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            self.names.iter().any(|wanted| name.starts_with(wanted))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_backend_is_spoken_of() {
        let mut output = Vec::new();
        doctor(&mut output).unwrap();
        let text = String::from_utf8(output).unwrap();
        for choice in BackendChoice::NAMED {
            assert!(text.lines().any(|line| line == choice.name()), "{choice}: {text}");
        }
        assert!(text.contains("flex\n  works: flex"), "{text}");
    }

    #[test]
    fn what_lies_in_a_folder_is_found_by_its_beginning() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        let need = |name| Need { what: "", names: name, folders: &[], advice: "" };
        assert_eq!(need(&["libthing.so"]).in_folder(&folder), None);
        let found = need(&["libthing.so", "doctor"]).in_folder(&folder);
        assert_eq!(found, Some(folder.join("doctor.rs")));
        assert_eq!(need(&[""]).in_folder(&folder.join("nowhere")), None);
    }
}
