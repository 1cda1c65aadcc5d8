//! `ecsctl snapshot delete`

use clap::Args;

use crate::{app::App, commands::stdout, error::Error, model::plan::Operation, output::confirm};

/// Delete a snapshot. The disk stays as it is; the space that only the snapshot held is given back.
#[derive(Debug, Args)]
#[command(
    visible_alias = "rm",
    after_help = "\
Examples:
  ecsctl snapshot delete before-upgrade
  ecsctl snapshot delete before-upgrade --yes"
)]
pub(crate) struct Delete {
    /// The snapshot: name, ID, or beginning of the ID
    snapshot: String,
}

impl Delete {
    pub(super) fn run(self, app: &mut App, yes: bool) -> Result<(), Error> {
        let snapshot = app.find_snapshot(&self.snapshot)?;
        let shown = app.shown_snapshot(snapshot)?;
        let (name, disk, id) = (shown.snapshot.name.clone(), shown.disk.name.clone(), shown.snapshot.id);
        confirm(yes, &format!("Snapshot {name} of disk {disk} will be deleted. Go on?"))?;
        let mut claimed = app.claim_disk_id(shown.disk.id, &disk)?;
        app.require_key_if_detached(&claimed.disk, "opened")?;
        app.run(&mut claimed, &Operation::DeleteSnapshot { id })?;
        app.out.done(&shown, &format!("snapshot {name} deleted")).map_err(stdout)
    }
}
