//! `ecsctl server create`

use clap::Args;
use uuid::Uuid;

use crate::{
    app::App,
    catalog::servers,
    commands::stdout,
    error::Error,
    model::{
        Noun,
        name::Name,
        server::{Server, ServerStatus},
    },
};

/// Make a server that disks can be attached to.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  ecsctl server create web1
  ecsctl disk attach data1 web1")]
pub(crate) struct Create {
    /// Its name: letters, digits, '.', '_' and '-'
    #[arg(allow_hyphen_values = true)]
    name: String,
}

impl Create {
    pub(super) fn run(self, app: &mut App) -> Result<(), Error> {
        let name: Name = self.name.parse().map_err(|source| Error::Name {
            noun: Noun::Server,
            given: self.name.clone(),
            source,
        })?;
        let server = Server {
            id: Uuid::new_v4(),
            name: name.to_string(),
            status: ServerStatus::Stopped,
            created_at: app.now.clone(),
        };
        app.catalog.write(|tx| servers::insert(tx, &server))?;
        let sentence = format!("server {} created ({})", server.name, server.id);
        app.out.done(&app.shown_server(server)?, &sentence).map_err(stdout)
    }
}
