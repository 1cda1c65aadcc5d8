//! evsfs: see the library for what it does.

use std::process::ExitCode;

fn main() -> ExitCode {
    evsfs::commands::run(std::env::args_os())
}
