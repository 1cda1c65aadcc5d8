//! `ecsctl disk check`

use clap::Args;

use crate::{app::App, commands::stdout, error::Error, output::Format};

/// Verify every block of a detached disk. Nothing is changed.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  ecsctl disk check data1
  ecsctl disk check data1 --json")]
pub(crate) struct Check {
    /// The disk: name, ID, or beginning of the ID
    disk: String,
}

impl Check {
    pub(super) fn run(self, app: &mut App) -> Result<(), Error> {
        let claimed = app.claim_disk(&self.disk)?;
        app.refuse_unless_free(&claimed.disk)?;
        app.require_key(&claimed.disk, "checked")?;
        let report = app.check(&claimed)?;
        let disk = claimed.disk.name.clone();
        if report["sound"] != true {
            return Err(Error::Unsound { disk, bad: report["bad_count"].as_u64().unwrap_or(0), report });
        }
        match app.out.format {
            Format::Json => app.out.value(&report).map_err(stdout),
            Format::Table => {
                app.out.done(&app.shown(claimed.disk)?, &format!("disk {disk} is sound")).map_err(stdout)
            }
        }
    }
}
