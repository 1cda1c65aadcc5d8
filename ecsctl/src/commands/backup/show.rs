//! `ecsctl backup show`

use clap::Args;

use crate::{app::App, commands::stored, error::Error, model::Noun};

/// Show one backup.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  ecsctl backup show first
  ecsctl backup show first --json")]
pub(crate) struct ShowBackup {
    /// Its name, its ID, or the beginning of its ID
    backup: String,
}

impl ShowBackup {
    pub(super) fn run(self, app: &mut App) -> Result<(), Error> {
        stored::show(app, Noun::Backup, &self.backup)
    }
}
