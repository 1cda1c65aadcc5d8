//! `ecsctl access-key create`

use clap::Args;
use kmsd::client::Client;
use serde_json::json;

use crate::{
    commands::stdout,
    error::Error,
    keys::kmsd::told,
    output::{Format, Output},
};

/// Make an access key for a network client. kmsd keeps the secret sealed by the token: it is shown this once.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  ecsctl access-key create --description 'backup host'
  ecsctl access-key create --admin --json > access-key.json")]
pub(crate) struct Create {
    /// What you want to remember of it
    #[arg(long, default_value = "", hide_default_value = true)]
    description: String,
    /// Requests signed with it may do everything
    #[arg(long)]
    admin: bool,
}

impl Create {
    pub(super) fn run(self, client: &Client, out: Output) -> Result<(), Error> {
        let made =
            client.create_access_key(&self.description, self.admin).map_err(|error| told("", error))?;
        let (id, secret) = (&made.access_key_id, &made.secret_access_key);
        match out.format {
            Format::Json => out.value(&json!({"access_key_id": id, "secret_access_key": secret})),
            Format::Table if out.quiet => out.text(&format!("{id}\n{secret}\n")),
            Format::Table => out.fields(&[("Access key", id.clone()), ("Secret", secret.clone())]),
        }
        .map_err(stdout)?;
        out.note("The secret is not shown again.");
        Ok(())
    }
}
