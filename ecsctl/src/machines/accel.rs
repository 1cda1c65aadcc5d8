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

/// Decides between KVM and emulation. What the check finds is remembered in `dir` until the next boot.
///
/// # Errors
/// [`MachineError::NoKvm`] when it was demanded and does not work.
pub(crate) fn decide(wanted: Acceleration, program: &Path, dir: &Path) -> Result<Acceleration, MachineError> {
    if wanted == Acceleration::Tcg {
        return Ok(Acceleration::Tcg);
    }
    match (remembered(program, dir), wanted) {
        (Ok(()), _) => Ok(Acceleration::Kvm),
        (Err(reason), Acceleration::Kvm) => Err(MachineError::NoKvm { reason }),
        (Err(reason), _) => {
            tracing::info!(%reason, "KVM does not work here; the machine is emulated");
            Ok(Acceleration::Tcg)
        }
    }
}

fn remembered(program: &Path, dir: &Path) -> Result<(), String> {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let mark = format!("{} {}", boot.trim(), program.display());
    let known = dir.join("kvm");
    if let Ok(text) = fs::read_to_string(&known)
        && let Some((first, rest)) = text.split_once('\n')
        && first == mark
    {
        return if rest.is_empty() { Ok(()) } else { Err(rest.to_owned()) };
    }
    let found = check(program, dir);
    // Not being able to remember it costs a check the next time, no more.
    let rest = found.as_ref().err().cloned().unwrap_or_default();
    let _ = fs::write(known, format!("{mark}\n{rest}"));
    found
}

/// Boots a guest of one sector under KVM with the processor model that servers get, and sees whether it comes so far as
/// to end itself.
fn check(program: &Path, dir: &Path) -> Result<(), String> {
    let device = File::options().read(true).write(true).open("/dev/kvm");
    device.map_err(|error| format!("/dev/kvm: {error}"))?;
    let disk = BootDisk::write(dir).map_err(|error| format!("the check could not be made: {error}"))?;
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
        .map_err(|error| format!("{}: {error}", program.display()))?;
    let ended = process::wait_for_end(child.id(), WITHIN);
    if !ended {
        // It is this process's own child, and cannot be another one yet.
        let _ = child.kill();
    }
    let status = child.wait().map_err(|error| error.to_string())?;
    match (ended, status.code()) {
        (true, Some(EXIT)) => Ok(()),
        (true, _) => Err(format!("QEMU ended with {status} before a guest could run")),
        (false, _) => Err(format!("a guest hangs: it did nothing for {} s", WITHIN.as_secs())),
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
        let dies = program(dir.path(), "dies", "exit 134");
        assert_eq!(decide(Acceleration::Auto, &dies, dir.path()).unwrap(), Acceleration::Tcg);
        let refused = decide(Acceleration::Kvm, &dies, dir.path()).unwrap_err();
        assert!(matches!(refused, MachineError::NoKvm { .. }), "{refused}");
        assert_eq!(decide(Acceleration::Tcg, &dies, dir.path()).unwrap(), Acceleration::Tcg);
        assert!(runs() <= 1, "what was found is remembered");

        // Where there is a device at all, a program that does what a guest would do is believed.
        let works = program(dir.path(), "works", "exit 33");
        let decided = decide(Acceleration::Auto, &works, dir.path()).unwrap();
        let device = File::options().read(true).write(true).open("/dev/kvm").is_ok();
        assert_eq!(decided, if device { Acceleration::Kvm } else { Acceleration::Tcg });
        assert!(
            fs::read_dir(dir.path())
                .unwrap()
                .all(|entry| { !entry.unwrap().file_name().to_string_lossy().starts_with("kvm-check") })
        );
    }
}
