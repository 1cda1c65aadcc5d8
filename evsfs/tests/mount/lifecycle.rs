//! Attach and detach, by all the ways in which a process can end.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::disk::{Disk, Kind, Loop, MIB, each_kind, ended, evsfs, read, refusal, run};

each_kind! {
    sigterm_unmounts_cleanly;
    a_dead_mount_says_so_and_is_replaced_by_the_next_attach;
    a_dead_mount_is_cleared_by_umount;
    d4_a_busy_disk_stays_and_says_who_holds_it;
    a_sigterm_that_finds_the_disk_in_use_counts_when_it_is_closed;
    d4_a_refused_detach_keeps_nobody_from_opening_the_disk;
    d4_from_another_network_namespace_detach_waits_for_the_end;
    f12_the_second_attach_names_the_first;
    an_unmount_by_other_means_ends_the_process_cleanly;
    d4_a_copy_of_the_mount_in_another_namespace_does_not_keep_the_disk;
    d4_whoever_has_it_open_in_another_namespace_keeps_it_and_is_named;
    a_disk_unmounted_by_others_ends_although_another_namespace_has_a_copy;
    the_control_socket_answers;
    the_gap_before_and_after_is_closed_to_others;
    in_the_foreground_it_stays;
    nobody_to_be_told_means_not_attached;
    the_process_keeps_no_core_and_no_files_of_its_parent;
}

const SOON: Duration = Duration::from_secs(20);

fn is_mounted(disk: &Disk) -> bool {
    let table = fs::read("/proc/self/mountinfo").unwrap();
    let table = String::from_utf8_lossy(&table);
    let point = fs::canonicalize(disk.dir()).unwrap().join("point");
    table.lines().any(|line| line.split(' ').nth(4) == point.to_str())
}

fn sigterm_unmounts_cleanly(kind: Kind) {
    let mut disk = Disk::new(kind, MIB);
    disk.open().write_all_at(b"not yet synced", 100).unwrap();
    assert!(is_mounted(&disk) && disk.control().exists());
    disk.signal(Signal::TERM);
    assert!(ended(disk.pid, SOON), "{}", disk.log());
    assert!(!is_mounted(&disk) && !disk.control().exists());
    assert!(disk.log().contains("detached"), "{}", disk.log());
    disk.attach();
    assert_eq!(read(&disk.open(), 100, 14), b"not yet synced");
}

fn a_dead_mount_says_so_and_is_replaced_by_the_next_attach(kind: Kind) {
    let mut disk = Disk::new(kind, MIB);
    let view = disk.open();
    view.write_all_at(b"synced", 4096).unwrap();
    view.sync_all().unwrap();
    disk.kill();
    assert!(view.read_at(&mut [0; 6], 4096).is_err());
    let error = File::open(disk.path()).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ENOTCONN), "never an empty directory: {error}");
    // With a file of the dead mount open still.
    disk.attach();
    assert_eq!(read(&disk.open(), 4096, 6), b"synced");
    drop(view);
}

fn a_dead_mount_is_cleared_by_umount(kind: Kind) {
    let mut disk = Disk::new(kind, MIB);
    disk.kill();
    assert!(is_mounted(&disk));
    let output = disk.umount();
    assert!(output.status.success(), "{output:?}");
    assert!(!is_mounted(&disk));
    disk.attach();
}

fn d4_a_busy_disk_stays_and_says_who_holds_it(kind: Kind) {
    let disk = Disk::new(kind, 4 * MIB);
    let held = disk.open();
    let mut sleeper = Command::new("sleep").arg("1000").stdin(held).spawn().unwrap();
    let (code, error) = refusal(&disk.umount());
    let message = error["message"].as_str().unwrap();
    assert_eq!((code, error["code"].as_str()), (3, Some("busy")));
    assert!(message.contains(&format!("{} (sleep)", sleeper.id())), "{message}");
    disk.open().write_all_at(b"goes on", 0).unwrap();
    sleeper.kill().and_then(|()| sleeper.wait()).unwrap();

    let device = Loop::over(&disk.path());
    let (code, error) = refusal(&disk.umount());
    assert!(code == 3 && error["message"].as_str().unwrap().contains(device.0.to_str().unwrap()), "{error}");
    run("dd", &[&format!("if={}", device.0.display()), "of=/dev/null", "count=8"]);
    drop(device);
    assert_eq!(read(&disk.open(), 0, 7), b"goes on");
    assert!(disk.umount().status.success());
    assert!(ended(disk.pid, SOON));
}

