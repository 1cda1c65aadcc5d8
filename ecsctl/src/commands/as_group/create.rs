//! `ecsctl as-group create`

use clap::Args;
use uuid::Uuid;

use crate::{
    app::App,
    catalog::scaling,
    commands::{
        as_group::{count, within},
        parse_name, stdout,
    },
    error::Error,
    model::{
        Noun,
        scaling::{Group, LARGEST},
    },
};

/// Make a group and its servers, each encrypted as the configuration says. A key that cannot be used stops it: the
/// group stays with the servers that it has, and the failure is among its events.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  ecsctl as-group create g1 --config c1 --desired 3
  ecsctl as-group create g1 --config c1 --desired 3 --min 1 --max 10")]
pub(crate) struct Create {
    /// Its name: letters, digits, '.', '_' and '-'
    #[arg(allow_hyphen_values = true)]
    name: String,
    /// The configuration: name, ID, or beginning of the ID
    #[arg(long)]
    config: String,
    /// How many servers
    #[arg(long, default_value_t = 1)]
    desired: u32,
    /// Never fewer
    #[arg(long, default_value_t = 0)]
    min: u32,
    /// Never more
    #[arg(long, default_value_t = LARGEST, value_parser = clap::value_parser!(u32).range(..=i64::from(LARGEST)))]
    max: u32,
}

impl Create {
    pub(super) fn run(self, app: &mut App) -> Result<(), Error> {
        let name = parse_name(Noun::AsGroup, &self.name)?;
        if self.min > self.max {
            return Err(Error::Bounds { smallest: self.min, largest: self.max });
        }
        let config = scaling::config(app.catalog.read(), &self.config)?;
        let group = Group {
            id: Uuid::new_v4(),
            name: name.to_string(),
            config_id: config.id,
            desired: self.desired,
            smallest: self.min,
            largest: self.max,
            created_at: app.now.clone(),
        };
        within(&group)?;
        let _claim = app.claim(Noun::AsGroup, group.id, &group.name)?;
        app.create_group(&group, &config)?;
        let servers = app.scale(&group, &config)?;
        let sentence = format!("as-group {} created with {} ({})", group.name, count(&servers), group.id);
        app.out.done(&app.shown_group(group)?, &sentence).map_err(stdout)
    }
}
