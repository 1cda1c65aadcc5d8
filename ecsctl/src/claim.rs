//! Claims: who works on a disk or server at the moment. A claim is a lock on a file, so it ends with its process,
//! also by SIGKILL; an operation in the catalogue whose claim is free was therefore cut short.

use std::{
    fs::{self, File, TryLockError},
    io::{self, Write},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::Stdio,
    thread,
    time::{Duration, Instant},
};

use thiserror::Error;
use uuid::Uuid;

use crate::{config::private_dir, volumes::process};

/// How long to wait for whoever has a claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Patience {
    /// For another ecsctl.
    pub(crate) ecsctl: Duration,
    /// For the evsfs that a killed ecsctl left at work; its end is near.
    pub(crate) orphan: Duration,
}

impl Patience {
    /// Not at all.
    pub(crate) const NONE: Self = Self { ecsctl: Duration::ZERO, orphan: Duration::ZERO };

    /// The same for both.
    pub(crate) const fn of(both: Duration) -> Self {
        Self { ecsctl: both, orphan: both }
    }

    /// Only for what a killed ecsctl left.
    pub(crate) const fn for_orphans(self) -> Self {
        Self { ecsctl: Duration::ZERO, ..self }
    }
}

/// The right to change one disk or server, until dropped.
#[derive(Debug)]
pub(crate) struct Claim {
    file: File,
    path: PathBuf,
}

/// Why there is no claim.
#[derive(Debug, Error)]
pub(crate) enum ClaimError {
    /// Another process has it, and kept it for as long as this one was ready to wait.
    #[error("another ecsctl (pid {pid}) is working on it")]
    Taken {
        /// The process that took it; 0 when it cannot be read.
        pid: u32,
    },
    /// The lock file cannot be used.
    #[error("cannot lock {}: {source}", path.display())]
    Io {
        /// The lock file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl Claim {
    /// Takes the claim on `id`, waiting for another process to give it up as long as `patience` says.
    ///
    /// # Errors
    /// [`ClaimError::Taken`] after that time, [`ClaimError::Io`] when the directory cannot be written.
    pub(crate) fn take(dir: &Path, id: Uuid, patience: Patience) -> Result<Self, ClaimError> {
        let path = dir.join(format!("{id}.lock"));
        let failed = |source| ClaimError::Io { path: path.clone(), source };
        let start = Instant::now();
        loop {
            private_dir(dir).map_err(failed)?;
            let mut file = File::options()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .open(&path)
                .map_err(failed)?;
            match file.try_lock() {
                Ok(()) => {
                    // Its last holder may have removed the file after it was opened here.
                    if !same_file(&file, &path).map_err(failed)? {
                        continue;
                    }
                    file.set_len(0).and_then(|()| write!(file, "{}", std::process::id())).map_err(failed)?;
                    return Ok(Self { file, path });
                }
                Err(TryLockError::WouldBlock) if start.elapsed() < patience.ecsctl => {
                    thread::sleep(Duration::from_millis(10));
                }
                Err(TryLockError::WouldBlock) => {
                    let pid =
                        fs::read_to_string(&path).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0);
                    if start.elapsed() < patience.orphan && process::identify(pid).is_none() {
                        thread::sleep(Duration::from_millis(10));
                        continue;
                    }
                    return Err(ClaimError::Taken { pid });
                }
                Err(TryLockError::Error(source)) => return Err(failed(source)),
            }
        }
    }

    /// The claim as a child's standard input, so that it lasts until the child has ended too.
    ///
    /// # Errors
    /// When there are no descriptors left.
    pub(crate) fn stdin(&self) -> io::Result<Stdio> {
        Ok(self.file.try_clone()?.into())
    }
}

/// The resources that have a lock file in `dir`.
///
/// # Errors
/// When the directory cannot be read; one that is not there holds none.
pub(crate) fn named(dir: &Path) -> io::Result<Vec<Uuid>> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let name = entry?.file_name();
        let id = name.to_str().and_then(|name| Uuid::parse_str(name.strip_suffix(".lock")?).ok());
        found.extend(id);
    }
    Ok(found)
}

