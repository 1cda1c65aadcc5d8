//! A volume engine without encryption or mounts: volumes are small files, and who serves which outlives the app
//! under test, as real processes do.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    rc::Rc,
};

use uuid::Uuid;

use crate::{
    claim::Claim,
    model::disk::Serving,
    volumes::{
        Failure, Gap, Inspected, Kept, Long, Look, Mounting, NewVolume, Past, Place, ToolError, VolumeTool,
        Written, holders::Holder,
    },
};

/// What a volume file holds until its key is erased.
pub(crate) const HEADER: &str = "wrapped DEK";

/// Where within its work a call dies or fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// The process dies half-way through a volume file.
    DieInCreate,
    /// The process dies after the mount, before it hears of it.
    DieInMount,
    /// The process dies after the unmount.
    DieInUnmount,
    /// The process dies after the snapshot, before it is recorded.
    DieInSnapshot,
    /// Writing the file fails half-way.
    FailCreate,
    /// Mounting is refused.
    FailMount,
    /// Erasing fails, nobody knows how far it came.
    FailErase,
    /// Erasing is refused before anything is written.
    RefuseErase,
    /// There is no program that could erase.
    NoErase,
    /// A snapshot is refused.
    RefuseSnapshot,
    /// Wrapping the key anew fails.
    FailRekey,
    /// The process dies after the key was wrapped anew, before that is recorded.
    DieInRekey,
    /// Copying from the image fails.
    FailFlatten,
    /// The process dies after everything was copied, before that is recorded.
    DieInFlatten,
    /// Accepting an older file is refused.
    FailAccept,
    /// The process dies after an older file was accepted, before that is recorded.
    DieInAccept,
}

/// The payload of the panic that stands for SIGKILL.
#[derive(Debug)]
pub(crate) struct Killed;

#[derive(Debug, Default)]
struct World {
    mounted: BTreeMap<PathBuf, Serving>,
    dead: BTreeSet<u32>,
    busy: BTreeMap<PathBuf, Vec<Holder>>,
    /// Files that are mounted to be read only, by mount point.
    sources: BTreeMap<PathBuf, PathBuf>,
    next_pid: u32,
    scribbles: bool,
    trouble: Option<Trouble>,
    /// Files that are older than the key service knows.
    past: BTreeMap<PathBuf, Gap>,
    log: Vec<String>,
}

/// Shared between the app under test and the test.
#[derive(Debug, Clone, Default)]
pub(crate) struct FakeVolumes(Rc<RefCell<World>>);

impl FakeVolumes {
    /// Makes the next call of its kind die or fail.
    pub(crate) fn trouble(&self, trouble: Option<Trouble>) {
        self.0.borrow_mut().trouble = trouble;
    }

    /// Holds every view open that there is at the moment, or lets go.
    pub(crate) fn hold(&self, holders: &[Holder]) {
        let mut world = self.0.borrow_mut();
        let views: Vec<PathBuf> = world.mounted.keys().cloned().collect();
        world.busy = views.into_iter().map(|view| (view, holders.to_vec())).collect();
    }

    /// Whether guests write over the beginning of a disk as soon as a snapshot of it was taken.
    pub(crate) fn scribble(&self, scribbles: bool) {
        self.0.borrow_mut().scribbles = scribbles;
    }

    /// Kills every serving process; their mounts stay behind, dead.
    pub(crate) fn crash_all(&self) {
        let mut world = self.0.borrow_mut();
        let pids: Vec<u32> = world.mounted.values().map(|s| s.pid).collect();
        world.dead.extend(pids);
    }

    /// The mount points with something mounted on them, dead or alive.
    pub(crate) fn mounted(&self) -> usize {
        self.0.borrow().mounted.len()
    }

    /// What was done, oldest first.
    pub(crate) fn log(&self) -> Vec<String> {
        self.0.borrow().log.clone()
    }

    /// The volume has all of its image now.
    pub(crate) fn flattened(&self, file: &Path) {
        fs::write(flat_mark(file), "").unwrap();
    }

    /// An older file lies in the place of the newest: it has that size.
    pub(crate) fn put_back(&self, file: &Path, size: u64) {
        fs::File::options().write(true).open(data_of(file)).unwrap().set_len(size).unwrap();
        self.0.borrow_mut().past.insert(file.to_owned(), Gap { found: 3, newest: 5 });
    }

    /// The newest files are back in their places.
    pub(crate) fn put_newest(&self) {
        self.0.borrow_mut().past.clear();
    }

