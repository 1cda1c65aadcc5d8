//! `ecsctl image show`

use clap::Args;

use crate::{app::App, commands::stored, error::Error, model::Noun};

/// Show one image.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  ecsctl image show first
  ecsctl image show first --json")]
pub(crate) struct ShowImage {
    /// Its name, its ID, or the beginning of its ID
    image: String,
}

impl ShowImage {
    pub(super) fn run(self, app: &mut App) -> Result<(), Error> {
        stored::show(app, Noun::Image, &self.image)
    }
}
