//! Mounting and unmounting, and what may stand in their way.

mod connect;
pub mod elsewhere;
pub mod holders;
pub mod table;

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use fuser::{Config, Notifier, Session, SessionACL};
use rustix::io::Errno;
use rustix::mount::UnmountFlags;
use tracing::info;

use self::holders::Holder;
use self::table::MountEntry;
use crate::device::BlockDevice;
use crate::fuse::{DISK_NAME, DiskFs};

/// Others must not see an empty directory, and take it for an empty disk, while nothing is mounted on it.
const POINT_MODE: u32 = 0o700;

/// Why something could not be mounted or unmounted.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// There is no such directory.
    #[error("the mount point {point} does not exist", point = point.display())]
    Missing {
        /// The path.
        point: PathBuf,
    },
    /// It is a file.
    #[error("the mount point {point} is not a directory", point = point.display())]
    NotADirectory {
        /// The path.
        point: PathBuf,
    },
    /// It has files, which the mount would hide.
    #[error("the mount point {point} is not empty", point = point.display())]
    NotEmpty {
        /// The path.
        point: PathBuf,
    },
    /// Something is mounted there.
    #[error("{source_name} ({kind}) is mounted at {point} already", point = point.display())]
    InUse {
        /// The path.
        point: PathBuf,
        /// Type of the file system.
        kind: String,
        /// What is mounted.
        source_name: String,
    },
    /// Nothing of this program is mounted there.
    #[error("nothing of evsfs is mounted at {point}", point = point.display())]
    NotMounted {
        /// The path.
        point: PathBuf,
    },
    /// The mount is in use.
    #[error("{point} is in use by {}", holders::describe(.holders), point = point.display())]
    Busy {
        /// The path.
        point: PathBuf,
        /// By whom.
        holders: Vec<Holder>,
    },
    /// It is not mounted here any more, but in other mount namespaces, and the connection could not be cut.
    #[error(
        "{point} is unmounted here, but still mounted in the mount namespace of {}, and {source}",
        holders::describe(.holders), point = point.display()
    )]
    Elsewhere {
        /// The path.
        point: PathBuf,
        /// A process of each such namespace.
        holders: Vec<Holder>,
        /// Why the connection could not be cut.
        source: io::Error,
    },
    /// The system refused.
    #[error("{operation} {point}: {source}", point = point.display())]
    System {
        /// What was tried.
        operation: &'static str,
        /// The path.
        point: PathBuf,
        /// Its reason.
        source: io::Error,
    },
}

impl MountError {
    fn system(operation: &'static str, point: &Path, source: impl Into<io::Error>) -> Self {
        Self::System { operation, point: point.to_owned(), source: source.into() }
    }
}

/// How to mount.
#[derive(Clone, Debug)]
pub struct Options {
    /// Users other than the one who mounts may use it.
    pub allow_other: bool,
    /// Refuse writes in the kernel already.
    pub read_only: bool,
    /// The mark by which it is found again: see [`table::source`].
    pub source: String,
}

/// A mounted device.
#[derive(Debug)]
pub struct Mounted {
    entry: MountEntry,
    notifier: Notifier,
}

impl Mounted {
    /// The kernel's entry.
    #[must_use]
    pub fn entry(&self) -> &MountEntry {
        &self.entry
    }

    /// The raw view.
    #[must_use]
    pub fn disk(&self) -> PathBuf {
        self.entry.point.join(DISK_NAME)
    }

    /// Who uses it, as an error.
    #[must_use]
    pub fn busy(&self) -> MountError {
        busy(&self.entry)
    }

    /// Makes the kernel drop what it has cached of the disk's contents.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn forget_contents(&self) -> io::Result<()> {
        self.notifier.inval_inode(crate::fuse::DISK_INODE, 0, 0)
    }

    /// Makes the kernel learn a new size at once: open files then see it too.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn announce_size(&self) -> io::Result<()> {
        // A negative offset leaves cached contents alone.
        self.notifier.inval_inode(crate::fuse::DISK_INODE, -1, 0)?;
        fs::metadata(self.disk()).map(drop)
    }
}

/// Checks a mount point, clears the remains of a crashed process there, closes the directory to others, and gives back its
/// resolved path.
///
/// # Errors
/// If it cannot carry a mount.
pub fn prepare(point: &Path) -> Result<PathBuf, MountError> {
    let resolved = resolve(point)?;
    if let Some(entry) =
        table::at(&resolved).map_err(|e| MountError::system("read the mounts of", point, e))?
    {
        if !(entry.is_ours() && is_dead(&entry.point)) {
            return Err(MountError::InUse {
                point: resolved,
                kind: entry.kind,
                source_name: entry.source.to_string_lossy().into_owned(),
            });
        }
        info!(point = %resolved.display(), "clearing what a process that is gone left mounted");
        clear(&entry)?;
        return prepare(&resolved);
    }
    let metadata = fs::metadata(&resolved).map_err(|e| MountError::system("inspect", &resolved, e))?;
    if !metadata.is_dir() {
        return Err(MountError::NotADirectory { point: resolved });
    }
    let mut files = fs::read_dir(&resolved).map_err(|e| MountError::system("read", &resolved, e))?;
    if files.next().is_some() {
        return Err(MountError::NotEmpty { point: resolved });
    }
    if metadata.permissions().mode() & 0o777 & !POINT_MODE != 0 {
        fs::set_permissions(&resolved, fs::Permissions::from_mode(POINT_MODE))
            .map_err(|e| MountError::system("close to others", &resolved, e))?;
    }
    Ok(resolved)
}

