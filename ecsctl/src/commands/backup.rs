//! `ecsctl backup`

mod create;
mod delete;
mod list;
mod restore;
mod show;

use clap::Subcommand;

use crate::{app::App, error::Error};

/// The verbs.
#[derive(Debug, Subcommand)]
pub(crate) enum Backup {
    /// Make a full, independent copy of a disk, and verify it
    Create(create::Create),
    /// List backups
    List(list::List),
    /// Show one backup
    Show(show::ShowBackup),
    /// Make a disk from a backup, with any encryption and key
    Restore(restore::Restore),
    /// Destroy a backup
    Delete(delete::Delete),
}

/// # Errors
/// The verb's.
pub(super) fn run(command: Backup, app: &mut App, yes: bool) -> Result<(), Error> {
    match command {
        Backup::Create(verb) => verb.run(app),
        Backup::List(verb) => verb.run(app),
        Backup::Show(verb) => verb.run(app),
        Backup::Restore(verb) => verb.run(app, yes),
        Backup::Delete(verb) => verb.run(app, yes),
    }
}
