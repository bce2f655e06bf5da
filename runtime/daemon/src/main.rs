//! The program `zonda`.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    daemon::run(std::env::args_os())
}
