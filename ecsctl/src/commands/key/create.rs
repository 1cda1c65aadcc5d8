//! `ecsctl key create`

use clap::Args;

use crate::{app::App, commands::stdout, error::Error, keys::NewKey};

/// Make an AES-256 key in the token. It never leaves it.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  ecsctl key create --alias db-key
  ecsctl key create --alias db-key --description 'disks of the database servers'")]
pub(crate) struct Create {
    /// Its name: letters, digits, ':', '/', '_' and '-'; not ending in /default
    #[arg(long)]
    alias: String,
    /// What you want to remember of it
    #[arg(long)]
    description: Option<String>,
}

impl Create {
    pub(super) fn run(self, app: &App) -> Result<(), Error> {
        let alias: kmsd::domain::Alias =
            self.alias.parse().map_err(|source| Error::Alias { given: self.alias.clone(), source })?;
        let key = app.keys.create(&NewKey { alias: alias.to_string(), description: self.description })?;
        let sentence = format!("key {} created ({})", key.alias, key.key_id);
        app.out.done(&key, &sentence).map_err(stdout)
    }
}
