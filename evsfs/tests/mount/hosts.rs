//! File systems of their own for volume files, of a kind and a size that a test chooses.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::disk::{Loop, run};

/// A file system that is mounted as long as this lives. Nothing of it may be in use then: declare it before what uses it.
pub(crate) struct Host {
    device: Option<Loop>,
    dir: TempDir,
}

impl Host {
    pub(crate) fn tmpfs(size: u64) -> Self {
        let this = Self { device: None, dir: tempfile::tempdir().unwrap() };
        this.mount("tmpfs", &format!("size={size}"), "none".as_ref());
        this
    }

    /// On a loop device, with nothing set aside for root.
    pub(crate) fn ext4(size: u64) -> Self {
        Self::on_a_device("ext4", size, &["-q", "-F", "-m", "0"])
    }

    /// On a loop device; the smallest has 300 MiB.
    pub(crate) fn xfs(size: u64) -> Self {
        Self::on_a_device("xfs", size, &["-q"])
    }

    fn on_a_device(kind: &str, size: u64, options: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().join("image");
        File::create_new(&image).and_then(|file| file.set_len(size)).unwrap();
        let mut arguments: Vec<&OsStr> = options.iter().map(OsStr::new).collect();
        arguments.push(image.as_os_str());
        run(&format!("mkfs.{kind}"), &arguments);
        let device = Loop::over(&image);
        let this = Self { device: Some(device), dir };
        this.mount(kind, "rw", &this.device.as_ref().expect("it was just made").0);
        this
    }

    fn mount(&self, kind: &str, options: &str, source: &Path) {
        let point = self.path();
        fs::create_dir(&point).unwrap();
        run(
            "mount",
            &[
                "-t".as_ref(),
                kind.as_ref(),
                "-o".as_ref(),
                options.as_ref(),
                source.as_os_str(),
                point.as_os_str(),
            ],
        );
    }

    /// Its root directory.
    pub(crate) fn path(&self) -> PathBuf {
        self.dir.path().join("fs")
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // What failed is told already; the device goes with the last who has it.
            let _ = std::process::Command::new("umount").arg("--lazy").arg(self.path()).status();
        } else {
            run("umount", &[self.path()]);
        }
        self.device = None;
    }
}
