//! `ecsctl key cancel-deletion`

use clap::Args;

use crate::{app::App, commands::stdout, error::Error};

/// Cancel the deletion of a key. It comes back disabled, as in the cloud.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  ecsctl key cancel-deletion db-key && ecsctl key enable db-key")]
pub(crate) struct CancelDeletion {
    /// Its alias, its ID, or the beginning of its ID
    key: String,
}

impl CancelDeletion {
    pub(super) fn run(self, app: &App) -> Result<(), Error> {
        let key = app.find_key(&self.key)?;
        app.keys.cancel_deletion(&key.key_id)?;
        let key = app.keys.describe(&key.key_id)?;
        app.out
            .done(&key, &format!("key {0} kept; it is disabled until: ecsctl key enable {0}", key.alias))
            .map_err(stdout)
    }
}