    fn gap(&self, file: &Path) -> Option<Gap> {
        self.0.borrow().past.get(file).copied()
    }

    /// What is mounted to be copied from cannot be changed, nor opened once more.
    fn refuse_source(&self, file: &Path) -> Result<(), ToolError> {
        if self.0.borrow().sources.values().any(|source| source == file) {
            return Err(failed("open for reading only"));
        }
        Ok(())
    }

    /// Whether it is attached.
    fn is_served(&self, file: &Path) -> bool {
        let home = file.parent().and_then(Path::parent).unwrap();
        let mountpoint = home.join("mnt").join(file.file_stem().unwrap());
        let serving = self.0.borrow().mounted.get(&mountpoint).cloned();
        serving.is_some_and(|serving| self.alive(&serving))
    }

    fn hits(&self, trouble: Trouble) -> bool {
        let mut world = self.0.borrow_mut();
        let hit = world.trouble == Some(trouble);
        if hit {
            world.trouble = None;
        }
        hit
    }

    fn note(&self, what: &str) {
        self.0.borrow_mut().log.push(what.to_owned());
    }
}

/// What a volume's file holds lies beside it here, under names that evsfs gives to what it has not finished, so that it goes with the file.
fn part(file: &Path, what: &str) -> PathBuf {
    let volume = file.file_stem().unwrap().to_str().unwrap();
    file.with_file_name(format!(".evsfs-{volume}.{what}.unfinished"))
}

/// The contents of a volume, in the open.
pub(crate) fn data_of(file: &Path) -> PathBuf {
    part(file, "data")
}

/// Which key wraps the DEK.
fn key_file(file: &Path) -> PathBuf {
    part(file, "key")
}

/// There when the volume was flattened.
fn flat_mark(file: &Path) -> PathBuf {
    part(file, "flat")
}

/// Where a snapshot's contents are kept.
pub(crate) fn snapshot_of(file: &Path, id: Uuid) -> PathBuf {
    part(file, &format!("snapshot-{id}"))
}

/// The snapshots that a volume has: ID and contents.
fn snapshots_of(file: &Path) -> Vec<(String, PathBuf)> {
    let stem = file.file_stem().unwrap().to_str().unwrap();
    let paths = fs::read_dir(file.parent().unwrap()).unwrap().map(|entry| entry.unwrap().path());
    let id = |path: &Path| {
        let name = path.file_name()?.to_str()?;
        let rest = name.strip_prefix(".evsfs-")?.strip_prefix(stem)?.strip_prefix(".snapshot-")?;
        Some(rest.strip_suffix(".unfinished")?.to_owned())
    };
    paths.filter_map(|path| Some((id(&path)?, path))).collect()
}

/// Where it is seen beside the view of an attached disk.
fn shown_snapshot(file: &Path, id: Uuid) -> PathBuf {
    let home = file.parent().and_then(Path::parent).unwrap();
    home.join("mnt").join(file.file_stem().unwrap()).join(format!("snapshot-{id}"))
}

fn failed(message: &str) -> ToolError {
    ToolError::Failed { class: Failure::Refused, code: "fake".into(), message: message.into(), hint: None }
}

impl VolumeTool for FakeVolumes {
    fn create(&self, _: &Claim, new: &NewVolume<'_>) -> Result<Written, ToolError> {
        assert!(!new.file.exists(), "evsfs refuses to overwrite");
        if self.hits(Trouble::DieInCreate) {
            fs::write(part(new.file, "new"), "").unwrap();
            std::panic::resume_unwind(Box::new(Killed));
        }
        let data = fs::File::create(data_of(new.file)).unwrap();
        if let Some(base) = new.base {
            fs::copy(data_of(base), data_of(new.file)).unwrap();
        }
        data.set_len(new.size).unwrap();
        fs::write(new.file, if new.key.is_some() { HEADER } else { "plain" }).unwrap();
        if self.hits(Trouble::FailCreate) {
            return Err(failed("no space"));
        }
        if let Some(key) = new.key {
            fs::write(key_file(new.file), key).unwrap();
        }
        self.note("create");
        Ok(Written { key_id: new.key.map(str::to_owned) })
    }

