//! `ecsctl server delete`

use clap::Args;

use crate::{app::App, catalog::disks, commands::stdout, error::Error, model::disk::Role, output::confirm};

/// Detach a server's disks and forget it. Its system disk is destroyed with it; data disks and what is on them stay.
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
        let disks = disks::of_server(app.catalog.read(), server.id)?;
        let (mut gone, mut kept) = (Vec::new(), Vec::new());
        for disk in disks {
            let goes = disk.role == Role::System || server.group_id.is_some();
            if goes { gone.push(disk.name) } else { kept.push(disk.name) }
        }
        let mut question = format!("Server {} will be deleted", server.name);
        if !gone.is_empty() {
            question += &format!(", with everything on {}", gone.join(", "));
        }
        if !kept.is_empty() {
            question += &format!(", after {} is detached", kept.join(", "));
        }
        confirm(yes, &format!("{question}. Go on?"))?;
        let shown = app.shown_server(server)?;
        let server = app.delete_server_id(shown.server.id, &shown.server.name)?;
        app.out.done(&shown, &format!("server {} deleted", server.name)).map_err(stdout)
    }
}
