//! `ecsctl key alias`

use clap::Args;
use serde_json::json;

use crate::{app::App, commands::stdout, error::Error, output::Format};

/// List a key's names, or change them. Every command takes any of them.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  ecsctl key alias db-key                          lists its names
  ecsctl key alias db-key --add orders-key
  ecsctl key alias db-key --remove orders-key
  ecsctl key alias db-key --rename orders-db-key")]
pub(crate) struct AliasKey {
    /// Its alias, its ID, or the beginning of its ID
    key: String,
    /// Give it another name besides its own
    #[arg(long, value_name = "NAME", conflicts_with_all = ["remove", "rename"])]
    add: Option<String>,
    /// Take such a name away
    #[arg(long, value_name = "NAME", conflicts_with = "rename")]
    remove: Option<String>,
    /// Change its own name
    #[arg(long, value_name = "NAME")]
    rename: Option<String>,
}

impl AliasKey {
    pub(super) fn run(self, app: &App) -> Result<(), Error> {
        let key = app.find_key(&self.key)?;
        let said = if let Some(alias) = checked(self.add)? {
            app.keys.add_alias(&key.key_id, &alias)?;
            Some(format!("key {} is also called {alias}", key.alias))
        } else if let Some(alias) = checked(self.remove)? {
            app.keys.remove_alias(&key.key_id, &alias)?;
            Some(format!("key {} is no longer called {alias}", key.alias))
        } else if let Some(alias) = checked(self.rename)? {
            app.keys.rename(&key.key_id, &alias)?;
            Some(format!("key {} is called {alias} from now on", key.alias))
        } else {
            None
        };
        let names = app.keys.aliases(&key.key_id)?;
        match (app.out.format, said) {
            (Format::Json, _) => {
                let key = app.keys.describe(&key.key_id)?;
                let value = json!({ "key_id": key.key_id, "alias": key.alias, "aliases": names });
                app.out.value(&value).map_err(stdout)
            }
            (Format::Table, Some(said)) if !app.out.quiet => app.out.lines(&[said]).map_err(stdout),
            (Format::Table, _) => app.out.lines(&names).map_err(stdout),
        }
    }
}

fn checked(given: Option<String>) -> Result<Option<String>, Error> {
    let parse = |given: String| {
        let alias: Result<kmsd::domain::Alias, _> = given.parse();
        alias.map(|alias| alias.to_string()).map_err(|source| Error::Alias { given, source })
    };
    given.map(parse).transpose()
}
