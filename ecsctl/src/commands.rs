//! One file per command: arguments, help, and what it does.

pub(crate) mod access_key;
pub(crate) mod as_config;
pub(crate) mod as_group;
pub(crate) mod audit;
pub(crate) mod backup;
pub(crate) mod completions;
pub(crate) mod disk;
pub(crate) mod doctor;
pub(crate) mod image;
pub(crate) mod key;
pub(crate) mod man_pages;
pub(crate) mod server;
pub(crate) mod snapshot;
pub(crate) mod status;
pub(crate) mod stored;

use std::path::PathBuf;

use crate::{
    app::App,
    cli::Command,
    error::Error,
    model::{
        Noun,
        disk::Disk,
        name::Name,
        size::{self, Size},
    },
    output::confirm,
};

/// Runs a command that needs the installation.
///
/// # Errors
/// The command's.
pub(crate) fn run(command: Command, app: &mut App, yes: bool) -> Result<(), Error> {
    match command {
        Command::Key(command) => key::run(command, app, yes),
        Command::Disk(command) => disk::run(command, app, yes),
        Command::Server(command) => server::run(command, app, yes),
        Command::Snapshot(command) => snapshot::run(command, app, yes),
        Command::Image(command) => image::run(command, app, yes),
        Command::Backup(command) => backup::run(command, app, yes),
        Command::AsConfig(command) => as_config::run(command, app, yes),
        Command::AsGroup(command) => as_group::run(command, app, yes),
        Command::AccessKey(command) => access_key::run(command, &app.installation, app.out, yes),
        Command::Audit(command) => audit::run(command, &app.installation, app.out),
        Command::Status(command) => command.run(app),
        Command::Doctor(command) => command.run(app),
        Command::ManPages(command) => command.run(app.out),
        Command::Completions(command) => command.run(app.out),
    }
}

fn parse_name(noun: Noun, text: &str) -> Result<Name, Error> {
    text.parse().map_err(|source| Error::Name { noun, given: text.to_owned(), source })
}

fn parse_size(text: &str) -> Result<Size, Error> {
    text.parse().map_err(|source| Error::Size { given: text.to_owned(), source })
}

fn parse_rate(text: &str) -> Result<u64, Error> {
    size::parse_rate(text).map_err(|source| Error::Rate { given: text.to_owned(), source })
}

/// A path of the user's that is to be recorded: whole, and text.
fn recorded_path(given: PathBuf) -> Result<PathBuf, Error> {
    let path = std::path::absolute(&given).unwrap_or(given);
    if path.to_str().is_some() { Ok(path) } else { Err(Error::NotText { path }) }
}

/// Has the user say that what is encrypted shall lie in the open, unless `yes` says so already (I2).
fn confirm_open(yes: bool, source: &Disk, to: &str) -> Result<(), Error> {
    if !source.encrypted {
        return Ok(());
    }
    let Disk { kind, name, .. } = source;
    confirm(yes, &format!("Everything in {kind} {name} will lie in the open in {to}. Go on?"))
}

/// A failure to write the result.
fn stdout(source: std::io::Error) -> Error {
    Error::Io { doing: "write to", path: "the standard output".into(), source }
}
