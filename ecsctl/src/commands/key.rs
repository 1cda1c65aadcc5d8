//! `ecsctl key`

mod alias;
mod cancel_deletion;
mod create;
mod disable;
mod enable;
mod grant;
mod import;
mod list;
mod revoke;
mod rotate;
mod schedule_deletion;
mod show;
mod tag;

use clap::Subcommand;
use serde_json::{Value, json};

use crate::{
    app::App,
    error::Error,
    model::{self, name::short},
    output::Show,
};

/// The verbs.
#[derive(Debug, Subcommand)]
pub(crate) enum Key {
    /// Make a key in the token
    Create(create::Create),
    /// List every key that you may use
    List(list::List),
    /// Show one key
    Show(show::ShowKey),
    /// Enable a disabled key: disks under it can be attached again
    Enable(enable::Enable),
    /// Disable a key: attached disks work on, no disk under it can be attached
    Disable(disable::Disable),
    /// Make a newer version of a key, now or by interval
    Rotate(rotate::Rotate),
    /// Import the material of a key that waits for it
    Import(import::Import),
    /// Have a key destroyed in 7 to 1096 days; until then this can be cancelled
    ScheduleDeletion(schedule_deletion::ScheduleDeletion),
    /// Cancel the deletion of a key; it comes back disabled
    CancelDeletion(cancel_deletion::CancelDeletion),
    /// Let another principal use a key, or list who may
    Grant(grant::GrantKey),
    /// Take a grant back
    Revoke(revoke::Revoke),
    /// List a key's names, or change them
    Alias(alias::AliasKey),
    /// List a key's tags, add some, or remove some
    Tag(tag::TagKey),
}

/// # Errors
/// The verb's.
pub(super) fn run(command: Key, app: &mut App, yes: bool) -> Result<(), Error> {
    match command {
        Key::Create(verb) => verb.run(app),
        Key::List(verb) => verb.run(app),
        Key::Show(verb) => verb.run(app),
        Key::Enable(verb) => verb.run(app),
        Key::Disable(verb) => verb.run(app),
        Key::Rotate(verb) => verb.run(app),
        Key::Import(verb) => verb.run(app),
        Key::ScheduleDeletion(verb) => verb.run(app, yes),
        Key::CancelDeletion(verb) => verb.run(app),
        Key::Grant(verb) => verb.run(app),
        Key::Revoke(verb) => verb.run(app),
        Key::Alias(verb) => verb.run(app),
        Key::Tag(verb) => verb.run(app),
    }
}

impl Show for model::key::Key {
    fn json(&self) -> Value {
        json!({
            "key_id": self.key_id,
            "alias": self.alias,
            "state": self.state.as_str(),
            "default": self.default,
            "origin": self.origin,
            "versions": self.versions,
            "rotation": self.rotation,
            "deletion_date": self.deletion_date,
            "created_at": self.created_at,
            "description": self.description,
        })
    }

    fn headings() -> &'static [&'static str] {
        &["id", "alias", "state", "origin", "versions", "deletion"]
    }

    fn row(&self) -> Vec<String> {
        vec![
            short(&self.key_id),
            self.alias.clone(),
            self.state.as_str().to_owned(),
            self.origin.clone(),
            self.versions.to_string(),
            self.deletion_date.clone().unwrap_or_default(),
        ]
    }

    fn fields(&self) -> Vec<(&'static str, String)> {
        vec![
            ("ID", self.key_id.clone()),
            ("Alias", self.alias.clone()),
            ("State", self.state.as_str().to_owned()),
            ("Default", if self.default { "yes" } else { "no" }.to_owned()),
            ("Origin", self.origin.clone()),
            ("Versions", self.versions.to_string()),
            ("Rotation", if self.rotation { "by interval" } else { "" }.to_owned()),
            ("Deletion", self.deletion_date.clone().unwrap_or_default()),
            ("Description", self.description.clone().unwrap_or_default()),
            ("Created", self.created_at.clone().unwrap_or_default()),
        ]
    }

    fn handle(&self) -> String {
        self.key_id.clone()
    }
}
