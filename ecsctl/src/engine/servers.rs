//! Servers: deleting them, and bringing their disks back.

use std::{fs, io};

use rusqlite::Connection;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{
    app::App,
    catalog::{disks, operations, servers},
    engine::{Claimed, Facts, Settled, admission, steps::io_at},
    error::Error,
    model::{
        Noun,
        disk::{Disk, DiskStatus},
        plan::{Direction, Operation, Step},
        server::{Server, ServerStatus},
    },
    volumes::ToolError,
};

/// A change of one server that takes more than one step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "kebab-case")]
pub(crate) enum ServerOperation {
    /// Make its disks and attach them, all or none (S1).
    Create {
        /// The disks that are its own.
        disks: Vec<Uuid>,
    },
    /// Run its machine.
    Start,
    /// Detach its disks, delete those that go with it, then forget it.
    Delete {
        /// The disks that go with it.
        #[serde(default)]
        own: Vec<Uuid>,
    },
}

impl ServerOperation {
    /// The verb in messages: "is being ...".
    fn doing(&self) -> &'static str {
        match self {
            Self::Create { .. } => "created",
            Self::Start => "started",
            Self::Delete { .. } => "deleted",
        }
    }
}

/// How one disk came back (S3).
#[derive(Debug)]
pub(crate) enum Recovery {
    /// It never was away.
    Present,
    /// It is back.
    Returned,
    /// It is up, and the machine of its server cannot use it: that was started on a view that has died.
    Stale(Error),
    /// It cannot come back, for this reason.
    Failed(Error),
}

/// What becomes of the disks of a server that is deleted.
#[derive(Debug)]
pub(crate) struct Fate {
    /// Destroyed with it, by name.
    goes: Vec<Disk>,
    /// Detached only.
    stays: Vec<Disk>,
}

impl Fate {
    /// What is asked about it, after the name of the server.
    pub(crate) fn sentence(&self) -> String {
        let names = |disks: &[Disk]| disks.iter().map(|d| d.name.as_str()).collect::<Vec<_>>().join(", ");
        let mut text = String::new();
        if !self.goes.is_empty() {
            text += &format!(", with everything on {}", names(&self.goes));
        }
        if !self.stays.is_empty() {
            text += &format!(", after detaching {}", names(&self.stays));
        }
        text
    }
}

/// The disks of a server, by whether they go with it (see [`Disk::goes_with`]). One of its own that is detached, or is attached elsewhere, was
/// taken from it on purpose, and stays as it is.
fn fate(connection: &Connection, server: &Server) -> Result<Fate, Error> {
    let disks = disks::of_server(connection, server.id)?;
    let (goes, stays) = disks.into_iter().partition(|disk| disk.goes_with(server));
    Ok(Fate { goes, stays })
}

/// A server that something can be made like. One that is being made, or deleted, has not all of its disks.
pub(super) fn finished(connection: &Connection, id: Uuid, given: &str) -> Result<Server, Error> {
    let server = servers::by_id(connection, id)?;
    let server =
        server.ok_or_else(|| Error::NotFound { noun: Noun::Server, given: given.to_owned(), near: None })?;
    if server.status.is_whole() {
        return Ok(server);
    }
    Err(Error::ServerStatus { server: server.name, status: server.status, doing: "copied" })
}

impl App {
    /// The system disk of a server, to be copied.
    ///
    /// # Errors
    /// [`Error::ServerStatus`] for one that is half made or half deleted; [`Error::NoSystemDisk`].
    pub(crate) fn system_disk(&mut self, given: &str) -> Result<Disk, Error> {
        self.settle_all_and_orphans()?;
        let id = self.find_server(given)?.id;
        let server = finished(self.catalog.read(), id, given)?;
        let mut disks = disks::of_server(self.catalog.read(), id)?.into_iter();
        disks.find(|disk| disk.is_system_of(id)).ok_or(Error::NoSystemDisk { server: server.name })
    }

    /// What would become of the disks of a server.
    ///
    /// # Errors
    /// Those of the catalogue.
    pub(crate) fn fate(&self, server: &Server) -> Result<Fate, Error> {
        fate(self.catalog.read(), server)
    }

