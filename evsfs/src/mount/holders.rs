//! Who keeps a mount busy: processes with something of it open, and loop devices whose backing file lies in it.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::table::{self, MountEntry};

/// One user of the mount.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub enum Holder {
    /// A process that has a file of the mount open or mapped, or stands in it.
    Process {
        /// Process id.
        pid: u32,
        /// Name of its program.
        name: String,
    },
    /// A loop device over the disk.
    Loop {
        /// Such as `/dev/loop3`.
        device: PathBuf,
        /// Where file systems on it are mounted.
        mounted: Vec<PathBuf>,
    },
    /// The disk as swap space.
    Swap {
        /// Path of the area.
        area: PathBuf,
    },
    /// The mount is mounted once more at another place, or something is mounted in it.
    Mount {
        /// The other place.
        point: PathBuf,
    },
}

impl std::fmt::Display for Holder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Process { pid, name } => write!(f, "process {pid} ({name})"),
            Self::Loop { device, mounted } if mounted.is_empty() => write!(f, "{}", device.display()),
            Self::Loop { device, mounted } => {
                let points: Vec<_> = mounted.iter().map(|point| point.display().to_string()).collect();
                write!(f, "{} mounted at {}", device.display(), points.join(", "))
            }
            Self::Swap { area } => write!(f, "swap space at {}", area.display()),
            Self::Mount { point } => write!(f, "mount at {}", point.display()),
        }
    }
}

/// A list of holders for a message.
#[must_use]
pub fn describe(holders: &[Holder]) -> String {
    if holders.is_empty() {
        return "something that this user may not see".to_owned();
    }
    holders.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

/// Finds them as far as this user may see them. Asks /proc and /sys only, never the mounted file system, which may be dead.
#[must_use]
pub fn of(mount: &MountEntry) -> Vec<Holder> {
    let mounts = table::read().unwrap_or_default();
    let mut found = loops(mount, &mounts);
    found.extend(swaps(mount));
    let others = table::present(mount).ok().flatten().map(|present| present.others);
    found.extend(others.into_iter().flatten().map(|other| Holder::Mount { point: other.point }));
    found.extend(processes(mount));
    found
}

/// What is mounted over a directory on the way to a mount, so that its path leads elsewhere.
pub(super) fn covering(mount: &MountEntry) -> Vec<Holder> {
    let mounts = table::read().unwrap_or_default();
    let mut above = mount.id;
    let mut way = Vec::new();
    while let Some(entry) = mounts.iter().find(|entry| entry.id == above && !way.contains(&entry.id)) {
        way.push(entry.id);
        above = entry.parent;
    }
    let on_the_way = mounts.iter().filter(|other| mount.point.starts_with(&other.point));
    on_the_way
        .filter(|other| !way.contains(&other.id))
        .map(|other| Holder::Mount { point: other.point.clone() })
        .collect()
}

fn processes(mount: &MountEntry) -> Vec<Holder> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let mut pids: Vec<u32> =
        entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    pids.sort_unstable();
    pids.into_iter().filter(|pid| uses(*pid, mount)).map(process).collect()
}

/// A process by its number.
pub(super) fn process(pid: u32) -> Holder {
    Holder::Process { pid, name: program(pid) }
}

fn program(pid: u32) -> String {
    fs::read_to_string(format!("/proc/{pid}/comm"))
        .map_or_else(|_| "?".to_owned(), |name| name.trim().to_owned())
}

fn uses(pid: u32, mount: &MountEntry) -> bool {
    let process = PathBuf::from(format!("/proc/{pid}"));
    let stands = |link: &str| {
        fs::read_link(process.join(link)).is_ok_and(|target| is_at_or_below(&target, &mount.point))
    };
    // In another mount namespace the same mount has another number.
    let own = |link: PathBuf| fs::read_link(link).ok();
    let ids: Vec<u64> = if own(process.join("ns/mnt")) == own("/proc/self/ns/mnt".into()) {
        vec![mount.id]
    } else {
        let copies = table::of_process(pid).into_iter().filter(|other| other.device == mount.device);
        copies.map(|other| other.id).collect()
    };
    let descriptors = fs::read_dir(process.join("fdinfo"));
    stands("cwd")
        || stands("root")
        || descriptors.is_ok_and(|mut all| all.any(|fd| fd.is_ok_and(|fd| is_of(&fd.path(), &ids))))
        || fs::read(process.join("maps")).is_ok_and(|maps| maps_device(&maps, &mount.device))
}

/// `mnt_id:` in /proc/PID/fdinfo/N is the mount that the descriptor was opened through.
fn is_of(fdinfo: &Path, ids: &[u64]) -> bool {
    let Ok(text) = fs::read_to_string(fdinfo) else { return false };
    text.lines()
        .find_map(|line| line.strip_prefix("mnt_id:"))
        .is_some_and(|value| value.trim().parse().is_ok_and(|id| ids.contains(&id)))
}

