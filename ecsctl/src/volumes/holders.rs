//! Who holds a view: processes with an open file, a working directory or a mapping on it, and loop devices, which
//! no process list shows (D4).

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde::Serialize;

use crate::volumes::process::unescape;

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
        /// Where a file system on it is mounted.
        mounted_at: Vec<PathBuf>,
    },
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
pub(crate) fn find(mountpoint: &Path, except: Option<u32>) -> Vec<Holder> {
    let mut found = loops(mountpoint);
    let Ok(processes) = fs::read_dir("/proc") else { return found };
    for entry in processes.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        if Some(pid) != except && pid != std::process::id() && holds(&entry.path(), mountpoint) {
            let program = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
            found.push(Holder::Process { pid, program: program.trim().to_owned() });
        }
    }
    found
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
    let maps = fs::read_to_string(process.join("maps")).unwrap_or_default();
    maps.lines()
        .filter_map(|line| line.find('/').and_then(|at| line.get(at..)))
        .any(|path| Path::new(&unescape(path)).starts_with(mountpoint))
}

fn loops(mountpoint: &Path) -> Vec<Holder> {
    let devices = fs::read_dir("/sys/block").into_iter().flatten().flatten();
    let mut found: Vec<Holder> = devices
        .filter_map(|device| {
            let backing = fs::read_to_string(device.path().join("loop/backing_file")).ok()?;
            if !Path::new(backing.trim_end()).starts_with(mountpoint) {
                return None;
            }
            let node = Path::new("/dev").join(device.file_name());
            let mounted_at =
                mounts_of(&node, &fs::read_to_string("/proc/self/mountinfo").unwrap_or_default());
            Some(Holder::Loop { device: node, mounted_at })
        })
        .collect();
    found.sort_by_key(ToString::to_string);
    found
}

/// Where a device, or a partition of it, is mounted: the source stands after the `-` (proc(5)).
fn mounts_of(device: &Path, table: &str) -> Vec<PathBuf> {
    let device = device.to_string_lossy();
    table
        .lines()
        .filter_map(|line| {
            let (left, right) = line.split_once(" - ")?;
            let source = right.split(' ').nth(1)?;
            let own = source.strip_prefix(&*device)?;
            let partition = own.strip_prefix('p').is_some_and(|n| n.bytes().all(|b| b.is_ascii_digit()));
            (own.is_empty() || partition)
                .then(|| left.split(' ').nth(4).map(|p| PathBuf::from(unescape(p))))?
        })
        .collect()
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

        let holders = find(dir.path(), None);
        assert_eq!(holders, [Holder::Process { pid: child.id(), program: "sh".into() }]);
        assert_eq!(sentence(&holders), format!("it is held by sh (pid {})", child.id()));
        assert_eq!(find(dir.path(), Some(child.id())), []);

        drop(child.stdin.take());
        child.wait().unwrap();
        assert_eq!(find(dir.path(), None), []);
    }

    #[test]
    fn mounts_of_a_device_and_of_its_partitions_are_found() {
        let table = "1 2 7:3 / /a rw - ext4 /dev/loop3 rw\n1 2 7:3 / /b rw - ext4 /dev/loop3p1 rw\n\
                     1 2 7:30 / /c rw - ext4 /dev/loop30 rw\n";
        assert_eq!(mounts_of(Path::new("/dev/loop3"), table), [PathBuf::from("/a"), PathBuf::from("/b")]);
        let holder = Holder::Loop { device: "/dev/loop3".into(), mounted_at: vec!["/a".into(), "/b".into()] };
        assert_eq!(holder.to_string(), "loop device /dev/loop3, mounted at /a and /b");
        assert_eq!(remedy(&[holder]), "umount /a && umount /b && losetup -d /dev/loop3");
    }
}
