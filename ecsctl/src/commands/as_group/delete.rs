//! `ecsctl as-group delete`

use clap::Args;

use crate::{
    app::App, catalog::scaling, commands::stdout, error::Error, model::count::counted, output::confirm,
};

/// Remove a group with all its servers and their disks.
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
        let present = scaling::members(app.catalog.read(), group.id)?.len();
        confirm(
            yes,
            &format!(
                "Group {} with {} and all disks of them will be destroyed. Go on?",
                group.name,
                counted(present, "server")
            ),
        )?;
        let shown = app.shown_group(group.clone())?;
        group.desired = 0;
        app.catalog.write(|tx| scaling::set_desired(tx, group.id, 0))?;
        let config = app.config_of(&group)?;
        app.scale(&group, &config)?;
        app.catalog.write(|tx| scaling::remove_group(tx, group.id))?;
        app.out.done(&shown, &format!("as-group {} deleted", group.name)).map_err(stdout)
    }
}