/// `address perms offset device inode path`, the device as hexadecimal `major:minor`.
fn maps_device(maps: &[u8], device: &str) -> bool {
    let Some((major, minor)) = device.split_once(':') else { return false };
    let (Ok(major), Ok(minor)) = (major.parse::<u32>(), minor.parse::<u32>()) else { return false };
    let wanted = format!("{major:02x}:{minor:02x}");
    maps.split(|&byte| byte == b'\n')
        .any(|line| line.split(|&byte| byte == b' ').nth(3) == Some(wanted.as_bytes()))
}

fn loops(mount: &MountEntry, mounts: &[MountEntry]) -> Vec<Holder> {
    let Ok(entries) = fs::read_dir("/sys/block") else { return Vec::new() };
    let mut found: Vec<Holder> = entries
        .flatten()
        .filter(|entry| {
            fs::read(entry.path().join("loop/backing_file"))
                .is_ok_and(|file| is_below(Path::new(OsStr::from_bytes(file.trim_ascii_end())), &mount.point))
        })
        .map(|entry| {
            let device = Path::new("/dev").join(entry.file_name());
            let of_device = |source: &OsStr| {
                let text = source.as_bytes();
                text == device.as_os_str().as_bytes()
                    || text
                        .strip_prefix(device.as_os_str().as_bytes())
                        .is_some_and(|partition| partition.starts_with(b"p"))
            };
            let mounted = mounts.iter().filter(|m| of_device(&m.source)).map(|m| m.point.clone()).collect();
            Holder::Loop { device, mounted }
        })
        .collect();
    found.sort_by_key(ToString::to_string);
    found
}

fn swaps(mount: &MountEntry) -> Vec<Holder> {
    let table = fs::read("/proc/swaps").unwrap_or_default();
    swap_areas(&table).filter(|area| is_below(area, &mount.point)).map(|area| Holder::Swap { area }).collect()
}

/// The first field of each line but the first, escaped as in the table of mounts; the name of an area may have any bytes.
fn swap_areas(table: &[u8]) -> impl Iterator<Item = PathBuf> {
    let lines = table.split(|&byte| byte == b'\n').skip(1);
    lines
        .filter_map(|line| line.split(u8::is_ascii_whitespace).next().filter(|field| !field.is_empty()))
        .map(|field| table::unescape(field).into())
}

fn is_below(path: &Path, dir: &Path) -> bool {
    path != dir && path.starts_with(dir)
}

fn is_at_or_below(path: &Path, dir: &Path) -> bool {
    path.starts_with(dir)
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    #[test]
    fn mapped_devices_are_compared_whole() {
        let maps = b"7f00-7f01 rw-s 00000000 00:39 2   /mnt/disk\n";
        assert!(maps_device(maps, "0:57"));
        assert!(!maps_device(maps, "0:5"));
        assert!(!maps_device(b"", "0:57"));
    }

    #[test]
    fn an_open_file_shows_its_holder_and_a_closed_one_does_not() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().canonicalize().unwrap();
        let mount = table::read()
            .unwrap()
            .into_iter()
            .filter(|entry| dir.starts_with(&entry.point))
            .max_by_key(|entry| entry.point.as_os_str().len())
            .unwrap();
        // A mount of its own number, so that only descriptors opened through it count.
        let elsewhere = MountEntry { point: dir.join("nowhere"), device: "4095:1".into(), ..mount };
        let pid = std::process::id();
        let file = File::create(dir.join("held")).unwrap();
        assert!(uses(pid, &elsewhere));
        drop(file);
        assert!(!uses(pid, &MountEntry { id: u64::MAX, ..elsewhere }));
    }

    #[test]
    fn swap_areas_are_read_whatever_bytes_their_names_have() {
        let table = b"Filename\tType\tSize\n/dev/sda2 partition\t1\n/mnt/a\\040b/\xff file 1\n";
        let areas: Vec<PathBuf> = swap_areas(table).collect();
        assert_eq!(areas, [Path::new("/dev/sda2"), Path::new(OsStr::from_bytes(b"/mnt/a b/\xff"))]);
    }

    #[test]
    fn holders_read_well() {
        let holder = Holder::Loop { device: "/dev/loop1".into(), mounted: vec!["/mnt".into()] };
        assert_eq!(
            describe(&[Holder::Process { pid: 7, name: "fio".into() }, holder]),
            "process 7 (fio); /dev/loop1 mounted at /mnt"
        );
        assert!(describe(&[]).contains("may not see"));
    }
}
