//! `ecsctl backup show`

use clap::Args;

use crate::{app::App, commands::stdout, error::Error, model::Noun};

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
        let found = app.settle_and_find(Noun::Backup, &self.backup)?;
        app.out.one(&app.stored(found)).map_err(stdout)
    }
}
