//! `ecsctl as-group scale`

use clap::Args;

use crate::{
    app::App,
    catalog::scaling,
    commands::{
        as_group::{count, within},
        stdout,
    },
    error::Error,
    model::scaling::leaving,
    output::confirm,
};

/// Change how many servers a group has, or go on with what was cut short. The youngest servers go first, with the disks
/// that were made with them; other disks are detached.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  ecsctl as-group scale g1 --desired 5
  ecsctl as-group scale g1 --desired 1 --yes")]
pub(crate) struct Scale {
    /// The group: name, ID, or beginning of the ID
    group: String,
    /// How many servers
    #[arg(long)]
    desired: u32,
}

impl Scale {
    pub(super) fn run(self, app: &mut App, yes: bool) -> Result<(), Error> {
        app.settle_all_and_orphans()?;
        let (_claim, mut group) = app.claim_group(&self.group)?;
        group.desired = self.desired;
        within(&group)?;
        let present = scaling::members(app.catalog.read(), group.id)?;
        let leaving = leaving(&present, group.desired);
        if !leaving.is_empty() {
            let fates = app.fates(&leaving)?;
            confirm(yes, &format!("From group {} will be deleted: {fates}. Go on?", group.name))?;
        }
        let config = app.config_of(&group)?;
        let servers = app.scale(&group, &config)?;
        let sentence = format!("as-group {} has {}", group.name, count(&servers));
        app.out.done(&app.shown_group(group)?, &sentence).map_err(stdout)
    }
}