/// Removes the lock file of a resource that does not exist, which its killed process left. One that is locked stays: somebody is about to
/// make the resource.
///
/// # Errors
/// When the file cannot be opened, locked or removed.
pub(crate) fn forget(dir: &Path, id: Uuid) -> io::Result<()> {
    let path = dir.join(format!("{id}.lock"));
    let file = match File::options().read(true).write(true).open(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    match file.try_lock() {
        Ok(()) if same_file(&file, &path)? => fs::remove_file(&path),
        Ok(()) | Err(TryLockError::WouldBlock) => Ok(()),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

impl Drop for Claim {
    /// The file goes first, then the lock: whoever waits for it sees that it is gone, and makes a new one.
    fn drop(&mut self) {
        // Failing leaves a file that the next claim uses again.
        let _ = fs::remove_file(&self.path);
    }
}

fn same_file(file: &File, path: &Path) -> io::Result<bool> {
    let open = file.metadata()?;
    match fs::metadata(path) {
        Ok(named) => Ok((open.dev(), open.ino()) == (named.dev(), named.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::mem::MaybeUninit;
    use std::sync::atomic::{AtomicU32, Ordering};

    use rustix::{fs::inotify, io::Errno};

    use super::*;

    #[test]
    fn one_holder_at_a_time_and_the_other_is_told_who() {
        let dir = tempfile::tempdir().unwrap();
        let id = Uuid::new_v4();
        let first = Claim::take(dir.path(), id, Patience::NONE).unwrap();
        let refused = Claim::take(dir.path(), id, Patience::NONE).unwrap_err();
        assert!(matches!(refused, ClaimError::Taken { pid } if pid == std::process::id()), "{refused}");
        Claim::take(dir.path(), Uuid::new_v4(), Patience::NONE).unwrap();
        drop(first);
        Claim::take(dir.path(), id, Patience::NONE).unwrap();
    }

    #[test]
    fn the_file_of_a_dead_process_is_forgotten_and_that_of_a_live_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let (held, left) = (Uuid::new_v4(), Uuid::new_v4());
        let claim = Claim::take(dir.path(), held, Patience::NONE).unwrap();
        fs::write(dir.path().join(format!("{left}.lock")), "1").unwrap();
        fs::write(dir.path().join("other"), "").unwrap();
        let mut found = named(dir.path()).unwrap();
        found.sort();
        let mut both = vec![held, left];
        both.sort();
        assert_eq!(found, both);
        for id in both {
            forget(dir.path(), id).unwrap();
            forget(dir.path(), id).unwrap();
        }
        assert_eq!(named(dir.path()).unwrap(), [held]);
        drop(claim);
        assert!(named(&dir.path().join("none")).unwrap().is_empty());
    }

    #[test]
    fn removing_the_file_never_lets_two_in() {
        let dir = tempfile::tempdir().unwrap();
        let id = Uuid::new_v4();
        let inside = AtomicU32::new(0);
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..50 {
                        let claim =
                            Claim::take(dir.path(), id, Patience::of(Duration::from_secs(60))).unwrap();
                        assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                        inside.fetch_sub(1, Ordering::SeqCst);
                        drop(claim);
                    }
                });
            }
        });
    }

    #[test]
    fn the_child_of_a_killed_process_keeps_the_claim_until_it_ends() {
        let dir = tempfile::tempdir().unwrap();
        let id = Uuid::new_v4();
        let claim = Claim::take(dir.path(), id, Patience::NONE).unwrap();
        let mut child =
            std::process::Command::new("sleep").arg("60").stdin(claim.stdin().unwrap()).spawn().unwrap();
        // A killed process closes the file and does not remove it.
        let (path, kept) = (claim.path.clone(), dir.path().join("kept"));
        fs::hard_link(&path, &kept).unwrap();
        drop(claim);
        fs::rename(&kept, &path).unwrap();
        let taken = Claim::take(dir.path(), id, Patience::NONE);
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(matches!(taken, Err(ClaimError::Taken { .. })));
        Claim::take(dir.path(), id, Patience::NONE).unwrap();
    }

    #[test]
    fn a_dead_holders_child_is_waited_for_only_by_who_has_patience_for_it() {
        let dir = tempfile::tempdir().unwrap();
        let id = Uuid::new_v4();
        let path = dir.path().join(format!("{id}.lock"));
        let mut holder = std::process::Command::new("true").spawn().unwrap();
        let dead = holder.id();
        holder.wait().unwrap();
        // A lock belongs to the open file, so this process's is any other's.
        let leave = || {
            let mut file = File::create(&path).unwrap();
            write!(file, "{dead}").unwrap();
            file.lock().unwrap();
            file
        };
        let orphan = leave();
        let began = Instant::now();
        let refused = Claim::take(dir.path(), id, Patience::NONE).unwrap_err();
        assert!(matches!(refused, ClaimError::Taken { pid } if pid == dead), "{refused}");
        assert!(began.elapsed() < Duration::from_secs(20), "nobody's patience was asked for");
        // It is seen to come again before it can have the claim: who has no patience opens the file twice, to lock it and to read whose it is.
        let watch = inotify::init(inotify::CreateFlags::NONBLOCK | inotify::CreateFlags::CLOEXEC).unwrap();
        inotify::add_watch(&watch, &path, inotify::WatchFlags::OPEN).unwrap();
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut opened = inotify::Reader::new(&watch, &mut buffer);
        thread::scope(|scope| {
            let patient = Patience::of(Duration::from_secs(60)).for_orphans();
            let waiting = scope.spawn(move || Claim::take(dir.path(), id, patient).map(drop));
            let mut times = 0;
            while times < 3 && !waiting.is_finished() {
                match opened.next() {
                    Ok(_) => times += 1,
                    Err(Errno::AGAIN) => thread::yield_now(),
                    Err(error) => panic!("{error}"),
                }
            }
            drop(orphan);
            waiting.join().unwrap().unwrap();
        });
    }
}
