//! `ecsctl backup list`

use clap::Args;

use crate::{app::App, catalog::disks, commands::stdout, error::Error, model::Noun};

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
        app.settle_all()?;
        let rows = disks::all(app.catalog.read(), Noun::Backup)?;
        let shown: Vec<_> = rows.into_iter().map(|row| app.stored(row)).collect();
        app.out.list(&shown).map_err(stdout)
    }
}
