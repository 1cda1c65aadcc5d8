//! An ordinary user attaches through fusermount3, and other users are kept out.
//!
//! Unsafe, since leaving a namespace is.
#![allow(unsafe_code)]

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, chown};
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{CWD, FileType, Mode, mknodat};
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_bind, mount_change};
use rustix::thread::{Uid, UnshareFlags, set_thread_res_uid, unshare_unsafe};
use serde_json::Value;

use crate::disk::{Disk, Kind, MIB, evsfs, read, refusal};

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
    let (code, error) = refusal(&as_user(BOB, &program, &umount));
    assert_eq!((code, error["code"].as_str()), (3, Some("not_serving")), "{error}");
    let mut sleeper = Command::new("sh")
        .args(["-c", "exec sleep 1000 < \"$0\""])
        .arg(&disk)
        .uid(ALICE)
        .gid(ALICE)
        .spawn()
        .unwrap();
    // It has the disk open when its program has changed.
    let started = Instant::now();
    while fs::read_to_string(format!("/proc/{}/comm", sleeper.id())).unwrap().trim() != "sleep" {
        assert!(started.elapsed() < Duration::from_secs(20));
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

/// Makes this thread one of a user without rights, for good.
fn become_alice() {
    let alice = Uid::from_raw(ALICE);
    set_thread_res_uid(alice, alice, alice).expect("root can");
}

/// A process of Alice's, as far as others see it, that listens under a name and says yes to everything. Gives back how often it was asked.
fn impostor(name: &str) -> Arc<AtomicUsize> {
    let asked = Arc::new(AtomicUsize::new(0));
    let (count, name) = (Arc::clone(&asked), name.to_owned());
    let (ready, listens) = std::sync::mpsc::channel();
    thread::spawn(move || {
        become_alice();
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let listener = UnixListener::bind_addr(&address).unwrap();
        ready.send(()).unwrap();
        for stream in listener.incoming() {
            let stream = stream.unwrap();
            let mut line = String::new();
            // Whoever sees who listens asks nothing.
            if BufReader::new(&stream).read_line(&mut line).is_ok_and(|read| read > 0) {
                count.fetch_add(1, Ordering::SeqCst);
                let _ = (&stream).write_all(b"{\"ok\":{\"snapshots\":[]}}\n");
            }
        }
    });
    listens.recv().unwrap();
    asked
}

/// The source of the mount at a point.
fn source_at(point: &Path) -> String {
    let table = String::from_utf8_lossy(&fs::read("/proc/thread-self/mountinfo").unwrap()).into_owned();
    let line = table.lines().rfind(|line| line.split(' ').nth(4) == point.to_str()).expect("it is mounted");
    line.split(" - ").last().unwrap().split(' ').nth(1).unwrap().to_owned()
}

fn on(file: &Path, command: &str, more: &[&str]) -> Value {
    let mut arguments = vec![command.as_ref(), file.as_os_str(), "--json".as_ref()];
    arguments.extend(more.iter().map(|argument| std::ffi::OsStr::new(*argument)));
    let output = evsfs(&arguments);
    assert!(output.status.success(), "{command}: {output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Anybody can mount something under a name that says it shows root's disk, and listen under the name of a process that has crashed.
#[test]
fn nobody_answers_for_the_disk_of_another_user() {
    let nodes = tempfile::tempdir().unwrap();
    // The thread with the mount table of its own ends before what it was made in is removed.
    thread::scope(|scope| {
        let tried = scope.spawn(|| {
            in_a_mount_table_with_open_fuse(nodes.path());
            somebody_else_answers_for_a_disk_of_root();
        });
        tried.join().unwrap();
    });
}

fn somebody_else_answers_for_a_disk_of_root() {
    let mut disk = Disk::new(Kind::Plain, 4 * MIB);
    let dir = disk.dir().canonicalize().unwrap();
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).unwrap();
    let (point, his): (PathBuf, PathBuf) = (disk.point().canonicalize().unwrap(), dir.join("his"));
    fs::create_dir(&his).unwrap();
    chown(&his, Some(ALICE), Some(ALICE)).unwrap();
    let real = source_at(&point);
    let name = format!("{}:deadbeef", real.rsplit_once(':').unwrap().0);
    // The connection waits in this socket to be taken: it is never served.
    let (_held, its) = UnixStream::pair().unwrap();
    let status = Command::new("fusermount3")
        .args(["-o", &format!("fsname={name},subtype=evsfs"), "--"])
        .arg(&his)
        .env("_FUSE_COMMFD", "0")
        .stdin(Stdio::from(OwnedFd::from(its)))
        .uid(ALICE)
        .gid(ALICE)
        .status()
        .unwrap();
    assert!(status.success());
    assert_eq!(source_at(&his), name);
    let asked = impostor(&name);

    let file = disk.file();
    let id = on(&file, "snapshot", &["s"])["id"].as_str().unwrap().to_owned();
    assert_eq!(on(&file, "snapshots", &[])["snapshots"][0]["id"], *id);
    assert_eq!(on(&file, "info", &[])["attached"], disk.pid);
    let process = disk.pid;
    assert_eq!(on(&file, "umount", &[])["mountpoint"], point.to_str().unwrap());
    assert!(crate::disk::ended(process, Duration::ZERO), "the disk itself was detached");
    disk.pid = 0;
    // Detached, the volume is worked with here.
    assert_eq!(on(&file, "snapshots", &[])["snapshots"][0]["id"], *id);

    disk.attach();
    disk.open().write_all_at(b"kept", 0).unwrap();
    disk.open().sync_all().unwrap();
    let crashed = source_at(&point);
    disk.kill();
    let squatted = impostor(&crashed);
    assert_eq!(on(&file, "snapshots", &[])["snapshots"][0]["id"], *id);
    assert!(on(&file, "info", &[])["attached"].is_null());
    assert_eq!(on(&file, "umount", &[])["cleared"], true);
    assert_eq!((asked.load(Ordering::SeqCst), squatted.load(Ordering::SeqCst)), (0, 0));
    disk.attach();
    assert_eq!(read(&disk.open(), 0, 4), b"kept");
    let status =
        Command::new("fusermount3").args(["-u", "-z", "--"]).arg(&his).uid(ALICE).gid(ALICE).status();
    assert!(status.unwrap().success());
    disk.detach();
}

/// Whoever has no say is told so, and does not fill the disk of the log.
#[test]
fn strangers_at_the_socket_are_told_so_and_the_log_hears_of_them_now_and_then() {
    let disk = Disk::new(Kind::Raw, MIB);
    let address = SocketAddr::from_abstract_name(source_at(&disk.point().canonicalize().unwrap())).unwrap();
    thread::scope(|scope| {
        let strangers = scope.spawn(|| {
            become_alice();
            for _ in 0..1000 {
                let stream = UnixStream::connect_addr(&address).unwrap();
                let mut answer = String::new();
                BufReader::new(&stream).read_line(&mut answer).unwrap();
                let answer: Value = serde_json::from_str(&answer).unwrap();
                assert_eq!(answer["error"]["code"], "not_yours", "{answer}");
                assert!(
                    answer["error"]["message"].as_str().unwrap().contains(&ALICE.to_string()),
                    "{answer}"
                );
            }
        });
        strangers.join().unwrap();
    });
    let told = disk.log().lines().filter(|line| line.contains("stranger")).count();
    assert!((1..=2).contains(&told), "{told} lines:\n{}", disk.log());
    // They keep nobody out who has a say; too many of those are told as well.
    let held: Vec<UnixStream> = (0..20).map(|_| UnixStream::connect(disk.control()).unwrap()).collect();
    let turned_away = held.iter().rev().take(4).map(|stream| {
        let mut answer = String::new();
        BufReader::new(stream).read_line(&mut answer).unwrap();
        answer
    });
    assert!(turned_away.into_iter().all(|answer| answer.contains("\"crowded\"")));
}
