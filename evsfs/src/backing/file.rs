//! A volume file on the host's file system.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use parking_lot::Mutex;
use rustix::fs::{Advice, FallocateFlags, fallocate};
use rustix::io::{Errno, retry_on_intr};

use super::Backing;

/// Why a volume file could not be opened or created.
#[derive(Debug, thiserror::Error)]
pub enum FileBackingError {
    /// Another process (here, or on a host that shares the file system) has the volume attached.
    #[error("{} is in use by another process: a volume can be attached once; detach it there first", path.display())]
    InUse {
        /// The volume file.
        path: PathBuf,
    },
    /// A new volume would overwrite a file.
    #[error("{} exists already: choose another path, or delete it first", path.display())]
    Exists {
        /// The file that exists.
        path: PathBuf,
    },
    /// It is a directory, a pipe, or a device.
    #[error("{} is not a regular file: a volume is one regular file", path.display())]
    NotAFile {
        /// What was named.
        path: PathBuf,
    },
    /// The host refused.
    #[error("cannot open {}: {source}", path.display())]
    Io {
        /// The volume file.
        path: PathBuf,
        /// What the host said.
        source: io::Error,
    },
}

/// A file, locked for as long as this value lives (rule F12).
///
/// The lock is `flock` on the open file description: it goes with the last descriptor, so the death of the process frees it,
/// and on network file systems the server keeps it for all hosts.
#[derive(Debug)]
pub struct FileBacking {
    file: File,
    syncing: Mutex<()>,
    /// A description of its own of the same open file, for a sync that comes while another one runs: the kernel tells of pages that it has
    /// lost once for each description, so whoever shared one with another might be told that all is well.
    second: Option<Mutex<File>>,
}

impl FileBacking {
    /// Makes a new, empty file of mode 0600 and locks it. It never overwrites.
    ///
    /// # Errors
    /// [`FileBackingError::Exists`], or what the host said.
    pub fn create(path: &Path) -> Result<Self, FileBackingError> {
        let opened = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path);
        match opened {
            Ok(file) => Self::lock(file, path, false),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                Err(FileBackingError::Exists { path: path.to_owned() })
            }
            Err(source) => Err(FileBackingError::Io { path: path.to_owned(), source }),
        }
    }

    /// Opens a volume file for reading and writing and locks it against every other user.
    ///
    /// # Errors
    /// [`FileBackingError::InUse`] if anybody has it open through this type.
    pub fn open(path: &Path) -> Result<Self, FileBackingError> {
        Self::open_with(path, true)
    }

    /// Opens a volume file for reading, together with other readers but with no writer.
    ///
    /// # Errors
    /// [`FileBackingError::InUse`] if a writer has it open.
    pub fn open_read_only(path: &Path) -> Result<Self, FileBackingError> {
        Self::open_with(path, false)
    }

    /// An open file, without a lock: to look at the header of a volume that may be attached.
    #[must_use]
    pub const fn unlocked(file: File) -> Self {
        Self { file, syncing: Mutex::new(()), second: None }
    }

    fn open_with(path: &Path, write: bool) -> Result<Self, FileBackingError> {
        let io_error = |source| FileBackingError::Io { path: path.to_owned(), source };
        // O_NONBLOCK: a pipe put in the volume's place must not hang the open.
        let file = OpenOptions::new()
            .read(true)
            .write(write)
            .custom_flags(libc::O_NONBLOCK)
            .open(path)
            .map_err(io_error)?;
        if !file.metadata().map_err(io_error)?.is_file() {
            return Err(FileBackingError::NotAFile { path: path.to_owned() });
        }
        Self::of(file, path, write)
    }

    /// A regular file that is open already, for reading and, with `write`, for writing, locked as by [`Self::open`] or [`Self::open_read_only`].
    ///
    /// # Errors
    /// As there; they name `path`.
    pub fn of(file: File, path: &Path, write: bool) -> Result<Self, FileBackingError> {
        let io_error = |source| FileBackingError::Io { path: path.to_owned(), source };
        let backing = Self::lock(file, path, !write)?;
        if write {
            backing.forget_cached().map_err(io_error)?;
        }
        Ok(backing)
    }

    /// Lets later reads see what the disk has, not what the kernel believes.
    ///
    /// After a failed write-back Linux keeps the lost pages in its cache and calls them clean. A process that trusted them would chain new
    /// commits to one that the disk does not have. So: first everything that a killed process left dirty is made durable (or the open
    /// fails), then the clean pages are dropped.
    fn forget_cached(&self) -> io::Result<()> {
        self.file.sync_data()?;
        rustix::fs::fadvise(&self.file, 0, None, Advice::DontNeed)?;
        Ok(())
    }

    fn lock(file: File, path: &Path, shared: bool) -> Result<Self, FileBackingError> {
        let locked = if shared { file.try_lock_shared() } else { file.try_lock() };
        match locked {
            Ok(()) if shared => Ok(Self::unlocked(file)),
            Ok(()) => match second_of(&file) {
                Ok(second) => Ok(Self { second: Some(Mutex::new(second)), ..Self::unlocked(file) }),
                Err(source) => Err(FileBackingError::Io { path: path.to_owned(), source }),
            },
            Err(TryLockError::WouldBlock) => Err(FileBackingError::InUse { path: path.to_owned() }),
            Err(TryLockError::Error(source)) => Err(FileBackingError::Io { path: path.to_owned(), source }),
        }
    }
}

