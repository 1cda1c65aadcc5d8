//! `ecsctl image export`

use std::path::PathBuf;

use clap::Args;
use uuid::Uuid;

use crate::{
    app::App,
    commands::{confirm_open, recorded_path, stdout},
    error::Error,
    images::ExportFormat,
    model::{Noun, plan::Operation},
};

/// Write an image to a file in the open, as qcow2 or raw. The file appears when it is whole.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  ecsctl image export debian /srv/debian.qcow2
  ecsctl image export debian /srv/debian.raw --format raw --yes")]
pub(crate) struct Export {
    /// The image: name, ID, or beginning of the ID
    image: String,
    /// The file to write; must not exist
    file: PathBuf,
    /// Its format
    #[arg(long, value_enum, default_value = "qcow2")]
    format: ExportFormat,
}

impl Export {
    pub(super) fn run(self, app: &mut App, yes: bool) -> Result<(), Error> {
        let path = recorded_path(self.file)?;
        if path.exists() {
            return Err(Error::FileExists { path });
        }
        let mut claimed = app.claim_volume(Noun::Image, &self.image)?;
        let name = claimed.disk.name.clone();
        app.require_key(&claimed.disk, "exported")?;
        confirm_open(yes, &claimed.disk, &path.display().to_string())?;
        let export = Operation::Export { id: Uuid::new_v4(), path: path.clone(), format: self.format };
        app.run(&mut claimed, &export)?;
        let sentence = format!("image {name} exported to {} ({})", path.display(), self.format.as_str());
        app.out.done(&app.stored(claimed.disk), &sentence).map_err(stdout)
    }
}
