//! `ecsctl server create`

use clap::Args;

use crate::{
    app::App,
    commands::{parse_name, parse_size, stdout},
    engine::{build::Blueprint, make::Encryption},
    error::{DataDiskFault, Error},
    model::{Noun, size::Size},
};

/// Make a server that disks can be attached to: with a system disk from an image and data disks, or with none. All of
/// them are made, or nothing is.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  ecsctl server create web1
  ecsctl server create web2 --image debian --size 20G
  ecsctl server create db1 --image debian --data-disk size=50G,encrypted,key=db-key --data-disk size=10G

A system disk is encrypted as its image is, under the same key. A data disk is encrypted if it says so, under the key
that it names or evs/default.")]
pub(crate) struct Create {
    /// Its name: letters, digits, '.', '_' and '-'
    #[arg(allow_hyphen_values = true)]
    name: String,
    /// The image that its system disk is made from
    #[arg(long)]
    image: Option<String>,
    /// The size of the system disk [default: that of the image]
    #[arg(long, requires = "image", allow_hyphen_values = true)]
    size: Option<String>,
    /// A data disk: size=SIZE[,encrypted][,key=KEY]; may be given more than once
    #[arg(long, value_name = "SPEC")]
    data_disk: Vec<String>,
}

impl Create {
    pub(super) fn run(self, app: &mut App) -> Result<(), Error> {
        let name = parse_name(Noun::Server, &self.name)?;
        let data = self.data_disk.iter().map(|spec| data_disk(spec)).collect::<Result<_, _>>()?;
        let system_size = self.size.as_deref().map(parse_size).transpose()?;
        let image = match &self.image {
            Some(image) => Some(app.settle_and_find(Noun::Image, image)?),
            None => None,
        };
        let blueprint = Blueprint { name: name.to_string(), image, system_size, data, group_id: None };
        let server = app.build_server(&blueprint)?;
        let sentence = format!("server {} created ({})", server.name, server.id);
        app.out.done(&app.shown_server(server)?, &sentence).map_err(stdout)
    }
}

/// Reads `size=5G,encrypted,key=db-key`.
fn data_disk(spec: &str) -> Result<(Size, Encryption), Error> {
    let bad = |fault| Error::DataDisk { spec: spec.to_owned(), fault };
    let (mut size, mut encrypted, mut key) = (None, false, None);
    for part in spec.split(',') {
        match part.split_once('=') {
            Some((name @ "size", _)) if size.is_some() => {
                return Err(bad(DataDiskFault::Twice { name: name.to_owned() }));
            }
            Some((name @ "key", _)) if key.is_some() => {
                return Err(bad(DataDiskFault::Twice { name: name.to_owned() }));
            }
            Some(("size", text)) => size = Some(parse_size(text)?),
            Some(("key", text)) if !text.is_empty() => key = Some(text.to_owned()),
            None if part == "encrypted" => encrypted = true,
            _ => return Err(bad(DataDiskFault::Unknown { part: part.to_owned() })),
        }
    }
    // A key for a disk that is not to be encrypted would be ignored without a word.
    if key.is_some() && !encrypted {
        return Err(bad(DataDiskFault::KeyOfPlain));
    }
    Ok((
        size.ok_or_else(|| bad(DataDiskFault::NoSize))?,
        Encryption::from_options(encrypted, key, !encrypted),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s1_a_data_disk_is_encrypted_as_asked_and_a_slip_is_refused() {
        let (size, encryption) = data_disk("size=5G,encrypted,key=db-key").unwrap();
        assert_eq!((size.bytes(), encryption), (5 << 30, Encryption::Under(Some("db-key".into()))));
        assert_eq!(data_disk("encrypted,size=4K").unwrap().1, Encryption::Under(None));
        assert_eq!(data_disk("size=4K").unwrap().1, Encryption::Plain);
        for bad in
            ["", "size=5G,key=k", "encrypted", "size=5G,encrypt", "size=5G,size=6G", "size=5G,key=,encrypted"]
        {
            assert!(matches!(data_disk(bad), Err(Error::DataDisk { .. })), "{bad}");
        }
    }
}
