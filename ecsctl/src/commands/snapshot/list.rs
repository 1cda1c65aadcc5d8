//! `ecsctl snapshot list`

use clap::Args;

use crate::{app::App, catalog::snapshots, commands::stdout, error::Error, model::Noun};

/// List snapshots, oldest first.
#[derive(Debug, Args)]
#[command(
    visible_alias = "ls",
    after_help = "\
Examples:
  ecsctl snapshot list
  ecsctl snapshot list --disk data1 --json"
)]
pub(crate) struct List {
    /// Only those of this disk
    #[arg(long)]
    disk: Option<String>,
}

impl List {
    pub(super) fn run(self, app: &mut App) -> Result<(), Error> {
        app.settle_all()?;
        let disk = match &self.disk {
            Some(disk) => Some(app.find_volume(Noun::Disk, disk)?.id),
            None => None,
        };
        let rows = snapshots::all(app.catalog.read(), disk)?;
        let shown = rows.into_iter().map(|row| app.shown_snapshot(row)).collect::<Result<Vec<_>, _>>()?;
        app.out.list(&shown).map_err(stdout)
    }
}