    fn mount(&self, _: &Claim, place: &Place, how: Mounting) -> Result<Serving, ToolError> {
        if let Some(serving) = self.serving(place)? {
            return Ok(serving);
        }
        assert!(!self.0.borrow().mounted.contains_key(&place.mountpoint), "a dead mount was cleared");
        assert!(place.file.display().to_string().contains(&place.uuid.to_string()));
        let encrypted = fs::read_to_string(&place.file).unwrap() == HEADER;
        assert!(!how.encrypted || encrypted, "evsfs refuses a plain volume");
        assert!(place.mountpoint.is_dir(), "the mount point is a directory");
        assert!(!fs::read_to_string(&place.file).unwrap().is_empty());
        self.refuse_source(&place.file)?;
        if self.hits(Trouble::FailMount) {
            return Err(failed("refused"));
        }
        if self.gap(&place.file).is_some() {
            let (code, message) = ("rolled_back".to_owned(), "older".to_owned());
            return Err(ToolError::Failed { class: Failure::Refused, code, message, hint: None });
        }
        let serving = {
            let mut world = self.0.borrow_mut();
            world.next_pid += 1;
            let serving = Serving { pid: world.next_pid, started: format!("{}@boot", world.next_pid) };
            world.mounted.insert(place.mountpoint.clone(), serving.clone());
            if how.read_only {
                world.sources.insert(place.mountpoint.clone(), place.file.clone());
            }
            serving
        };
        fs::hard_link(data_of(&place.file), &place.view).unwrap();
        for (id, kept) in snapshots_of(&place.file) {
            fs::hard_link(kept, place.mountpoint.join(format!("snapshot-{id}"))).unwrap();
        }
        fs::write(&place.control, "").unwrap();
        fs::write(&place.log, "").unwrap();
        self.note("mount");
        if self.hits(Trouble::DieInMount) {
            std::panic::resume_unwind(Box::new(Killed));
        }
        Ok(serving)
    }

    fn serving(&self, place: &Place) -> Result<Option<Serving>, ToolError> {
        let serving = self.0.borrow().mounted.get(&place.mountpoint).cloned();
        Ok(serving.filter(|serving| self.alive(serving)))
    }

    fn alive(&self, serving: &Serving) -> bool {
        let world = self.0.borrow();
        world.mounted.values().any(|s| s == serving) && !world.dead.contains(&serving.pid)
    }

    fn holders(&self, place: &Place) -> Result<Vec<Holder>, ToolError> {
        Ok(self.0.borrow().busy.get(&place.mountpoint).cloned().unwrap_or_default())
    }

    fn unmount(&self, _: &Claim, place: &Place) -> Result<(), ToolError> {
        let holders = self.holders(place)?;
        if self.serving(place)?.is_some() && !holders.is_empty() {
            return Err(ToolError::Busy { holders, message: "busy".into() });
        }
        self.0.borrow_mut().sources.remove(&place.mountpoint);
        if self.0.borrow_mut().mounted.remove(&place.mountpoint).is_some() {
            fs::remove_file(&place.view).unwrap();
            for entry in fs::read_dir(&place.mountpoint).unwrap() {
                fs::remove_file(entry.unwrap().path()).unwrap();
            }
            self.note("unmount");
        }
        if self.hits(Trouble::DieInUnmount) {
            std::panic::resume_unwind(Box::new(Killed));
        }
        Ok(())
    }

    fn snapshot(&self, _: &Claim, file: &Path, name: &str, id: Uuid) -> Result<(), ToolError> {
        self.refuse_source(file)?;
        if self.hits(Trouble::RefuseSnapshot) {
            return Err(failed("no"));
        }
        fs::copy(data_of(file), snapshot_of(file, id)).unwrap();
        let shown = shown_snapshot(file, id);
        if shown.parent().unwrap().is_dir() && !shown.exists() {
            fs::hard_link(snapshot_of(file, id), shown).unwrap();
        }
        if self.0.borrow().scribbles {
            let data = fs::File::options().write(true).open(data_of(file)).unwrap();
            std::os::unix::fs::FileExt::write_all_at(&data, b"scribble", 0).unwrap();
        }
        self.note(&format!("snapshot {name}"));
        if self.hits(Trouble::DieInSnapshot) {
            std::panic::resume_unwind(Box::new(Killed));
        }
        Ok(())
    }

    fn delete_snapshot(&self, _: &Claim, file: &Path, id: Uuid) -> Result<(), ToolError> {
        self.refuse_source(file)?;
        if self.gap(file).is_some() && !self.is_served(file) {
            return Err(failed("older"));
        }
        self.note("snapshot-delete");
        // One that is gone is fine.
        let _ = fs::remove_file(snapshot_of(file, id));
        let _ = fs::remove_file(shown_snapshot(file, id));
        Ok(())
    }

    fn roll_back(&self, _: &Claim, file: &Path, id: Uuid) -> Result<(), ToolError> {
        fs::copy(snapshot_of(file, id), data_of(file)).unwrap();
        self.note("rollback");
        Ok(())
    }

