//! `ecsctl as-config list`

use clap::Args;

use crate::{app::App, catalog::scaling, commands::stdout, error::Error};

/// List configurations by name.
#[derive(Debug, Args)]
#[command(
    visible_alias = "ls",
    after_help = "\
Examples:
  ecsctl as-config list
  ecsctl as-config list --json"
)]
pub(crate) struct List {}

impl List {
    pub(super) fn run(self, app: &App) -> Result<(), Error> {
        app.out.list(&scaling::configs(app.catalog.read())?).map_err(stdout)
    }
}
