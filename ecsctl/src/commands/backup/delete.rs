//! `ecsctl backup delete`

use clap::Args;

use crate::{app::App, commands::stored, error::Error, model::Noun};

/// Destroy a backup: its wrapped data key first, then its file.
#[derive(Debug, Args)]
#[command(
    visible_alias = "rm",
    after_help = "\
Examples:
  ecsctl backup delete first
  ecsctl backup delete first --yes"
)]
pub(crate) struct Delete {
    /// The backup: name, ID, or beginning of the ID
    backup: String,
    /// Delete the file even if its header is damaged, so that its wrapped key cannot be erased
    #[arg(long)]
    skip_erase: bool,
}

impl Delete {
    pub(super) fn run(self, app: &mut App, yes: bool) -> Result<(), Error> {
        stored::delete(app, Noun::Backup, &self.backup, self.skip_erase, yes)
    }
}
