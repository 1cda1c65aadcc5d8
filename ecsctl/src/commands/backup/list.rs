//! `ecsctl backup list`

use clap::Args;

use crate::{app::App, commands::stored, error::Error, model::Noun};

/// List backups by name.
#[derive(Debug, Args)]
#[command(
    visible_alias = "ls",
    after_help = "\
Examples:
  ecsctl backup list
  ecsctl backup list --json"
)]
pub(crate) struct List {}

impl List {
    pub(super) fn run(self, app: &mut App) -> Result<(), Error> {
        stored::list(app, Noun::Backup)
    }
}
