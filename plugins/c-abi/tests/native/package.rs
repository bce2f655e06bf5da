//! The package, installed and used as strangers do: CMake, pkg-config, C and C++, shared and static.

use std::path::Path;
use std::process::Command;

use crate::tools::{Bench, run, said, sources};

// The project's own command, so that what is tested is what is shipped.
#[path = "../../../../tests/xtask/src/package_c.rs"]
mod package_c;

/// The functions that a header declares, sorted.
pub(crate) fn functions_of(header: &Path) -> Vec<String> {
    package_c::functions(header).unwrap()
}

const ASK: [&str; 3] = ["-", "Turn on the kitchen light.", "24"];
const SAID: &str = "The kitchen light is on.\n";

#[test]
fn package_serves_cmake_and_pkg_config() {
    let bench = Bench::new();
    let Some(built) = bench.built() else { return };
    let tools = ["cmake", "pkg-config", "objcopy", "ld"];
    if tools.iter().any(|tool| run(tool, ["--version"], None).is_none()) {
        return;
    }
    let prefix = bench.path("prefix");
    package_c::package(&built, &sources("include"), &prefix).unwrap();
    assert_eq!(package_c::VERSION, zonda::VERSION);
    only_the_headers_functions_are_global(&prefix);
    with_cmake(&bench, &prefix);
    with_pkg_config(&bench, &prefix);
}

fn only_the_headers_functions_are_global(prefix: &Path) {
    let archive = prefix.join("lib/libzonda.a");
    let listed = run("nm", ["-g", "--defined-only"], Some(&archive)).unwrap();
    let mut global: Vec<_> = listed
        .lines()
        .filter(|line| !line.is_empty() && !line.ends_with(':'))
        .filter_map(|line| line.split_whitespace().last())
        .collect();
    global.sort_unstable();
    let functions = functions_of(&sources("include/zonda.h"));
    assert_eq!(global, functions.iter().map(String::as_str).collect::<Vec<_>>());
}

fn with_cmake(bench: &Bench, prefix: &Path) {
    let project = bench.path("project");
    std::fs::create_dir_all(&project).unwrap();
    std::fs::copy(sources("tests/native/CMakeLists.txt"), project.join("CMakeLists.txt")).unwrap();
    for source in ["chat.c", "chat.cpp"] {
        std::fs::copy(sources("examples").join(source), project.join(source)).unwrap();
    }
    let folder = project.join("build");
    let mut configure = Command::new("cmake");
    configure.arg("-S").arg(&project).arg("-B").arg(&folder);
    configure.arg(format!("-DCMAKE_PREFIX_PATH={}", prefix.display()));
    said(&mut configure);
    said(Command::new("cmake").arg("--build").arg(&folder));
    for program in ["chat", "chat_static", "chat_cpp", "chat_cpp_static"] {
        let program = folder.join(program);
        assert_eq!(said(Command::new(&program).args(ASK)).as_deref(), Some(SAID), "{program:?}");
        let needed = run("readelf", ["-d"], Some(&program)).unwrap();
        let is_static = program.display().to_string().ends_with("_static");
        assert_eq!(needed.contains("[libzonda.so.1]"), !is_static, "{needed}");
    }
}

fn with_pkg_config(bench: &Bench, prefix: &Path) {
    let library = prefix.join("lib");
    let flags = |more: &[&str]| -> Vec<String> {
        let mut ask = Command::new("pkg-config");
        ask.args(more).args(["--cflags", "--libs", "zonda"]);
        ask.env("PKG_CONFIG_PATH", library.join("pkgconfig"));
        said(&mut ask).unwrap().split_whitespace().map(str::to_owned).collect()
    };
    let build = |compiler: &str, source: &str, name: &str, flags: Vec<String>| {
        let program = bench.path(name);
        let mut command = Command::new(compiler);
        command.arg(sources(source)).args(flags).arg("-o").arg(&program);
        said(&mut command);
        let mut asked = Command::new(&program);
        asked.args(ASK).env("LD_LIBRARY_PATH", &library);
        assert_eq!(said(&mut asked).as_deref(), Some(SAID), "{name}");
    };
    let version = run_in("pkg-config", &["--modversion", "zonda"], &library);
    assert_eq!(version.trim(), package_c::VERSION);
    build("gcc", "examples/chat.c", "shared-c", flags(&[]));
    build("g++", "examples/chat.cpp", "shared-cpp", flags(&[]));
    // Where only the static library is installed, the linker takes that.
    for name in ["libzonda.so", "libzonda.so.1"] {
        std::fs::remove_file(library.join(name)).unwrap();
    }
    build("gcc", "examples/chat.c", "static-c", flags(&["--static"]));
    build("g++", "examples/chat.cpp", "static-cpp", flags(&["--static"]));
}

fn run_in(program: &str, arguments: &[&str], library: &Path) -> String {
    let mut command = Command::new(program);
    command.args(arguments).env("PKG_CONFIG_PATH", library.join("pkgconfig"));
    said(&mut command).unwrap()
}
