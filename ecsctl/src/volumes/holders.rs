//! Who holds a view: processes with an open file, a working directory or a mapping on it, and loop devices, which
//! no process list shows (D4).

use std::{
    ffi::OsStr,
    fs,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

use serde::{Serialize, Serializer};

use crate::volumes::{
    ToolError,
    mounts::{self, Mount, unescape},
};

/// Something that keeps a view busy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub(crate) enum Holder {
    /// A process.
    Process {
        /// Its number.
        pid: u32,
        /// Its program.
        program: String,
    },
    /// A loop device.
    Loop {
        /// Such as `/dev/loop3`.
        device: PathBuf,
        /// Where a file system on it is mounted. Any user may mount at any bytes, and JSON has text only.
        #[serde(serialize_with = "as_text")]
        mounted_at: Vec<PathBuf>,
    },
}

fn as_text<S: Serializer>(paths: &[PathBuf], into: S) -> Result<S::Ok, S::Error> {
    into.collect_seq(paths.iter().map(|path| path.to_string_lossy()))
}

impl std::fmt::Display for Holder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Process { pid, program } => write!(f, "{program} (pid {pid})"),
            Self::Loop { device, mounted_at } => {
                write!(f, "loop device {}", device.display())?;
                for (n, point) in mounted_at.iter().enumerate() {
                    write!(f, "{} {}", if n == 0 { ", mounted at" } else { " and" }, point.display())?;
                }
                Ok(())
            }
        }
    }
}

/// "it is held by ..."
pub(crate) fn sentence(holders: &[Holder]) -> String {
    let all: Vec<String> = holders.iter().map(ToString::to_string).collect();
    format!("it is held by {}", all.join(", "))
}

/// The command that lets go of it.
pub(crate) fn remedy(holders: &[Holder]) -> String {
    for holder in holders {
        if let Holder::Loop { device, mounted_at } = holder {
            let unmounts: String = mounted_at.iter().map(|p| format!("umount {} && ", p.display())).collect();
            return format!("{unmounts}losetup -d {}", device.display());
        }
    }
    "close the file or end the program, then detach again".to_owned()
}

/// Everyone who holds something below `mountpoint`, but the process that serves it. Processes of other users
/// are seen only by root.
///
/// # Errors
/// [`ToolError::MountTable`].
pub(crate) fn find(mountpoint: &Path, except: Option<u32>) -> Result<Vec<Holder>, ToolError> {
    let mut found = loops(mountpoint, &mounts::all()?);
    let Ok(processes) = fs::read_dir("/proc") else { return Ok(found) };
    for entry in processes.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        if Some(pid) != except && pid != std::process::id() && holds(&entry.path(), mountpoint) {
            let program = fs::read(entry.path().join("comm")).unwrap_or_default();
            let program = String::from_utf8_lossy(program.trim_ascii()).into_owned();
            found.push(Holder::Process { pid, program });
        }
    }
    Ok(found)
}

fn holds(process: &Path, mountpoint: &Path) -> bool {
    let below = |link: PathBuf| fs::read_link(link).is_ok_and(|target| target.starts_with(mountpoint));
    if below(process.join("cwd")) || below(process.join("root")) {
        return true;
    }
    let descriptors = fs::read_dir(process.join("fd")).into_iter().flatten().flatten();
    if descriptors.map(|d| d.path()).any(below) {
        return true;
    }
    // A mapping outlives its descriptor.
    any_below(&fs::read(process.join("maps")).unwrap_or_default(), mountpoint)
}

/// Whether `/proc/<pid>/maps` names a file below `mountpoint`. What else it names may have any bytes.
fn any_below(maps: &[u8], mountpoint: &Path) -> bool {
    maps.split(|byte| *byte == b'\n')
        .filter_map(|line| line.iter().position(|byte| *byte == b'/').and_then(|at| line.get(at..)))
        .any(|path| Path::new(&unescape(path)).starts_with(mountpoint))
}

fn loops(mountpoint: &Path, mounts: &[Mount]) -> Vec<Holder> {
    let devices = fs::read_dir("/sys/block").into_iter().flatten().flatten();
    let mut found: Vec<Holder> = devices
        .filter_map(|device| {
            let backing = fs::read(device.path().join("loop/backing_file")).ok()?;
            if !Path::new(OsStr::from_bytes(backing.trim_ascii_end())).starts_with(mountpoint) {
                return None;
            }
            let node = Path::new("/dev").join(device.file_name());
            let mounted_at = mounts_of(&node, mounts);
            Some(Holder::Loop { device: node, mounted_at })
        })
        .collect();
    found.sort_by_key(ToString::to_string);
    found
}

/// Where a device, or a partition of it, is mounted.
fn mounts_of(device: &Path, mounts: &[Mount]) -> Vec<PathBuf> {
    let is_of_device = |source: &OsStr| {
        let own = source.as_bytes().strip_prefix(device.as_os_str().as_bytes());
        own.is_some_and(|own| {
            let partition = own.strip_prefix(b"p").is_some_and(|n| n.iter().all(u8::is_ascii_digit));
            own.is_empty() || partition
        })
    };
    mounts.iter().filter(|mount| is_of_device(&mount.source)).map(|mount| mount.point.clone()).collect()
}

#[cfg(test)]
mod tests {
    use std::{
        io::{BufRead, BufReader},
        process::{Command, Stdio},
    };

    use super::*;

    #[test]
    fn d4_a_process_with_an_open_file_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("disk");
        fs::write(&file, "x").unwrap();
        let mut child = Command::new("sh")
            .args(["-c", "exec 3<\"$0\"; echo open; read _", file.to_str().unwrap()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();

        let holders = find(dir.path(), None).unwrap();
        assert_eq!(holders, [Holder::Process { pid: child.id(), program: "sh".into() }]);
        assert_eq!(sentence(&holders), format!("it is held by sh (pid {})", child.id()));
        assert_eq!(find(dir.path(), Some(child.id())).unwrap(), []);

        drop(child.stdin.take());
        child.wait().unwrap();
        assert_eq!(find(dir.path(), None).unwrap(), []);
    }

    #[test]
    fn d4_a_mapping_is_seen_beside_one_of_a_file_whose_name_is_no_text() {
        let maps = b"7f00-7f01 rw-s 00000000 00:39 2   /tmp/\xff\n7f02-7f03 rw-s 00000000 00:39 2   /mnt/a\xfe/disk\n";
        let maps_below = |dir: &[u8]| any_below(maps, Path::new(OsStr::from_bytes(dir)));
        assert!(maps_below(b"/mnt/a\xfe"));
        assert!(maps_below(b"/tmp"));
        assert!(!maps_below(b"/mnt/a"));
    }

    #[test]
    fn mounts_of_a_device_and_of_its_partitions_are_found() {
        let table = b"1 2 7:3 / /a rw - ext4 /dev/loop3 rw\n1 2 7:3 / /b rw - ext4 /dev/loop3p1 rw\n\
                     1 2 7:30 / /c rw - ext4 /dev/loop30 rw\n";
        let mounts = mounts::parse(table);
        assert_eq!(mounts_of(Path::new("/dev/loop3"), &mounts), [PathBuf::from("/a"), PathBuf::from("/b")]);
        let holder = Holder::Loop { device: "/dev/loop3".into(), mounted_at: vec!["/a".into(), "/b".into()] };
        assert_eq!(holder.to_string(), "loop device /dev/loop3, mounted at /a and /b");
        assert_eq!(remedy(&[holder]), "umount /a && umount /b && losetup -d /dev/loop3");
    }
}
