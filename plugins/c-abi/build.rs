//! Names the shared object after its ABI and notes what it is built with.

use std::process::Command;

fn main() {
    let target = std::env::var("TARGET").unwrap_or_default();
    if target.contains("linux") || target.contains("bsd") || target.contains("android") {
        println!("cargo::rustc-cdylib-link-arg=-Wl,-soname,libzonda.so.1");
        // The grammar library marks a C interface of its own for export.
        println!("cargo::rustc-cdylib-link-arg=-Wl,--exclude-libs,ALL");
    } else if target.contains("apple") {
        println!("cargo::rustc-cdylib-link-arg=-Wl,-install_name,@rpath/libzonda.1.dylib");
        println!("cargo::rustc-cdylib-link-arg=-Wl,-unexported_symbol,_llg_*");
    }
    let compiler = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let version = Command::new(compiler).arg("--version").output();
    let version = version.ok().and_then(|output| String::from_utf8(output.stdout).ok());
    let version: String = version.unwrap_or_else(|| "unknown".into());
    println!("cargo::rustc-env=ZONDA_RUSTC={}", version.trim());
    println!("cargo::rustc-env=ZONDA_TARGET={target}");
    println!("cargo::rerun-if-changed=build.rs");
}
