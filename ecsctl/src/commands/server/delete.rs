//! `ecsctl server delete`

use clap::Args;

use crate::{app::App, catalog::disks, commands::stdout, error::Error, output::confirm};

/// Detach a server's disks and forget it. The disks and what is on them stay.
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
        let disks = disks::of_server(app.catalog.read(), server.id)?.len();
        let detached = match disks {
            0 => String::new(),
            1 => ", after its disk is detached".to_owned(),
            n => format!(", after its {n} disks are detached"),
        };
        confirm(yes, &format!("Server {} will be deleted{detached}. Go on?", server.name))?;
        let shown = app.shown_server(server)?;
        let server = app.delete_server(&shown.server.id.to_string())?;
        app.out.done(&shown, &format!("server {} deleted", server.name)).map_err(stdout)
    }
}
