//! `ecsctl access-key`

mod create;
mod delete;
mod list;

use clap::Subcommand;
use kmsd::{client::Client, wire::control::AccessKey as Record};
use serde_json::{Value, json};

use crate::{
    config::Installation,
    error::Error,
    model::time,
    output::{Output, Show},
};

/// The verbs.
#[derive(Debug, Subcommand)]
pub(crate) enum AccessKey {
    /// Make an access key; its secret is shown this once
    Create(create::Create),
    /// List the access keys, without their secrets
    List(list::List),
    /// Delete an access key: requests signed with it are refused from now on
    Delete(delete::Delete),
}

/// # Errors
/// The verb's.
pub(crate) fn run(
    command: AccessKey,
    installation: &Installation,
    out: Output,
    yes: bool,
) -> Result<(), Error> {
    let client = Client::new(&installation.kmsd_socket);
    match command {
        AccessKey::Create(verb) => verb.run(&client, out),
        AccessKey::List(verb) => verb.run(&client, out),
        AccessKey::Delete(verb) => verb.run(&client, out, yes),
    }
}

impl Show for Record {
    fn json(&self) -> Value {
        json!({
            "access_key_id": self.access_key_id,
            "description": self.description,
            "admin": self.admin,
            "created_by": self.created_by,
            "created_at": time::of_milliseconds(self.created_at),
        })
    }

    fn headings() -> &'static [&'static str] {
        &["id", "admin", "created by", "created", "description"]
    }

    fn row(&self) -> Vec<String> {
        vec![
            self.access_key_id.clone(),
            if self.admin { "yes" } else { "no" }.to_owned(),
            self.created_by.clone(),
            time::of_milliseconds(self.created_at).unwrap_or_default(),
            self.description.clone(),
        ]
    }

    fn fields(&self) -> Vec<(&'static str, String)> {
        Self::headings().iter().copied().zip(self.row()).collect()
    }

    fn handle(&self) -> String {
        self.access_key_id.clone()
    }
}
