//! One file per command: arguments, help, and what it does.

pub(crate) mod completions;
pub(crate) mod disk;
pub(crate) mod key;
pub(crate) mod server;
pub(crate) mod status;

use crate::{app::App, cli::Command, error::Error};

/// Runs a command that needs the installation.
///
/// # Errors
/// The command's.
pub(crate) fn run(command: Command, app: &mut App, yes: bool) -> Result<(), Error> {
    match command {
        Command::Key(command) => key::run(command, app, yes),
        Command::Disk(command) => disk::run(command, app, yes),
        Command::Server(command) => server::run(command, app, yes),
        Command::Status(command) => command.run(app),
        Command::Completions(command) => command.run(app.out),
    }
}

/// A failure to write the result.
fn stdout(source: std::io::Error) -> Error {
    Error::Io { doing: "write to", path: "the standard output".into(), source }
}
