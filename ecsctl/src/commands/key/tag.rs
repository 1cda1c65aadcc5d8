//! `ecsctl key tag`

use clap::Args;
use serde_json::{Map, Value, json};

use super::grant::pair;
use crate::{app::App, commands::stdout, error::Error, output::Format};

/// List a key's tags, add some, or remove some.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  ecsctl key tag db-key                      lists its tags
  ecsctl key tag db-key env=prod team=orders
  ecsctl key tag db-key --remove team")]
pub(crate) struct TagKey {
    /// Its alias, its ID, or the beginning of its ID
    key: String,
    /// Tags to add; one that is there gets the new value
    #[arg(value_name = "NAME=VALUE", value_parser = pair)]
    add: Vec<(String, String)>,
    /// Tags to remove
    #[arg(long, value_name = "NAME")]
    remove: Vec<String>,
}

impl TagKey {
    pub(super) fn run(self, app: &App) -> Result<(), Error> {
        let key = app.find_key(&self.key)?;
        if !self.add.is_empty() {
            app.keys.add_tags(&key.key_id, &self.add)?;
        }
        if !self.remove.is_empty() {
            app.keys.remove_tags(&key.key_id, &self.remove)?;
        }
        let tags = app.keys.tags(&key.key_id)?;
        match app.out.format {
            Format::Json => {
                let tags: Map<String, Value> =
                    tags.into_iter().map(|(name, value)| (name, Value::String(value))).collect();
                let value = json!({ "key_id": key.key_id, "alias": key.alias, "tags": tags });
                app.out.value(&value).map_err(stdout)
            }
            Format::Table => {
                let lines: Vec<String> = tags.iter().map(|(name, value)| format!("{name}={value}")).collect();
                app.out.lines(&lines).map_err(stdout)
            }
        }
    }
}
