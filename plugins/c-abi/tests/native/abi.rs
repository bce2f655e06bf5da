//! What was promised stays: programs of the first release run with this library.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Command;

use crate::package::functions_of;
use crate::tools::{Bench, said, sources};

/// What cbindgen has to be: another one writes another header.
const CBINDGEN_VERSION: &str = "cbindgen 0.29.4";

#[test]
fn every_function_and_number_of_the_first_release_is_there() {
    let bench = Bench::new();
    let Some(program) = bench.link("gcc", &["-std=c99"], "tests/native/layout.c", "layout-now")
    else {
        return;
    };
    let functions = functions_of(&sources("include/zonda.h"));
    let numbers = bench.run(&program, [""; 0]);
    let now: BTreeSet<&str> = numbers.lines().chain(functions.iter().map(String::as_str)).collect();
    let promised = std::fs::read_to_string(sources("tests/abi1/promises.txt")).unwrap();
    let promised = promised.lines().filter(|line| !line.starts_with('#'));
    let broken: Vec<&str> = promised.clone().filter(|line| !now.contains(line)).collect();
    assert!(promised.count() > 100);
    assert_eq!(broken, [""; 0], "promised and not kept");
}

#[test]
fn program_of_the_first_release_runs_with_this_library() {
    let bench = Bench::new();
    for (source, name) in [("tests/native/border.c", "old"), ("examples/chat.c", "old-chat")] {
        let built = bench.link_with("tests/abi1", "gcc", &["-std=c99"], source, name);
        let Some(program) = built else { continue };
        match name {
            "old" => drop(bench.run(&program, ["10"])),
            _ => assert_eq!(
                bench.run(&program, ["-", "Turn on the kitchen light.", "24", "pull"]),
                "The kitchen light is on.\n"
            ),
        }
    }
}

#[test]
fn header_is_what_the_source_says() {
    let bench = Bench::new();
    let Some(cbindgen) = cbindgen() else {
        println!("skipped: no {CBINDGEN_VERSION}; cargo xtask setup installs it");
        return;
    };
    let made = bench.path("zonda.h");
    let mut command = Command::new(cbindgen);
    command.args(["--quiet", "--config", "cbindgen.toml", "--output"]).arg(&made).arg(".");
    said(&mut command);
    let (made, kept) = (std::fs::read(made).unwrap(), std::fs::read(sources("include/zonda.h")));
    assert!(made == kept.unwrap(), "include/zonda.h is stale: run cargo xtask header");
}

/// That of the cache that `cargo xtask setup` fills, or of the path, if it is the right one.
fn cbindgen() -> Option<PathBuf> {
    let cache = std::env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache")));
    let installed = cache.map(|cache| cache.join("zonda/cbindgen/bin/cbindgen"));
    let candidates = installed.into_iter().chain([PathBuf::from("cbindgen")]);
    candidates.into_iter().find(|program| {
        let output = Command::new(program).arg("--version").output();
        output.is_ok_and(|output| output.stdout.trim_ascii() == CBINDGEN_VERSION.as_bytes())
    })
}
