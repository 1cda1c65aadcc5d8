//! `ecsctl image delete`

use clap::Args;

use crate::{
    app::App,
    commands::stdout,
    error::Error,
    model::{Noun, plan::Operation},
    output::confirm,
};

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
        let mut claimed = app.claim_volume(Noun::Image, &self.image)?;
        let name = claimed.disk.name.clone();
        confirm(yes, &format!("Image {name} and everything in it will be destroyed. Go on?"))?;
        let shown = app.stored(claimed.disk.clone());
        app.run(&mut claimed, &Operation::Delete { skip_erase: self.skip_erase })?;
        app.out.done(&shown.deleted(), &format!("image {name} deleted")).map_err(stdout)
    }
}
