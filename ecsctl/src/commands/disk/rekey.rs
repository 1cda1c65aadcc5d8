//! `ecsctl disk rekey`

use clap::Args;

use crate::{
    app::App,
    commands::stdout,
    error::Error,
    model::{Noun, plan::Operation},
};

/// Wrap a disk's data key anew: under another master key, or under the newest version of its own. It takes the same time for every size,
/// also while the disk is attached; the old wrapped key is overwritten.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  ecsctl disk rekey data1                      under the newest version of its key, after a rotation
  ecsctl disk rekey data1 --key other-key

Both keys must be enabled. Whoever had a copy of the volume file and may use the old key can still open that copy.")]
pub(crate) struct Rekey {
    /// The disk: name, ID, or beginning of the ID
    disk: String,
    /// The master key: alias or ID [default: the one that it has]
    #[arg(long)]
    key: Option<String>,
}

impl Rekey {
    pub(super) fn run(self, app: &mut App) -> Result<(), Error> {
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
        app.run(&mut claimed, &Operation::Rekey { key, alias })?;
        let disk = claimed.disk;
        let sentence =
            format!("disk {} is {} now, with its data key wrapped anew", disk.name, disk.protection());
        app.out.done(&app.shown(disk)?, &sentence).map_err(stdout)
    }
}
