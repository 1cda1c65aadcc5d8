//! `ecsctl disk attach`

use clap::Args;

use crate::{
    app::App,
    catalog::disks,
    commands::stdout,
    error::Error,
    model::plan::Operation,
    output::{Format, confirm},
};

/// Show a disk's plain raw view to a server, and print its path. The path stays the same at each attachment.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  ecsctl disk attach data1 web1
  mkfs.ext4 \"$(ecsctl disk attach data1 web1)\"
  ecsctl disk attach data1 web1 --accept-rollback      its file was put back on purpose

If the master key is disabled or pending deletion, the disk is not attached, and the error says how to make the key
usable again.")]
pub(crate) struct Attach {
    /// The disk: name, ID, or beginning of the ID
    disk: String,
    /// The server: name, ID, or beginning of the ID
    server: String,
    /// Go on with a volume file that is older than the newest state that the key service knows, such as one put back from a backup of the
    /// host. What would be lost is told first; the key service records it
    #[arg(long)]
    accept_rollback: bool,
}

impl Attach {
    pub(super) fn run(self, app: &mut App, yes: bool) -> Result<(), Error> {
        let server = app.find_server(&self.server)?;
        // A copy that was cut short may still have the disk open for reading.
        app.settle_all()?;
        let mut claimed = app.claim_disk(&self.disk)?;
        let here = claimed.disk.server_id == Some(server.id);
        let up = claimed.disk.serving.as_ref().is_some_and(|serving| app.volumes.alive(serving));
        if !here {
            app.refuse_unless_free(&claimed.disk)?;
        }
        if self.accept_rollback
            && !app.is_served(&claimed.disk, "attached")?
            && let Some(loss) = app.loss(&claimed.disk)?
        {
            confirm(yes, &loss.question(&claimed.disk.name))?;
            app.run(&mut claimed, &Operation::AcceptRollback)?;
        }
        if here && !up {
            // It is meant to be here and its process has died: bring it back.
            app.recover_claimed(&mut claimed)?;
        } else {
            app.refuse_unless_free(&claimed.disk)?;
            app.require_key(&claimed.disk, "attached")?;
            if let Err(error) = app.run(&mut claimed, &Operation::Attach { server: server.id }) {
                // The key may have changed since it was looked at: say so, rather than what evsfs saw of it.
                if matches!(error, Error::Volume { .. }) {
                    app.require_key(&claimed.disk, "attached")?;
                }
                return Err(app.explain_past(&claimed.disk, &server.name, error));
            }
        }
        let disk = disks::by_id(app.catalog.read(), claimed.disk.id)?.unwrap_or(claimed.disk);
        let shown = app.shown(disk)?;
        match (app.out.format, shown.path()) {
            (Format::Table, Some(path)) => app.out.text(&format!("{}\n", path.display())).map_err(stdout),
            _ => app.out.done(&shown, "").map_err(stdout),
        }
    }
}
