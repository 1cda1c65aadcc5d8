//! `ecsctl key rotate`

use clap::Args;

use crate::{app::App, commands::stdout, error::Error};

/// Make a newer version of a key, now or by interval. What older versions protect still opens.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  ecsctl key rotate db-key
  ecsctl key rotate db-key --every 90        from now on, every 90 days
  ecsctl key rotate db-key --never           no longer by interval")]
pub(crate) struct Rotate {
    /// Its alias, its ID, or the beginning of its ID
    key: String,
    /// Have it rotated every so many days, 30 to 365, instead of now
    #[arg(long, value_name = "DAYS", conflicts_with = "never")]
    every: Option<u16>,
    /// No longer have it rotated by interval
    #[arg(long)]
    never: bool,
}

impl Rotate {
    pub(super) fn run(self, app: &App) -> Result<(), Error> {
        let key = app.find_key(&self.key)?;
        let said = match self.every {
            Some(days) => {
                app.keys.rotate_every(&key.key_id, Some(days))?;
                format!("will be rotated every {days} days")
            }
            None if self.never => {
                app.keys.rotate_every(&key.key_id, None)?;
                "will no longer be rotated by interval".to_owned()
            }
            None => {
                app.keys.rotate(&key.key_id)?;
                "rotated".to_owned()
            }
        };
        let key = app.keys.describe(&key.key_id)?;
        let newest = if self.every.is_none() && !self.never {
            format!("; version {} wraps from now on", key.versions)
        } else {
            String::new()
        };
        app.out.done(&key, &format!("key {} {said}{newest}", key.alias)).map_err(stdout)
    }
}
