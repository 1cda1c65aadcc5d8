//! `ecsctl snapshot show`

use clap::Args;

use crate::{app::App, commands::stdout, error::Error};

/// Show one snapshot.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  ecsctl snapshot show before-upgrade
  ecsctl snapshot show before-upgrade --json")]
pub(crate) struct ShowSnapshot {
    /// Its name, its ID, or the beginning of its ID
    snapshot: String,
}

impl ShowSnapshot {
    pub(super) fn run(self, app: &mut App) -> Result<(), Error> {
        let snapshot = app.find_snapshot(&self.snapshot)?;
        app.out.one(&app.shown_snapshot(snapshot)?).map_err(stdout)
    }
}
