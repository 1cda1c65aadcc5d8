//! `ecsctl disk show`

use clap::Args;

use crate::{app::App, commands::stdout, error::Error, model::Noun};

/// Show one disk. What a dead process left half-done on it is finished or undone first.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  ecsctl disk show data1
  ecsctl disk show data1 --json | jq -r .path")]
pub(crate) struct ShowDisk {
    /// Its name, its ID, or the beginning of its ID
    disk: String,
}

impl ShowDisk {
    pub(super) fn run(self, app: &mut App) -> Result<(), Error> {
        let disk = app.settle_and_find(Noun::Disk, &self.disk)?;
        app.out.one(&app.shown(disk)?).map_err(stdout)
    }
}
