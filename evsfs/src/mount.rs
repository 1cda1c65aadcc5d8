//! Mounting and unmounting, and what may stand in their way.

mod connect;
pub mod elsewhere;
pub mod holders;
pub mod table;

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use fuser::{Config, Notifier, Session, SessionACL};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, ResolveFlags, openat, openat2, statat};
use rustix::io::Errno;
use rustix::mount::UnmountFlags;
use tracing::{info, warn};

use self::holders::Holder;
use self::table::{MountEntry, Present};
use crate::device::BlockDevice;
use crate::fuse::{DISK_NAME, DiskFs};

/// Others must not see an empty directory, and take it for an empty disk, while nothing is mounted on it.
const POINT_MODE: Mode = Mode::RWXU;

/// How often what is dead at a mount point is cleared for one attach: others may come in between, and what the system will not let go stays.
const CLEARINGS: usize = 3;

/// How long attaches that meet at one mount point may take to get out of each other's way.
const WITHDRAWAL: Duration = Duration::from_secs(5);

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
    /// It is not mounted any more, and who served it cannot be seen from here.
    #[error("{point} is unmounted; whether the process that served it has ended, and its key with it, cannot be seen from here", point = point.display())]
    Unseen {
        /// The path.
        point: PathBuf,
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

/// What keeps a mount in its place. Who that is takes long to find out where there are many processes, so it is not asked in passing.
#[derive(Debug)]
pub enum Obstacle {
    /// It is in use.
    InUse(Box<MountEntry>),
    /// Something is mounted over the path that leads there.
    Covered(Box<MountEntry>),
    /// Anything else.
    Failed(MountError),
}

impl Obstacle {
    /// Names those who use it.
    #[must_use]
    pub fn named(self) -> MountError {
        match self {
            Self::InUse(entry) => busy(&entry),
            Self::Covered(entry) => {
                MountError::Busy { holders: holders::covering(&entry), point: entry.point }
            }
            Self::Failed(error) => error,
        }
    }
}

impl From<MountError> for Obstacle {
    fn from(error: MountError) -> Self {
        Self::Failed(error)
    }
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

    /// The raw view, where it is now: a directory above it may have been renamed, or the mount moved.
    #[must_use]
    pub fn disk(&self) -> PathBuf {
        let present = table::present(&self.entry).ok().flatten();
        present.map_or_else(|| self.entry.point.clone(), |present| present.mount.point).join(DISK_NAME)
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

/// An empty directory that is to carry a mount. It is held open: what happens to its path meanwhile does not matter.
#[derive(Debug)]
pub struct Point {
    path: PathBuf,
    dir: OwnedFd,
}

impl Point {
    fn failed(&self, operation: &'static str, source: impl Into<io::Error>) -> MountError {
        MountError::system(operation, &self.path, source)
    }

    /// A path that leads to this very directory.
    fn handle(&self) -> String {
        handle(&self.dir)
    }

    fn close_to_others(&self) -> Result<(), MountError> {
        let found = rustix::fs::fstat(&self.dir).map_err(|e| self.failed("inspect", e))?;
        if Mode::from_raw_mode(found.st_mode).intersects(Mode::RWXG | Mode::RWXO) {
            rustix::fs::fchmod(&self.dir, POINT_MODE).map_err(|e| self.failed("close to others", e))?;
        }
        Ok(())
    }
}

fn handle(fd: impl AsFd) -> String {
    format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd())
}

/// Checks a mount point, and clears the remains of a crashed process there.
///
/// # Errors
/// If it cannot carry a mount.
pub fn prepare(point: &Path) -> Result<Point, MountError> {
    let mut path = resolve(point)?;
    for _ in 0..CLEARINGS {
        let Some(entry) = mounted_at(&path)? else { break };
        if !(entry.is_ours() && is_dead(&entry.point)) {
            break;
        }
        info!(point = %path.display(), "clearing what a process that is gone left mounted");
        match clear(&entry) {
            // Another attach was quicker. Or the mount is locked to the one it lies on, as what a user namespace inherits: that says the same, and stays.
            Ok(()) | Err(MountError::NotMounted { .. }) => path = resolve(&path)?,
            Err(error) => return Err(error),
        }
    }
    if let Some(entry) = mounted_at(&path)? {
        return Err(in_use(path, &entry));
    }
    // The path was resolved: a link in it now was put there meanwhile.
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let dir = match openat2(CWD, &path, flags, Mode::empty(), ResolveFlags::NO_SYMLINKS) {
        Ok(dir) => dir,
        Err(Errno::NOTDIR) => return Err(MountError::NotADirectory { point: path }),
        Err(errno) => return Err(MountError::system("open", &path, errno)),
    };
    if let Some(entry) = mounted_at(&path)? {
        return Err(in_use(path, &entry));
    }
    let point = Point { path, dir };
    let mut files = fs::read_dir(point.handle()).map_err(|e| point.failed("read", e))?;
    if files.next().is_some() {
        return Err(MountError::NotEmpty { point: point.path });
    }
    Ok(point)
}

fn mounted_at(path: &Path) -> Result<Option<MountEntry>, MountError> {
    table::at(path).map_err(|e| MountError::system("read the mounts of", path, e))
}

fn in_use(point: PathBuf, entry: &MountEntry) -> MountError {
    let source_name = entry.source.to_string_lossy().into_owned();
    MountError::InUse { point, kind: entry.kind.clone(), source_name }
}

/// Closes the directory to others and mounts on it. Nothing is served before the session is run; it ends when it is unmounted, by whomever.
///
/// # Errors
/// If the system refuses, or something else was mounted there first; then nothing of it stays mounted.
pub fn mount<D: BlockDevice>(
    fs: DiskFs<D>,
    point: &Point,
    options: &Options,
) -> Result<(Mounted, Session<DiskFs<D>>), MountError> {
    let mut config = Config::default();
    // Who may open anything, the kernel decides by `allow_other`. What comes from others after that goes through descriptors that they were
    // given, as a machine that gives its rights up has them: all of it is served, discards too.
    let acl = SessionACL::All;
    config.acl = acl;
    config.n_threads = Some(fs.threads().count());
    config.clone_fd = true;
    point.close_to_others()?;
    let connection = connect::connect(point, options).map_err(|e| {
        // The helper may have mounted it, and failed after that.
        withdraw(options);
        point.failed("mount at", e)
    })?;
    let entry = match first_on(point, options) {
        Ok(entry) => entry,
        Err(error) => {
            drop(connection);
            withdraw(options);
            return Err(error);
        }
    };
    match Session::from_fd(fs, connection, acl, config) {
        Ok(session) => Ok((Mounted { entry, notifier: session.notifier() }, session)),
        Err(source) => {
            // The connection is closed, so what was mounted is dead.
            withdraw(options);
            Err(point.failed("mount at", source))
        }
    }
}

/// Finds what was just mounted. The kernel puts a mount on top of one that came first; who has the lowest place has the point.
fn first_on(point: &Point, options: &Options) -> Result<MountEntry, MountError> {
    let failed = |source| point.failed("find what was mounted at", source);
    let below = table::mount_of(&point.dir).map_err(failed)?;
    let all = table::read().map_err(failed)?;
    let is_own = |entry: &&MountEntry| entry.is_ours() && entry.source == *options.source;
    if let Some(entry) = all.iter().filter(is_own).find(|entry| entry.parent == below) {
        return Ok(entry.clone());
    }
    let own = all.iter().find(is_own).ok_or_else(|| failed(io::ErrorKind::NotFound.into()))?;
    let first = all.iter().find(|other| other.parent == below && other.point == own.point);
    Err(in_use(point.path.clone(), first.unwrap_or(own)))
}

/// Takes a mount out that was never served. Others that came after it take theirs out first.
fn withdraw(options: &Options) {
    let end = Instant::now() + WITHDRAWAL;
    loop {
        let own = table::read()
            .map(|all| all.into_iter().rfind(|entry| entry.is_ours() && entry.source == *options.source));
        let cleared = match own {
            Ok(None) => return,
            Ok(Some(entry)) => clear(&entry),
            Err(source) => Err(MountError::system("read the mounts for", Path::new(&options.source), source)),
        };
        match cleared {
            Ok(()) | Err(MountError::NotMounted { .. }) => {}
            Err(_) if Instant::now() < end => thread::sleep(Duration::from_millis(10)),
            Err(error) => return warn!(%error, "a dead mount stays"),
        }
    }
}

/// Unmounts, wherever in the tree it is now, unless it is in use: open, mounted once more, or with something mounted on it.
///
/// # Errors
/// What keeps it there.
pub fn unmount(entry: &MountEntry) -> Result<(), Obstacle> {
    let Present { mount, others } = find(entry)?;
    if !others.is_empty() {
        return Err(Obstacle::InUse(mount.into()));
    }
    // An unmount goes by path, and takes what is on top there.
    let leads_there = root_of(&mount).and_then(|root| Ok(table::mount_of(root)? == mount.id));
    if !leads_there.unwrap_or(false) {
        return Err(Obstacle::Covered(mount.into()));
    }
    if rustix::process::geteuid().is_root() {
        return match rustix::mount::unmount(&mount.point, UnmountFlags::NOFOLLOW) {
            Ok(()) => Ok(()),
            Err(Errno::BUSY) => Err(Obstacle::InUse(mount.into())),
            // Gone; or locked to the mount that it lies on.
            Err(Errno::INVAL) if !is_still_there(&mount)? => {
                Err(MountError::NotMounted { point: mount.point }.into())
            }
            Err(errno) => Err(MountError::system("unmount", &mount.point, errno).into()),
        };
    }
    fusermount(&mount, &["-u", "-q"])?;
    if is_still_there(&mount)? { Err(Obstacle::InUse(mount.into())) } else { Ok(()) }
}

/// Takes the remains of a process that is gone out of the tree, also if somebody still has files of it open.
///
/// # Errors
/// If it is alive, or the system refuses.
pub fn clear(entry: &MountEntry) -> Result<(), MountError> {
    let Present { mount, .. } = find(entry)?;
    let failed = |source| MountError::system("clear", &mount.point, source);
    // Held from the question whether it is dead to the end: by path another mount might be hit, which came meanwhile.
    let root = root_of(&mount).map_err(failed)?;
    if table::mount_of(&root).map_err(failed)? != mount.id || !is_dead_within(&root) {
        return Err(busy(&mount));
    }
    if rustix::process::geteuid().is_root() {
        return match rustix::mount::unmount(handle(&root), UnmountFlags::DETACH) {
            Ok(()) => Ok(()),
            Err(Errno::INVAL) => Err(MountError::NotMounted { point: mount.point }),
            Err(errno) => Err(failed(errno.into())),
        };
    }
    drop(root);
    fusermount(&mount, &["-u", "-q", "-z"])?;
    if is_still_there(&mount)? { Err(busy(&mount)) } else { Ok(()) }
}

fn find(entry: &MountEntry) -> Result<Present, MountError> {
    table::present(entry)
        .map_err(|e| MountError::system("read the mounts of", &entry.point, e))?
        .ok_or_else(|| MountError::NotMounted { point: entry.point.clone() })
}

/// What the path of a mount leads to, without asking the one who serves it.
fn root_of(mount: &MountEntry) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(openat(CWD, &mount.point, flags, Mode::empty())?)
}

/// Whether nobody serves the mount any more: the kernel then answers for it that it is not connected.
#[must_use]
pub fn is_dead(point: &Path) -> bool {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(CWD, point, flags, Mode::empty()).is_ok_and(|root| is_dead_within(&root))
}

fn is_dead_within(root: &OwnedFd) -> bool {
    // The mount point itself may be answered from a cache; a name in it that never was cannot.
    let found = match statat(root, ".evsfs-alive?", AtFlags::SYMLINK_NOFOLLOW) {
        // A copy of the mount that shows the disk alone.
        Err(Errno::NOTDIR) => statat(root, "", AtFlags::EMPTY_PATH),
        found => found,
    };
    // "Aborted" is what a request hears that was under way when the process ended.
    found.is_err_and(|errno| [Errno::NOTCONN, Errno::CONNABORTED].contains(&errno))
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
    let present = table::present(entry).ok().flatten();
    let mount = present.map_or_else(|| entry.clone(), |present| present.mount);
    MountError::Busy { holders: holders::of(&mount), point: mount.point }
}

fn is_still_there(entry: &MountEntry) -> Result<bool, MountError> {
    let all = table::read().map_err(|e| MountError::system("read the mounts of", &entry.point, e))?;
    Ok(all.iter().any(|other| other.id == entry.id && other.is_same(entry)))
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
