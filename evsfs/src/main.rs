//! evsfs: see the library for what it does.

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    evsfs::commands::run(evsfs::cli::Cli::parse())
}
