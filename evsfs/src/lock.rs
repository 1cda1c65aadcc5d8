//! One process per volume file (F12): an advisory lock on the open file, which ends with its holder.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock, major, minor};
use rustix::io::Errno;

use crate::mount::table;

/// Why a file could not be locked.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process has it, on this host or on one that shares the file system.
    #[error("{file} is in use by {}", holder_text(*.holder), file = file.display())]
    Held {
        /// The file.
        file: PathBuf,
        /// The process, if it runs on this host and this user may see it.
        holder: Option<u32>,
    },
    /// The file system has no locks.
    #[error("cannot lock {file}: {source}", file = file.display())]
    Unsupported {
        /// The file.
        file: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
}

fn holder_text(holder: Option<u32>) -> String {
    holder
        .map_or_else(|| "a process that cannot be seen from here".to_owned(), |pid| format!("process {pid}"))
}

/// Takes the exclusive lock; it lasts until the file and all its duplicates are closed.
///
/// # Errors
/// If another process has it.
pub fn exclusive(file: &File, path: &Path) -> Result<(), LockError> {
    match flock(file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(()),
        Err(Errno::WOULDBLOCK) => Err(LockError::Held { file: path.to_owned(), holder: holder(file) }),
        Err(errno) => Err(LockError::Unsupported { file: path.to_owned(), source: errno.into() }),
    }
}

/// Whether any process has a lock of this file, which this one has not locked.
#[must_use]
pub fn is_held(file: &File) -> bool {
    // What cannot be locked through this descriptor is left to whoever wants to open it for writing.
    let tried = flock(file, FlockOperation::NonBlockingLockExclusive);
    if tried.is_ok() {
        let _ = flock(file, FlockOperation::Unlock);
    }
    tried == Err(Errno::WOULDBLOCK)
}

/// The process that has the lock of this file, if it can be seen.
#[must_use]
pub fn holder(file: &File) -> Option<u32> {
    let metadata = file.metadata().ok()?;
    // The table has the device of the file system. On btrfs each subvolume has another one of its own.
    let device = device_of(file).or_else(|| {
        let device = metadata.dev();
        Some((major(device), minor(device)))
    })?;
    find(&fs::read_to_string("/proc/locks").ok()?, device, metadata.ino())
}

/// The process that has the lock of the file with this device and inode number, as `stat` has them, if it can be seen.
#[must_use]
pub fn holder_of((device, inode): (u64, u64)) -> Option<u32> {
    let table = fs::read_to_string("/proc/locks").ok()?;
    let of_volumes = || table::read().unwrap_or_default().into_iter().filter(|entry| entry.kind == "btrfs");
    find(&table, (major(device), minor(device)), inode)
        .or_else(|| of_volumes().find_map(|entry| find(&table, numbers(&entry.device)?, inode)))
}

/// Device of the file system that an open file lies in.
fn device_of(file: &File) -> Option<(u32, u32)> {
    let mount = table::mount_of(file).ok()?;
    numbers(&table::read().ok()?.into_iter().find(|entry| entry.id == mount)?.device)
}

fn numbers(device: &str) -> Option<(u32, u32)> {
    let (major, minor) = device.split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// `1: FLOCK  ADVISORY  WRITE 1234 fe:01:5678 0 EOF`; waiters have an arrow after the number.
fn find(table: &str, (major, minor): (u32, u32), inode: u64) -> Option<u32> {
    let wanted = format!("{major:02x}:{minor:02x}:{inode}");
    table.lines().find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        match fields[..] {
            [_, "FLOCK", _, _, pid, file, ..] if file == wanted => pid.parse().ok().filter(|pid| *pid != 0),
            _ => None,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f12_a_second_lock_is_refused_and_names_the_holder() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("volume");
        let first = File::create(&path).unwrap();
        exclusive(&first, &path).unwrap();
        let second = File::open(&path).unwrap();
        let Err(LockError::Held { holder, .. }) = exclusive(&second, &path) else { panic!("locked twice") };
        assert_eq!(holder, Some(std::process::id()));
        assert!(is_held(&second));
        let metadata = second.metadata().unwrap();
        assert_eq!(holder_of((metadata.dev(), metadata.ino())), Some(std::process::id()));
        drop(first);
        assert!(!is_held(&second) && !is_held(&second));
        exclusive(&second, &path).unwrap();
    }

    #[test]
    fn waiters_and_other_kinds_of_locks_are_not_holders() {
        let table = "1: POSIX  ADVISORY  WRITE 10 fe:01:5 0 EOF\n\
            2: -> FLOCK  ADVISORY  WRITE 11 fe:01:5 0 EOF\n\
            3: FLOCK  ADVISORY  WRITE 12 fe:01:55 0 EOF\n\
            4: FLOCK  ADVISORY  WRITE 13 fe:01:5 0 EOF\n";
        assert_eq!(find(table, (0xfe, 1), 5), Some(13));
        assert_eq!(find(table, (0xfe, 2), 5), None);
    }
}