    /// Detaches every disk of a server, destroys those that go with it (see [`Fate`]), and forgets it.
    ///
    /// # Errors
    /// A disk that is busy, or that something depends on: then nothing was done. If a disk becomes so on the way, the server stays, and the
    /// disks that were detached until then are attached again; once one is destroyed, the server stays half deleted, and the next command goes on.
    pub(crate) fn delete_server(&mut self, given: &str) -> Result<Server, Error> {
        let id = servers::find(self.catalog.read(), given)?;
        self.delete_server_id(id, given)
    }

    /// The same by ID; `given` is the name for messages.
    ///
    /// # Errors
    /// As [`App::delete_server`].
    pub(crate) fn delete_server_id(&mut self, id: Uuid, given: &str) -> Result<Server, Error> {
        let _claim = self.claim(Noun::Server, id, given)?;
        let server = self.server(id, given)?;
        // What a dead process left undone names disks that are not attached yet: forgotten, they would be nobody's.
        self.settle_claimed_server(&server)?;
        let Some(server) = servers::by_id(self.catalog.read(), id)? else {
            // By that it is gone, as was asked.
            return Ok(server);
        };
        self.refuse_deletion(&server)?;
        let now = self.now.clone();
        let own: Vec<Uuid> = self.catalog.write(|tx| {
            let goes = fate(tx, &server)?.goes;
            goes.iter().try_for_each(|disk| admission::refuse_dependants(tx, disk))?;
            let own: Vec<Uuid> = goes.iter().map(|disk| disk.id).collect();
            servers::set_status(tx, id, ServerStatus::Deleting)?;
            operations::begin(tx, Noun::Server, id, &ServerOperation::Delete { own: own.clone() }, &now)?;
            Ok(own)
        })?;
        let mut detached = Vec::new();
        let Err(failed) = self.remove_server(&server, &own, &mut detached) else { return Ok(server) };
        if self.are_whole(&own)? {
            self.catalog.write(|tx| servers::set_status(tx, id, ServerStatus::Stopped))?;
            self.give_back(&server, &detached);
            // Who dies before this leaves a deletion that is finished, as any that was cut short.
            self.catalog.write(|tx| operations::end(tx, id))?;
        }
        // Else it is still recorded, and the next command goes on: what is left is no server any more.
        Err(failed)
    }

    /// Refuses to delete a server whose machine runs, of whose disks one is busy, or that something depends on (S1).
    ///
    /// # Errors
    /// Then nothing was done.
    pub(super) fn refuse_deletion(&self, server: &Server) -> Result<(), Error> {
        if self.machines.running().contains_key(&server.id) {
            let (server, status) = (server.name.clone(), ServerStatus::Running);
            return Err(Error::ServerStatus { server, status, doing: "deleted" });
        }
        for disk in disks::of_server(self.catalog.read(), server.id)? {
            let busy = match self.volumes.holders(&self.installation.place(disk.id)) {
                Ok(holders) if holders.is_empty() => None,
                Ok(holders) => Some(ToolError::Busy { holders, message: String::new() }),
                Err(error) => Some(error),
            };
            if let Some(source) = busy.map(Box::new) {
                let (kind, doing) = (disk.kind, Operation::Detach.doing());
                return Err(Error::Volume { kind, disk: disk.name, doing, source });
            }
        }
        let read = self.catalog.read();
        fate(read, server)?.goes.iter().try_for_each(|disk| admission::refuse_dependants(read, disk))
    }

