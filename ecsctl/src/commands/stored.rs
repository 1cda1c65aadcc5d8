//! What `ecsctl image` and `ecsctl backup` have in common: volumes that are kept, not attached.

use std::path::PathBuf;

use serde_json::{Value, json};

use crate::{
    app::App,
    catalog::disks,
    commands::stdout,
    error::Error,
    model::{
        Noun,
        disk::{self, DiskStatus},
        name::short,
        plan::Operation,
        size,
    },
    output::{Show, confirm},
};

/// Lists every volume of a kind, by name.
pub(super) fn list(app: &mut App, noun: Noun) -> Result<(), Error> {
    app.settle_all()?;
    let rows = disks::all(app.catalog.read(), noun)?;
    let shown: Vec<_> = rows.into_iter().map(|row| app.stored(row)).collect();
    app.out.list(&shown).map_err(stdout)
}

/// Shows one.
pub(super) fn show(app: &mut App, noun: Noun, given: &str) -> Result<(), Error> {
    let found = app.settle_and_find(noun, given)?;
    app.out.one(&app.stored(found)).map_err(stdout)
}

/// Destroys one: its wrapped data key first, then its file.
pub(super) fn delete(
    app: &mut App,
    noun: Noun,
    given: &str,
    skip_erase: bool,
    yes: bool,
) -> Result<(), Error> {
    let mut claimed = app.claim_volume(noun, given)?;
    let name = claimed.disk.name.clone();
    confirm(yes, &format!("The {noun} {name} and everything in it will be destroyed. Go on?"))?;
    let shown = app.stored(claimed.disk.clone());
    app.notice_flattened(claimed.disk.id)?;
    app.run(&mut claimed, &Operation::Delete { skip_erase })?;
    app.out.done(&shown.deleted(), &format!("{noun} {name} deleted")).map_err(stdout)
}

/// An image or backup as it is shown.
#[derive(Debug)]
pub(crate) struct Stored {
    disk: disk::Disk,
    file: PathBuf,
}

impl App {
    /// Looks at an image or backup.
    pub(crate) fn stored(&self, disk: disk::Disk) -> Stored {
        let file = self.installation.place(disk.id).file;
        Stored { disk, file }
    }
}

impl Stored {
    /// The same after it was deleted.
    pub(crate) fn deleted(mut self) -> Self {
        self.disk.status = DiskStatus::Deleted;
        self
    }

    /// Images have words of their own in the published model.
    fn status(&self) -> &'static str {
        match (self.disk.kind, self.disk.status) {
            (Noun::Image, DiskStatus::Available) => "active",
            (Noun::Image, DiskStatus::Creating) => "saving",
            (_, status) => status.as_str(),
        }
    }
}

impl Show for Stored {
    fn json(&self) -> Value {
        json!({
            "id": self.disk.id,
            "name": self.disk.name,
            "status": self.status(),
            "size": self.disk.size,
            "encrypted": self.disk.encrypted,
            "key_id": self.disk.key_id,
            "key_alias": self.disk.key_alias,
            "source": self.disk.source,
            "file": self.file,
            "created_at": self.disk.created_at,
        })
    }

    fn headings() -> &'static [&'static str] {
        &["id", "name", "status", "size", "key", "source", "created"]
    }

    fn row(&self) -> Vec<String> {
        vec![
            short(&self.disk.id.to_string()),
            self.disk.name.clone(),
            self.status().to_owned(),
            size::human(self.disk.size),
            self.disk.key_name(),
            self.disk.source.clone().unwrap_or_default(),
            self.disk.created_at.clone(),
        ]
    }

    fn fields(&self) -> Vec<(&'static str, String)> {
        vec![
            ("ID", self.disk.id.to_string()),
            ("Name", self.disk.name.clone()),
            ("Status", self.status().to_owned()),
            ("Size", format!("{} ({} bytes)", size::human(self.disk.size), self.disk.size)),
            ("Encrypted", if self.disk.encrypted { "yes" } else { "no" }.to_owned()),
            ("Key", self.disk.key_name()),
            ("Key ID", self.disk.key_id.clone().unwrap_or_default()),
            ("Source", self.disk.source.clone().unwrap_or_default()),
            ("File", self.file.display().to_string()),
            ("Created", self.disk.created_at.clone()),
        ]
    }

    fn handle(&self) -> String {
        self.disk.id.to_string()
    }
}