/// At a shutdown nobody sends a second one.
fn a_sigterm_that_finds_the_disk_in_use_counts_when_it_is_closed(kind: Kind) {
    let mut disk = Disk::new(kind, MIB);
    let held = disk.open();
    disk.signal(Signal::TERM);
    let sent = Instant::now();
    while !disk.log().contains("not detached") {
        assert!(sent.elapsed() < SOON, "{}", disk.log());
        std::thread::yield_now();
    }
    assert!(disk.log().contains(&format!("process {}", std::process::id())), "{}", disk.log());
    held.write_all_at(b"goes on", 0).unwrap();
    assert!(!ended(disk.pid, Duration::ZERO));
    drop(held);
    assert!(ended(disk.pid, SOON), "{}", disk.log());
    assert!(!is_mounted(&disk));
    disk.attach();
    assert_eq!(read(&disk.open(), 0, 7), b"goes on");
}

/// Those who may open it are not kept out by somebody who may not detach it.
fn d4_a_refused_detach_keeps_nobody_from_opening_the_disk(kind: Kind) {
    let disk = Disk::new(kind, MIB);
    let held = disk.open();
    let refused = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let opened = scope.spawn(|| {
            let mut times = 0;
            while !refused.load(std::sync::atomic::Ordering::Relaxed) {
                File::open(disk.path()).unwrap();
                times += 1;
            }
            times
        });
        // Whatever becomes of it: the other would go on for ever.
        let detached = std::panic::catch_unwind(|| refusal(&disk.umount()));
        refused.store(true, std::sync::atomic::Ordering::Relaxed);
        let (code, error) = detached.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        assert_eq!((code, error["code"].as_str()), (3, Some("busy")));
        assert!(opened.join().unwrap() > 0);
    });
    drop(held);
}

/// From another network namespace the process cannot be asked, but waited for.
fn d4_from_another_network_namespace_detach_waits_for_the_end(kind: Kind) {
    let mut disk = Disk::new(kind, 16 * MIB);
    for target in [disk.point(), disk.file()] {
        disk.open().write_all_at(&[5; 8 << 20], 0).unwrap();
        let command =
            ["--net".as_ref(), env!("CARGO_BIN_EXE_evsfs").as_ref(), "umount".as_ref(), target.as_os_str()];
        run("unshare", &command);
        assert!(ended(disk.pid, Duration::ZERO), "it has the key still");
        disk.attach();
        assert_eq!(read(&disk.open(), (8 << 20) - 4, 4), [5; 4]);
    }
}

/// A process with a mount namespace of its own, and so with a copy of every mount that is there now. It runs `first`, says so, and stays
/// until dropped.
struct Elsewhere(std::process::Child);

impl Elsewhere {
    fn new(first: &str) -> Self {
        let script = format!("{first}; echo there; read _");
        let mut child = Command::new("unshare")
            .args(["--mount", "--propagation", "private", "sh", "-c", &script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "there\n");
        Self(child)
    }
}

impl Drop for Elsewhere {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        self.0.wait().expect("it is ours");
    }
}

fn d4_a_copy_of_the_mount_in_another_namespace_does_not_keep_the_disk(kind: Kind) {
    let mut disk = Disk::new(kind, MIB);
    disk.open().write_all_at(b"written before", 0).unwrap();
    let elsewhere = Elsewhere::new(":");
    disk.detach();
    assert!(disk.log().contains(&format!("process {} (sh)", elsewhere.0.id())), "{}", disk.log());
    disk.attach();
    assert_eq!(read(&disk.open(), 0, 14), b"written before");
    drop(elsewhere);
}

fn d4_whoever_has_it_open_in_another_namespace_keeps_it_and_is_named(kind: Kind) {
    let mut disk = Disk::new(kind, MIB);
    let elsewhere = Elsewhere::new(&format!("exec 3<>{}", disk.path().display()));
    let (code, error) = refusal(&disk.umount());
    let message = error["message"].as_str().unwrap();
    assert_eq!((code, error["code"].as_str()), (3, Some("busy")));
    assert!(message.contains(&format!("{} (sh)", elsewhere.0.id())), "{message}");
    disk.open().write_all_at(b"goes on", 0).unwrap();
    drop(elsewhere);
    disk.detach();
}

