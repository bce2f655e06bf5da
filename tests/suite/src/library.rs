//! `libzonda` from C: a small program that plays what it is told.
#![allow(clippy::print_stdout, reason = "what is skipped is counted by its line")]

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use crate::{built, installed, root, stdout_of};

/// `tests/suite/clients/conformance.c`, built and running. Ends when dropped.
pub struct Library {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
    _folder: tempfile::TempDir,
}

impl Library {
    /// Builds and starts it with these settings in its environment, where there is a compiler.
    pub fn start(settings: &[(&str, &str)]) -> Option<Self> {
        let library = built().join("libzonda.so");
        if installed("cc").is_none() || !library.is_file() {
            println!("skipped: no cc or no libzonda.so");
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("conformance");
        stdout_of(
            Command::new("cc")
                .args(["-std=c99", "-Wall", "-Wextra", "-Werror", "-I"])
                .arg(root().join("plugins/c-abi/include"))
                .arg(root().join("tests/suite/clients/conformance.c"))
                .arg("-o")
                .arg(&program)
                .arg("-L")
                .arg(built())
                .arg("-lzonda"),
        );
        // The library asks to be found by its ABI's name.
        std::os::unix::fs::symlink(&library, folder.path().join("libzonda.so.1")).unwrap();
        let mut child = Command::new(&program)
            .env("LD_LIBRARY_PATH", folder.path())
            .envs(settings.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let stdin = child.stdin.take();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        Some(Self { child, stdin, stdout, _folder: folder })
    }

    /// Plays a request in one of the program's ways; gives what it wrote, with its kind, to the end.
    pub fn play(&mut self, way: &str, request: &str) -> Vec<(String, String)> {
        let stdin = self.stdin.as_mut().unwrap();
        write!(stdin, "{way} {}\n{request}", request.len()).unwrap();
        stdin.flush().unwrap();
        let mut said = Vec::new();
        loop {
            let mut head = String::new();
            self.stdout.read_line(&mut head).unwrap();
            let (kind, length) = head.trim_end().split_once(' ').expect("it ended early");
            let mut text = vec![0; length.parse().unwrap()];
            self.stdout.read_exact(&mut text).unwrap();
            said.push((kind.to_owned(), String::from_utf8(text).unwrap()));
            if ["done", "error", "stats"].contains(&kind) {
                return said;
            }
        }
    }
}

impl Drop for Library {
    fn drop(&mut self) {
        drop(self.stdin.take());
        let _ended = self.child.wait();
    }
}
