//! `ecsctl backup create`

use clap::Args;

use crate::{
    app::App,
    commands::{parse_name, stdout},
    engine::make::{Encryption, Request},
    error::Error,
    model::{Noun, size},
};

/// Make a full copy of a disk with a data key of its own, and read it back to verify it. It is encrypted as the disk
/// is. A disk in use is copied as it is at this moment, from a snapshot that is deleted afterwards; what its guest had not
/// written to it yet is not in it, as after a power cut.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  ecsctl backup create monday --disk data1
  ecsctl backup create monday --disk data1 --encrypted --key backup-key")]
pub(crate) struct Create {
    /// Its name: letters, digits, '.', '_' and '-'
    #[arg(allow_hyphen_values = true)]
    name: String,
    /// The disk: name, ID, or beginning of the ID
    #[arg(long)]
    disk: String,
    /// Encrypt it [default: as the disk]
    #[arg(long)]
    encrypted: bool,
    /// The master key: alias or ID [default: that of the disk]
    #[arg(long, requires = "encrypted")]
    key: Option<String>,
}

impl Create {
    pub(super) fn run(self, app: &mut App) -> Result<(), Error> {
        let name = parse_name(Noun::Backup, &self.name)?;
        let disk = app.settle_and_find(Noun::Disk, &self.disk)?;
        let encryption = Encryption::from_options(self.encrypted, self.key, false);
        let prepared =
            app.prepare(&Request::from_volume(Noun::Backup, name.as_str(), &disk, encryption, true))?;
        let backup = app.make(prepared)?;
        let size = size::human(backup.size);
        let sentence = format!(
            "backup {} of disk {} created and verified: {size}, {} ({})",
            backup.name,
            disk.name,
            backup.protection(),
            backup.id
        );
        app.out.done(&app.stored(backup), &sentence).map_err(stdout)
    }
}
