//! The `ecsctl` program.

use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().collect();
    ecsctl::run(&arguments)
}
