//! Carries operations out, step by step, and finishes or undoes what a dead process left.

mod admission;
pub(crate) mod build;
mod copy;
mod export;
pub(crate) mod machines;
pub(crate) mod make;
pub(crate) mod past;
mod scaling;
pub(crate) mod servers;
mod steps;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use uuid::Uuid;

use crate::{
    app::App,
    catalog::{disks, operations, servers as rows},
    claim::{self, Claim, ClaimError, Patience},
    error::Error,
    model::{
        Noun,
        disk::{Disk, DiskStatus},
        plan::{Direction, Fill, Operation, Step},
    },
    volumes::Written,
};

/// A disk that this process alone may change, with nothing half-done on it.
#[derive(Debug)]
pub(crate) struct Claimed {
    /// Its row.
    pub(crate) disk: Disk,
    claim: Claim,
}

impl Claimed {
    /// The right to change it.
    fn claim(&self) -> &Claim {
        &self.claim
    }
}

/// What was found and put right on the way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Settled {
    /// The disk's or server's name.
    pub(crate) name: String,
    /// What it was.
    pub(crate) noun: Noun,
    /// What had been cut short: "created", "attached" ...
    pub(crate) doing: &'static str,
    /// How it ended.
    pub(crate) direction: Direction,
}

/// What a command could not do beside what was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Warning {
    /// What, and why.
    pub(crate) message: String,
    /// What to do about it.
    pub(crate) hint: String,
}

/// The facts that one step learns and a later one records.
#[derive(Debug, Default)]
struct Facts {
    written: Option<Written>,
    source: Option<Claimed>,
    /// Where the source is seen while it is copied.
    view: Option<std::path::PathBuf>,
    /// Whether a snapshot of the source was taken to copy from. What was cut short may have taken one.
    snapshot: Option<bool>,
    serving: Option<crate::model::disk::Serving>,
    /// The state that the disk had before the operation began, if that was in this process.
    before: Option<DiskStatus>,
}

impl Facts {
    /// Those of an operation that begins in this process, on a disk in that state.
    fn beginning(before: DiskStatus) -> Self {
        Self { snapshot: Some(false), before: Some(before), ..Self::default() }
    }
}

impl App {
    /// Has the user told of it at the end of the command, once.
    fn warn(&mut self, message: String, hint: String) {
        let warning = Warning { message, hint };
        if !self.warnings.contains(&warning) {
            self.warnings.push(warning);
        }
    }

    /// Takes the claim on a disk and settles what a dead process left on it.
    ///
    /// # Errors
    /// [`Error::NotFound`], also when the disk was a creation cut short, which is undone here.
    pub(crate) fn claim_disk(&mut self, given: &str) -> Result<Claimed, Error> {
        self.claim_volume(Noun::Disk, given)
    }

    /// The same for a disk, image or backup.
    ///
    /// # Errors
    /// As [`App::claim_disk`].
    pub(crate) fn claim_volume(&mut self, kind: Noun, given: &str) -> Result<Claimed, Error> {
        let id = disks::find(self.catalog.read(), kind, given)?;
        self.claim_volume_id(kind, id, given)
    }

    /// The same by ID; `given` is the name for messages.
    ///
    /// # Errors
    /// As [`App::claim_disk`].
    pub(crate) fn claim_disk_id(&mut self, id: Uuid, given: &str) -> Result<Claimed, Error> {
        self.claim_volume_id(Noun::Disk, id, given)
    }

    /// The same for a disk, image or backup.
    ///
    /// # Errors
    /// As [`App::claim_disk`].
    pub(crate) fn claim_volume_id(&mut self, kind: Noun, id: Uuid, given: &str) -> Result<Claimed, Error> {
        self.settle_copies_of(id)?;
        let claim = self.claim(kind, id, given)?;
        let gone = || Error::NotFound { noun: kind, given: given.to_owned(), near: None };
        let disk = disks::by_id(self.catalog.read(), id)?.ok_or_else(gone)?;
        let mut claimed = Claimed { disk, claim };
        if let Some(operation) = operations::of::<Operation>(self.catalog.read(), kind, id)? {
            self.settle_disk(&mut claimed, &operation)?;
            claimed.disk = disks::by_id(self.catalog.read(), id)?.ok_or_else(gone)?;
        }
        claimed.disk.base = self.notice_base(&claimed.disk)?;
        Ok(claimed)
    }

