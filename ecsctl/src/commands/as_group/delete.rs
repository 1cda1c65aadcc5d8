//! `ecsctl as-group delete`

use clap::Args;

use crate::{
    app::App, catalog::scaling, commands::stdout, error::Error, model::scaling::leaving, output::confirm,
};

/// Remove a group with all its servers and the disks that were made with them. Other disks are detached.
#[derive(Debug, Args)]
#[command(
    visible_alias = "rm",
    after_help = "\
Examples:
  ecsctl as-group delete g1 --yes"
)]
pub(crate) struct Delete {
    /// The group: name, ID, or beginning of the ID
    group: String,
}

impl Delete {
    pub(super) fn run(self, app: &mut App, yes: bool) -> Result<(), Error> {
        app.settle_all_and_orphans()?;
        let (_claim, mut group) = app.claim_group(&self.group)?;
        let present = scaling::members(app.catalog.read(), group.id)?;
        let fates = app.fates(&leaving(&present, 0))?;
        let with = if fates.is_empty() { String::new() } else { format!(", with {fates}") };
        confirm(yes, &format!("Group {} will be deleted{with}. Go on?", group.name))?;
        let shown = app.shown_group(group.clone())?;
        group.desired = 0;
        let config = app.config_of(&group)?;
        app.scale(&group, &config)?;
        app.catalog.write(|tx| scaling::remove_group(tx, group.id))?;
        app.out.done(&shown, &format!("as-group {} deleted", group.name)).map_err(stdout)
    }
}
