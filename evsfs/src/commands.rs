//! One module per command.

mod create;
mod erase;
mod info;
mod mount;
mod output;
mod salvage;
mod umount;

use std::process::ExitCode;

use crate::cli::{Cli, Command};

/// Runs a command and prints its result or its error.
#[must_use]
pub fn run(cli: Cli) -> ExitCode {
    let output = output::Output::new(cli.json);
    let result = match cli.command {
        Command::Mount(arguments) => mount::run(&arguments, output),
        Command::Umount(arguments) => umount::run(&arguments, output),
        Command::Create(arguments) => create::run(&arguments, output),
        Command::Info(arguments) => info::run(&arguments, output),
        Command::Salvage(arguments) => salvage::run(&arguments, output),
        Command::Erase(arguments) => erase::run(&arguments, output),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            let report = failure.report();
            output.error(&report);
            ExitCode::from(report.exit as u8)
        }
    }
}
