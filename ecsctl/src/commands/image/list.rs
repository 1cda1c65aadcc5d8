//! `ecsctl image list`

use clap::Args;

use crate::{app::App, catalog::disks, commands::stdout, error::Error, model::Noun};

/// List images by name.
#[derive(Debug, Args)]
#[command(
    visible_alias = "ls",
    after_help = "\
Examples:
  ecsctl image list
  ecsctl image list --json"
)]
pub(crate) struct List {}

impl List {
    pub(super) fn run(self, app: &mut App) -> Result<(), Error> {
        app.settle_all()?;
        let rows = disks::all(app.catalog.read(), Noun::Image)?;
        let shown: Vec<_> = rows.into_iter().map(|row| app.stored(row)).collect();
        app.out.list(&shown).map_err(stdout)
    }
}
