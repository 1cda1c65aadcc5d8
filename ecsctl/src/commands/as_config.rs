//! `ecsctl as-config`

mod create;
mod delete;
mod list;
mod show;

use clap::Subcommand;
use serde_json::{Value, json};

use crate::{
    app::App,
    error::Error,
    model::{
        name::short,
        scaling::{Config, DiskTemplate},
        size,
    },
    output::Show,
};

/// The verbs.
#[derive(Debug, Subcommand)]
pub(crate) enum AsConfig {
    /// Make a configuration like a server
    Create(create::Create),
    /// List configurations
    List(list::List),
    /// Show one configuration
    Show(show::ShowConfig),
    /// Forget a configuration
    Delete(delete::Delete),
}

/// # Errors
/// The verb's.
pub(super) fn run(command: AsConfig, app: &mut App, yes: bool) -> Result<(), Error> {
    match command {
        AsConfig::Create(verb) => verb.run(app),
        AsConfig::List(verb) => verb.run(app),
        AsConfig::Show(verb) => verb.run(app),
        AsConfig::Delete(verb) => verb.run(app, yes),
    }
}

fn disk(template: &DiskTemplate) -> String {
    let key = template.key_alias.as_deref().or(template.key_id.as_deref()).unwrap_or("not encrypted");
    format!("{} {key}", size::human(template.size))
}

impl Show for Config {
    fn json(&self) -> Value {
        json!({
            "id": self.id,
            "name": self.name,
            "image": self.template.image,
            "system_disk": self.template.system,
            "data_disks": self.template.data,
            "created_at": self.created_at,
        })
    }

    fn headings() -> &'static [&'static str] {
        &["id", "name", "system disk", "data disks"]
    }

    fn row(&self) -> Vec<String> {
        vec![
            short(&self.id.to_string()),
            self.name.clone(),
            self.template.system.as_ref().map(disk).unwrap_or_default(),
            self.template.data.iter().map(disk).collect::<Vec<_>>().join(", "),
        ]
    }

    fn fields(&self) -> Vec<(&'static str, String)> {
        vec![
            ("ID", self.id.to_string()),
            ("Name", self.name.clone()),
            ("Image", self.template.image.map(|id| id.to_string()).unwrap_or_default()),
            ("System disk", self.template.system.as_ref().map(disk).unwrap_or_default()),
            ("Data disks", self.template.data.iter().map(disk).collect::<Vec<_>>().join(", ")),
            ("Created", self.created_at.clone()),
        ]
    }

    fn handle(&self) -> String {
        self.id.to_string()
    }
}
