//! `ecsctl disk create`

use clap::Args;
use uuid::Uuid;

use crate::{
    app::App,
    commands::stdout,
    error::Error,
    model::{
        Noun,
        disk::{Disk, DiskStatus},
        name::Name,
        size::Size,
    },
};

/// Make a disk. Whether it is encrypted is decided now and never changes.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  ecsctl disk create data1 --size 10G --encrypted --key db-key
  ecsctl disk create data2 --size 512M --encrypted          under evs/default
  ecsctl disk create scratch --size 1T                      not encrypted

A disk takes space only for what is written to it.")]
pub(crate) struct Create {
    /// Its name: letters, digits, '.', '_' and '-'
    #[arg(allow_hyphen_values = true)]
    name: String,
    /// Bytes, or with K, M, G or T (powers of 1024); a multiple of 4096, at most 64T
    #[arg(long, allow_hyphen_values = true)]
    size: String,
    /// Encrypt and authenticate every block with a data key of its own
    #[arg(long)]
    encrypted: bool,
    /// The master key that wraps the data key: alias or ID [default: evs/default]
    #[arg(long, requires = "encrypted")]
    key: Option<String>,
}

impl Create {
    pub(super) fn run(self, app: &mut App) -> Result<(), Error> {
        let name: Name = self.name.parse().map_err(|source| Error::Name {
            noun: Noun::Disk,
            given: self.name.clone(),
            source,
        })?;
        let size: Size =
            self.size.parse().map_err(|source| Error::Size { given: self.size.clone(), source })?;
        let (key, alias) = if self.encrypted {
            let (key, alias) = app.key_for_new_disk(name.as_str(), self.key.as_deref())?;
            (Some(key), alias)
        } else {
            (None, None)
        };
        let disk = Disk {
            id: Uuid::new_v4(),
            name: name.to_string(),
            status: DiskStatus::Creating,
            size: size.bytes(),
            encrypted: self.encrypted,
            key_id: None,
            key_alias: alias,
            server_id: None,
            serving: None,
            reason: None,
            created_at: app.now.clone(),
        };
        let disk = app.create_disk(disk, key)?;
        let protection = match (&disk.key_alias, &disk.key_id) {
            (Some(key), _) | (None, Some(key)) => format!("encrypted under {key}"),
            (None, None) => "not encrypted".to_owned(),
        };
        let sentence = format!("disk {} created: {size}, {protection} ({})", disk.name, disk.id);
        app.out.done(&app.shown(disk)?, &sentence).map_err(stdout)
    }
}
