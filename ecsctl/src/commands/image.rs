//! `ecsctl image`

mod copy;
mod create;
mod delete;
mod export;
mod list;
mod show;

use std::path::PathBuf;

use clap::Subcommand;
use serde_json::{Value, json};

use crate::{
    app::App,
    commands::key::short,
    error::Error,
    model::{
        Noun,
        disk::{self, DiskStatus},
        size,
    },
    output::Show,
};

/// The verbs.
#[derive(Debug, Subcommand)]
pub(crate) enum Image {
    /// Make an image from a file, or from the system disk of a server
    Create(create::Create),
    /// List images
    List(list::List),
    /// Show one image
    Show(show::ShowImage),
    /// Copy an image, with another key or from plain to encrypted
    Copy(copy::Copy),
    /// Write an image to a file, in the open
    Export(export::Export),
    /// Destroy an image
    Delete(delete::Delete),
}

/// # Errors
/// The verb's.
pub(super) fn run(command: Image, app: &mut App, yes: bool) -> Result<(), Error> {
    match command {
        Image::Create(verb) => verb.run(app),
        Image::List(verb) => verb.run(app),
        Image::Show(verb) => verb.run(app),
        Image::Copy(verb) => verb.run(app, yes),
        Image::Export(verb) => verb.run(app, yes),
        Image::Delete(verb) => verb.run(app, yes),
    }
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

    fn key(&self) -> String {
        let id = || self.disk.key_id.as_deref().map(short);
        self.disk.key_alias.clone().or_else(id).unwrap_or_default()
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
            self.key(),
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
            ("Key", self.key()),
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
