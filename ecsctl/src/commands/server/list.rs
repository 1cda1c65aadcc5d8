//! `ecsctl server list`

use clap::Args;

use crate::{app::App, catalog::servers, commands::stdout, error::Error};

/// List servers by name.
#[derive(Debug, Args)]
#[command(
    visible_alias = "ls",
    after_help = "\
Examples:
  ecsctl server list
  ecsctl server list --json"
)]
pub(crate) struct List {}

impl List {
    pub(super) fn run(self, app: &mut App) -> Result<(), Error> {
        app.settle_all()?;
        let servers = servers::all(app.catalog.read())?;
        let shown =
            servers.into_iter().map(|server| app.shown_server(server)).collect::<Result<Vec<_>, _>>()?;
        app.out.list(&shown).map_err(stdout)
    }
}
