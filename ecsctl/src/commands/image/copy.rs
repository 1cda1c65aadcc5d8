//! `ecsctl image copy`

use clap::Args;

use crate::{
    app::App,
    commands::{confirm_open, parse_name, stdout},
    engine::make::{Encryption, Request},
    error::Error,
    model::{Noun, size},
};

/// Copy an image. The key of an image never changes; a copy may have another, or be encrypted where the first is not.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  ecsctl image copy debian debian2 --encrypted --key new-key
  ecsctl image copy debian debian-open --plain          from encrypted to plain: asks first")]
pub(crate) struct Copy {
    /// The image: name, ID, or beginning of the ID
    image: String,
    /// The name of the copy
    #[arg(allow_hyphen_values = true)]
    name: String,
    /// Encrypt the copy [default: as the image]
    #[arg(long)]
    encrypted: bool,
    /// The master key of the copy: alias or ID [default: ims/default]
    #[arg(long, requires = "encrypted")]
    key: Option<String>,
    /// Leave the copy in the open, though the image is encrypted
    #[arg(long, conflicts_with = "encrypted")]
    plain: bool,
}

impl Copy {
    pub(super) fn run(self, app: &mut App, yes: bool) -> Result<(), Error> {
        let name = parse_name(Noun::Image, &self.name)?;
        let image = app.settle_and_find(Noun::Image, &self.image)?;
        if self.plain {
            confirm_open(yes, &image, name.as_str())?;
        }
        let encryption = Encryption::from_options(self.encrypted, self.key, self.plain);
        let prepared =
            app.prepare(&Request::from_volume(Noun::Image, name.as_str(), &image, encryption, true))?;
        let copy = app.make(prepared)?;
        let size = size::human(copy.size);
        let sentence = format!("image {} created: {size}, {} ({})", copy.name, copy.protection(), copy.id);
        app.out.done(&app.stored(copy), &sentence).map_err(stdout)
    }
}
