//! `ecsctl snapshot`

mod create;
mod delete;
mod list;
mod rollback;
mod show;

use clap::Subcommand;
use serde_json::{Value, json};

use crate::{
    app::App,
    catalog::{disks, snapshots},
    error::Error,
    model::{Noun, disk::Disk, name::short, size, snapshot},
    output::Show,
};

/// The verbs.
#[derive(Debug, Subcommand)]
pub(crate) enum Snapshot {
    /// Keep the state that a disk has now
    Create(create::Create),
    /// List snapshots
    List(list::List),
    /// Show one snapshot
    Show(show::ShowSnapshot),
    /// Take a disk back to a snapshot of it
    Rollback(rollback::Rollback),
    /// Delete a snapshot and give back the space that only it held
    Delete(delete::Delete),
}

/// # Errors
/// The verb's.
pub(super) fn run(command: Snapshot, app: &mut App, yes: bool) -> Result<(), Error> {
    match command {
        Snapshot::Create(verb) => verb.run(app),
        Snapshot::List(verb) => verb.run(app),
        Snapshot::Show(verb) => verb.run(app),
        Snapshot::Rollback(verb) => verb.run(app, yes),
        Snapshot::Delete(verb) => verb.run(app, yes),
    }
}

/// A snapshot as it is shown.
#[derive(Debug)]
struct Shown {
    snapshot: snapshot::Snapshot,
    disk: Disk,
}

impl App {
    fn shown_snapshot(&self, snapshot: snapshot::Snapshot) -> Result<Shown, Error> {
        let disk = disks::by_id(self.catalog.read(), snapshot.disk_id)?;
        let given = || snapshot.disk_id.to_string();
        let disk = disk.ok_or_else(|| Error::NotFound { noun: Noun::Disk, given: given(), near: None })?;
        Ok(Shown { snapshot, disk })
    }

    pub(crate) fn find_snapshot(&mut self, given: &str) -> Result<snapshot::Snapshot, Error> {
        self.settle_all()?;
        snapshots::find(self.catalog.read(), given)
    }
}

impl Show for Shown {
    fn json(&self) -> Value {
        json!({
            "id": self.snapshot.id,
            "name": self.snapshot.name,
            "status": "available",
            "disk": self.disk.name,
            "disk_id": self.disk.id,
            "size": self.snapshot.size,
            "encrypted": self.disk.encrypted,
            "key_id": self.disk.key_id,
            "key_alias": self.disk.key_alias,
            "created_at": self.snapshot.created_at,
        })
    }

    fn headings() -> &'static [&'static str] {
        &["id", "name", "disk", "size", "created"]
    }

    fn row(&self) -> Vec<String> {
        vec![
            short(&self.snapshot.id.to_string()),
            self.snapshot.name.clone(),
            self.disk.name.clone(),
            size::human(self.snapshot.size),
            self.snapshot.created_at.clone(),
        ]
    }

    fn fields(&self) -> Vec<(&'static str, String)> {
        vec![
            ("ID", self.snapshot.id.to_string()),
            ("Name", self.snapshot.name.clone()),
            ("Disk", self.disk.name.clone()),
            ("Size", format!("{} ({} bytes)", size::human(self.snapshot.size), self.snapshot.size)),
            ("Encrypted", if self.disk.encrypted { "yes" } else { "no" }.to_owned()),
            ("Key", self.disk.key_name()),
            ("Created", self.snapshot.created_at.clone()),
        ]
    }

    fn handle(&self) -> String {
        self.snapshot.id.to_string()
    }
}
