//! An ordinary user attaches through fusermount3, and other users are kept out.
//!
//! Unsafe, since leaving a namespace is.
#![allow(unsafe_code)]

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Output};

use rustix::fs::{CWD, FileType, Mode, mknodat};
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_bind, mount_change};
use rustix::thread::{UnshareFlags, unshare_unsafe};
use serde_json::Value;

use crate::disk::refusal;

/// Users without rights that every system has: nobody and daemon.
const ALICE: u32 = 65_534;
const BOB: u32 = 1;

fn as_user(user: u32, program: &Path, arguments: &[&Path]) -> Output {
    Command::new(program).args(arguments).uid(user).gid(user).output().expect("it can be run")
}

/// Gives this thread, and what it starts, a mount table of its own, in which `/dev/fuse` is open to all as udev makes it.
/// Where it was made without udev it is root's alone.
fn in_a_mount_table_with_open_fuse(dir: &Path) {
    // SAFETY: the thread of this test shares no file descriptors' or memory's owner with others through the mount table; only
    // paths that it resolves from now on differ.
    unsafe { unshare_unsafe(UnshareFlags::NEWNS) }.expect("root can");
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change("/", private).expect("root can");
    mount("tmpfs", dir, "tmpfs", MountFlags::empty(), None).expect("root can");
    let node = dir.join("fuse");
    let device = fs::metadata("/dev/fuse").expect("FUSE is there").rdev();
    mknodat(CWD, &node, FileType::CharacterDevice, Mode::from_raw_mode(0o666), device).expect("root can");
    fs::set_permissions(&node, fs::Permissions::from_mode(0o666)).expect("root can");
    mount_bind(&node, "/dev/fuse").expect("root can");
}

#[test]
fn an_ordinary_user_attaches_and_detaches_and_others_see_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().canonicalize().unwrap();
    fs::create_dir(dir.join("nodes")).unwrap();
    in_a_mount_table_with_open_fuse(&dir.join("nodes"));
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).unwrap();
    let program = dir.join("evsfs");
    fs::copy(env!("CARGO_BIN_EXE_evsfs"), &program).unwrap();
    let (file, point) = (dir.join("file"), dir.join("point"));
    fs::write(&file, vec![3; 1 << 20]).unwrap();
    fs::create_dir(&point).unwrap();
    for path in [&file, &point] {
        chown(path, Some(ALICE), Some(ALICE)).unwrap();
    }
    let attach = [Path::new("mount"), Path::new("--raw"), Path::new("--json"), &file, &point];
    let output = as_user(ALICE, &program, &attach);
    assert!(output.status.success(), "{output:?}");
    let ready: Value = serde_json::from_slice(&output.stdout).unwrap();
    let disk = point.join("disk");
    let cat = Path::new("/bin/cat");
    assert_eq!(as_user(ALICE, cat, &[&disk]).stdout, vec![3; 1 << 20]);
    assert!(!as_user(BOB, cat, &[&disk]).status.success());
    assert!(!as_user(BOB, Path::new("/bin/ls"), &[&point]).status.success(), "not even the directory");
    // Not dumpable: its entries in /proc belong to root, so that no debugger of the same user attaches.
    assert_eq!(fs::metadata(format!("/proc/{}/mem", ready["pid"])).unwrap().uid(), 0);

    let umount = [Path::new("umount"), Path::new("--json"), &point];
    let (code, _) = refusal(&as_user(BOB, &program, &umount));
    assert!(code != 0);
    let mut sleeper = Command::new("sh")
        .args(["-c", "exec sleep 1000 < \"$0\""])
        .arg(&disk)
        .uid(ALICE)
        .gid(ALICE)
        .spawn()
        .unwrap();
    // It has the disk open when its program has changed.
    while fs::read_to_string(format!("/proc/{}/comm", sleeper.id())).unwrap().trim() != "sleep" {
        std::thread::yield_now();
    }
    let (code, error) = refusal(&as_user(ALICE, &program, &umount));
    assert_eq!((code, error["code"].as_str()), (3, Some("busy")), "{error}");
    assert!(error["message"].as_str().unwrap().contains(&sleeper.id().to_string()), "{error}");
    sleeper.kill().and_then(|()| sleeper.wait()).unwrap();
    let output = as_user(ALICE, &program, &umount);
    assert!(output.status.success(), "{output:?}");
    assert!(fs::read_dir(&point).unwrap().next().is_none());
}
