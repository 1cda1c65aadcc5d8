//! `ecsctl snapshot create`

use clap::Args;
use uuid::Uuid;

use crate::{
    app::App,
    catalog::snapshots,
    commands::{parse_name, stdout},
    error::Error,
    model::{Noun, plan::Operation},
};

/// Keep the state that a disk has now, at once and whatever its size. The disk may be attached: the snapshot is what a
/// power failure at this moment would leave.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  ecsctl snapshot create before-upgrade --disk data1
  ecsctl snapshot rollback before-upgrade")]
pub(crate) struct Create {
    /// Its name: letters, digits, '.', '_' and '-'
    #[arg(allow_hyphen_values = true)]
    name: String,
    /// The disk: name, ID, or beginning of the ID
    #[arg(long)]
    disk: String,
}

impl Create {
    pub(super) fn run(self, app: &mut App) -> Result<(), Error> {
        let name = parse_name(Noun::Snapshot, &self.name)?.to_string();
        let id = Uuid::new_v4();
        let mut claimed = app.claim_disk(&self.disk)?;
        app.require_key_if_detached(&claimed.disk, "opened")?;
        app.run(&mut claimed, &Operation::Snapshot { id, name })?;
        let snapshot = snapshots::find(app.catalog.read(), &id.to_string())?;
        let sentence = format!("snapshot {} of disk {} created ({id})", snapshot.name, claimed.disk.name);
        app.out.done(&app.shown_snapshot(snapshot)?, &sentence).map_err(stdout)
    }
}
