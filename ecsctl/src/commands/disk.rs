//! `ecsctl disk`

mod attach;
mod check;
mod create;
mod delete;
mod detach;
mod extend;
mod flatten;
mod list;
mod rekey;
mod show;

use std::path::PathBuf;

use clap::Subcommand;
use serde_json::{Value, json};

use crate::{
    app::App,
    catalog::{disks, servers},
    error::Error,
    model::{
        disk::{self, DiskStatus},
        name::short,
        size,
    },
    output::Show,
    volumes::Look,
};

/// The verbs.
#[derive(Debug, Subcommand)]
pub(crate) enum Disk {
    /// Make a disk
    Create(create::Create),
    /// List disks
    List(list::List),
    /// Show one disk
    Show(show::ShowDisk),
    /// Show a disk's plain raw view to a server; prints its path
    Attach(attach::Attach),
    /// Take a disk from its server and erase its data key from memory
    Detach(detach::Detach),
    /// Grow a disk, attached or not
    Extend(extend::Extend),
    /// Wrap a disk's data key under another master key or the newest version of its own, attached or not
    Rekey(rekey::Rekey),
    /// Copy into a disk what it reads from its image, until it needs that no more, attached or not
    Flatten(flatten::Flatten),
    /// Verify every block of a detached disk
    Check(check::Check),
    /// Destroy a disk: its wrapped data key, then its file
    Delete(delete::Delete),
}

/// # Errors
/// The verb's.
pub(super) fn run(command: Disk, app: &mut App, yes: bool) -> Result<(), Error> {
    match command {
        Disk::Create(verb) => verb.run(app, yes),
        Disk::List(verb) => verb.run(app),
        Disk::Show(verb) => verb.run(app),
        Disk::Attach(verb) => verb.run(app, yes),
        Disk::Detach(verb) => verb.run(app),
        Disk::Extend(verb) => verb.run(app),
        Disk::Rekey(verb) => verb.run(app),
        Disk::Flatten(verb) => verb.run(app),
        Disk::Check(verb) => verb.run(app),
        Disk::Delete(verb) => verb.run(app, yes),
    }
}

/// A disk as it is shown: its row, with what is true of it at this moment.
#[derive(Debug)]
pub(crate) struct Shown {
    disk: disk::Disk,
    status: DiskStatus,
    reason: Option<String>,
    server: Option<String>,
    path: Option<PathBuf>,
    file: PathBuf,
    pid: Option<u32>,
    /// How far a re-encryption or a flatten is; looked at for one disk only.
    look: Option<Look>,
}

impl App {
    /// Looks at a disk.
    ///
    /// # Errors
    /// Those of the catalogue.
    pub(crate) fn shown(&self, disk: disk::Disk) -> Result<Shown, Error> {
        let server = match disk.server_id {
            Some(id) => servers::by_id(self.catalog.read(), id)?.map(|server| server.name),
            None => None,
        };
        let up = disk.serving.as_ref().is_some_and(|serving| self.volumes.alive(serving));
        let pid = disk.serving.as_ref().filter(|_| up).map(|serving| serving.pid);
        let (status, reason) = match disk.status {
            DiskStatus::InUse if !up => {
                // It may have been taken off between the reading of its row and this look.
                if let Some(now) = disks::by_id(self.catalog.read(), disk.id)?.filter(|now| *now != disk) {
                    return self.shown(now);
                }
                let back = format!("ecsctl server recover {}", server.as_deref().unwrap_or("--all"));
                let why =
                    disk.reason.clone().unwrap_or_else(|| "the process that served it has ended".to_owned());
                (DiskStatus::Error, Some(format!("{why}; bring it back with: {back}")))
            }
            status => (status, disk.reason.clone()),
        };
        let path = match (&server, status) {
            (Some(server), DiskStatus::InUse | DiskStatus::Detaching) => {
                Some(self.installation.stable_path(server, &disk.name))
            }
            _ => None,
        };
        let file = self.installation.place(disk.id).file;
        Ok(Shown { disk, status, reason, server, path, file, pid, look: None })
    }
}

