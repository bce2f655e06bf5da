//! The kernels of GPUs, through a driver that pretends to be one where there is no GPU.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, bail};

use crate::packages::{self, installed};
use crate::totals::{Totals, test};
use crate::{cache, cuda, root, run};

/// Crates that the other tests leave out, because they need a GPU's libraries.
pub(crate) const CRATES: [&str; 2] = ["cube-kernels", "cubecl-llvm"];
/// The description that Vulkan's loader reads of the software driver.
const DRIVER: &str = "vk_swiftshader_icd.json";
/// The library that it names.
const LIBRARY: &str = "libvk_swiftshader.so";
/// Where Debian's browser has both.
const BROWSER: &str = "/usr/lib/chromium";
/// What finds the driver. Without it the tests would run on whatever else the system draws with.
const LOADER: &str = "libvulkan1";

/// The tests with the GPU backends: those of kernels, then golden logits. Without a driver they count
/// as skipped.
pub(crate) fn check() -> Result<Totals> {
    let mut totals = Totals::default();
    keep_stand_in_old()?;
    let Some(mut environment) = driver()? else {
        totals
            .skip("the kernels of GPUs, no Vulkan driver: cargo xtask setup brings a software one");
        return Ok(totals);
    };
    environment.push(("ZONDA_TEST_BACKENDS", "wgpu".to_owned()));
    // The program is named so that Burn's dependencies get the features that it gives them, and
    // nothing is built twice.
    let crates = ["cube-kernels", "fused-ops", "model", "daemon"];
    let packages: Vec<&str> = crates.iter().flat_map(|name| ["-p", name]).collect();
    let features = ["--features", "model/wgpu,model/cuda"];
    let tests = ["--test", "ops", "--test", "network", "--test", "parity"];
    totals.add(test(&[&packages[..], &features, &tests].concat(), &environment)?);
    let told = |name: &str, variables: &[(&str, String)], tests: &[&str]| {
        let [option, runner] = cuda::runner(name, variables)?;
        test(&[&[&option[..], &runner], &packages[..], &features, tests].concat(), &[])
    };
    match cuda::environment()? {
        None => totals.skip("CUDA's compiler, not here: cargo xtask setup brings it"),
        Some(mut variables) => {
            for capability in cuda::CAPABILITIES {
                variables.retain(|(name, _)| *name != cuda::CAPABILITY);
                variables.push((cuda::CAPABILITY, capability.to_owned()));
                totals.add(told("compiles", &variables, &["--test", "compiles"])?);
            }
        }
    }
    let mut variables = cuda::running()?;
    totals.add(told("runs", &variables, &tests)?);
    // Once more where CUDA has no headers of matrix units.
    variables.push(("PRETENDED_WITHOUT", "mma.h".into()));
    totals.add(told("runs-without", &variables, &["--test", "ops", "tiles_of_tokens"])?);
    totals.skip("what the kernels compute on a GPU of NVIDIA, none is here");
    Ok(totals)
}

/// Cargo goes by dates of files, a new checkout's are new, and half an hour of building stands on this
/// one crate. Its dates are set back, to the same day each time.
fn keep_stand_in_old() -> Result<()> {
    let day = SystemTime::UNIX_EPOCH + Duration::from_secs(946_684_800);
    let folder = root().join("backends/cubecl-llvm");
    for file in [folder.join("Cargo.toml"), folder.join("src/lib.rs")] {
        let opened = File::options().append(true).open(&file);
        opened
            .and_then(|opened| opened.set_modified(day))
            .with_context(|| file.display().to_string())?;
    }
    Ok(())
}

/// What the loader has to be told, if anything; `None` where it would find no driver.
fn driver() -> Result<Option<Vec<(&'static str, String)>>> {
    if std::env::var_os("VK_DRIVER_FILES").is_some() {
        return Ok(Some(Vec::new()));
    }
    if !Path::new(&loader()).is_file() {
        return Ok(None);
    }
    let places = [PathBuf::from(BROWSER), folder()?];
    let found = places.iter().map(|place| place.join(DRIVER)).find(|file| file.is_file());
    Ok(found.map(|file| {
        ["VK_DRIVER_FILES", "VK_ICD_FILENAMES"]
            .map(|name| (name, file.display().to_string()))
            .into()
    }))
}

fn folder() -> Result<PathBuf> {
    Ok(cache()?.join("swiftshader"))
}

/// Where Debian has it.
fn loader() -> String {
    format!("/usr/lib/{}-linux-gnu/libvulkan.so.1", std::env::consts::ARCH)
}

/// Brings the software driver, and what finds it. Where that fails, the checks count as skipped.
pub(crate) fn setup() {
    let loaded = packages::install(&packages::missing(&[(&loader(), LOADER)]));
    let there = driver().is_ok_and(|found| found.is_some());
    if let Err(error) = loaded.and_then(|()| if there { Ok(()) } else { fetch() }) {
        eprintln!("xtask: checks of the GPUs' kernels will be skipped: {error:#}");
    }
    if let Err(error) = cuda::setup() {
        eprintln!("xtask: kernels will not be compiled for CUDA: {error:#}");
    }
}

/// Two files out of Debian's package of a browser, which is not installed.
fn fetch() -> Result<()> {
    if !installed("apt-get") || !installed("dpkg-deb") {
        bail!("this system has no Debian packages");
    }
    let folder = folder()?;
    let unpacked = folder.join("package");
    std::fs::create_dir_all(&unpacked)?;
    run(Command::new("sh").arg("-c").arg(format!(
        "cd '{0}' && apt-get download -q chromium && dpkg-deb -x chromium_*.deb package",
        folder.display()
    )))?;
    for name in [DRIVER, LIBRARY] {
        let from = unpacked.join(BROWSER.trim_start_matches('/')).join(name);
        std::fs::copy(&from, folder.join(name)).with_context(|| from.display().to_string())?;
    }
    std::fs::remove_dir_all(unpacked)?;
    for package in std::fs::read_dir(&folder)? {
        let package = package?.path();
        if package.extension().is_some_and(|ending| ending == "deb") {
            std::fs::remove_file(package)?;
        }
    }
    Ok(())
}