/// A snapshot that is read there keeps the disk as well, though nobody has the disk itself open.
#[test]
fn d4_whoever_reads_a_snapshot_in_another_namespace_keeps_the_disk_and_is_named() {
    let mut disk = Disk::new(Kind::Plain, MIB);
    disk.open().write_all_at(b"then", 0).unwrap();
    let made = evsfs(&["snapshot".as_ref(), disk.file().as_os_str(), "s".as_ref(), "--json".as_ref()]);
    let made: Value = serde_json::from_slice(&made.stdout).unwrap();
    let view = disk.point().join(format!("snapshot-{}", made["id"].as_str().unwrap()));
    disk.open().write_all_at(b"now!", 0).unwrap();
    let elsewhere = Elsewhere::new(&format!("exec 3<{}", view.display()));
    let (code, error) = refusal(&disk.umount());
    let message = error["message"].as_str().unwrap();
    assert_eq!((code, error["code"].as_str()), (3, Some("busy")));
    assert!(message.contains(&format!("{} (sh)", elsewhere.0.id())), "{message}");
    let reader = format!("/proc/{}/fd/3", elsewhere.0.id());
    assert_eq!(fs::read(reader).unwrap()[..4], *b"then", "it reads on");
    drop(elsewhere);
    disk.detach();
}

fn a_disk_unmounted_by_others_ends_although_another_namespace_has_a_copy(kind: Kind) {
    let mut disk = Disk::new(kind, MIB);
    disk.open().write_all_at(b"kept", 0).unwrap();
    let elsewhere = Elsewhere::new(":");
    run("umount", &[disk.point()]);
    // Nor does somebody keep it, here or while it ends, who asks how it is again and again, as a command does that waits for a re-encryption.
    let begun = Instant::now();
    let mut stream = UnixStream::connect(disk.control()).unwrap();
    let mut lines = BufReader::new(stream.try_clone().unwrap());
    while !ended(disk.pid, Duration::from_millis(100)) {
        assert!(begun.elapsed() < SOON, "{}", disk.log());
        let mut answer = String::new();
        // It is cut off when the process ends.
        let _ = writeln!(stream, "{}", json!({"op": "status"})).and_then(|()| lines.read_line(&mut answer));
    }
    disk.attach();
    assert_eq!(read(&disk.open(), 0, 4), b"kept");
    drop(elsewhere);
}

fn f12_the_second_attach_names_the_first(kind: Kind) {
    let disk = Disk::new(kind, MIB);
    let other = disk.dir().join("other");
    fs::create_dir(&other).unwrap();
    let mut arguments = disk.mount_arguments();
    let place = arguments.iter().position(|argument| *argument == *disk.point().as_os_str()).unwrap();
    arguments[place] = other.into();
    arguments.truncate(place + 2);
    let (code, error) = refusal(&evsfs(&arguments));
    assert_eq!((code, error["code"].as_str()), (3, Some("already_attached")));
    assert!(error["message"].as_str().unwrap().contains(&disk.pid.to_string()), "{error}");
    // The same place again.
    let (code, _) = refusal(&evsfs(&disk.mount_arguments()));
    assert_eq!(code, 3);
    disk.open().write_all_at(b"undisturbed", 0).unwrap();
}

fn an_unmount_by_other_means_ends_the_process_cleanly(kind: Kind) {
    let mut disk = Disk::new(kind, MIB);
    disk.open().write_all_at(b"kept", 0).unwrap();
    run("umount", &[disk.point()]);
    assert!(ended(disk.pid, SOON));
    assert!(disk.log().contains("unmounted from outside"), "{}", disk.log());
    disk.attach();
    assert_eq!(read(&disk.open(), 0, 4), b"kept");
}