    fn extend(&self, _: &Claim, file: &Path, size: u64) -> Result<(), ToolError> {
        self.refuse_source(file)?;
        fs::File::options().write(true).open(data_of(file)).unwrap().set_len(size).unwrap();
        self.note("extend");
        Ok(())
    }

    fn rekey(&self, _: &Claim, file: &Path, key: &str) -> Result<(), ToolError> {
        self.refuse_source(file)?;
        if self.hits(Trouble::FailRekey) {
            return Err(failed("no"));
        }
        fs::write(key_file(file), key).unwrap();
        if self.hits(Trouble::DieInRekey) {
            std::panic::resume_unwind(Box::new(Killed));
        }
        Ok(())
    }

    fn reencrypt(&self, _: &Claim, _: &Path, long: Long<'_>) -> Result<(), ToolError> {
        self.note(&format!("re-encrypt {:?}", long.rate));
        Ok(())
    }

    fn flatten(&self, _: &Claim, file: &Path, long: Long<'_>) -> Result<(), ToolError> {
        if self.hits(Trouble::FailFlatten) {
            return Err(failed("no"));
        }
        self.note(&format!("flatten {:?}", long.rate));
        // What takes long is done when somebody waits for it, or when the test says so.
        if long.wait {
            self.flattened(file);
        }
        if self.hits(Trouble::DieInFlatten) {
            std::panic::resume_unwind(Box::new(Killed));
        }
        Ok(())
    }

    fn look(&self, file: &Path) -> Result<Look, ToolError> {
        let flattened = flat_mark(file).exists();
        Ok(Look { flattened, base: (!flattened).then(Uuid::nil), ..Look::default() })
    }

    fn past(&self, place: &Place, _: bool) -> Result<Past, ToolError> {
        let size = fs::metadata(data_of(&place.file)).map_err(|_| failed("no data"))?.len();
        let kept = snapshots_of(&place.file).into_iter().map(|(id, contents)| Kept {
            id: id.parse().unwrap(),
            name: format!("s-{}", &id[..4]),
            size: fs::metadata(contents).unwrap().len(),
            created: 0,
        });
        Ok(Past { gap: self.gap(&place.file), size, snapshots: kept.collect() })
    }

    fn accept_past(&self, _: &Claim, place: &Place, _: bool) -> Result<(), ToolError> {
        if self.hits(Trouble::FailAccept) {
            return Err(failed("no"));
        }
        self.0.borrow_mut().past.remove(&place.file);
        self.note("accept");
        if self.hits(Trouble::DieInAccept) {
            std::panic::resume_unwind(Box::new(Killed));
        }
        Ok(())
    }

    fn check(&self, _: &Claim, _: &Path) -> Result<serde_json::Value, ToolError> {
        Ok(serde_json::json!({ "sound": true, "bad_count": 0 }))
    }

    fn version(&self) -> Result<String, ToolError> {
        Ok(env!("CARGO_PKG_VERSION").to_owned())
    }

    /// Its files hold no header: what a volume is follows from its name and its length.
    fn inspect(&self, file: &Path, unlock: bool) -> Result<Inspected, ToolError> {
        let text = fs::read_to_string(file).map_err(|_| failed("no such file"))?;
        let data = fs::metadata(data_of(file)).map_err(|_| failed("no data"))?;
        Ok(Inspected {
            uuid: file.file_stem().and_then(|stem| stem.to_str()?.parse().ok()).unwrap(),
            image: false,
            encrypted: text == HEADER,
            key_id: fs::read_to_string(key_file(file)).ok().filter(|_| text == HEADER),
            base: None,
            created: 0,
            size: unlock.then_some(data.len()),
            snapshots: Vec::new(),
        })
    }

    fn erase(&self, _: &Claim, file: &Path) -> Result<(), ToolError> {
        self.refuse_source(file)?;
        if self.hits(Trouble::FailErase) {
            let (code, message) = ("fake".into(), "I/O error".into());
            return Err(ToolError::Failed { class: Failure::Other, code, message, hint: None });
        }
        if self.hits(Trouble::RefuseErase) {
            return Err(failed("in use by process 7"));
        }
        if self.hits(Trouble::NoErase) {
            let source = std::io::ErrorKind::NotFound.into();
            return Err(ToolError::Spawn { program: "evsfs".into(), source });
        }
        if file.exists() {
            fs::write(file, "erased").unwrap();
            self.note("erase");
        }
        Ok(())
    }
}
