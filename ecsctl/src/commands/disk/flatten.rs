//! `ecsctl disk flatten`

use clap::Args;

use crate::{
    app::App,
    commands::{parse_rate, stdout},
    error::Error,
    model::plan::Operation,
};

/// Copy into a disk that was made from an image all that it reads from there, and into its snapshots too; after that the disk needs the image no
/// more, and the image may be deleted. An attached disk does that in the background while it is used, also after it was detached and attached
/// again; a detached one is done when the command returns. What is cut short goes on when it is asked for again.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  ecsctl disk flatten web1-system
  ecsctl disk flatten web1-system --rate 50M
  ecsctl disk flatten web1-system --wait && ecsctl image delete first
  ecsctl disk show web1-system                 shows how far that is

The disk takes as much space afterwards as if it had been copied when it was made.")]
pub(crate) struct Flatten {
    /// The disk: name, ID, or beginning of the ID
    disk: String,
    /// Copy at most so many bytes in a second (with K, M or G); 0: as fast as it goes [default: 0, or as it was]
    #[arg(long, allow_hyphen_values = true)]
    rate: Option<String>,
    /// Return only when an attached disk is flattened
    #[arg(long)]
    wait: bool,
}

impl Flatten {
    pub(super) fn run(self, app: &mut App) -> Result<(), Error> {
        let rate = self.rate.as_deref().map(parse_rate).transpose()?;
        let mut claimed = app.claim_disk(&self.disk)?;
        claimed.disk.base = app.notice_base(&claimed.disk)?;
        if claimed.disk.base.is_some() {
            app.require_key_if_detached(&claimed.disk, "flattened")?;
            app.run(&mut claimed, &Operation::Flatten { rate, wait: self.wait })?;
        }
        let disk = claimed.disk;
        let sentence = if disk.base.is_some() {
            let name = &disk.name;
            format!("disk {name} is being flattened; `ecsctl disk show {name}` shows how far it is")
        } else {
            format!("disk {} needs no image", disk.name)
        };
        app.out.done(&app.shown(disk)?, &sentence).map_err(stdout)
    }
}
