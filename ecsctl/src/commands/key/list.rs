//! `ecsctl key list`

use clap::Args;

use crate::{app::App, commands::stdout, error::Error};

/// List every key that you may use, the default keys among them.
#[derive(Debug, Args)]
#[command(
    visible_alias = "ls",
    after_help = "\
Examples:
  ecsctl key list
  ecsctl key list --json"
)]
pub(crate) struct List {}

impl List {
    pub(super) fn run(self, app: &App) -> Result<(), Error> {
        let mut keys = app.keys.list()?;
        keys.sort_by(|a, b| a.alias.cmp(&b.alias));
        app.out.list(&keys).map_err(stdout)
    }
}