impl Shown {
    /// The plain raw view, when attached.
    pub(crate) fn path(&self) -> Option<&PathBuf> {
        self.path.as_ref()
    }

    /// The same disk after it was deleted.
    pub(crate) fn deleted(self) -> Self {
        Self { status: DiskStatus::Deleted, ..self }
    }

    /// What is wrong with it.
    pub(crate) fn reason(&self) -> Option<&str> {
        self.reason.as_deref()
    }

    /// The same with how far its re-encryption or flatten is.
    fn with_look(self, look: Look) -> Self {
        Self { look: Some(look), ..self }
    }

    /// The state at this moment.
    pub(crate) fn status(&self) -> DiskStatus {
        self.status
    }
}

impl Show for Shown {
    fn json(&self) -> Value {
        let mut value = json!({
            "id": self.disk.id,
            "name": self.disk.name,
            "status": self.status.as_str(),
            "reason": self.reason,
            "size": self.disk.size,
            "encrypted": self.disk.encrypted,
            "key_id": self.disk.key_id,
            "key_alias": self.disk.key_alias,
            "server": self.server,
            "server_id": self.disk.server_id,
            "path": self.path,
            "file": self.file,
            "pid": self.pid,
            "role": self.disk.role.as_str(),
            "source": self.disk.source,
            "image_id": self.disk.base,
            "created_at": self.disk.created_at,
        });
        if let Some(look) = &self.look {
            value["re_encryption"] = json!(look.re_encryption);
            value["flatten"] = json!(look.flatten);
        }
        value
    }

    fn headings() -> &'static [&'static str] {
        &["id", "name", "status", "size", "key", "server", "path"]
    }

    fn row(&self) -> Vec<String> {
        vec![
            short(&self.disk.id.to_string()),
            self.disk.name.clone(),
            self.status.as_str().to_owned(),
            size::human(self.disk.size),
            self.disk.key_name(),
            self.server.clone().unwrap_or_default(),
            self.path.as_ref().map(|path| path.display().to_string()).unwrap_or_default(),
        ]
    }

    fn fields(&self) -> Vec<(&'static str, String)> {
        vec![
            ("ID", self.disk.id.to_string()),
            ("Name", self.disk.name.clone()),
            ("Status", self.status.as_str().to_owned()),
            ("Reason", self.reason.clone().unwrap_or_default()),
            ("Size", format!("{} ({} bytes)", size::human(self.disk.size), self.disk.size)),
            ("Encrypted", if self.disk.encrypted { "yes" } else { "no" }.to_owned()),
            ("Key", self.disk.key_name()),
            ("Key ID", self.disk.key_id.clone().unwrap_or_default()),
            ("Server", self.server.clone().unwrap_or_default()),
            ("Path", self.path.as_ref().map(|path| path.display().to_string()).unwrap_or_default()),
            ("File", self.file.display().to_string()),
            ("Created", self.disk.created_at.clone()),
            ("Re-encryption", progress(self.look.as_ref().and_then(|look| look.re_encryption.as_ref()))),
            ("Flatten", progress(self.look.as_ref().and_then(|look| look.flatten.as_ref()))),
        ]
    }

    fn handle(&self) -> String {
        self.disk.id.to_string()
    }
}

fn progress(progress: Option<&Value>) -> String {
    let Some(progress) = progress else { return String::new() };
    let phase = progress["phase"].as_str().unwrap_or_default();
    match (progress["stopped"].as_str(), progress["percent"].as_u64()) {
        (Some(reason), _) => format!("stopped: {reason}"),
        (None, Some(percent)) => format!("{percent} %, {phase}"),
        (None, None) => "goes on when the disk is attached".to_owned(),
    }
}
