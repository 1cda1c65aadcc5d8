//! `ecsctl key show`

use clap::Args;

use crate::{app::App, commands::stdout, error::Error};

/// Show one key.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  ecsctl key show db-key
  ecsctl key show evs/default --json")]
pub(crate) struct ShowKey {
    /// Its alias, its ID, or the beginning of its ID
    key: String,
}

impl ShowKey {
    pub(super) fn run(self, app: &App) -> Result<(), Error> {
        app.out.one(&app.find_key(&self.key)?).map_err(stdout)
    }
}
