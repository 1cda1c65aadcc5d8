//! `ecsctl disk delete`

use clap::Args;

use crate::{
    app::App,
    commands::stdout,
    error::Error,
    model::{disk::DiskAction, plan::Operation},
    output::confirm,
};

/// Destroy a disk: its wrapped data key first, so that nobody can ever decrypt what remains, then its file.
#[derive(Debug, Args)]
#[command(
    visible_alias = "rm",
    after_help = "\
Examples:
  ecsctl disk delete data1
  ecsctl disk delete data1 --yes"
)]
pub(crate) struct Delete {
    /// The disk: name, ID, or beginning of the ID
    disk: String,
    /// Delete the file even if its header is damaged, so that its wrapped key cannot be erased
    #[arg(long)]
    skip_erase: bool,
}

impl Delete {
    pub(super) fn run(self, app: &mut App, yes: bool) -> Result<(), Error> {
        let mut claimed = app.claim_disk(&self.disk)?;
        app.refuse_unless_free(&claimed.disk)?;
        if !claimed.disk.status.allows(DiskAction::Delete) {
            let disk = claimed.disk;
            return Err(Error::DiskStatus {
                kind: disk.kind,
                disk: disk.name,
                status: disk.status,
                action: DiskAction::Delete,
                reason: disk.reason,
            });
        }
        confirm(yes, &format!("Disk {} and everything on it will be destroyed. Go on?", claimed.disk.name))?;
        let shown = app.shown(claimed.disk.clone())?;
        app.run(&mut claimed, &Operation::Delete { skip_erase: self.skip_erase })?;
        let sentence = format!("disk {} deleted", claimed.disk.name);
        app.out.done(&shown.deleted(), &sentence).map_err(stdout)
    }
}