/// Another description of an open file. (By its path another file might be opened meanwhile.)
fn second_of(file: &File) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).open(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

impl Backing for FileBacking {
    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_exact_at(buf, offset)
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        self.file.write_all_at(buf, offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn punch(&self, offset: u64, len: u64) -> io::Result<bool> {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        match retry_on_intr(|| fallocate(&self.file, flags, offset, len)) {
            Ok(()) => Ok(true),
            // Some file systems have no holes; the space then stays allocated, which is allowed.
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(false),
            Err(errno) => Err(errno.into()),
        }
    }

    fn sync(&self) -> io::Result<()> {
        match (self.syncing.try_lock(), &self.second) {
            (None, Some(second)) => second.lock().sync_data(),
            (Some(_alone), _) => self.file.sync_data(),
            (None, None) => {
                let _alone = self.syncing.lock();
                self.file.sync_data()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    use super::*;

    #[test]
    fn f12_a_second_writer_is_refused_until_the_first_has_gone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("v.evs");
        let first = FileBacking::create(&path).unwrap();
        assert!(matches!(FileBacking::open(&path), Err(FileBackingError::InUse { .. })));
        assert!(matches!(FileBacking::open_read_only(&path), Err(FileBackingError::InUse { .. })));
        drop(first);
        let reader = FileBacking::open_read_only(&path).unwrap();
        let another = FileBacking::open_read_only(&path).unwrap();
        assert!(matches!(FileBacking::open(&path), Err(FileBackingError::InUse { .. })));
        drop((reader, another));
        FileBacking::open(&path).unwrap();
    }

    /// Each description is told of lost pages, so two who sync at once must not share one.
    #[test]
    fn f11_a_sync_beside_another_has_a_description_of_its_own() {
        use std::io::{Seek, SeekFrom};
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("v.evs");
        drop(FileBacking::create(&path).unwrap());
        let mut backing = FileBacking::open(&path).unwrap();
        {
            let _first = backing.syncing.lock();
            backing.sync().unwrap();
        }
        let second = backing.second.as_mut().unwrap().get_mut();
        assert_eq!(second.metadata().unwrap().ino(), backing.file.metadata().unwrap().ino());
        // A position belongs to a description.
        second.seek(SeekFrom::Start(7)).unwrap();
        assert_eq!(backing.file.stream_position().unwrap(), 0);
        // It keeps nobody out, and lets nobody in.
        assert!(matches!(FileBacking::open(&path), Err(FileBackingError::InUse { .. })));
        drop(backing);
        FileBacking::open(&path).unwrap();
    }

    #[test]
    fn create_never_overwrites_and_keeps_others_out() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("v.evs");
        std::fs::write(&path, b"precious").unwrap();
        assert!(matches!(FileBacking::create(&path), Err(FileBackingError::Exists { .. })));
        assert_eq!(std::fs::read(&path).unwrap(), b"precious");
        let new = dir.path().join("w.evs");
        FileBacking::create(&new).unwrap();
        assert_eq!(std::fs::metadata(&new).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn other_kinds_of_file_are_refused_without_waiting_for_them() {
        let dir = tempfile::tempdir().unwrap();
        let pipe = dir.path().join("pipe");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &pipe,
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::from_raw_mode(0o600),
            0,
        )
        .unwrap();
        assert!(matches!(FileBacking::open_read_only(&pipe), Err(FileBackingError::NotAFile { .. })));
        assert!(FileBacking::open(dir.path()).is_err());
    }

    #[test]
    fn reads_beyond_the_end_are_errors_and_holes_read_as_zeros() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("v.evs");
        let file = FileBacking::create(&path).unwrap();
        file.write_at(&[7; 65536], 0).unwrap();
        let before = std::fs::metadata(&path).unwrap().blocks();
        assert!(file.punch(4096, 32768).unwrap());
        let mut buf = [1; 4096];
        file.read_at(&mut buf, 8192).unwrap();
        assert_eq!(buf, [0; 4096]);
        assert_eq!(file.len().unwrap(), 65536);
        assert!(std::fs::metadata(&path).unwrap().blocks() <= before - 64);
        let error = file.read_at(&mut buf, 65536 - 100).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }
}
