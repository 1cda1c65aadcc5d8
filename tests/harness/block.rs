//! Loop devices and file systems on them, cleaned up when dropped.

use std::fs;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::outcome::Outcome;
use crate::program::run;

/// A loop device on a file, with direct I/O, so that nothing is cached between the device and the file.
#[derive(Debug)]
pub struct LoopDevice {
    device: PathBuf,
    /// The file as the kernel names it.
    file: String,
}

/// How long a device may stay bound after it was told to go.
const LET_GO: Duration = Duration::from_secs(20);

/// The file that a loop device shows now.
fn bound_to(device: &Path) -> Option<String> {
    let name = device.file_name().expect("a device has a name");
    fs::read_to_string(Path::new("/sys/block").join(name).join("loop/backing_file")).ok()
}

impl LoopDevice {
    /// Binds the next free loop device.
    #[track_caller]
    pub fn attach(file: &Path) -> Self {
        let outcome =
            run(Command::new("losetup").args(["--find", "--show", "--direct-io=on"]).arg(file)).ok();
        let device = PathBuf::from(outcome.stdout.trim());
        let file = bound_to(&device).expect("it is bound");
        Self { device, file }
    }

    /// Its device node.
    pub fn path(&self) -> &Path {
        &self.device
    }

    /// Makes a file system: `ext4`, `xfs` or `btrfs`.
    #[track_caller]
    pub fn format(&self, kind: &str) {
        let force = if kind == "ext4" { "-F" } else { "-f" };
        run(Command::new(format!("mkfs.{kind}")).args(["-q", force]).arg(&self.device)).ok();
    }

    /// Checks an unmounted file system without changing it; XFS and btrfs must have replayed their logs by a mount before.
    #[track_caller]
    pub fn check(&self, kind: &str) -> Outcome {
        self.wait_until_nobodys();
        let mut command = match kind {
            "ext4" => Command::new("e2fsck"),
            "xfs" => Command::new("xfs_repair"),
            "btrfs" => Command::new("btrfs"),
            other => panic!("no checker for {other}"),
        };
        match kind {
            "ext4" => command.args(["-f", "-n"]),
            "xfs" => command.arg("-n"),
            _ => command.args(["check", "--readonly"]),
        };
        run(command.arg(&self.device))
    }

    /// The kernel unmounts with the last who has the mount: a mount namespace that another test is making may have a copy. A checker that
    /// wants the device for itself would be refused until then.
    #[track_caller]
    fn wait_until_nobodys(&self) {
        let asked = Instant::now();
        // Of a block device without O_CREAT it means: unless the system uses it (open(2)).
        let exclusive = || {
            fs::File::options()
                .read(true)
                .custom_flags(rustix::fs::OFlags::EXCL.bits().cast_signed())
                .open(&self.device)
        };
        while let Err(error) = exclusive() {
            let device = self.device.display();
            assert!(asked.elapsed() < LET_GO, "{device} cannot be had alone: {error}");
            std::thread::yield_now();
        }
    }

    /// Mounts it on a new directory.
    #[track_caller]
    pub fn mount(&self, point: &Path) -> Filesystem {
        self.try_mount(point).unwrap_or_else(|outcome| panic!("{outcome}"))
    }

    /// The same where a failure is expected or allowed.
    pub fn try_mount(&self, point: &Path) -> Result<Filesystem, Outcome> {
        fs::create_dir_all(point).expect("a mount point can be made");
        let outcome = run(Command::new("mount").arg(&self.device).arg(point));
        if outcome.code == 0 { Ok(Filesystem { point: point.to_owned() }) } else { Err(outcome) }
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        let outcome = run(Command::new("losetup").arg("--detach").arg(&self.device));
        assert!(outcome.code == 0 || std::thread::panicking(), "{outcome}");
        // The kernel lets go of the file with the last who has the device: a mount namespace that another test is making may have a copy of its mount.
        let asked = Instant::now();
        while bound_to(&self.device).is_some_and(|file| file == self.file) && !std::thread::panicking() {
            assert!(asked.elapsed() < LET_GO, "{} is still bound", self.device.display());
            std::thread::yield_now();
        }
    }
}

/// A mounted file system.
#[derive(Debug)]
pub struct Filesystem {
    point: PathBuf,
}

impl Filesystem {
    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.point
    }

    /// Unmounts, and demands that this works. Dropping does the same; this says so where it is a step of the test.
    pub fn unmount(self) {}
}

impl Drop for Filesystem {
    fn drop(&mut self) {
        let outcome = run(Command::new("umount").arg(&self.point));
        if outcome.code == 0 {
            return;
        }
        run(Command::new("umount").arg("-l").arg(&self.point));
        assert!(std::thread::panicking(), "{outcome}");
    }
}
