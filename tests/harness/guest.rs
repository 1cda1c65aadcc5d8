//! A small Linux guest: a cloud kernel, busybox, and a script that is its whole user space.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::block::LoopDevice;
use crate::program::{repository, run, run_patiently};

/// The first lines of every guest: devices, and the drivers of its disks, in whatever order they need one another.
const PROLOGUE: &str = "#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t devtmpfs dev /dev
for round in 1 2 3 4; do for module in /modules/*; do insmod \"$module\" 2>/dev/null; done; done
";

/// The parts that guests are made of.
#[derive(Debug)]
pub struct Guest {
    parts: PathBuf,
}

impl Guest {
    /// Fetches them, unless they are there.
    ///
    /// # Panics
    /// Without the package archive.
    #[track_caller]
    pub fn fetch() -> Self {
        let fetched = run_patiently(&mut Command::new(repository().join("tests/guest/fetch.sh"))).ok();
        Self { parts: fetched.stdout.trim().into() }
    }

    /// The kernel.
    pub fn kernel(&self) -> PathBuf {
        self.parts.join("vmlinuz")
    }

    /// Writes a first file system whose init is `script`.
    #[track_caller]
    pub fn initrd(&self, file: &Path, script: &str) {
        let root = file.with_extension("root");
        for dir in ["bin", "proc", "dev", "mnt"] {
            fs::create_dir_all(root.join(dir)).expect("a directory can be made");
        }
        let busybox = self.parts.join("busybox");
        fs::copy(&busybox, root.join("bin/busybox")).expect("busybox can be copied");
        run(Command::new("cp").arg("-a").arg(self.parts.join("modules")).arg(&root)).ok();
        fs::write(root.join("init"), format!("{PROLOGUE}{script}")).expect("a script can be written");
        let executable = fs::Permissions::from_mode(0o755);
        for program in ["init", "bin/busybox"] {
            fs::set_permissions(root.join(program), executable.clone()).expect("it is ours");
        }
        let pack = "cd \"$0\" && find . | \"$1\" cpio -o -H newc >\"$2\"";
        run(Command::new("sh").args(["-c", pack]).args([&root, &busybox]).arg(file)).ok();
    }

    /// Writes a disk that boots by itself: ext4 with a boot loader, the kernel, the first file system, and `files` (name and
    /// contents) at its root.
    #[track_caller]
    pub fn bootable_disk(&self, file: &Path, script: &str, files: &[(&str, &str)]) {
        let initrd = file.with_extension("initrd");
        self.initrd(&initrd, script);
        fs::File::create(file).and_then(|disk| disk.set_len(64 << 20)).expect("a sparse file can be made");
        // The boot loader does not know these two features.
        let features = ["-q", "-O", "^64bit,^metadata_csum"];
        run(Command::new("mkfs.ext4").args(features).arg(file)).ok();
        let device = LoopDevice::attach(file);
        let mounted = device.mount(&file.with_extension("mnt"));
        let boot = mounted.path().join("boot");
        fs::create_dir(&boot).expect("a directory can be made");
        fs::copy(self.kernel(), boot.join("vmlinuz")).expect("the kernel can be copied");
        fs::copy(&initrd, boot.join("initrd")).expect("it can be copied");
        for (name, contents) in files {
            fs::write(mounted.path().join(name), contents).expect("a file can be written");
        }
        let menu = "DEFAULT linux\nLABEL linux\n  KERNEL /boot/vmlinuz\n  INITRD /boot/initrd\n  APPEND console=ttyS0 panic=-1\n";
        fs::write(boot.join("extlinux.conf"), menu).expect("a file can be written");
        run(Command::new("extlinux").arg("--install").arg(&boot)).ok();
        mounted.unmount();
    }
}
