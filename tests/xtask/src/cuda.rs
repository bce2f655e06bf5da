//! CUDA's compiler of kernels, where there is no GPU: behind a driver that computes nothing.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::setup::Environment;
use crate::{cache, root, run};

/// NVIDIA's NVRTC, and the headers that kernels include.
const PACKAGES: &[&str] = &["nvidia-cuda-nvrtc-cu12==12.9.86", "nvidia-cuda-runtime-cu12==12.9.79"];
/// Where they are installed, below the cache folder.
const FOLDER: &str = "python-cuda";
/// Names the compute capability that the driver pretends.
pub(crate) const CAPABILITY: &str = "PRETENDED_SM";
/// Those of Jetson Orin and Jetson Thor, as NVRTC 12 knows it.
pub(crate) const CAPABILITIES: [&str; 2] = ["87", "101"];

/// Brings the compiler and builds the driver.
pub(crate) fn setup() -> Result<()> {
    Environment::of(FOLDER, PACKAGES).install()?;
    build().map(drop)
}

/// What the tests have to be told; `None` where the compiler is not there.
pub(crate) fn environment() -> Result<Option<Vec<(&'static str, String)>>> {
    let Some(packages) = packages()? else { return Ok(None) };
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

/// The folder with the driver, and with the compiler under the name by which it is looked for.
fn build() -> Result<PathBuf> {
    let folder = cache()?.join("pretended-cuda");
    std::fs::create_dir_all(&folder)?;
    run(Command::new("cc")
        .args(["-shared", "-fPIC", "-o"])
        .arg(folder.join("libcuda.so"))
        .arg(root().join("tests/pretended-cuda/cuda.c")))?;
    if let Some(packages) = packages()? {
        link(&packages.join("cuda_nvrtc/lib/libnvrtc.so.12"), &folder.join("libnvrtc.so"))?;
    }
    Ok(folder)
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
