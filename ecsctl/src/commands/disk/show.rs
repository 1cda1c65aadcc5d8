//! `ecsctl disk show`

use clap::Args;

use crate::{
    app::App,
    commands::stdout,
    error::Error,
    model::{Noun, disk::Disk},
};

/// Show one disk. What a dead process left half-done on it is finished or undone first.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  ecsctl disk show data1
  ecsctl disk show data1 --json | jq -r .path")]
pub(crate) struct ShowDisk {
    /// Its name, its ID, or the beginning of its ID
    disk: String,
}

impl ShowDisk {
    pub(super) fn run(self, app: &mut App) -> Result<(), Error> {
        let disk = app.settle_and_find(Noun::Disk, &self.disk)?;
        let base = app.notice_base(&disk)?;
        let disk = Disk { base, ..disk };
        let (id, name, looks) = (disk.id, disk.name.clone(), disk.encrypted || disk.base.is_some());
        let mut shown = app.shown(disk)?;
        let file = app.installation.place(id).file;
        if looks && file.exists() {
            let look = app.volumes.look(&file);
            let look = look.map_err(|source| Error::Volume {
                kind: Noun::Disk,
                disk: name,
                doing: "looked at",
                source: Box::new(source),
            });
            shown = shown.with_look(look?);
        }
        app.out.one(&shown).map_err(stdout)
    }
}
