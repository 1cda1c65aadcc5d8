//! `ecsctl server show`

use clap::Args;

use crate::{app::App, commands::stdout, error::Error};

/// Show one server and the names of its disks.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  ecsctl server show web1
  ecsctl disk list --server web1")]
pub(crate) struct ShowServer {
    /// Its name, its ID, or the beginning of its ID
    server: String,
}

impl ShowServer {
    pub(super) fn run(self, app: &mut App) -> Result<(), Error> {
        app.settle_all()?;
        let server = app.find_server(&self.server)?;
        app.out.one(&app.shown_server(server)?).map_err(stdout)
    }
}
