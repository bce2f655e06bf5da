//! CUDA where there is no GPU: NVIDIA's compiler of kernels behind a driver that forgets them, and
//! the system's C++ compiler in its place behind the same driver, which runs on this processor then.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::setup::Environment;
use crate::{cache, root, run};

/// NVIDIA's NVRTC, and the headers that kernels include.
const PACKAGES: &[&str] = &[
    "nvidia-cuda-nvrtc-cu12==12.9.86",
    "nvidia-cuda-runtime-cu12==12.9.79",
    "nvidia-cuda-nvcc-cu12==12.9.86",
];
/// Where they are installed, below the cache folder.
const FOLDER: &str = "python-cuda";
/// Below the cache folder: what NVIDIA's compiler needs beside it, and what runs here.
const DRIVER: &str = "pretended-cuda";
const RUNNING: &str = "pretended-cuda/running";
const KERNELS: &str = "pretended-cuda/kernels";
/// Kernels that no check has run for so long are thrown away.
const KERNELS_KEPT: Duration = Duration::from_secs(30 * 24 * 3600);
/// Names the compute capability that the driver pretends.
pub(crate) const CAPABILITY: &str = "PRETENDED_SM";
/// Those of Jetson Orin and Jetson Thor, as NVRTC 12 knows it.
pub(crate) const CAPABILITIES: [&str; 2] = ["87", "101"];

/// Brings the compiler and builds the driver.
pub(crate) fn setup() -> Result<()> {
    Environment::of(FOLDER, PACKAGES).install()?;
    build().map(drop)
}

/// Arguments of Cargo for tests that are told `variables`. They are set behind a build and not before it:
/// crates of CUDA are built again, and with them everything above, whenever `CUDA_PATH` changes.
pub(crate) fn runner(name: &str, variables: &[(&str, String)]) -> Result<[String; 2]> {
    let path = cache()?.join(DRIVER).join(name);
    let quoted = |value: &str| format!("'{}'", value.replace('\'', r"'\''"));
    let exports =
        variables.iter().map(|(name, value)| format!("export {name}={}\n", quoted(value)));
    std::fs::write(&path, format!("{}exec \"$@\"\n", exports.collect::<String>()))?;
    let path = path.to_str().context("the cache folder's name is not Unicode")?;
    Ok(["--config".into(), format!("target.'cfg(all())'.runner=[\"sh\", {path:?}]")])
}

/// What tests have to be told that run kernels on this processor.
pub(crate) fn running() -> Result<Vec<(&'static str, String)>> {
    let (folder, kernels) = (cache()?.join(RUNNING), cache()?.join(KERNELS));
    build_driver(&folder)?;
    library(&folder.join("libnvrtc.so"), &["nvrtc.c"])?;
    std::fs::create_dir_all(&kernels)?;
    for kernel in std::fs::read_dir(&kernels)?.flatten() {
        let used = kernel.metadata()?.modified()?;
        if used.elapsed().is_ok_and(|age| age > KERNELS_KEPT) {
            std::fs::remove_file(kernel.path())?;
        }
    }
    Ok(vec![
        ("LD_LIBRARY_PATH", folder.display().to_string()),
        ("CUDA_PATH", sources().display().to_string()),
        ("PRETENDED_KERNELS", kernels.display().to_string()),
        ("ZONDA_TEST_BACKENDS", "cuda".into()),
    ])
}

/// What the tests of NVIDIA's compiler have to be told; `None` where it is not there.
pub(crate) fn environment() -> Result<Option<Vec<(&'static str, String)>>> {
    let Some(packages) = packages()? else { return Ok(None) };
    // They lie in one folder where CUDA is installed.
    link(&packages.join("cuda_nvcc/include/crt"), &packages.join("cuda_runtime/include/crt"))?;
    let libraries = [build()?, packages.join("cuda_nvrtc/lib")];
    let libraries = std::env::join_paths(libraries).context("a folder's name has a colon")?;
    Ok(Some(vec![
        ("ZONDA_CUDA_COMPILES", "1".into()),
        ("LD_LIBRARY_PATH", libraries.to_string_lossy().into_owned()),
        ("CUDA_PATH", packages.join("cuda_runtime").display().to_string()),
    ]))
}

/// NVIDIA's packages.
fn packages() -> Result<Option<PathBuf>> {
    let Ok(versions) = std::fs::read_dir(cache()?.join(FOLDER).join("lib")) else {
        return Ok(None);
    };
    let folders = versions.flatten().map(|version| version.path().join("site-packages/nvidia"));
    Ok(folders.into_iter().find(|folder| folder.join("cuda_nvrtc").is_dir()))
}

/// The folder with the driver, and with NVIDIA's compiler under the name by which it is looked for.
fn build() -> Result<PathBuf> {
    let folder = cache()?.join(DRIVER);
    build_driver(&folder)?;
    if let Some(packages) = packages()? {
        link(&packages.join("cuda_nvrtc/lib/libnvrtc.so.12"), &folder.join("libnvrtc.so"))?;
    }
    Ok(folder)
}

fn build_driver(folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder)?;
    library(&folder.join("libcuda.so"), &["cuda.c", "grid.c"])
}

fn sources() -> PathBuf {
    root().join("tests/pretended-cuda")
}

/// Jumps from one stack to another are no error here, so that nothing looks for such.
fn library(path: &Path, files: &[&str]) -> Result<()> {
    run(Command::new("cc")
        .args(["-O2", "-U_FORTIFY_SOURCE", "-fno-stack-protector", "-shared", "-fPIC", "-I"])
        .arg(sources().join("include"))
        .arg("-o")
        .arg(path)
        .args(files.iter().map(|file| sources().join(file)))
        .args(["-lpthread", "-ldl"]))
}

#[cfg(unix)]
fn link(from: &Path, to: &Path) -> Result<()> {
    if to.read_link().is_ok_and(|found| found == from) {
        return Ok(());
    }
    let _old = std::fs::remove_file(to);
    std::os::unix::fs::symlink(from, to).with_context(|| to.display().to_string())
}

#[cfg(not(unix))]
fn link(_from: &Path, to: &Path) -> Result<()> {
    anyhow::bail!("{} is not linked on this system", to.display())
}