    /// The disk that a user's word means, after settling what a dead process left on it. A disk with nothing pending
    /// is only read.
    ///
    /// # Errors
    /// As [`App::claim_disk`].
    pub(crate) fn settle_and_find(&mut self, kind: Noun, given: &str) -> Result<Disk, Error> {
        let disk = self.find_volume(kind, given)?;
        self.settle_copies_of(disk.id)?;
        if operations::of::<Operation>(self.catalog.read(), kind, disk.id)?.is_none() {
            return Ok(disk);
        }
        let claimed =
            self.with_patience(Patience::for_orphans, |app| app.claim_volume_id(kind, disk.id, given));
        match claimed {
            Ok(claimed) => Ok(claimed.disk),
            // Somebody is at it: its state says so.
            Err(Error::Claim { source: ClaimError::Taken { .. }, .. }) => self.find_volume(kind, given),
            Err(error) => Err(error),
        }
    }

    /// Undoes the copies of a volume that were cut short: what they had mounted keeps it from being changed.
    fn settle_copies_of(&mut self, source: Uuid) -> Result<(), Error> {
        for kind in Noun::VOLUMES {
            for id in operations::pending(self.catalog.read(), kind)? {
                let operation = operations::of::<Operation>(self.catalog.read(), kind, id)?;
                if operation.is_some_and(|operation| operation.copies(source)) {
                    self.settle_copy(kind, id)?;
                }
            }
        }
        Ok(())
    }

    fn settle_copy(&mut self, kind: Noun, id: Uuid) -> Result<(), Error> {
        let given = id.to_string();
        // The process that made it may have died, and an evsfs that it ran be at work still.
        let settled = self.with_patience(Patience::for_orphans, |app| app.claim_volume_id(kind, id, &given));
        match settled {
            // It is gone by that, or its process works on it still, or has just finished.
            Ok(_) | Err(Error::NotFound { .. } | Error::Claim { source: ClaimError::Taken { .. }, .. }) => {
                Ok(())
            }
            Err(error @ (Error::Catalog(_) | Error::Claim { .. })) => Err(error),
            // What is left of it may not be in the way; if it is, what was asked fails for that.
            Err(error) => {
                let name = disks::by_id(self.catalog.read(), id)?.map_or(given, |disk| disk.name);
                self.warn(
                    format!("{kind} {name} was cut short and cannot be undone: {error}"),
                    format!("{}; then: ecsctl status", error.report().hint),
                );
                Ok(())
            }
        }
    }

    /// Refuses what only a detached disk allows.
    ///
    /// # Errors
    /// [`Error::AlreadyAttached`].
    pub(crate) fn refuse_unless_free(&self, disk: &Disk) -> Result<(), Error> {
        admission::refuse_attached(self.catalog.read(), disk)
    }

    /// The same as [`App::require_key`] for work that an attached disk's own process does with the key it has.
    ///
    /// # Errors
    /// As there.
    pub(crate) fn require_key_if_detached(&self, disk: &Disk, doing: &'static str) -> Result<(), Error> {
        if disk.server_id.is_some() { Ok(()) } else { self.require_key(disk, doing) }
    }

