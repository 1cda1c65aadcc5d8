//! `ecsctl key enable`

use clap::Args;

use crate::{app::App, commands::stdout, error::Error};

/// Enable a disabled key. Disks under it can be attached again.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  ecsctl key enable db-key")]
pub(crate) struct Enable {
    /// Its alias, its ID, or the beginning of its ID
    key: String,
}

impl Enable {
    pub(super) fn run(self, app: &App) -> Result<(), Error> {
        let key = app.find_key(&self.key)?;
        app.keys.enable(&key.key_id)?;
        let key = app.keys.describe(&key.key_id)?;
        app.out.done(&key, &format!("key {} enabled", key.alias)).map_err(stdout)
    }
}
