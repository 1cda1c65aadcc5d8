//! The mount in other mount namespaces. One that was made without propagation (`unshare --mount`, most containers) keeps a copy of
//! every mount that was there at that moment. An unmount here leaves the copy, and the kernel ends the connection only with the last
//! copy: long after a disk was detached here, or never.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, openat};
use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen};

use super::holders::{self, Holder};
use super::table::{self, MountEntry};

/// One process of each other mount namespace that has a mount of this device, as far as this user may see them.
#[must_use]
pub fn processes(mount: &MountEntry) -> Vec<Holder> {
    let namespace = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/mnt")).ok();
    let mut seen: HashSet<PathBuf> = namespace("self").into_iter().collect();
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let numbers = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    numbers
        .filter(|pid| namespace(&pid.to_string()).is_some_and(|namespace| seen.insert(namespace)))
        .filter(|pid| table::of_process(*pid).iter().any(|other| other.device == mount.device))
        .map(holders::process)
        .collect()
}

/// Ends the connection of a mount, whatever copies of the mount there are: they answer "not connected" from then on.
///
/// # Errors
/// If the kernel's control file system for FUSE cannot be used; without root's rights it has to be mounted.
pub fn cut(mount: &MountEntry) -> io::Result<()> {
    // Its directory there has the number of the device (fs/fuse/control.c), whose major part is 0: FUSE has no block device here.
    let minor = mount.device.rsplit(':').next().unwrap_or_default();
    let abort = Path::new(minor).join("abort");
    let mounted = Path::new("/sys/fs/fuse/connections").join(&abort);
    let mut file = match File::options().write(true).open(mounted) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => own_control(&abort)?,
        Err(error) => return Err(error),
    };
    file.write_all(b"1")
}

/// Where it is not mounted, as in most containers: mounted for this one file, at no place.
fn own_control(file: &Path) -> Result<File, Errno> {
    let context = fsopen("fusectl", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_create(&context)?;
    let root = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())?;
    Ok(openat(root, file, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?.into())
}
