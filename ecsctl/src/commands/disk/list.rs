//! `ecsctl disk list`

use clap::Args;

use crate::{app::App, catalog::disks, commands::stdout, error::Error, model::Noun};

/// List disks by name.
#[derive(Debug, Args)]
#[command(
    visible_alias = "ls",
    after_help = "\
Examples:
  ecsctl disk list
  ecsctl disk list --server web1
  ecsctl disk list --json | jq -r '.[] | select(.status == \"error\") | .name'"
)]
pub(crate) struct List {
    /// Only those of this server
    #[arg(long)]
    server: Option<String>,
}

impl List {
    pub(super) fn run(self, app: &mut App) -> Result<(), Error> {
        app.settle_all()?;
        let disks = match self.server {
            Some(server) => disks::of_server(app.catalog.read(), app.find_server(&server)?.id)?,
            None => disks::all(app.catalog.read(), Noun::Disk)?,
        };
        let shown = disks.into_iter().map(|disk| app.shown(disk)).collect::<Result<Vec<_>, _>>()?;
        app.out.list(&shown).map_err(stdout)
    }
}
