//! `ecsctl access-key delete`

use clap::Args;
use kmsd::{client::Client, domain::access_key::AccessKeyId};
use serde_json::json;

use crate::{
    commands::stdout,
    error::Error,
    keys::kmsd::told,
    model::{Noun, suggest},
    output::{Format, Output, confirm},
};

/// Delete an access key: requests signed with it are refused from now on.
#[derive(Debug, Args)]
#[command(
    visible_alias = "rm",
    after_help = "\
Examples:
  ecsctl access-key delete ABCDEFGHIJKLMNOPQRST
  ecsctl access-key delete ABCDEFGHIJKLMNOPQRST --yes"
)]
pub(crate) struct Delete {
    /// Its ID
    id: String,
}

impl Delete {
    pub(super) fn run(self, client: &Client, out: Output, yes: bool) -> Result<(), Error> {
        let keys = client.list_access_keys().map_err(|error| told("", error))?;
        let known = keys.iter().map(|key| key.access_key_id.as_str());
        let missing = || Error::NotFound {
            noun: Noun::AccessKey,
            given: self.id.clone(),
            near: suggest::nearest(&self.id, known.clone()).map(str::to_owned),
        };
        let id: AccessKeyId = self.id.parse().map_err(|_| missing())?;
        if !known.clone().any(|known| known == id.as_str()) {
            return Err(missing());
        }
        confirm(yes, &format!("Requests signed with {id} will be refused. Delete it?"))?;
        client.delete_access_key(&id).map_err(|error| told("", error))?;
        match out.format {
            Format::Json => out.value(&json!({"access_key_id": id.to_string()})),
            Format::Table if out.quiet => out.text(&format!("{id}\n")),
            Format::Table => out.text(&format!("access key {id} deleted\n")),
        }
        .map_err(stdout)
    }
}
