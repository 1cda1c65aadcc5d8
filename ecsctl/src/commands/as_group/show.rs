//! `ecsctl as-group show`

use clap::Args;

use crate::{app::App, catalog::scaling, commands::stdout, error::Error};

/// Show one group, its servers, and what happened to it.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  ecsctl as-group show g1
  ecsctl as-group show g1 --json | jq '.events[] | select(.failed)'")]
pub(crate) struct ShowGroup {
    /// Its name, its ID, or the beginning of its ID
    group: String,
}

impl ShowGroup {
    pub(super) fn run(self, app: &mut App) -> Result<(), Error> {
        app.settle_all()?;
        let group = scaling::group(app.catalog.read(), &self.group)?;
        app.out.one(&app.shown_group(group)?).map_err(stdout)
    }
}
