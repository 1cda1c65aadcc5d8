//! `ecsctl key schedule-deletion`

use clap::Args;

use crate::{app::App, catalog::disks, commands::stdout, error::Error, model::Noun, output::confirm};

/// Have a key destroyed when its day comes. Every disk and image under it is then lost for good.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  ecsctl key schedule-deletion db-key --days 30
  ecsctl key cancel-deletion db-key          takes it back until then")]
pub(crate) struct ScheduleDeletion {
    /// Its alias, its ID, or the beginning of its ID
    key: String,
    /// In how many days, 7 to 1096
    #[arg(long, default_value_t = 30)]
    days: u16,
}

impl ScheduleDeletion {
    pub(super) fn run(self, app: &App, yes: bool) -> Result<(), Error> {
        let key = app.find_key(&self.key)?;
        let mut under = Vec::new();
        for kind in Noun::VOLUMES {
            let volumes = disks::all(app.catalog.read(), kind)?.into_iter();
            let count =
                volumes.filter(|volume| volume.key_id.as_deref() == Some(key.key_id.as_str())).count();
            if count > 0 {
                under.push(format!("{count} {kind}{}", if count == 1 { "" } else { "s" }));
            }
        }
        let lost =
            if under.is_empty() { String::new() } else { format!(", and with it {}", under.join(", ")) };
        confirm(yes, &format!("Key {} will be destroyed in {} days{lost}. Go on?", key.alias, self.days))?;
        app.keys.schedule_deletion(&key.key_id, self.days)?;
        let key = app.keys.describe(&key.key_id)?;
        let date = key.deletion_date.as_deref().unwrap_or("its day");
        let sentence = format!("key {} will be destroyed on {date}", key.alias);
        app.out.done(&key, &sentence).map_err(stdout)
    }
}
