//! `ecsctl backup restore`

use clap::Args;

use crate::{
    app::App,
    commands::{confirm_open, parse_name, parse_size, stdout},
    engine::make::{Encryption, Request},
    error::Error,
    model::{Noun, size},
};

/// Make a new disk from a backup. Encryption and key may be chosen freely: this is the way to change either.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  ecsctl backup restore monday data2                                as the backup is
  ecsctl backup restore monday data2 --encrypted --key new-key
  ecsctl backup restore monday data2 --plain            from encrypted to plain: asks first")]
pub(crate) struct Restore {
    /// The backup: name, ID, or beginning of the ID
    backup: String,
    /// The name of the new disk
    #[arg(allow_hyphen_values = true)]
    disk: String,
    /// The size of the new disk [default: that of the backup]
    #[arg(long, allow_hyphen_values = true)]
    size: Option<String>,
    /// Encrypt the disk [default: as the backup]
    #[arg(long)]
    encrypted: bool,
    /// The master key: alias or ID [default: evs/default]
    #[arg(long, requires = "encrypted")]
    key: Option<String>,
    /// Leave the disk in the open, though the backup is encrypted
    #[arg(long, conflicts_with = "encrypted")]
    plain: bool,
}

impl Restore {
    pub(super) fn run(self, app: &mut App, yes: bool) -> Result<(), Error> {
        let name = parse_name(Noun::Disk, &self.disk)?;
        let size = self.size.as_deref().map(parse_size).transpose()?;
        let backup = app.settle_and_find(Noun::Backup, &self.backup)?;
        let encryption = Encryption::from_options(self.encrypted, self.key, self.plain);
        let request = Request::from_volume(Noun::Disk, name.as_str(), &backup, encryption, true);
        let prepared = app.prepare(&Request { size, ..request })?;
        if self.plain {
            confirm_open(yes, &backup, name.as_str())?;
        }
        let disk = app.make(prepared)?;
        let size = size::human(disk.size);
        let sentence =
            format!("disk {} created and verified: {size}, {} ({})", disk.name, disk.protection(), disk.id);
        app.out.done(&app.shown(disk)?, &sentence).map_err(stdout)
    }
}
