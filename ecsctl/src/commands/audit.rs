//! `ecsctl audit`

mod export_keys;
mod list;
mod verify;

use clap::Subcommand;
use kmsd::client::Client;

use crate::{config::Installation, error::Error, output::Output};

/// The verbs.
#[derive(Debug, Subcommand)]
pub(crate) enum Audit {
    /// List the latest records of kmsd's audit log
    List(list::List),
    /// Check that no record was changed, removed, added or moved
    Verify(verify::Verify),
    /// Write a file with the keys that a copy of the log can be checked with elsewhere
    ExportKeys(export_keys::ExportKeys),
}

/// # Errors
/// The verb's.
pub(crate) fn run(command: Audit, installation: &Installation, out: Output) -> Result<(), Error> {
    let client = || Client::new(&installation.kmsd_socket);
    match command {
        Audit::List(verb) => verb.run(client, out),
        Audit::Verify(verb) => verb.run(client, out),
        Audit::ExportKeys(verb) => verb.run(&client(), out),
    }
}
