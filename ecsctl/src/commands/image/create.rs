//! `ecsctl image create`

use std::path::PathBuf;

use clap::{ArgGroup, Args};
use uuid::Uuid;

use crate::{
    app::App,
    commands::{parse_name, recorded_path, stdout},
    engine::make::{Encryption, Request},
    error::Error,
    images::ImageFormat,
    model::{Noun, disk::Role, plan::Fill, size},
};

/// Make an image from a file, or from the system disk of a server. The file is read once, straight into the image; no
/// other file that it may name is ever opened. A disk in use is copied as it is at this moment.
#[derive(Debug, Args)]
#[command(group(ArgGroup::new("from").required(true).args(["from_file", "from_server", "from_disk"])), after_help = "\
Examples:
  ecsctl image create debian --from-file debian.qcow2 --encrypted --key img-key
  ecsctl image create debian --from-file debian.raw --encrypted      under ims/default
  ecsctl image create golden --from-server web1                      same key as the server's system disk")]
pub(crate) struct Create {
    /// Its name: letters, digits, '.', '_' and '-'
    #[arg(allow_hyphen_values = true)]
    name: String,
    /// An image file: qcow2, raw, vmdk, vhd, vhdx or vdi, as a whole in this one file
    #[arg(long, value_name = "FILE")]
    from_file: Option<PathBuf>,
    /// What the file is; refused if it is something else [default: what its first bytes say]
    #[arg(long, value_enum, requires = "from_file")]
    format: Option<ImageFormat>,
    /// The server whose system disk it is made from
    #[arg(long, value_name = "SERVER")]
    from_server: Option<String>,
    /// The disk that it is made from
    #[arg(long, value_name = "DISK")]
    from_disk: Option<String>,
    /// Encrypt it (an image of an encrypted disk always is)
    #[arg(long, requires = "from_file")]
    encrypted: bool,
    /// The master key: alias or ID [default: ims/default]
    #[arg(long, requires = "encrypted")]
    key: Option<String>,
}

impl Create {
    pub(super) fn run(self, app: &mut App) -> Result<(), Error> {
        let name = parse_name(Noun::Image, &self.name)?;
        let fill = match (self.from_file, &self.from_server, &self.from_disk) {
            (Some(path), ..) => Fill::File { path: recorded_path(path)?, format: self.format },
            (None, Some(server), _) => {
                Fill::Volume { id: app.system_disk(server)?.id, verify: false, snapshot: None }
            }
            (None, None, disk) => {
                let disk = disk.as_deref().unwrap_or_default();
                Fill::Volume { id: app.settle_and_find(Noun::Disk, disk)?.id, verify: false, snapshot: None }
            }
        };
        let prepared = app.prepare(&Request {
            id: Uuid::new_v4(),
            kind: Noun::Image,
            name: name.to_string(),
            role: Role::Data,
            made_with: None,
            size: None,
            encryption: Encryption::from_options(self.encrypted, self.key, false),
            fill: Some(fill),
        })?;
        let image = app.make(prepared)?;
        let sentence = format!(
            "image {} created: {}, {} ({})",
            image.name,
            size::human(image.size),
            image.protection(),
            image.id
        );
        app.out.done(&app.stored(image), &sentence).map_err(stdout)
    }
}
