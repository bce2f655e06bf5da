//! The library in Python's hands, by ctypes; and its metrics before a parser of others.

use std::path::PathBuf;
use std::process::Command;

use crate::tools::{Bench, said, sources};

#[test]
fn python_speaks_to_the_library() {
    let bench = Bench::new();
    let Some(library) = bench.library() else { return };
    let mut command = Command::new(python());
    command.arg(sources("tests/native/speak.py")).arg(library);
    let Some(told) = said(&mut command) else { return };
    if told.contains("skipped") {
        println!("{}", told.trim_end());
    }
    assert!(told.ends_with("ok\n"), "{told}");
}

/// That of `cargo xtask setup`, which has the parser, or any.
fn python() -> PathBuf {
    let cache = std::env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache")));
    let installed = cache.map(|cache| cache.join("zonda/python/bin/python3"));
    let wanted = std::env::var_os("ZONDA_PYTHON").map(PathBuf::from);
    let candidates = wanted.into_iter().chain(installed);
    candidates.into_iter().find(|path| path.is_file()).unwrap_or_else(|| "python3".into())
}
