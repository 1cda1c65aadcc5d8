//! `ecsctl as-config create`

use clap::Args;

use crate::{
    app::App,
    commands::{parse_name, stdout},
    error::Error,
    model::Noun,
};

/// Make a configuration like a server: its image, its data disks, and the encryption and key of each (A1).
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  ecsctl as-config create c1 --from-server web1
  ecsctl as-group create g1 --config c1 --desired 3")]
pub(crate) struct Create {
    /// Its name: letters, digits, '.', '_' and '-'
    #[arg(allow_hyphen_values = true)]
    name: String,
    /// The server that it is made like
    #[arg(long, value_name = "SERVER")]
    from_server: String,
}

impl Create {
    pub(super) fn run(self, app: &mut App) -> Result<(), Error> {
        let name = parse_name(Noun::AsConfig, &self.name)?;
        let (config, server) = app.create_config(name.to_string(), &self.from_server)?;
        let sentence =
            format!("as-config {} created like server {} ({})", config.name, server.name, config.id);
        app.out.done(&config, &sentence).map_err(stdout)
    }
}
