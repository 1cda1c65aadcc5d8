//! What runs a guest's instructions. Whether KVM works is tried, not guessed: a device node may be there and guests hang
//! or die all the same, as within some other virtual machines.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use crate::{machines::MachineError, volumes::process};

/// What runs a guest's instructions.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Acceleration {
    /// KVM where it works, else emulation.
    #[default]
    Auto,
    /// The processor.
    Kvm,
    /// QEMU's emulation.
    Tcg,
}

impl Acceleration {
    /// QEMU's word. Only what was decided has one.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Kvm => "kvm",
            Self::Tcg => "tcg",
        }
    }

    /// QEMU's processor model that has all that there is.
    pub(crate) fn processor(self) -> &'static str {
        if self == Self::Kvm { "host" } else { "max" }
    }
}

/// How long the check may take. A processor needs a fifth of a second for it.
const WITHIN: Duration = Duration::from_secs(10);

/// What isa-debug-exit makes of the byte that the boot sector writes: twice the byte, and one.
const EXIT: i32 = 0x10 * 2 + 1;

/// `mov al, 0x10; out 0xf4, al; hlt; jmp` back to the `hlt`.
const BOOT: [u8; 7] = [0xb0, 0x10, 0xe6, 0xf4, 0xf4, 0xeb, 0xfd];

/// Decides between KVM and emulation. What a guest was seen to do is remembered in `dir` until the next boot; what kept the check from being
/// made is not, for it may pass: a program that is installed, a permission that is given, a module that is loaded.
///
/// # Errors
/// [`MachineError::NoKvm`] when it was demanded and does not work; [`MachineError::Spawn`].
pub(crate) fn decide(wanted: Acceleration, program: &Path, dir: &Path) -> Result<Acceleration, MachineError> {
    decide_by(Path::new("/dev/kvm"), wanted, program, dir)
}

fn decide_by(
    device: &Path,
    wanted: Acceleration,
    program: &Path,
    dir: &Path,
) -> Result<Acceleration, MachineError> {
    if wanted == Acceleration::Tcg {
        return Ok(Acceleration::Tcg);
    }
    let reason = match remembered(device, program, dir) {
        Ok(()) => return Ok(Acceleration::Kvm),
        // Without its program no machine is started at all.
        Err(Doubt::Program(source)) => {
            return Err(MachineError::Spawn { program: program.to_owned(), source });
        }
        Err(Doubt::Guest(reason) | Doubt::Host(reason)) => reason,
    };
    if wanted == Acceleration::Kvm {
        return Err(MachineError::NoKvm { reason });
    }
    tracing::info!(%reason, "KVM does not work here; the machine is emulated");
    Ok(Acceleration::Tcg)
}

/// Why KVM is not used.
#[derive(Debug)]
enum Doubt {
    /// A guest was tried, and did not run.
    Guest(String),
    /// No guest could be tried.
    Host(String),
    /// QEMU itself cannot be run.
    Program(io::Error),
}

fn remembered(device: &Path, program: &Path, dir: &Path) -> Result<(), Doubt> {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let mark = format!("{} {}", boot.trim(), program.display());
    let known = dir.join("kvm");
    if let Ok(text) = fs::read_to_string(&known)
        && let Some((first, rest)) = text.split_once('\n')
        && first == mark
    {
        return if rest.is_empty() { Ok(()) } else { Err(Doubt::Guest(rest.to_owned())) };
    }
    let found = check(device, program, dir);
    let seen = match &found {
        Ok(()) => Some(""),
        Err(Doubt::Guest(reason)) => Some(reason.as_str()),
        Err(Doubt::Host(_) | Doubt::Program(_)) => None,
    };
    if let Some(seen) = seen {
        // Not being able to remember it costs a check the next time, no more.
        let _ = fs::write(known, format!("{mark}\n{seen}"));
    }
    found
}