/// Mounts at a prepared point. Nothing is served before the session is run; it ends when it is unmounted, by whomever.
///
/// # Errors
/// If the system refuses.
pub fn mount<D: BlockDevice>(
    fs: DiskFs<D>,
    point: &Path,
    options: &Options,
) -> Result<(Mounted, Session<DiskFs<D>>), MountError> {
    let refused = |source| MountError::system("mount at", point, source);
    let acl = if options.allow_other { SessionACL::All } else { SessionACL::Owner };
    let mut config = Config::default();
    config.acl = acl;
    config.n_threads = Some(fs.threads().count());
    config.clone_fd = true;
    let connection = connect::connect(point, options).map_err(refused)?;
    let entry = table::at(point)
        .map_err(refused)?
        .filter(|entry| entry.source == *options.source)
        .ok_or_else(|| refused(io::ErrorKind::NotFound.into()))?;
    match Session::from_fd(fs, connection, acl, config) {
        Ok(session) => Ok((Mounted { entry, notifier: session.notifier() }, session)),
        Err(source) => {
            // The connection is closed, so what was mounted is dead.
            clear(&entry)?;
            Err(refused(source))
        }
    }
}

/// Unmounts, unless it is in use.
///
/// # Errors
/// [`MountError::Busy`] names those who use it.
pub fn unmount(entry: &MountEntry) -> Result<(), MountError> {
    if rustix::process::geteuid().is_root() {
        return match rustix::mount::unmount(&entry.point, UnmountFlags::NOFOLLOW) {
            Ok(()) => Ok(()),
            Err(Errno::BUSY) => Err(busy(entry)),
            Err(Errno::INVAL) => Err(MountError::NotMounted { point: entry.point.clone() }),
            Err(errno) => Err(MountError::system("unmount", &entry.point, errno)),
        };
    }
    fusermount(entry, &["-u", "-q"])?;
    if is_still_there(entry)? { Err(busy(entry)) } else { Ok(()) }
}

/// Takes the remains of a process that is gone out of the tree, also if somebody still has files of it open.
///
/// # Errors
/// If it is alive, or the system refuses.
pub fn clear(entry: &MountEntry) -> Result<(), MountError> {
    if !is_dead(&entry.point) {
        return Err(busy(entry));
    }
    if rustix::process::geteuid().is_root() {
        return rustix::mount::unmount(&entry.point, UnmountFlags::NOFOLLOW | UnmountFlags::DETACH)
            .map_err(|errno| MountError::system("clear", &entry.point, errno));
    }
    fusermount(entry, &["-u", "-q", "-z"])?;
    if is_still_there(entry)? { Err(busy(entry)) } else { Ok(()) }
}

/// Whether nobody serves the mount any more: the kernel then answers for it that it is not connected.
#[must_use]
pub fn is_dead(point: &Path) -> bool {
    // The mount point itself may be answered from a cache; a name in it that never was cannot.
    let unknown = point.join(".evsfs-alive?");
    // "Aborted" is what a request hears that was under way when the process ended.
    fs::symlink_metadata(unknown).is_err_and(|e| {
        [Errno::NOTCONN, Errno::CONNABORTED]
            .iter()
            .any(|errno| e.raw_os_error() == Some(errno.raw_os_error()))
    })
}

/// The mount point's real path, also if what is mounted there is dead.
///
/// # Errors
/// If there is no such path.
pub fn resolve(point: &Path) -> Result<PathBuf, MountError> {
    let not_connected = |e: &io::Error| e.raw_os_error() == Some(Errno::NOTCONN.raw_os_error());
    let mut point = std::path::absolute(point).map_err(|e| MountError::system("resolve", point, e))?;
    // Links that end at a dead mount are followed by hand; as many as the kernel would follow.
    for _ in 0..40 {
        match fs::canonicalize(&point) {
            Ok(resolved) => return Ok(resolved),
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Err(MountError::Missing { point }),
            Err(e) if not_connected(&e) => {}
            Err(e) => return Err(MountError::system("resolve", &point, e)),
        }
        let (Some(parent), Some(name)) = (point.parent(), point.file_name()) else { break };
        let parent = fs::canonicalize(parent).map_err(|e| MountError::system("resolve", parent, e))?;
        let in_parent = parent.join(name);
        match fs::read_link(&in_parent) {
            Ok(target) => point = parent.join(target),
            Err(_) => return Ok(in_parent),
        }
    }
    Err(MountError::system("resolve", &point, Errno::LOOP))
}

fn busy(entry: &MountEntry) -> MountError {
    MountError::Busy { point: entry.point.clone(), holders: holders::of(entry) }
}

fn is_still_there(entry: &MountEntry) -> Result<bool, MountError> {
    let all = table::read().map_err(|e| MountError::system("read the mounts of", &entry.point, e))?;
    Ok(all.contains(entry))
}

/// An ordinary user unmounts through the set-user-id helper of the fuse3 package.
fn fusermount(entry: &MountEntry, arguments: &[&str]) -> Result<(), MountError> {
    Command::new("fusermount3")
        .args(arguments)
        .arg("--")
        .arg(&entry.point)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .map(drop)
        .map_err(|e| MountError::system("run fusermount3 for", &entry.point, e))
}