    /// Whether none of these disks is destroyed, nor perhaps.
    fn are_whole(&self, own: &[Uuid]) -> Result<bool, Error> {
        for id in own {
            let status = disks::by_id(self.catalog.read(), *id)?.map(|disk| disk.status);
            if !matches!(status, Some(DiskStatus::Available | DiskStatus::InUse)) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Removes a server that is half made, or half deleted, with the disks that go with it. When that cannot be, it stays as it is, and
    /// recorded: the next command tries again.
    pub(super) fn carry_out(&mut self, server: &Server, operation: &ServerOperation) -> Result<(), Error> {
        let own = match operation {
            ServerOperation::Create { disks } => disks.as_slice(),
            ServerOperation::Delete { own } => own,
            // A machine that runs is not taken away (see `settle_start`).
            ServerOperation::Start => return Ok(()),
        };
        let removed = self.remove_server(server, own, &mut Vec::new());
        if removed.is_err() && matches!(operation, ServerOperation::Create { .. }) {
            self.catalog.write(|tx| servers::set_status(tx, server.id, ServerStatus::Building))?;
        }
        removed
    }

    /// Attaches what a deletion that failed had detached. A disk that cannot come back is detached, and whole.
    fn give_back(&mut self, server: &Server, detached: &[Uuid]) {
        for id in detached {
            let Ok(Some(disk)) = disks::by_id(self.catalog.read(), *id) else { continue };
            let back = self.claim_disk_id(*id, &disk.name);
            let back =
                back.and_then(|mut disk| self.run(&mut disk, &Operation::Attach { server: server.id }));
            match back {
                Ok(()) | Err(Error::NotFound { .. } | Error::AlreadyAttached { .. }) => {}
                Err(error) => {
                    let (disk, server) = (&disk.name, &server.name);
                    self.warn(
                        format!(
                            "disk {disk} was detached from server {server} and is not attached again: {error}"
                        ),
                        format!("{}; then: ecsctl disk attach {disk} {server}", error.report().hint),
                    );
                }
            }
        }
    }

    fn remove_server(
        &mut self,
        server: &Server,
        own: &[Uuid],
        detached: &mut Vec<Uuid>,
    ) -> Result<(), Error> {
        self.catalog.write(|tx| servers::set_status(tx, server.id, ServerStatus::Deleting))?;
        for disk in disks::of_server(self.catalog.read(), server.id)? {
            let mut claimed = match self.claim_disk_id(disk.id, &disk.name) {
                // Somebody has taken it off and deleted it meanwhile.
                Err(Error::NotFound { .. }) => continue,
                other => other?,
            };
            // Settling, or somebody else, may have taken it off already.
            if claimed.disk.server_id == Some(server.id) {
                self.run(&mut claimed, &Operation::Detach)?;
                detached.push(disk.id);
            }
        }
        for id in own {
            let Some(disk) = disks::by_id(self.catalog.read(), *id)? else { continue };
            match self.claim_disk_id(*id, &disk.name) {
                Ok(mut claimed) => self.run(&mut claimed, &Operation::Delete { skip_erase: false })?,
                // It was a creation cut short, and is undone.
                Err(Error::NotFound { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        let dir = self.installation.servers().join(&server.name);
        io_at("remove", &dir, |dir| match fs::remove_dir(dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        })?;
        // What its guest wrote to the console is not kept longer than its disks.
        let place = self.installation.machine_place(server.id);
        for path in [&place.monitor, &place.console, &place.log] {
            io_at("remove", path, |path| match fs::remove_file(path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
                other => other,
            })?;
        }
        self.catalog.write(|tx| {
            operations::end(tx, server.id)?;
            servers::remove(tx, server.id)
        })
    }

    /// Finishes or undoes what a dead process began with a server.
    pub(super) fn settle_server(&mut self, id: Uuid, name: &str) -> Result<(), Error> {
        let _claim = self.claim(Noun::Server, id, name)?;
        match servers::by_id(self.catalog.read(), id)? {
            Some(server) => self.settle_claimed_server(&server),
            None => Ok(()),
        }
    }

    /// The same under the claim on it.
    fn settle_claimed_server(&mut self, server: &Server) -> Result<(), Error> {
        let Some(operation) =
            operations::of::<ServerOperation>(self.catalog.read(), Noun::Server, server.id)?
        else {
            return Ok(());
        };
        let direction = match operation {
            ServerOperation::Create { .. } => Direction::Undo,
            ServerOperation::Delete { .. } => Direction::Finish,
            ServerOperation::Start => self.settle_start(server)?,
        };
        self.carry_out(server, &operation)?;
        self.settled.push(Settled {
            name: server.name.clone(),
            noun: Noun::Server,
            doing: operation.doing(),
            direction,
        });
        Ok(())
    }

    /// Brings every disk of a server back that the catalogue says is attached.
    ///
    /// # Errors
    /// Those of the catalogue; a disk's own trouble is its [`Recovery`].
    pub(crate) fn recover_server(&mut self, server: &Server) -> Result<Vec<(Disk, Recovery)>, Error> {
        let mut told = Vec::new();
        for disk in disks::of_server(self.catalog.read(), server.id)? {
            let recovery = match self.claim_disk_id(disk.id, &disk.name) {
                // Somebody has taken it off meanwhile, as was their right.
                Ok(claimed) if claimed.disk.server_id != Some(server.id) => continue,
                Err(Error::NotFound { .. }) => continue,
                Ok(mut claimed) => self.recover_disk(&mut claimed),
                Err(error) => Recovery::Failed(error),
            };
            told.push((disks::by_id(self.catalog.read(), disk.id)?.unwrap_or(disk), recovery));
        }
        Ok(told)
    }

    fn recover_disk(&mut self, claimed: &mut Claimed) -> Recovery {
        let place = self.installation.place(claimed.disk.id);
        let serving = match self.volumes.serving(&place) {
            Ok(serving) => serving,
            Err(source) => {
                let (kind, disk) = (claimed.disk.kind, claimed.disk.name.clone());
                let source = Box::new(source);
                return Recovery::Failed(Error::Volume { kind, disk, doing: "attached", source });
            }
        };
        let result = match serving {
            Some(serving) if Some(&serving) == claimed.disk.serving.as_ref() => {
                // The view is up; the symlink may have been lost with a directory.
                return match self.republish(claimed) {
                    Ok(()) => {
                        self.refuse_stale(&claimed.disk).map_or_else(Recovery::Stale, |()| Recovery::Present)
                    }
                    Err(error) => Recovery::Failed(error),
                };
            }
            Some(_) => self.reattach(claimed),
            None if claimed.disk.status == DiskStatus::InUse => {
                self.require_key(&claimed.disk, "attached").and_then(|()| self.reattach(claimed))
            }
            None => return Recovery::Present,
        };
        match result {
            Ok(()) => self.refuse_stale(&claimed.disk).map_or_else(Recovery::Stale, |()| Recovery::Returned),
            Err(error) => {
                let error = self.explain_recovery(claimed, error);
                match self.note_reason(claimed, &error) {
                    Ok(()) => Recovery::Failed(error),
                    Err(worse) => Recovery::Failed(worse),
                }
            }
        }
    }

    fn explain_recovery(&self, claimed: &Claimed, error: Error) -> Error {
        let server = claimed.disk.server_id.map(|id| servers::by_id(self.catalog.read(), id));
        match server {
            Some(Ok(Some(server))) => self.explain_past(&claimed.disk, &server.name, error),
            _ => error,
        }
    }

    /// Brings one disk back whose process has died.
    ///
    /// # Errors
    /// Why it cannot come back, or cannot be used by the machine that runs on it.
    pub(crate) fn recover_claimed(&mut self, claimed: &mut Claimed) -> Result<(), Error> {
        match self.recover_disk(claimed) {
            Recovery::Present | Recovery::Returned => Ok(()),
            Recovery::Failed(error) | Recovery::Stale(error) => Err(error),
        }
    }

    /// Takes the steps of an attachment again. Nothing is recorded first: the catalogue says already that the disk
    /// is attached, and a process that dies here leaves what the next recovery starts from.
    fn reattach(&mut self, claimed: &mut Claimed) -> Result<(), Error> {
        let Some(server) = claimed.disk.server_id else { return Ok(()) };
        let operation = Operation::Attach { server };
        self.take(claimed, &operation, operation.steps(), &mut Facts::default())
    }

    fn republish(&mut self, claimed: &mut Claimed) -> Result<(), Error> {
        let Some(server) = claimed.disk.server_id else { return Ok(()) };
        self.take(claimed, &Operation::Attach { server }, &[Step::Publish], &mut Facts::default())
    }

    fn note_reason(&mut self, claimed: &mut Claimed, error: &Error) -> Result<(), Error> {
        claimed.disk.reason = Some(error.to_string());
        let disk = &claimed.disk;
        self.catalog.write(|tx| disks::update(tx, disk))
    }

    pub(super) fn server(&self, id: Uuid, given: &str) -> Result<Server, Error> {
        servers::by_id(self.catalog.read(), id)?.ok_or_else(|| Error::NotFound {
            noun: Noun::Server,
            given: given.to_owned(),
            near: None,
        })
    }
}