fn the_control_socket_answers(kind: Kind) {
    let mut disk = Disk::new(kind, MIB);
    let mode = fs::metadata(disk.control()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let mut stream = UnixStream::connect(disk.control()).unwrap();
    let mut lines = BufReader::new(stream.try_clone().unwrap());
    let mut ask = |request: Value| -> Value {
        writeln!(stream, "{request}").unwrap();
        let mut line = String::new();
        lines.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap()
    };
    let status = ask(json!({"op": "status"}))["ok"].clone();
    assert_eq!((status["pid"].as_u64(), status["size"].as_u64()), (Some(disk.pid.into()), Some(MIB)));
    assert!(status["resident"].as_u64().is_some_and(|bytes| bytes > 100_000), "{status}");
    assert_eq!(ask(json!({"op": "flush"})), json!({"ok": {}}));
    assert_eq!(ask(json!({"op": "explode"}))["error"]["code"], "protocol_error");
    let held = disk.open();
    assert_eq!(ask(json!({"op": "detach"}))["error"]["code"], "busy");
    drop(held);
    assert_eq!(ask(json!({"op": "detach"})), json!({"ok": {}}));
    assert!(ended(disk.pid, SOON));
    disk.pid = 0;
}

fn the_gap_before_and_after_is_closed_to_others(kind: Kind) {
    let mut disk = Disk::new(kind, MIB);
    disk.detach();
    fs::set_permissions(disk.point(), fs::Permissions::from_mode(0o755)).unwrap();
    disk.attach();
    disk.detach();
    assert_eq!(fs::metadata(disk.point()).unwrap().permissions().mode() & 0o7777, 0o700);
}

fn in_the_foreground_it_stays(kind: Kind) {
    let mut disk = Disk::new(kind, MIB);
    disk.detach();
    let mut child = Command::new(env!("CARGO_BIN_EXE_evsfs"))
        .args(disk.mount_arguments())
        .arg("--foreground")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let ready: Value = serde_json::from_str(&line).unwrap();
    assert_eq!(ready["pid"], child.id());
    assert!(is_mounted(&disk));
    rustix::process::kill_process(crate::disk::pid(child.id()), Signal::INT).unwrap();
    assert!(child.wait().unwrap().success());
    assert!(!is_mounted(&disk));
}

/// The parent that waits for readiness is gone: what nobody knows of must not stay.
fn nobody_to_be_told_means_not_attached(kind: Kind) {
    let mut disk = Disk::new(kind, MIB);
    disk.detach();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let status = Command::new(env!("CARGO_BIN_EXE_evsfs"))
        .args(disk.mount_arguments())
        .arg("--background-child")
        .stdout(writer)
        .status()
        .unwrap();
    assert!(!status.success());
    assert!(!is_mounted(&disk) && !disk.control().exists());
    disk.attach();
}

fn the_process_keeps_no_core_and_no_files_of_its_parent(kind: Kind) {
    let mut disk = Disk::new(kind, MIB);
    disk.detach();
    let secret = File::create_new(disk.dir().join("of the parent")).unwrap();
    let arguments = disk.mount_arguments();
    // A shell that leaves descriptor 7 open to what it runs.
    let script = "exec 7<\"$0\"; exec \"$@\"";
    let output = Command::new("sh")
        .args(["-c", script])
        .arg(disk.dir().join("of the parent"))
        .arg(env!("CARGO_BIN_EXE_evsfs"))
        .args(&arguments)
        .output()
        .unwrap();
    drop(secret);
    assert!(output.status.success(), "{output:?}");
    let ready: Value = serde_json::from_slice(&output.stdout).unwrap();
    disk.pid = u32::try_from(ready["pid"].as_u64().unwrap()).unwrap();
    let limits = fs::read_to_string(format!("/proc/{}/limits", disk.pid)).unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert_eq!(core.split_whitespace().nth(4), Some("0"), "{core}");
    for fd in fs::read_dir(format!("/proc/{}/fd", disk.pid)).unwrap() {
        let target = match fs::read_link(fd.unwrap().path()) {
            Ok(target) => target,
            // Closed since the directory was read.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => panic!("{error}"),
        };
        assert!(!target.to_string_lossy().contains("of the parent"), "{target:?}");
        assert!(!target.to_string_lossy().starts_with("/dev/pts"), "{target:?}");
    }
    let stat = fs::read_to_string(format!("/proc/{}/stat", disk.pid)).unwrap();
    // After the name in parentheses: state, parent, group, session, terminal.
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap().split(' ').collect();
    assert_eq!((fields[3], fields[4]), (disk.pid.to_string().as_str(), "0"), "own session, no terminal");
    assert!(stat.contains(" (evsfs) "), "{stat}");
    assert_eq!(fs::read_link(format!("/proc/{}/cwd", disk.pid)).unwrap(), std::path::Path::new("/"));
}
