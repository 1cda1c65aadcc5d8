//! `ecsctl snapshot rollback`

use clap::Args;

use crate::{app::App, commands::stdout, error::Error, model::plan::Operation, output::confirm};

/// Take a disk back to a snapshot of it. What was written since is lost. Nobody may have the disk open.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  ecsctl snapshot rollback before-upgrade
  ecsctl snapshot rollback before-upgrade --yes")]
pub(crate) struct Rollback {
    /// The snapshot: name, ID, or beginning of the ID
    snapshot: String,
}

impl Rollback {
    pub(super) fn run(self, app: &mut App, yes: bool) -> Result<(), Error> {
        let snapshot = app.find_snapshot(&self.snapshot)?;
        let shown = app.shown_snapshot(snapshot)?;
        let (name, disk, id) = (shown.snapshot.name.clone(), shown.disk.name.clone(), shown.snapshot.id);
        confirm(
            yes,
            &format!("Everything written to disk {disk} since snapshot {name} will be lost. Go on?"),
        )?;
        let mut claimed = app.claim_disk_id(shown.disk.id, &disk)?;
        app.require_key_if_detached(&claimed.disk, "opened")?;
        app.run(&mut claimed, &Operation::RollBack { id })?;
        app.out.done(&shown, &format!("disk {disk} is as it was at snapshot {name}")).map_err(stdout)
    }
}
