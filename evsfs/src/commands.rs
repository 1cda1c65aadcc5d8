//! One module per command.

mod accept_rollback;
mod background;
mod check;
mod create;
mod erase;
mod flatten;
mod info;
mod mount;
mod operation;
mod output;
mod rekey;
mod salvage;
mod umount;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::Parser;

use self::output::Output;
use crate::cli::{Cli, Command};
use crate::failure::{Exit, Failure, Report, StartError};
use crate::process;

/// Runs the command that a command line means, and prints its result or its error.
#[must_use]
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    let cli = match Cli::try_parse_from(&arguments) {
        Ok(cli) => cli,
        Err(error) => return not_understood(&error, arguments.iter().any(|argument| argument == "--json")),
    };
    let output = Output::new(cli.json);
    match prepare().and_then(|()| dispatch(cli.command, output)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            let report = failure.report();
            output.error(&report);
            ExitCode::from(report.exit as u8)
        }
    }
}

/// What holds for every command, as most may come to hold a data key: no core dump, no debugger of the same user. There are no threads yet.
fn prepare() -> Result<(), Failure> {
    let system = |operation| move |source| StartError::System { operation, source };
    process::seal_memory().map_err(system("turn core dumps off"))?;
    process::keep_large_buffers_apart();
    process::outlive_file_size_limit().map_err(system("hold a signal back"))?;
    Ok(())
}

fn dispatch(command: Command, output: Output) -> Result<(), Failure> {
    match command {
        Command::Mount(arguments) => mount::run(&arguments, output),
        Command::Umount(arguments) => umount::run(&arguments, output),
        Command::Create(arguments) => create::run(&arguments, output),
        Command::Info(arguments) => info::run(&arguments, output),
        Command::Check(arguments) => check::run(&arguments, output),
        Command::Extend(arguments) => operation::extend(&arguments, output),
        Command::Snapshot(arguments) => operation::snapshot(&arguments, output),
        Command::Snapshots(arguments) => operation::snapshots(&arguments, output),
        Command::SnapshotDelete(arguments) => operation::delete(&arguments, output),
        Command::Rollback(arguments) => operation::rollback(&arguments, output),
        Command::Rekey(arguments) => rekey::run(&arguments, output),
        Command::Flatten(arguments) => flatten::run(&arguments, output),
        Command::AcceptRollback(arguments) => accept_rollback::run(&arguments, output),
        Command::Salvage(arguments) => salvage::run(&arguments, output),
        Command::Erase(arguments) => erase::run(&arguments, output),
    }
}

/// Help and version are answers; the rest is wrong usage.
fn not_understood(error: &clap::Error, json: bool) -> ExitCode {
    if json && error.use_stderr() {
        // The first paragraph says what is wrong; the usage follows. Whatever was typed is shown without control characters.
        let text = error.render().to_string();
        let first = text.split("\n\n").next().unwrap_or_default();
        let message = first.strip_prefix("error: ").unwrap_or(first);
        Output::new(true).error(&Report {
            code: "usage".to_owned(),
            message: message.chars().map(|char| if char.is_control() { ' ' } else { char }).collect(),
            hint: "see `evsfs --help`".to_owned(),
            exit: Exit::Usage,
        });
    } else if error.print().is_err() {
        return ExitCode::from(Exit::Failed as u8);
    }
    if error.use_stderr() { ExitCode::from(Exit::Usage as u8) } else { ExitCode::SUCCESS }
}
