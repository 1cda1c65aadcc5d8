//! A file system on a loop device on the disk: what it frees comes back to the host (F7), and it survives a kill (D10).

use std::fs;
use std::path::{Path, PathBuf};

use crate::disk::{Disk, Kind, Loop, MIB, Numbers, each_kind, run};

each_kind! {
    f7_fstrim_of_ext4_gives_the_space_back_to_the_host;
    d10_ext4_is_clean_and_complete_after_a_kill;
}

/// A file system mounted from a loop device.
pub(crate) struct Mounted {
    pub(crate) point: PathBuf,
    device: Loop,
}

impl Mounted {
    pub(crate) fn new(disk: &Disk) -> Self {
        let (point, device) = (disk.dir().join("fs"), Loop::over(&disk.path()));
        fs::create_dir_all(&point).unwrap();
        run("mount", &["-t".as_ref(), "ext4".as_ref(), device.0.as_os_str(), point.as_os_str()]);
        Self { point, device }
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        run("umount", &[&self.point]);
    }
}

pub(crate) fn make(disk: &Disk) {
    run("mkfs.ext4", &["-q".as_ref(), "-F".as_ref(), disk.path().as_os_str()]);
}

fn f7_fstrim_of_ext4_gives_the_space_back_to_the_host(kind: Kind) {
    let disk = Disk::new(kind, 256 * MIB);
    make(&disk);
    let mounted = Mounted::new(&disk);
    let big = mounted.point.join("big");
    fs::write(&big, Numbers(11).bytes(96 * MIB as usize)).unwrap();
    run("sync", &["-f".as_ref(), big.as_os_str()]);
    let full = disk.taken();
    assert!(full >= 96 * MIB, "{full}");
    fs::remove_file(&big).unwrap();
    run("sync", &["-f".as_ref(), mounted.point.as_os_str()]);
    run("fstrim", &[&mounted.point]);
    run("sync", &["-f".as_ref(), mounted.point.as_os_str()]);
    drop(mounted);
    let mut disk = disk;
    disk.detach();
    let left = disk.taken();
    assert!(left + 90 * MIB <= full, "{left} of {full} bytes are still taken");
}

fn d10_ext4_is_clean_and_complete_after_a_kill(kind: Kind) {
    let mut disk = Disk::new(kind, 128 * MIB);
    make(&disk);
    let mounted = Mounted::new(&disk);
    let mut numbers = Numbers(21);
    let files: Vec<(PathBuf, Vec<u8>)> = (0..20)
        .map(|index| {
            let length = numbers.below(300_000) as usize;
            (PathBuf::from(format!("file{index}")), numbers.bytes(length))
        })
        .collect();
    for (name, contents) in &files {
        write_and_sync(&mounted.point.join(name), contents);
    }
    // Busy when it dies.
    fs::write(mounted.point.join("unsynced"), numbers.bytes(20 * MIB as usize)).unwrap();
    disk.kill();
    let device = mounted.device.0.clone();
    drop(mounted);
    assert!(
        !String::from_utf8_lossy(&fs::read("/proc/self/mountinfo").unwrap())
            .contains(device.to_str().unwrap())
    );
    disk.attach();
    let mounted = Mounted::new(&disk);
    for (name, contents) in &files {
        assert!(fs::read(mounted.point.join(name)).unwrap() == *contents, "{name:?} after the kill");
    }
    drop(mounted);
    run("e2fsck", &["-f".as_ref(), "-n".as_ref(), disk.path().as_os_str()]);
}

fn write_and_sync(path: &Path, contents: &[u8]) {
    use std::io::Write;
    let mut file = fs::File::create(path).unwrap();
    file.write_all(contents).unwrap();
    file.sync_all().unwrap();
}
