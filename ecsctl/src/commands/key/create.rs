//! `ecsctl key create`

use clap::{Args, ValueEnum};

use crate::{app::App, commands::stdout, error::Error, keys::NewKey};

/// Make an AES-256 key in the token. It never leaves it.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  ecsctl key create --alias db-key
  ecsctl key create --alias db-key --description 'disks of the database servers'
  ecsctl key create --alias db-key --origin external          then: ecsctl key import db-key --from-file FILE")]
pub(crate) struct Create {
    /// Its name: letters, digits, ':', '/', '_' and '-'; not ending in /default
    #[arg(long)]
    alias: String,
    /// What you want to remember of it
    #[arg(long)]
    description: Option<String>,
    /// Where its material comes from: kms makes it in the token, external waits for `ecsctl key import`
    #[arg(long, value_enum, default_value_t = Origin::Kms)]
    origin: Origin,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Origin {
    Kms,
    External,
}

impl Create {
    pub(super) fn run(self, app: &App) -> Result<(), Error> {
        let alias: kmsd::domain::Alias =
            self.alias.parse().map_err(|source| Error::Alias { given: self.alias.clone(), source })?;
        let is_external = self.origin == Origin::External;
        let new = NewKey { alias: alias.to_string(), description: self.description, is_external };
        let key = app.keys.create(&new)?;
        let sentence = if is_external {
            format!(
                "key {0} created ({1}); it waits for its material: ecsctl key import {0} --from-file FILE",
                key.alias, key.key_id
            )
        } else {
            format!("key {} created ({})", key.alias, key.key_id)
        };
        app.out.done(&key, &sentence).map_err(stdout)
    }
}
