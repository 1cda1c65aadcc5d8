//! `ecsctl server delete`

use clap::Args;

use crate::{app::App, commands::stdout, error::Error, output::confirm};

/// Detach a server's disks and forget it. The system disk that was made with it is destroyed, and in an auto scaling group every disk
/// that was; other disks and what is on them stay.
#[derive(Debug, Args)]
#[command(
    visible_alias = "rm",
    after_help = "\
Examples:
  ecsctl server delete web1
  ecsctl server delete web1 --yes"
)]
pub(crate) struct Delete {
    /// The server: name, ID, or beginning of the ID
    server: String,
}

impl Delete {
    pub(super) fn run(self, app: &mut App, yes: bool) -> Result<(), Error> {
        let server = app.find_server(&self.server)?;
        let fate = app.fate(&server)?;
        confirm(yes, &format!("Server {} will be deleted{}. Go on?", server.name, fate.sentence()))?;
        let shown = app.shown_server(server)?;
        let server = app.delete_server_id(shown.server.id, &shown.server.name)?;
        app.out.done(&shown, &format!("server {} deleted", server.name)).map_err(stdout)
    }
}
