//! `ecsctl image delete`

use clap::Args;

use crate::{app::App, commands::stored, error::Error, model::Noun};

/// Destroy an image: its wrapped data key first, then its file.
#[derive(Debug, Args)]
#[command(
    visible_alias = "rm",
    after_help = "\
Examples:
  ecsctl image delete first
  ecsctl image delete first --yes"
)]
pub(crate) struct Delete {
    /// The image: name, ID, or beginning of the ID
    image: String,
    /// Delete the file even if its header is damaged, so that its wrapped key cannot be erased
    #[arg(long)]
    skip_erase: bool,
}

impl Delete {
    pub(super) fn run(self, app: &mut App, yes: bool) -> Result<(), Error> {
        stored::delete(app, Noun::Image, &self.image, self.skip_erase, yes)
    }
}
