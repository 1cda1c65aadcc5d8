//! `ecsctl as-config delete`

use clap::Args;

use crate::{app::App, catalog::scaling, commands::stdout, error::Error, output::confirm};

/// Forget a configuration. One that a group uses stays.
#[derive(Debug, Args)]
#[command(
    visible_alias = "rm",
    after_help = "\
Examples:
  ecsctl as-config delete c1 --yes"
)]
pub(crate) struct Delete {
    /// The configuration: name, ID, or beginning of the ID
    config: String,
}

impl Delete {
    pub(super) fn run(self, app: &mut App, yes: bool) -> Result<(), Error> {
        let config = scaling::config(app.catalog.read(), &self.config)?;
        confirm(yes, &format!("Configuration {} will be forgotten. Go on?", config.name))?;
        app.catalog.write(|tx| {
            let user = scaling::groups(tx)?.into_iter().find(|group| group.config_id == config.id);
            if let Some(group) = user {
                return Err(Error::ConfigInUse { config: config.name.clone(), group: group.name });
            }
            scaling::remove_config(tx, config.id)
        })?;
        app.out.done(&config, &format!("as-config {} deleted", config.name)).map_err(stdout)
    }
}
