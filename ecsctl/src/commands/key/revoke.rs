//! `ecsctl key revoke`

use clap::Args;

use crate::{app::App, commands::stdout, error::Error};

/// The shortest beginning of an ID that counts as one.
const SHORTEST: usize = 4;

/// Take a grant back. What its holder has open already stays open until it is closed.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  ecsctl key grant db-key                lists the grants
  ecsctl key revoke db-key 7c9a3286")]
pub(crate) struct Revoke {
    /// Its alias, its ID, or the beginning of its ID
    key: String,
    /// The grant's ID, or the beginning of it
    grant: String,
}

impl Revoke {
    pub(super) fn run(self, app: &App) -> Result<(), Error> {
        let key = app.find_key(&self.key)?;
        let grants = app.keys.grants(&key.key_id)?;
        let start = self.grant.to_ascii_lowercase();
        let fits = |id: &str| start.len() >= SHORTEST && id.starts_with(&start);
        let fitting: Vec<&str> =
            grants.iter().map(|grant| grant.grant_id.as_str()).filter(|id| fits(id)).collect();
        // What means no grant, or several, kmsd refuses.
        let id = if let [id] = fitting.as_slice() { (*id).to_owned() } else { start };
        app.keys.revoke(&key.key_id, &id)?;
        let key = app.keys.describe(&key.key_id)?;
        app.out.done(&key, &format!("grant {id} on key {} revoked", key.alias)).map_err(stdout)
    }
}
