//! `ecsctl disk rekey`

use clap::Args;

use crate::{
    app::App,
    commands::{parse_rate, stdout},
    error::Error,
    model::{Noun, plan::Operation},
};

/// Wrap a disk's data key anew: under another master key, or under the newest version of its own. It takes the same time for every size,
/// also while the disk is attached; the old wrapped key is overwritten. With --new-data-key everything on the disk, snapshots too, is
/// re-encrypted under a new data key; an attached disk does that in the background, also after it was detached and attached again.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  ecsctl disk rekey data1                      under the newest version of its key, after a rotation
  ecsctl disk rekey data1 --key other-key
  ecsctl disk rekey data1 --new-data-key --rate 50M
  ecsctl disk show data1                       shows how far that is

Both keys must be enabled. Whoever had a copy of the volume file and may use the old key can still open that copy.")]
pub(crate) struct Rekey {
    /// The disk: name, ID, or beginning of the ID
    disk: String,
    /// The master key: alias or ID [default: the one that it has]
    #[arg(long)]
    key: Option<String>,
    /// Re-encrypt everything under a new data key, and destroy the old one; asked again, it goes on where it stopped
    #[arg(long)]
    new_data_key: bool,
    /// Re-encrypt at most so many bytes in a second (with K, M or G); 0: as fast as it goes [default: 0, or as it was]
    #[arg(long, requires = "new_data_key", allow_hyphen_values = true)]
    rate: Option<String>,
    /// Return only when an attached disk is re-encrypted
    #[arg(long, requires = "new_data_key")]
    wait: bool,
}

impl Rekey {
    pub(super) fn run(self, app: &mut App) -> Result<(), Error> {
        // A slip in any option is refused before anything is changed.
        let rate = self.rate.as_deref().map(parse_rate).transpose()?;
        let mut claimed = app.claim_disk(&self.disk)?;
        let disk = &claimed.disk;
        let Some(own) = disk.key_id.clone().filter(|_| disk.encrypted) else {
            return Err(Error::NotEncrypted { disk: disk.name.clone() });
        };
        app.require_key(disk, "re-keyed")?;
        let (key, alias) = match &self.key {
            None => (own, disk.key_alias.clone()),
            Some(given) => app.key_for(Noun::Disk, &disk.name, Some(given), "re-keyed")?,
        };
        if self.key.is_some() || !self.new_data_key {
            app.run(&mut claimed, &Operation::Rekey { key, alias })?;
        }
        if self.new_data_key {
            app.run(&mut claimed, &Operation::Reencrypt { rate, wait: self.wait })?;
            let disk = claimed.disk;
            let background = disk.server_id.is_some() && !self.wait;
            let sentence = if background {
                format!(
                    "disk {} is being re-encrypted; `ecsctl disk show {}` shows how far it is",
                    disk.name, disk.name
                )
            } else {
                format!("disk {} is re-encrypted under a new data key", disk.name)
            };
            return app.out.done(&app.shown(disk)?, &sentence).map_err(stdout);
        }
        let disk = claimed.disk;
        let sentence =
            format!("disk {} is {} now, with its data key wrapped anew", disk.name, disk.protection());
        app.out.done(&app.shown(disk)?, &sentence).map_err(stdout)
    }
}