/// Boots a guest of one sector under KVM with the processor model that servers get, and sees whether it comes so far as
/// to end itself.
fn check(device: &Path, program: &Path, dir: &Path) -> Result<(), Doubt> {
    let opened = File::options().read(true).write(true).open(device);
    opened.map_err(|error| Doubt::Host(format!("{}: {error}", device.display())))?;
    let unmade = |error: io::Error| Doubt::Host(format!("the check could not be made: {error}"));
    let disk = BootDisk::write(dir).map_err(unmade)?;
    let mut child = Command::new(program)
        .args([
            "-nodefaults",
            "-no-user-config",
            "-display",
            "none",
            "-machine",
            "q35,accel=kvm",
            "-m",
            "128",
        ])
        .args(["-cpu", Acceleration::Kvm.processor(), "-device", "isa-debug-exit,iobase=0xf4,iosize=4"])
        .arg("-blockdev")
        .arg(super::arguments::block("boot", &disk.0, true))
        .args(["-device", "virtio-blk-pci,drive=boot,bootindex=0"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .map_err(Doubt::Program)?;
    let ended = process::wait_for_end(child.id(), WITHIN);
    if !ended {
        // It is this process's own child, and cannot be another one yet.
        let _ = child.kill();
    }
    let status = child.wait().map_err(unmade)?;
    match (ended, status.code()) {
        (true, Some(EXIT)) => Ok(()),
        (true, _) => Err(Doubt::Guest(format!("QEMU ended with {status} before a guest could run"))),
        (false, _) => Err(Doubt::Guest(format!("a guest hangs: it did nothing for {} s", WITHIN.as_secs()))),
    }
}

/// A disk with nothing but a boot sector, while it is needed.
struct BootDisk(PathBuf);

impl BootDisk {
    fn write(dir: &Path) -> io::Result<Self> {
        let disk = Self(dir.join(format!("kvm-check-{}", std::process::id())));
        let mut sector = [0; 512];
        sector[..BOOT.len()].copy_from_slice(&BOOT);
        sector[510..].copy_from_slice(&[0x55, 0xaa]);
        let mut file = File::create(&disk.0)?;
        file.write_all(&sector)?;
        // The firmware takes nothing smaller for a disk.
        file.set_len(1 << 20)?;
        Ok(disk)
    }
}

impl Drop for BootDisk {
    fn drop(&mut self) {
        // A file of a sector in the run directory; the next check with this number overwrites it.
        let _ = fs::remove_file(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn program(dir: &Path, name: &str, script: &str) -> PathBuf {
        let path = dir.join(name);
        fs::write(&path, format!("#!/bin/sh\necho run >>{}/runs\n{script}\n", dir.display())).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    #[test]
    fn s2_kvm_is_used_only_where_a_guest_was_seen_to_run() {
        let dir = tempfile::tempdir().unwrap();
        let runs = || fs::read_to_string(dir.path().join("runs")).unwrap_or_default().lines().count();
        // Any file that can be opened stands for the device: what counts is what the program does.
        let device = dir.path().join("device");
        fs::write(&device, "").unwrap();
        let decide = |wanted, program: &Path| decide_by(&device, wanted, program, dir.path());
        let dies = program(dir.path(), "dies", "exit 134");
        assert_eq!(decide(Acceleration::Auto, &dies).unwrap(), Acceleration::Tcg);
        let refused = decide(Acceleration::Kvm, &dies).unwrap_err();
        assert!(matches!(refused, MachineError::NoKvm { .. }), "{refused}");
        assert_eq!(decide(Acceleration::Tcg, &dies).unwrap(), Acceleration::Tcg);
        assert_eq!(runs(), 1, "what was found is remembered");

        let works = program(dir.path(), "works", "exit 33");
        assert_eq!(decide(Acceleration::Auto, &works).unwrap(), Acceleration::Kvm);
        assert_eq!(decide(Acceleration::Kvm, &works).unwrap(), Acceleration::Kvm);
        assert_eq!(runs(), 2, "this is remembered, too");
        assert!(
            fs::read_dir(dir.path())
                .unwrap()
                .all(|entry| { !entry.unwrap().file_name().to_string_lossy().starts_with("kvm-check") })
        );
    }

    #[test]
    fn s2_what_kept_kvm_from_being_tried_is_not_held_against_it_when_it_has_passed() {
        let dir = tempfile::tempdir().unwrap();
        let (device, run) = (dir.path().join("device"), dir.path().join("run"));
        let qemu = dir.path().join("qemu");
        let decide = |wanted| decide_by(&device, wanted, &qemu, &run);
        // No device, then no run directory, then no program: each is told, and none is remembered.
        let refused = decide(Acceleration::Kvm).unwrap_err();
        assert!(matches!(&refused, MachineError::NoKvm { reason } if reason.contains("device")), "{refused}");
        fs::write(&device, "").unwrap();
        assert_eq!(decide(Acceleration::Auto).unwrap(), Acceleration::Tcg);
        fs::create_dir(&run).unwrap();
        for wanted in [Acceleration::Auto, Acceleration::Kvm] {
            let refused = decide(wanted).unwrap_err();
            assert!(matches!(refused, MachineError::Spawn { .. }), "{refused}");
        }
        program(dir.path(), "qemu", "exit 33");
        assert_eq!(decide(Acceleration::Auto).unwrap(), Acceleration::Kvm);
        fs::remove_file(&device).unwrap();
        assert_eq!(decide(Acceleration::Kvm).unwrap(), Acceleration::Kvm, "a guest was seen to run");
    }
}
