//! `ecsctl disk create`

use clap::{ArgGroup, Args};
use uuid::Uuid;

use crate::{
    app::App,
    commands::{confirm_open, parse_name, parse_size, stdout},
    engine::make::{Encryption, Request},
    error::Error,
    model::{
        Noun,
        disk::{Disk, Role},
        plan::Fill,
        size,
    },
};

/// Make a disk: empty, or from an image, a backup or a snapshot. Whether it is encrypted is decided now and never changes.
#[derive(Debug, Args)]
#[command(
    group(ArgGroup::new("source").args(["image", "backup", "snapshot"])),
    group(ArgGroup::new("has_size").required(true).multiple(true).args(["size", "image", "backup", "snapshot"])),
    after_help = "\
Examples:
  ecsctl disk create data1 --size 10G --encrypted --key db-key
  ecsctl disk create data2 --size 512M --encrypted          under evs/default
  ecsctl disk create scratch --size 1T                      not encrypted
  ecsctl disk create root1 --image debian                   thin over the image, encrypted as it is
  ecsctl disk create data3 --backup monday --encrypted --key new-key
  ecsctl disk create data4 --snapshot before-upgrade        a full copy, encrypted as the disk is

A disk takes space only for what is written to it."
)]
pub(crate) struct Create {
    /// Its name: letters, digits, '.', '_' and '-'
    #[arg(allow_hyphen_values = true)]
    name: String,
    /// Bytes, or with K, M, G or T (powers of 1024); a multiple of 4096, at most 64T [default: as its source]
    #[arg(long, allow_hyphen_values = true)]
    size: Option<String>,
    /// Encrypt and authenticate every block with a data key of its own [default: as its source, else not]
    #[arg(long)]
    encrypted: bool,
    /// The master key that wraps the data key: alias or ID [default: evs/default]
    #[arg(long, requires = "encrypted")]
    key: Option<String>,
    /// Not encrypted, though its source is (from a backup only): asks first
    #[arg(long, conflicts_with = "encrypted", requires = "backup")]
    plain: bool,
    /// Make it thin over this image: in well under a second at any size
    #[arg(long)]
    image: Option<String>,
    /// Fill it from this backup
    #[arg(long)]
    backup: Option<String>,
    /// Fill it with what this snapshot holds, under the key of its disk; it needs neither of them afterwards
    #[arg(long, conflicts_with_all = ["encrypted", "key", "plain"])]
    snapshot: Option<String>,
}

impl Create {
    pub(super) fn run(self, app: &mut App, yes: bool) -> Result<(), Error> {
        let name = parse_name(Noun::Disk, &self.name)?;
        let size = self.size.as_deref().map(parse_size).transpose()?;
        let whole = |source: &Disk| Fill::Volume { id: source.id, verify: false, snapshot: None };
        let backup = match &self.backup {
            Some(backup) => Some(app.settle_and_find(Noun::Backup, backup)?),
            None => None,
        };
        let fill = match (&self.image, &backup, &self.snapshot) {
            (Some(image), ..) => Some(whole(&app.settle_and_find(Noun::Image, image)?)),
            // As `backup restore` does.
            (None, Some(backup), _) => Some(Fill::Volume { id: backup.id, verify: true, snapshot: None }),
            (None, None, Some(snapshot)) => {
                let found = app.find_snapshot(snapshot)?;
                Some(Fill::Volume { id: found.disk_id, verify: false, snapshot: Some(found.id) })
            }
            (None, None, None) => None,
        };
        let prepared = app.prepare(&Request {
            id: Uuid::new_v4(),
            kind: Noun::Disk,
            name: name.to_string(),
            role: Role::Data,
            made_with: None,
            size,
            encryption: Encryption::from_options(self.encrypted, self.key, self.plain),
            fill,
        })?;
        if let Some(backup) = backup.filter(|_| self.plain) {
            confirm_open(yes, &backup, name.as_str())?;
        }
        let disk = app.make(prepared)?;
        let sentence = format!(
            "disk {} created: {}, {} ({})",
            disk.name,
            size::human(disk.size),
            disk.protection(),
            disk.id
        );
        app.out.done(&app.shown(disk)?, &sentence).map_err(stdout)
    }
}
