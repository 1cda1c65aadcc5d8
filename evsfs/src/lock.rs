//! One process per volume file (F12): an advisory lock on the open file, which ends with its holder.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock, major, minor};
use rustix::io::Errno;

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

/// The process that has the lock of this file, if it can be seen.
#[must_use]
pub fn holder(file: &File) -> Option<u32> {
    let metadata = file.metadata().ok()?;
    let table = fs::read_to_string("/proc/locks").ok()?;
    let device = metadata.dev();
    let wanted = format!("{:02x}:{:02x}:{}", major(device), minor(device), metadata.ino());
    find(&table, &wanted)
}

/// `1: FLOCK  ADVISORY  WRITE 1234 fe:01:5678 0 EOF`; waiters have an arrow after the number.
fn find(table: &str, wanted: &str) -> Option<u32> {
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
        drop(first);
        exclusive(&second, &path).unwrap();
    }

    #[test]
    fn waiters_and_other_kinds_of_locks_are_not_holders() {
        let table = "1: POSIX  ADVISORY  WRITE 10 fe:01:5 0 EOF\n\
            2: -> FLOCK  ADVISORY  WRITE 11 fe:01:5 0 EOF\n\
            3: FLOCK  ADVISORY  WRITE 12 fe:01:55 0 EOF\n\
            4: FLOCK  ADVISORY  WRITE 13 fe:01:5 0 EOF\n";
        assert_eq!(find(table, "fe:01:5"), Some(13));
        assert_eq!(find(table, "fe:02:5"), None);
    }
}
