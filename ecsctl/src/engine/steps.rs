//! The steps themselves. Each may be taken again after it was taken, and after the process died within it.

use std::{
    fs, io,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use uuid::Uuid;

use crate::{
    app::App,
    catalog::{disks, operations, servers, snapshots},
    config::private_dir,
    engine::{Claimed, Facts, export::drop_export},
    error::Error,
    model::{
        Noun,
        disk::DiskStatus,
        plan::{Operation, Outcome, Step},
        snapshot::Snapshot,
    },
    output::progress::Progress,
    volumes::{Failure, Long, Mounting, NewVolume, Place, ToolError},
};

impl App {
    pub(super) fn step(
        &mut self,
        claimed: &mut Claimed,
        operation: &Operation,
        step: Step,
        facts: &mut Facts,
    ) -> Result<(), Error> {
        let Claimed { disk, claim } = claimed;
        let place = self.installation.place(disk.id);
        let volume = |source: ToolError| Error::Volume {
            kind: disk.kind,
            disk: disk.name.clone(),
            doing: operation.doing(),
            source: Box::new(source),
        };
        match step {
            Step::WriteVolume => {
                let Operation::Create { key, .. } = operation else { return Ok(()) };
                io_at("make", &self.installation.volumes(), private_dir)?;
                let base = disk.base.map(|image| self.installation.place(image).file);
                let new = NewVolume {
                    file: &place.file,
                    size: disk.size,
                    key: key.as_deref(),
                    uuid: disk.id,
                    image: disk.kind == Noun::Image,
                    base: base.as_deref(),
                };
                facts.written = Some(self.volumes.create(claim, &new).map_err(volume)?);
                // The file is durable by evsfs's word; its name is made so here.
                sync(&self.installation.volumes())
            }
            Step::ClearDead => match self.volumes.serving(&place).map_err(volume)? {
                Some(_) => Ok(()),
                None => self.volumes.unmount(claim, &place).map_err(volume),
            },
            Step::MakeMountpoint => {
                for dir in [Some(place.mountpoint.as_path()), place.control.parent(), place.log.parent()] {
                    io_at("make", dir.unwrap_or(&place.mountpoint), private_dir)?;
                }
                Ok(())
            }
            Step::Mount => {
                facts.serving = Some(
                    self.volumes
                        .mount(claim, &place, Mounting { read_only: false, encrypted: disk.encrypted })
                        .map_err(volume)?,
                );
                Ok(())
            }
            Step::MountReadOnly => self
                .volumes
                .mount(claim, &place, Mounting { read_only: true, encrypted: disk.encrypted })
                .map(|_| ())
                .map_err(volume),
            Step::Release => self.release_plaintext(disk, operation),
            Step::Export => match operation {
                Operation::Export { id, path, format } => {
                    self.export_view(disk, &place, (path, *id), *format)
                }
                _ => Ok(()),
            },
            Step::DropExport => match operation {
                Operation::Export { id, path, .. } => drop_export(path, *id),
                _ => Ok(()),
            },
            Step::CopyIn => match operation {
                Operation::Create { fill: Some(fill), .. } => self.copy_into(claimed, fill, &place, facts),
                _ => Ok(()),
            },
            Step::Verify => match operation {
                Operation::Create { fill: Some(fill), .. } => self.verify_copy(claimed, fill, &place, facts),
                _ => Ok(()),
            },
            Step::ReleaseSource => self.release_source(claimed, operation, facts),
            Step::Publish => match self.stable_path_of(claimed)? {
                Some(path) => publish(&path, claimed),
                None => Ok(()),
            },
            Step::Unpublish => match self.stable_path_of(claimed)? {
                Some(path) => unpublish(&path, claimed),
                None => Ok(()),
            },
            Step::Unmount => self.volumes.unmount(claim, &place).map_err(volume),
            Step::RemoveMountpoint => {
                io_at("remove", &place.control, |path| gone_is_fine(fs::remove_file(path)))?;
                // Not recursive: what is still mounted or not empty must stay.
                io_at("remove", &place.mountpoint, |path| gone_is_fine(fs::remove_dir(path)))
            }
            Step::TakeSnapshot => match operation {
                Operation::Snapshot { id, name } => {
                    self.volumes.snapshot(claim, &place.file, name, *id).map_err(volume)
                }
                _ => Ok(()),
            },
            Step::DropSnapshot => match operation {
                Operation::Snapshot { id, .. } | Operation::DeleteSnapshot { id } => {
                    self.volumes.delete_snapshot(claim, &place.file, *id).map_err(volume)
                }
                _ => Ok(()),
            },
            Step::RollBack => match operation {
                Operation::RollBack { id } => self
                    .volumes
                    .roll_back(claim, &place.file, *id)
                    .map_err(|error| volume(self.name_holders(error, &place))),
                _ => Ok(()),
            },
            Step::Grow => match operation {
                Operation::Extend { size } => self.volumes.extend(claim, &place.file, *size).map_err(volume),
                _ => Ok(()),
            },
            Step::Rewrap => match operation {
                Operation::Rekey { key, .. } => self.volumes.rekey(claim, &place.file, key).map_err(volume),
                _ => Ok(()),
            },
            Step::Reencrypt => match operation {
                Operation::Reencrypt { rate, wait } => {
                    let mut progress = Progress::new(self.out, "re-encrypting", &disk.name, disk.size);
                    let long = Long { rate: *rate, wait: *wait, progress: &mut progress };
                    self.volumes.reencrypt(claim, &place.file, long).map_err(volume)
                }
                _ => Ok(()),
            },
            Step::Flatten => match operation {
                Operation::Flatten { rate, wait } => {
                    let mut progress = Progress::new(self.out, "flattening", &disk.name, disk.size);
                    let long = Long { rate: *rate, wait: *wait, progress: &mut progress };
                    self.volumes.flatten(claim, &place.file, long).map_err(volume)
                }
                _ => Ok(()),
            },
            Step::AcceptPast => self.volumes.accept_past(claim, &place, disk.encrypted).map_err(volume),
            Step::NotePast => self.note_past(claimed),
            Step::NoteBase => {
                claimed.disk.base = self.notice_base(&claimed.disk)?;
                Ok(())
            }
            Step::NoteKey => {
                let now = self.volumes.inspect(&place.file, false).map_err(volume)?.key_id;
                if let Operation::Rekey { alias, .. } = operation
                    && now != claimed.disk.key_id
                {
                    (claimed.disk.key_id, claimed.disk.key_alias) = (now, alias.clone());
                }
                Ok(())
            }
            Step::Erase if disk.encrypted => {
                self.volumes.erase(claim, &place.file).map_err(volume)?;
                // Whoever erased it may have died before that was durable.
                sync(&place.file)?;
                let (kept, name, id) = (self.keys.forget_anchor(disk.id), disk.name.clone(), disk.id);
                if let Err(error) = kept {
                    // What nobody can open any more needs no anchor. A disk goes also while the key service is away: then a place is
                    // taken there, and no more.
                    self.warn(
                        format!("kmsd keeps the anchor of {name}, volume {id}, which is deleted: {error}"),
                        "an administrator can remove it: docs/kmsd.md".to_owned(),
                    );
                }
                Ok(())
            }
            Step::Erase => Ok(()),
            Step::Unlink => {
                let remains = remains(&self.installation.volumes(), disk.id)?;
                for path in [place.file, place.log].iter().chain(&remains) {
                    io_at("remove", path, |path| gone_is_fine(fs::remove_file(path)))?;
                }
                sync(&self.installation.volumes())
            }
            Step::Settle(outcome) => self.settle(claimed, operation, outcome, facts),
        }
    }

    /// Who holds a view that the engine says is busy.
    fn name_holders(&self, error: ToolError, place: &Place) -> ToolError {
        match error {
            ToolError::Failed { class: Failure::Refused, code, message, .. } if code == "busy" => {
                match self.volumes.holders(place) {
                    Ok(holders) => ToolError::Busy { holders, message },
                    Err(error) => error,
                }
            }
            other => other,
        }
    }

    fn settle(
        &mut self,
        claimed: &mut Claimed,
        operation: &Operation,
        outcome: Outcome,
        facts: &mut Facts,
    ) -> Result<(), Error> {
        let disk = &mut claimed.disk;
        match outcome {
            Outcome::Available => {
                if let Some(written) = facts.written.take() {
                    disk.key_id = written.key_id;
                }
                (disk.status, disk.server_id, disk.serving) = (DiskStatus::Available, None, None);
                disk.reason = None;
            }
            Outcome::InUse => {
                (disk.status, disk.reason) = (DiskStatus::InUse, None);
                if let Some(serving) = facts.serving.take() {
                    disk.serving = Some(serving);
                }
            }
            Outcome::ErrorDeleting => disk.status = DiskStatus::ErrorDeleting,
            Outcome::Kept => {
                if let Some(before) = facts.before {
                    disk.status = before;
                }
            }
            Outcome::Gone => {}
            Outcome::Applied => {
                if let Operation::Extend { size } = operation {
                    disk.size = *size;
                }
            }
        }
        let (disk, now) = (&claimed.disk, self.now.clone());
        self.catalog.write(|tx| {
            match operation {
                Operation::Snapshot { id, name } if outcome == Outcome::Applied => {
                    let (id, name) = (*id, name.clone());
                    snapshots::insert(
                        tx,
                        &Snapshot { id, name, disk_id: disk.id, size: disk.size, created_at: now },
                    )?;
                }
                Operation::DeleteSnapshot { id } if outcome == Outcome::Applied => {
                    snapshots::remove(tx, *id)?;
                }
                _ => {}
            }
            if outcome == Outcome::Gone {
                disks::remove(tx, disk.id)?;
            } else {
                disks::update(tx, disk)?;
            }
            operations::end(tx, disk.id)
        })
    }

    /// The stable path of a disk that is, or is being, attached.
    pub(crate) fn stable_path_of(&self, claimed: &Claimed) -> Result<Option<PathBuf>, Error> {
        let Some(server) = claimed.disk.server_id else { return Ok(None) };
        let server = servers::by_id(self.catalog.read(), server)?;
        Ok(server.map(|server| self.installation.stable_path(&server.name, &claimed.disk.name)))
    }
}

/// The symlink appears in one step, also over an older one. It is relative, so that the home may be moved.
fn publish(path: &Path, claimed: &Claimed) -> Result<(), Error> {
    let target = Path::new("../../mnt").join(claimed.disk.id.to_string()).join("disk");
    let Some(server) = path.parent() else { return Ok(()) };
    io_at("make", server, private_dir)?;
    let fresh = fresh(path, claimed);
    io_at("remove", &fresh, |fresh| gone_is_fine(fs::remove_file(fresh)))?;
    io_at("make", &fresh, |fresh| symlink(&target, fresh))?;
    io_at("make", path, |path| fs::rename(&fresh, path))
}

/// Where a stable path is made before it appears. No disk has a name that begins with a dot.
fn fresh(path: &Path, claimed: &Claimed) -> PathBuf {
    path.with_file_name(format!(".{}", claimed.disk.id))
}

fn unpublish(path: &Path, claimed: &Claimed) -> Result<(), Error> {
    io_at("remove", &fresh(path, claimed), |fresh| gone_is_fine(fs::remove_file(fresh)))?;
    match fs::symlink_metadata(path) {
        Ok(found) if found.is_symlink() => io_at("remove", path, |path| gone_is_fine(fs::remove_file(path))),
        // Somebody put something else there; it is not ours.
        Ok(_) => Ok(()),
        Err(source) => io_at("look at", path, |_| gone_is_fine(Err(source))),
    }
}

/// What an evsfs that died while it wrote the volume's file left beside it, by the names that evsfs gives (docs/architecture.md). Nothing else
/// goes, whatever it is called: a copy that somebody keeps there is theirs.
fn remains(dir: &Path, volume: Uuid) -> Result<Vec<PathBuf>, Error> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => io_at("list", dir, |_| other)?,
    };
    let begin = format!(".evsfs-{volume}.");
    let mut found = Vec::new();
    for entry in entries {
        let entry = io_at("list", dir, |_| entry)?;
        let is_ours =
            |name: &str| name.strip_prefix(&begin).is_some_and(|rest| rest.ends_with(".unfinished"));
        if entry.file_name().to_str().is_some_and(is_ours) {
            found.push(entry.path());
        }
    }
    Ok(found)
}

fn sync(path: &Path) -> Result<(), Error> {
    io_at("sync", path, |path| gone_is_fine(fs::File::open(path).and_then(|file| file.sync_all())))
}

fn gone_is_fine(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

pub(super) fn io_at<T>(
    doing: &'static str,
    path: &Path,
    act: impl FnOnce(&Path) -> io::Result<T>,
) -> Result<T, Error> {
    act(path).map_err(|source| Error::Io { doing, path: path.to_owned(), source })
}
