//! `ecsctl disk extend`

use clap::Args;

use crate::{
    app::App,
    commands::{parse_size, stdout},
    error::Error,
    model::{plan::Operation, size},
};

/// Grow a disk, attached or not. Snapshots stay valid. A disk never shrinks.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  ecsctl disk extend data1 --size 20G
  ecsctl disk extend data1 --size 20G --json")]
pub(crate) struct Extend {
    /// The disk: name, ID, or beginning of the ID
    disk: String,
    /// The new size: bytes, or with K, M, G or T (powers of 1024); a multiple of 4096, at most 64T
    #[arg(long, allow_hyphen_values = true)]
    size: String,
}

impl Extend {
    pub(super) fn run(self, app: &mut App) -> Result<(), Error> {
        let size = parse_size(&self.size)?;
        let mut claimed = app.claim_disk(&self.disk)?;
        app.require_key_if_detached(&claimed.disk, "opened")?;
        app.run(&mut claimed, &Operation::Extend { size: size.bytes() })?;
        let sentence = format!("disk {} has {} now", claimed.disk.name, size::human(size.bytes()));
        app.out.done(&app.shown(claimed.disk)?, &sentence).map_err(stdout)
    }
}
