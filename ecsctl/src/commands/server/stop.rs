//! `ecsctl server stop`

use std::time::Duration;

use clap::Args;

use crate::{app::App, commands::stdout, error::Error, machines, output::confirm};

/// Stop the virtual machine of a server, as by its power button, and wait until it has shut down. Its disks stay
/// attached.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  ecsctl server stop web1
  ecsctl server stop web1 --wait 300
  ecsctl server stop web1 --force          cuts its power: asks first")]
pub(crate) struct Stop {
    /// The server: name, ID, or beginning of the ID
    server: String,
    /// How long the guest may take, seconds
    #[arg(long, value_name = "SECONDS", default_value = "60")]
    wait: u64,
    /// Cut its power instead of asking the guest; what it had not written yet is lost
    #[arg(long, conflicts_with = "wait")]
    force: bool,
}

impl Stop {
    pub(super) fn run(self, app: &mut App, yes: bool) -> Result<(), Error> {
        let how = if self.force {
            let server = app.find_server(&self.server)?;
            confirm(yes, &format!("The power of server {} will be cut. Go on?", server.name))?;
            machines::Stop::Cut
        } else {
            machines::Stop::Ask(Duration::from_secs(self.wait))
        };
        let server = app.stop_server(&self.server, how)?;
        let sentence = format!("server {} stopped", server.name);
        app.out.done(&app.shown_server(server)?, &sentence).map_err(stdout)
    }
}
