//! Compilers, and the folder they work in.

use std::path::{Path, PathBuf};
use std::process::Command;

pub(crate) const FLAGS: &[&str] = &[
    "-Wall",
    "-Wextra",
    "-Werror",
    "-pedantic",
    "-Wconversion",
    "-Wshadow",
    "-Wstrict-prototypes",
];
pub(crate) const FLAGS_CPP: &[&str] =
    &["-Wall", "-Wextra", "-Werror", "-pedantic", "-Wconversion", "-Wshadow", "-Wold-style-cast"];

/// A file of this crate. Tests run in its folder.
pub(crate) fn sources(path: &str) -> PathBuf {
    std::env::current_dir().unwrap().join(path)
}

/// The functions that the header declares, sorted.
pub(crate) fn header_functions() -> Vec<String> {
    let names = crate::package::functions_of(&sources("include/zonda.h"));
    assert!(names.len() > 40, "{names:?}");
    names
}

/// A model that tells stories: that of the shared data, where there is one.
pub(crate) fn shared_model() -> Option<String> {
    let beside = || sources("../../../shared");
    let shared = std::env::var_os("ZONDA_SHARED").map_or_else(beside, PathBuf::from);
    let model = shared.join("data/models/stories260K/stories260K-f32.gguf");
    if !model.is_file() {
        println!("skipped: no shared data");
        return None;
    }
    model.to_str().map(str::to_owned)
}

/// What a program says on stdout; `None` where the program is not installed.
pub(crate) fn run<const N: usize>(
    program: &str,
    arguments: [&str; N],
    file: Option<&Path>,
) -> Option<String> {
    let mut command = Command::new(program);
    command.args(arguments).args(file);
    said(&mut command)
}

/// What a command that must succeed prints; nothing where it is not installed. The model that programs load
/// by no name is one of which tests know what it says, whatever the library carries.
pub(crate) fn said(command: &mut Command) -> Option<String> {
    command.env("ZONDA__MODEL__PATH", sources("../../tests/fixtures/tiny/tiny.gguf"));
    let output = match command.output() {
        Ok(output) => output,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            println!("skipped: no {}", command.get_program().display());
            return None;
        }
        Err(error) => panic!("{command:?}: {error}"),
    };
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {}\n{errors}", output.status);
    Some(String::from_utf8(output.stdout).unwrap())
}

/// A folder of its own with links to the library under both of its names.
pub(crate) struct Bench {
    folder: tempfile::TempDir,
    library: Option<PathBuf>,
}

impl Bench {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let program = std::env::current_exe().unwrap();
        let built = program.with_file_name("libzonda.so");
        let library = built.is_file().then(|| folder.path().join("libzonda.so"));
        #[cfg(unix)]
        for name in library.iter().flat_map(|_| ["libzonda.so", "libzonda.so.1"]) {
            std::os::unix::fs::symlink(&built, folder.path().join(name)).unwrap();
        }
        Self { folder, library }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).unwrap();
    }

    /// The shared object that programs of this bench are linked against.
    pub(crate) fn library(&self) -> Option<&Path> {
        if self.library.is_none() {
            println!("skipped: no libzonda.so beside the test");
        }
        self.library.as_deref()
    }

    /// The folder with what was built.
    pub(crate) fn built(&self) -> Option<PathBuf> {
        let library = self.library()?.canonicalize().unwrap();
        library.parent().map(Path::to_owned)
    }

    /// Compiles one file to nothing.
    pub(crate) fn compile(&self, compiler: &str, standard: &str, flags: &[&str], source: &Path) {
        let mut command = Command::new(compiler);
        command.arg(standard).args(flags).arg("-I").arg(sources("include"));
        command.arg("-c").arg(source).arg("-o").arg(self.path("object.o"));
        said(&mut command);
    }

    /// Builds a program against the library.
    pub(crate) fn link(
        &self,
        compiler: &str,
        flags: &[&str],
        source: &str,
        name: &str,
    ) -> Option<PathBuf> {
        self.link_with("include", compiler, flags, source, name)
    }

    /// As [`link`](Self::link), with the headers of another folder.
    pub(crate) fn link_with(
        &self,
        headers: &str,
        compiler: &str,
        flags: &[&str],
        source: &str,
        name: &str,
    ) -> Option<PathBuf> {
        self.library()?;
        let program = self.path(name);
        let mut command = Command::new(compiler);
        command.args(flags).arg("-I").arg(sources(headers)).arg(sources(source));
        command.arg("-o").arg(&program).arg("-L").arg(self.folder.path()).arg("-lzonda");
        said(&mut command)?;
        Some(program)
    }

    /// Runs a program of this bench, which must succeed, and gives its stdout.
    pub(crate) fn run<const N: usize>(&self, program: &Path, arguments: [&str; N]) -> String {
        let mut command = Command::new(program);
        command.args(arguments).env("LD_LIBRARY_PATH", self.folder.path());
        said(&mut command).expect("it was built just now")
    }

    /// The same, where a data race of the program's own code fails.
    pub(crate) fn run_in_thread_sanitizer<const N: usize>(
        &self,
        program: &Path,
        arguments: [&str; N],
    ) {
        let mut command = Command::new(program);
        command.args(arguments).env("LD_LIBRARY_PATH", self.folder.path());
        command.env("TSAN_OPTIONS", "ignore_noninstrumented_modules=1 halt_on_error=1 exitcode=9");
        said(&mut command);
    }

    /// The same, where every definite leak and every wrong access fails.
    pub(crate) fn run_in_valgrind<const N: usize>(&self, program: &Path, arguments: [&str; N]) {
        let mut command = Command::new("valgrind");
        command.args(["-q", "--error-exitcode=9", "--leak-check=full"]);
        command.arg("--errors-for-leak-kinds=definite,indirect");
        let known = sources("tests/native/valgrind.supp");
        command.arg(format!("--suppressions={}", known.display()));
        command.arg(program).args(arguments).env("LD_LIBRARY_PATH", self.folder.path());
        said(&mut command);
    }
}
