//! `ecsctl key disable`

use clap::Args;

use crate::{app::App, commands::stdout, error::Error};

/// Disable a key. Attached disks under it work on until they are detached; none can be attached.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  ecsctl key disable db-key")]
pub(crate) struct Disable {
    /// Its alias, its ID, or the beginning of its ID
    key: String,
}

impl Disable {
    pub(super) fn run(self, app: &App) -> Result<(), Error> {
        let key = app.find_key(&self.key)?;
        app.keys.disable(&key.key_id)?;
        let key = app.keys.describe(&key.key_id)?;
        app.out.done(&key, &format!("key {} disabled", key.alias)).map_err(stdout)
    }
}
