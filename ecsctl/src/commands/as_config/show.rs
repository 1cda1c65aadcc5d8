//! `ecsctl as-config show`

use clap::Args;

use crate::{app::App, catalog::scaling, commands::stdout, error::Error};

/// Show one configuration.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  ecsctl as-config show c1
  ecsctl as-config show c1 --json")]
pub(crate) struct ShowConfig {
    /// Its name, its ID, or the beginning of its ID
    config: String,
}

impl ShowConfig {
    pub(super) fn run(self, app: &App) -> Result<(), Error> {
        app.out.one(&scaling::config(app.catalog.read(), &self.config)?).map_err(stdout)
    }
}
