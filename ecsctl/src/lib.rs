//! `ecsctl`: keys, disks and servers with the semantics of a cloud, on one machine.
//!
//! ```text
//!   cli  -->  commands/<noun>/<verb>  -->  engine  -->  model (pure: names, sizes, states, plans)
//!                                            |
//!                                            +-->  catalog  SQLite: what exists, what is being done
//!                                            +-->  keys     kmsd, by its client
//!                                            +-->  volumes  evsfs, as a program
//!                                            +-->  machines QEMU, as a program
//! ```
//!
//! It holds no secret: DEKs pass between kmsd and evsfs only. It keeps no process of its own running; what it was
//! doing when it died stands in the catalogue, and the next command finishes or undoes it.

mod app;
mod catalog;
mod claim;
mod cli;
mod commands;
mod config;
mod doctor;
mod engine;
mod error;
mod images;
mod keys;
mod machines;
mod model;
mod output;
mod select;
mod volumes;

use std::{ffi::OsString, path::PathBuf, process::ExitCode};

use clap::{Parser, error::ErrorKind};

use crate::{
    app::App,
    catalog::Catalog,
    cli::{Cli, Command},
    config::Installation,
    engine::Warning,
    error::{Error, Exit},
    keys::kmsd::Kmsd,
    machines::qemu::Qemu,
    output::{Format, Output},
    volumes::evsfs::Evsfs,
};

/// Runs one command line, the program's name first, and prints its result or its error.
#[must_use]
pub fn run(arguments: &[OsString]) -> ExitCode {
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => return command_line(arguments, &error),
    };
    let out = Output { format: cli.global.format(), quiet: cli.global.quiet };
    let mut warnings = Vec::new();
    match execute(cli, out, &mut warnings) {
        Ok(()) => {
            out.warnings(&warnings);
            ExitCode::SUCCESS
        }
        Err(error) => {
            let report = error.report();
            out.error(&error, &report, &warnings);
            ExitCode::from(report.exit as u8)
        }
    }
}

fn execute(cli: Cli, out: Output, warnings: &mut Vec<Warning>) -> Result<(), Error> {
    let command = match cli.command {
        // Needs no installation.
        Command::Completions(command) => return command.run(out),
        Command::ManPages(command) => return command.run(out),
        other => other,
    };
    // Not by clap: it would take a variable that is set for an argument that was given, show it in each usage, and no help without arguments.
    let home = cli.global.home.or_else(|| variable("ECS_HOME"));
    let installation = Installation::find(home, cli.global.kmsd_socket.or_else(|| variable("KMSD_SOCKET")))?;
    let command = match command {
        // These are about kmsd alone: they neither need nor make a catalogue.
        Command::Audit(command) => return commands::audit::run(command, &installation, out),
        Command::AccessKey(command) => {
            return commands::access_key::run(command, &installation, out, cli.global.yes);
        }
        other => other,
    };
    installation.make()?;
    let mut app = App {
        catalog: Catalog::open(&installation.catalogue())?,
        keys: Box::new(Kmsd::new(&installation.kmsd_socket)),
        volumes: Box::new(Evsfs {
            program: installation.evsfs.clone(),
            kmsd_socket: installation.kmsd_socket.clone(),
        }),
        machines: Box::new(Qemu {
            program: installation.machines.qemu.clone(),
            user: installation.machines.user.clone(),
            extra: installation.machines.arguments.clone(),
        }),
        now: model::time::text(jiff::Timestamp::now()),
        installation,
        out,
        settled: Vec::new(),
        ended: Vec::new(),
        warnings: Vec::new(),
        observe: None,
    };
    let done = commands::run(command, &mut app, cli.global.yes);
    warnings.append(&mut app.warnings);
    done
}

/// A path from the environment; an empty variable is none.
fn variable(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)
}

/// Help and version go to stdout; a wrong command line is an error like any other, also in JSON.
fn command_line(arguments: &[OsString], error: &clap::Error) -> ExitCode {
    if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
        // A reader that went away is no error.
        let _ = error.print();
        return ExitCode::SUCCESS;
    }
    let wants_json =
        arguments.windows(2).any(|pair| (pair[0] == "-o" || pair[0] == "--output") && pair[1] == "json")
            || arguments.iter().any(|word| word == "--json" || word == "--output=json" || word == "-ojson");
    let missing = error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand;
    if wants_json {
        let (message, hint) = if missing {
            ("a command is missing".to_owned(), None)
        } else {
            split(&error.render().to_string())
        };
        let hint = hint.unwrap_or_else(|| "ecsctl --help".to_owned());
        Output { format: Format::Json, quiet: false }.failure("usage", &message, &hint, Vec::new());
    } else {
        let _ = error.print();
    }
    ExitCode::from(Exit::Usage as u8)
}

/// clap's text as a message (its first paragraph) and a hint (the tip or the usage).
fn split(text: &str) -> (String, Option<String>) {
    let mut paragraphs = text.split("\n\n").map(|p| p.split_whitespace().collect::<Vec<_>>().join(" "));
    let first = paragraphs.next().unwrap_or_default();
    let hint = paragraphs.find(|p| p.starts_with("tip:") || p.starts_with("Usage:"));
    (first.strip_prefix("error: ").unwrap_or(&first).to_owned(), hint)
}
