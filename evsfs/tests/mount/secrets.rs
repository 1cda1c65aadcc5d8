//! Whatever command comes to hold a data key: no core dump, no debugger of the same user, nothing in swap space. Seen at the moment in which it
//! asks for the key, of a key service that takes its time.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Signal, kill_process};
use tempfile::TempDir;

use crate::disk::refusal;
use crate::volumes::create_encrypted;

/// A user without rights that every system has.
const NOBODY: u32 = 65_534;
const ID: &str = "11111111-2222-4333-8444-555555555555";

struct Place {
    dir: TempDir,
    program: PathBuf,
    /// The key service: it never answers.
    listener: UnixListener,
}

/// A process that is ended when it was looked at, and the connection on which it waits for its key.
struct Asking(Child, Option<UnixStream>);

impl Drop for Asking {
    fn drop(&mut self) {
        self.0.kill().and_then(|()| self.0.wait()).expect("it is ours");
    }
}

impl Place {
    /// All of it is `user`'s.
    fn new(user: u32) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        create_encrypted(&at("volume"));
        fs::create_dir(at("point")).unwrap();
        fs::copy(env!("CARGO_BIN_EXE_evsfs"), at("evsfs")).unwrap();
        let listener = UnixListener::bind(at("kmsd.sock")).unwrap();
        for path in [at("volume"), at("point"), at("kmsd.sock"), dir.path().to_owned()] {
            chown(path, Some(user), Some(user)).unwrap();
        }
        fs::set_permissions(at("evsfs"), fs::Permissions::from_mode(0o755)).unwrap();
        let program = at("evsfs");
        Self { dir, program, listener }
    }

    /// Runs a command until it asks for the key. `%` stands for the volume, `.` for another path, `/` for a place to mount.
    fn ask(&self, user: u32, line: &str) -> Asking {
        let at = |name: &str| OsString::from(self.dir.path().join(name));
        let arguments = line.split(' ').map(|word| match word {
            "%" => at("volume"),
            "." => at("new"),
            "/" => at("point"),
            word => word.into(),
        });
        let child = Command::new(&self.program)
            .args(arguments)
            .env("KMSD_SOCKET", at("kmsd.sock"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .uid(user)
            .gid(user)
            .spawn()
            .unwrap();
        let mut asking = Asking(child, None);
        let patience = Timespec { tv_sec: 20, tv_nsec: 0 };
        let came = poll(&mut [PollFd::new(&self.listener, PollFlags::IN)], Some(&patience)).unwrap();
        assert!(came > 0, "{line}: nobody asked");
        asking.1 = Some(self.listener.accept().unwrap().0);
        asking
    }
}

/// Whether a debugger of that user could attach: what it may read of the process hangs on the same right.
fn may_trace(user: u32, process: u32) -> bool {
    let environment = Path::new("/proc").join(process.to_string()).join("environ");
    let arguments: [&OsStr; 1] = [environment.as_ref()];
    let read = Command::new("cat").args(arguments).uid(user).gid(user).output().unwrap();
    assert_eq!(read.status.success(), !read.stdout.is_empty());
    read.status.success()
}

const COMMANDS: [&str; 14] = [
    "create . --size 1M --key k",
    "info --unlock %",
    "check %",
    "salvage % .",
    "extend % --size 32M",
    "snapshot % s",
    "snapshots %",
    "snapshot-delete % ID",
    "rollback % ID",
    "rekey %",
    "rekey % --new-data-key",
    "flatten %",
    "mount --foreground % /",
    "create . --plain --base %",
];

#[test]
fn every_command_that_asks_for_a_key_cannot_be_dumped_or_traced() {
    let place = Place::new(NOBODY);
    let ordinary = Asking(Command::new("sleep").arg("1000").uid(NOBODY).gid(NOBODY).spawn().unwrap(), None);
    while fs::read_to_string(format!("/proc/{}/comm", ordinary.0.id())).unwrap().trim() != "sleep" {
        std::thread::yield_now();
    }
    assert!(may_trace(NOBODY, ordinary.0.id()), "else nothing is shown here");
    for line in COMMANDS {
        let asking = place.ask(NOBODY, &line.replace("ID", ID));
        let process = asking.0.id();
        let limits = fs::read_to_string(format!("/proc/{process}/limits")).unwrap();
        let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
        let values: Vec<&str> = core.split_whitespace().skip(4).take(2).collect();
        assert_eq!(values, ["0", "0"], "{line}");
        assert_eq!(fs::metadata(format!("/proc/{process}/mem")).unwrap().uid(), 0, "{line}: it is dumpable");
        assert!(!may_trace(NOBODY, process), "{line}");
    }
}

/// With the right to (root has it), all of it.
#[test]
fn every_command_that_asks_for_a_key_stays_out_of_swap_space() {
    let place = Place::new(0);
    for line in COMMANDS {
        let asking = place.ask(0, &line.replace("ID", ID));
        let status = fs::read_to_string(format!("/proc/{}/status", asking.0.id())).unwrap();
        let locked = status.lines().find_map(|line| line.strip_prefix("VmLck:")).unwrap();
        let kib: u64 = locked.trim().trim_end_matches(" kB").parse().unwrap();
        assert!(kib > 1000, "{line}: {locked}");
    }
}

/// There is no disk yet that could be detached.
#[test]
fn a_signal_ends_an_attach_that_waits_for_its_key() {
    let place = Place::new(0);
    let mut asking = place.ask(0, "mount --foreground % /");
    kill_process(crate::disk::pid(asking.0.id()), Signal::INT).unwrap();
    assert!(crate::disk::ended(asking.0.id(), Duration::from_secs(20)), "it waits on");
    assert_eq!(asking.0.wait().unwrap().code(), Some(1));
}

/// What cannot be mounted is not opened: nobody is asked for its key, and no rollback of it is accepted.
#[test]
fn where_nothing_can_be_mounted_nobody_is_asked_for_a_key() {
    let place = Place::new(0);
    let at = |name: &str| place.dir.path().join(name);
    let output = Command::new(&place.program)
        .args(["mount", "--json", "--accept-rollback"])
        .args([at("volume"), at("nowhere")])
        .env("KMSD_SOCKET", at("kmsd.sock"))
        .output()
        .unwrap();
    let (code, error) = refusal(&output);
    assert_eq!((code, error["code"].as_str()), (1, Some("mountpoint_missing")), "{error}");
    place.listener.set_nonblocking(true).unwrap();
    assert_eq!(place.listener.accept().unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
}