    /// Verifies every block of a volume, and returns the engine's report.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub(crate) fn check(&self, claimed: &Claimed) -> Result<serde_json::Value, Error> {
        let file = self.installation.place(claimed.disk.id).file;
        self.volumes.check(&claimed.claim, &file).map_err(|source| Error::Volume {
            kind: claimed.disk.kind,
            disk: claimed.disk.name.clone(),
            doing: "checked",
            source: Box::new(source),
        })
    }

    /// Takes the claim on anything.
    pub(crate) fn claim(&self, noun: Noun, id: Uuid, name: &str) -> Result<Claim, Error> {
        Claim::take(&self.installation.locks(), id, self.installation.patience)
            .map_err(|source| Error::Claim { noun, name: name.to_owned(), source })
    }

    /// Finishes or undoes an operation whose process died.
    fn settle_disk(&mut self, claimed: &mut Claimed, operation: &Operation) -> Result<(), Error> {
        let direction = operation.after_crash(self.is_served(&claimed.disk, operation.doing())?);
        tracing::info!(disk = %claimed.disk.name, ?operation, ?direction, "settling what was cut short");
        let done = match direction {
            Direction::Finish => self.follow(claimed, operation, Facts::default()),
            Direction::Undo => self.take(claimed, operation, operation.undo_steps(), &mut Facts::default()),
        };
        if done.is_ok() {
            self.settled.push(Settled {
                name: claimed.disk.name.clone(),
                noun: claimed.disk.kind,
                doing: operation.doing(),
                direction,
            });
        }
        done
    }

    /// Does something with another patience.
    fn with_patience<T>(
        &mut self,
        change: impl FnOnce(Patience) -> Patience,
        work: impl FnOnce(&mut Self) -> T,
    ) -> T {
        let patience = self.installation.patience;
        self.installation.patience = change(patience);
        let done = work(self);
        self.installation.patience = patience;
        done
    }

    /// Settles every operation that was cut short, of disks and servers, for who asks about others: what another process is doing at this
    /// moment is left alone, also when it is an evsfs whose ecsctl was killed.
    ///
    /// # Errors
    /// Those of the catalogue. What could not be settled is returned beside its error.
    pub(crate) fn settle_all(&mut self) -> Result<BTreeMap<String, Error>, Error> {
        self.with_patience(|_| Patience::NONE, Self::settle_each)
    }

    /// The same for who asks for it: an evsfs whose ecsctl was killed is waited for.
    ///
    /// # Errors
    /// As [`App::settle_all`].
    pub(crate) fn settle_all_and_orphans(&mut self) -> Result<BTreeMap<String, Error>, Error> {
        self.with_patience(Patience::for_orphans, Self::settle_each)
    }

    fn settle_each(&mut self) -> Result<BTreeMap<String, Error>, Error> {
        let mut failed = BTreeMap::new();
        let mut pending = Vec::new();
        for kind in Noun::VOLUMES {
            pending.extend(operations::pending(self.catalog.read(), kind)?);
        }
        for id in pending {
            let Some(disk) = disks::by_id(self.catalog.read(), id)? else { continue };
            match self.claim_volume_id(disk.kind, id, &disk.name) {
                Ok(_) | Err(Error::NotFound { .. }) => {}
                Err(Error::Claim { source: ClaimError::Taken { .. }, .. }) => {}
                Err(error) => {
                    failed.insert(disk.name, error);
                }
            }
        }
        for id in operations::pending(self.catalog.read(), Noun::Server)? {
            let Some(server) = rows::by_id(self.catalog.read(), id)? else { continue };
            match self.settle_server(id, &server.name) {
                Ok(()) | Err(Error::Claim { source: ClaimError::Taken { .. }, .. }) => {}
                Err(error) => {
                    failed.insert(server.name, error);
                }
            }
        }
        self.forget_locks()?;
        for id in disks::flattening(self.catalog.read())? {
            if let Some(disk) = disks::by_id(self.catalog.read(), id)? {
                self.notice_base(&disk)?;
            }
        }
        self.notice_ended()?;
        Ok(failed)
    }

    /// Takes away lock files of what was never made, or is gone.
    fn forget_locks(&self) -> Result<(), Error> {
        let (dir, read) = (self.installation.locks(), self.catalog.read());
        for id in steps::io_at("list", &dir, claim::named)? {
            if disks::by_id(read, id)?.is_none() && rows::by_id(read, id)?.is_none() {
                steps::io_at("clear", &dir, |dir| claim::forget(dir, id))?;
            }
        }
        Ok(())
    }

    /// Records the operation if the disk's state allows it, then carries it out. When a step fails, what was done
    /// is undone, and its error returned.
    ///
    /// # Errors
    /// A refusal changes nothing.
    pub(crate) fn run(&mut self, claimed: &mut Claimed, operation: &Operation) -> Result<(), Error> {
        let (id, now) = (claimed.disk.id, self.now.clone());
        if *operation == Operation::Detach {
            self.refuse_machine(&claimed.disk)?;
        }
        let gone = Error::NotFound { noun: claimed.disk.kind, given: claimed.disk.name.clone(), near: None };
        let before;
        (claimed.disk, before) = self.catalog.write(|tx| {
            let mut disk = disks::by_id(tx, id)?.ok_or(gone)?;
            let before = disk.status;
            admission::admit(tx, &mut disk, operation)?;
            disks::update(tx, &disk)?;
            operations::begin(tx, disk.kind, id, operation, &now)?;
            Ok((disk, before))
        })?;
        self.follow(claimed, operation, Facts::beginning(before))
    }

    /// Records a new disk together with its creation, then carries it out.
    ///
    /// # Errors
    /// [`Error::Exists`]; on any other error the disk is gone again.
    pub(crate) fn create_disk(
        &mut self,
        disk: Disk,
        key: Option<String>,
        fill: Option<Fill>,
    ) -> Result<Disk, Error> {
        let claim = self.claim(disk.kind, disk.id, &disk.name)?;
        let operation = Operation::Create { key, fill };
        let now = self.now.clone();
        self.catalog.write(|tx| {
            if let Some(base) = disk.base {
                // In the transaction that records the dependant, so that the image cannot go in between.
                let image = disks::by_id(tx, base)?.filter(|image| image.status == DiskStatus::Available);
                let name = disk.source.as_deref().and_then(|source| source.strip_prefix("image "));
                image.ok_or_else(|| Error::NotFound {
                    noun: Noun::Image,
                    given: name.map_or_else(|| base.to_string(), str::to_owned),
                    near: None,
                })?;
            }
            disks::insert(tx, &disk)?;
            operations::begin(tx, disk.kind, disk.id, &operation, &now)
        })?;
        let facts = Facts::beginning(disk.status);
        let mut claimed = Claimed { disk, claim };
        self.follow(&mut claimed, &operation, facts)?;
        Ok(claimed.disk)
    }

    /// Takes the steps of an operation. When one fails, what was done is undone with what was learnt on the way.
    fn follow(
        &mut self,
        claimed: &mut Claimed,
        operation: &Operation,
        mut facts: Facts,
    ) -> Result<(), Error> {
        let failed = match self.take(claimed, operation, operation.steps(), &mut facts) {
            Ok(()) => return Ok(()),
            Err(error) => error,
        };
        let Ok(serving) = self.is_served(&claimed.disk, operation.doing()) else {
            // Still recorded: the next command, which can see what is mounted, finishes or undoes it.
            return Err(failed);
        };
        match operation.after_failure(serving) {
            Some(Direction::Undo) => {
                // Of what a dead process may have begun, a refusal now says nothing.
                let untouched = facts.before.is_some() && failed.is_untouched();
                let steps = if untouched { operation.undo_untouched_steps() } else { operation.undo_steps() };
                if let Err(error) = self.take(claimed, operation, steps, &mut facts) {
                    // Still recorded: the next command tries again.
                    let (kind, name) = (claimed.disk.kind, &claimed.disk.name);
                    self.warn(
                        format!("{kind} {name} cannot be brought back to what it was: {error}"),
                        format!("{}; then: ecsctl status", error.report().hint),
                    );
                }
            }
            Some(Direction::Finish) | None => {}
        }
        Err(failed)
    }

    /// Whether the view is up.
    ///
    /// # Errors
    /// When what is mounted cannot be seen.
    pub(crate) fn is_served(&self, disk: &Disk, doing: &'static str) -> Result<bool, Error> {
        let failed = |source| Error::Volume {
            kind: disk.kind,
            disk: disk.name.clone(),
            doing,
            source: Box::new(source),
        };
        Ok(self.volumes.serving(&self.installation.place(disk.id)).map_err(failed)?.is_some())
    }

    fn take(
        &mut self,
        claimed: &mut Claimed,
        operation: &Operation,
        steps: &[Step],
        facts: &mut Facts,
    ) -> Result<(), Error> {
        for step in steps {
            if let Some(observe) = &mut self.observe {
                observe(*step);
            }
            self.step(claimed, operation, *step, facts)?;
        }
        Ok(())
    }
}

impl App {
    /// Notes of disks that were flattened in the background that they need this image no more. One that cannot be looked at counts as thin.
    ///
    /// # Errors
    /// Those of the catalogue.
    pub(crate) fn notice_flattened(&mut self, image: Uuid) -> Result<(), Error> {
        for disk in disks::all(self.catalog.read(), Noun::Disk)?.into_iter().filter(|d| d.base == Some(image))
        {
            self.notice_base(&disk)?;
        }
        Ok(())
    }

    /// The same for one disk. Gives the image that it needs still.
    pub(crate) fn notice_base(&mut self, disk: &Disk) -> Result<Option<Uuid>, Error> {
        // Before its file is whole it has no header that could say so.
        if disk.base.is_none() || matches!(disk.status, DiskStatus::Creating | DiskStatus::Deleting) {
            return Ok(disk.base);
        }
        let needs_none = self
            .volumes
            .look(&self.installation.place(disk.id).file)
            .is_ok_and(|look| look.flattened && look.base.is_none());
        if needs_none {
            self.catalog.write(|tx| disks::forget_base(tx, disk.id))?;
            return Ok(None);
        }
        Ok(disk.base)
    }
}
