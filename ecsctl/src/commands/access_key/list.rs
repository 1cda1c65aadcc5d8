//! `ecsctl access-key list`

use clap::Args;
use kmsd::client::Client;

use crate::{commands::stdout, error::Error, keys::kmsd::told, output::Output};

/// List the access keys, oldest first, without their secrets.
#[derive(Debug, Args)]
#[command(
    visible_alias = "ls",
    after_help = "\
Examples:
  ecsctl access-key list
  ecsctl access-key list --json"
)]
pub(crate) struct List {}

impl List {
    pub(super) fn run(self, client: &Client, out: Output) -> Result<(), Error> {
        let keys = client.list_access_keys().map_err(|error| told("", error))?;
        out.list(&keys).map_err(stdout)
    }
}
