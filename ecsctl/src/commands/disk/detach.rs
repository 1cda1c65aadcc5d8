//! `ecsctl disk detach`

use clap::Args;

use crate::{app::App, commands::stdout, error::Error, model::plan::Operation};

/// Flush a disk, take it from its server, and erase its data key from memory. A busy disk stays attached, and the
/// error says who holds it.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  ecsctl disk detach data1
  ecsctl disk detach data1 web1          refuses if it is attached to another server")]
pub(crate) struct Detach {
    /// The disk: name, ID, or beginning of the ID
    disk: String,
    /// The server that it is expected to be attached to
    server: Option<String>,
}

impl Detach {
    pub(super) fn run(self, app: &mut App) -> Result<(), Error> {
        let mut claimed = app.claim_disk(&self.disk)?;
        if let Some(named) = &self.server {
            let named = app.find_server(named)?;
            if let Some(other) = claimed.disk.server_id.filter(|id| *id != named.id) {
                let server = app.find_server(&other.to_string())?.name;
                return Err(Error::OtherServer { disk: claimed.disk.name, server, named: named.name });
            }
        }
        app.run(&mut claimed, &Operation::Detach)?;
        let sentence = format!("disk {} detached", claimed.disk.name);
        app.out.done(&app.shown(claimed.disk)?, &sentence).map_err(stdout)
    }
}
