//! `ecsctl as-group list`

use clap::Args;

use crate::{app::App, catalog::scaling, commands::stdout, error::Error};

/// List groups by name.
#[derive(Debug, Args)]
#[command(
    visible_alias = "ls",
    after_help = "\
Examples:
  ecsctl as-group list
  ecsctl as-group list --json"
)]
pub(crate) struct List {}

impl List {
    pub(super) fn run(self, app: &App) -> Result<(), Error> {
        let groups = scaling::groups(app.catalog.read())?;
        let shown = groups.into_iter().map(|group| app.shown_group(group)).collect::<Result<Vec<_>, _>>()?;
        app.out.list(&shown).map_err(stdout)
    }
}
