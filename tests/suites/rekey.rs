//! D8: keys of disks are exchanged in place, on a real token, daemon and mount.

use std::collections::HashSet;
use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use harness::{Installation, process, run};
use rustix::process::Signal;
use serde_json::Value;

fn file_of(disk: &Value) -> PathBuf {
    disk["file"].as_str().unwrap_or_else(|| panic!("no file in {disk}")).into()
}

/// The wrapped data key in the first copy of the header (docs/volume-format.md).
fn wrapped(file: &Path) -> Vec<u8> {
    let mut header = [0; 4096];
    File::open(file)
        .and_then(|file| file.read_exact_at(&mut header, 0))
        .expect("the volume file can be read");
    let length = usize::from(u16::from_le_bytes([header[134], header[135]]));
    assert!(length > 32, "no wrapped key");
    header[136..136 + length].to_vec()
}

fn holds(file: &Path, needle: &[u8]) -> bool {
    let bytes = fs::read(file).expect("the volume file can be read");
    bytes.windows(needle.len()).any(|window| window == needle)
}

#[track_caller]
fn write_and_sync(view: &Path, offset: u64, data: &[u8]) {
    let file = OpenOptions::new().write(true).open(view).expect("the view can be opened");
    file.write_all_at(data, offset).and_then(|()| file.sync_all()).expect("the view takes writes");
}

#[track_caller]
fn read(view: &Path, offset: u64, length: usize) -> Vec<u8> {
    let mut data = vec![0; length];
    File::open(view).and_then(|file| file.read_exact_at(&mut data, offset)).expect("the view can be read");
    data
}

/// D8, F9: to another key, attached and detached; the old wrapped key is nowhere in the file, and the old master key is not needed any more.
#[test]
fn d8_a_disk_moves_to_another_key_attached_or_not() {
    let ecs = Installation::new();
    for alias in ["first", "second"] {
        ecs.ecsctl(&format!("key create --alias {alias}")).ok();
    }
    let disk = ecs.create_disk("d", "--size 16M --encrypted --key first");
    let file = file_of(&disk);
    let before = wrapped(&file);
    let attached = ecs.attach("d", "web1");
    write_and_sync(&attached.path, 8192, b"written under the first key");

    let moved = ecs.ecsctl("disk rekey d --key second").json();
    assert_eq!((&moved["key_alias"], &moved["status"]), (&"second".into(), &"in-use".into()), "{moved}");
    assert_eq!(ecs.attached(&moved).pid, attached.pid, "the same process serves it");
    assert!(!holds(&file, &before), "the old wrapped key is still in the file");
    let info = ecs.evsfs(&["info".as_ref(), file.as_os_str()]).json();
    assert_eq!(
        (&info["key_id"], &info["key_version"], &info["header_copies"]),
        (&moved["key_id"], &1.into(), &2.into())
    );
    write_and_sync(&attached.path, 0, b"written under the second key");
    ecs.ecsctl("disk detach d").ok();

    ecs.ecsctl("key disable first").ok();
    let attached = ecs.attach("d", "web1");
    assert_eq!(read(&attached.path, 8192, 27), b"written under the first key");
    ecs.ecsctl("disk detach d").ok();
    ecs.ecsctl("key disable second").ok();
    ecs.ecsctl("disk attach d web1").error(3).naming(&["d", "second", "disabled"]);

    ecs.ecsctl("key enable first").ok();
    ecs.ecsctl("key enable second").ok();
    let second = wrapped(&file);
    let moved = ecs.ecsctl("disk rekey d --key first").json();
    assert_eq!((&moved["key_alias"], &moved["status"]), (&"first".into(), &"available".into()), "{moved}");
    assert!(!holds(&file, &second) && !holds(&file, &before));
    // Its own key again: another wrapped form all the same.
    let first = wrapped(&file);
    ecs.ecsctl("disk rekey d").ok();
    assert!(!holds(&file, &first));
    ecs.ecsctl("key disable second").ok();
    let attached = ecs.attach("d", "web1");
    assert_eq!(read(&attached.path, 0, 28), b"written under the second key");
}

/// D8, D2: what the keys do not allow changes nothing.
#[test]
fn d8_a_key_that_cannot_be_used_leaves_the_disk_as_it_is() {
    let mut ecs = Installation::new();
    for alias in ["first", "second"] {
        ecs.ecsctl(&format!("key create --alias {alias}")).ok();
    }
    let disk = ecs.create_disk("d", "--size 16M --encrypted --key first");
    ecs.create_disk("plain", "--size 16M");
    let file = file_of(&disk);
    let before = fs::read(&file).expect("the volume file can be read");
    ecs.ecsctl("key disable second").ok();
    ecs.ecsctl("disk rekey d --key second").error(3).naming(&["d", "second", "disabled"]);
    ecs.ecsctl("key disable first").ok();
    ecs.ecsctl("key enable second").ok();
    ecs.ecsctl("disk rekey d --key second").error(3).naming(&["d", "first", "disabled"]);
    ecs.ecsctl("disk rekey plain").error(3).naming(&["plain", "not encrypted"]);
    // Asked behind ecsctl's back, kmsd refuses by itself.
    ecs.evsfs(&["rekey".as_ref(), file.as_os_str()]).error(3).naming(&["first", "disabled"]);
    ecs.ecsctl("key enable first").ok();
    ecs.ecsctl("disk rekey d --key third").error(6).naming(&["third"]);
    let attached = ecs.attach("d", "web1");
    ecs.ecsctl("key disable second").ok();
    ecs.evsfs(&["rekey".as_ref(), file.as_os_str(), "--key".as_ref(), "second".as_ref()])
        .error(3)
        .naming(&["second", "disabled"]);
    ecs.kmsd_mut().stop();
    ecs.evsfs(&["rekey".as_ref(), file.as_os_str()]).error(4);
    assert_eq!(ecs.ecsctl("disk show d").json()["key_alias"], "first");
    write_and_sync(&attached.path, 0, b"works on");
    assert_eq!(wrapped(&file), before[136..136 + wrapped(&file).len()], "the wrapped key is the same");
}

/// The slots of a file that hold something, without the headers.
fn slots(file: &Path) -> HashSet<Vec<u8>> {
    let bytes = fs::read(file).expect("the volume file can be read");
    let slots = bytes.chunks(4096).enumerate();
    let full = slots.filter(|(place, slot)| ![0, 8].contains(place) && slot.iter().any(|byte| *byte != 0));
    full.map(|(_, slot)| slot.to_vec()).collect()
}

fn pattern(seed: u8, length: usize) -> Vec<u8> {
    (0..length).map(|at| (at % 249).to_le_bytes()[0] ^ seed).collect()
}

const MIB: usize = 1 << 20;

/// D8, F9: everything under a new data key, with a snapshot, while others write and read; nothing that the old one opens is left in the file.
#[test]
fn d8_a_disk_is_re_encrypted_while_it_is_used() {
    let ecs = Installation::new();
    let disk = ecs.create_disk("d", "--size 64M --encrypted");
    let file = file_of(&disk);
    let attached = ecs.attach("d", "web1");
    write_and_sync(&attached.path, 0, &pattern(1, 24 * MIB));
    ecs.ecsctl("snapshot create s --disk d").ok();
    write_and_sync(&attached.path, 4 << 20, &pattern(2, 2 * MIB));
    let (old, before) = (wrapped(&file), slots(&file));

    let begun = ecs.ecsctl("disk rekey d --new-data-key").json();
    assert_eq!(begun["status"], "in-use", "{begun}");
    // Somebody writes, and reads what they wrote, until it is done; and it is done while they do.
    let view =
        OpenOptions::new().read(true).write(true).open(&attached.path).expect("the view can be opened");
    let mut rounds = 0_u8;
    loop {
        let at = (30 << 20) + u64::from(rounds % 16) * 65_536;
        let data = pattern(rounds, 65_536);
        view.write_all_at(&data, at).expect("the view takes writes");
        let mut back = vec![0; data.len()];
        view.read_exact_at(&mut back, at).expect("the view can be read");
        assert!(back == data, "round {rounds}");
        rounds += 1;
        let shown = ecs.ecsctl("disk show d").json();
        if shown["re_encryption"].is_null() {
            break;
        }
        assert!(shown["re_encryption"]["percent"].as_u64().is_some_and(|percent| percent <= 100), "{shown}");
        assert!(rounds < 250, "it does not end: {shown}");
    }
    drop(view);
    ecs.ecsctl("disk rekey d --new-data-key --wait").ok();
    ecs.ecsctl("disk detach d").ok();

    assert!(!holds(&file, &old), "the old wrapped key is in the file");
    let left = slots(&file).intersection(&before).count();
    assert_eq!(left, 0, "slots of the old key are left, of {}", before.len());
    let attached = ecs.attach("d", "web1");
    assert!(read(&attached.path, 4 << 20, 2 * MIB) == pattern(2, 2 * MIB));
    assert!(read(&attached.path, 6 << 20, 18 * MIB) == pattern(1, 24 * MIB)[6 * MIB..]);
    ecs.ecsctl("snapshot rollback s --yes").ok();
    assert!(read(&attached.path, 0, 24 * MIB) == pattern(1, 24 * MIB));
    ecs.ecsctl("disk detach d").ok();
    assert_eq!(ecs.ecsctl("disk check d").json()["sound"], true);
}

/// D8: it is slow when it is told to be; killing the process or detaching only delays it; asked again, it goes on, faster.
#[test]
fn d8_a_re_encryption_goes_on_after_a_kill_and_a_detach() {
    let ecs = Installation::new();
    let file = file_of(&ecs.create_disk("d", "--size 64M --encrypted"));
    let attached = ecs.attach("d", "web1");
    write_and_sync(&attached.path, 0, &pattern(3, 24 * MIB));
    ecs.ecsctl("disk rekey d --new-data-key --rate 256K").ok();
    // As it was wrapped anew at the beginning.
    let old = wrapped(&file);
    let running = |ecs: &Installation| {
        let shown = ecs.ecsctl("disk show d").json();
        let progress = shown["re_encryption"].clone();
        assert!(progress.is_object(), "24 MiB at 256 KiB a second take longer: {shown}");
        progress
    };
    assert_eq!(running(&ecs)["rate"], 256 << 10);
    process::kill_hard(attached.pid);
    ecs.ecsctl("server recover web1").ok();
    let attached = ecs.attached(&ecs.ecsctl("disk show d").json());
    assert_eq!(running(&ecs)["rate"], 256 << 10, "it goes on by itself, at the same rate");
    assert!(read(&attached.path, 0, 24 * MIB) == pattern(3, 24 * MIB));
    ecs.ecsctl("disk detach d").ok();
    assert_eq!(running(&ecs)["phase"], "waiting");
    assert!(holds(&file, &old));

    // Half-done, with the old header put back: two headers that are both authentic, but not of this moment.
    let (now, then) = (fs::read(&file).expect("ours"), wrapped(&file));
    assert_eq!(then, old, "the old one comes first while it runs");
    let mut forged = now.clone();
    for copy in [0, 8 * 4096] {
        // The second wrapped key is taken out, as if nothing ran.
        forged[copy + 1160..copy + 2186].fill(0);
        forged[copy + 3269..copy + 4064].fill(0);
    }
    fs::write(&file, &forged).expect("ours");
    ecs.ecsctl("disk attach d web1").error(5);
    fs::write(&file, &now).expect("ours");

    ecs.ecsctl("disk rekey d --new-data-key --rate 0").ok();
    assert!(ecs.ecsctl("disk show d").json()["re_encryption"].is_null());
    assert!(!holds(&file, &old));
    let attached = ecs.attach("d", "web1");
    assert!(read(&attached.path, 0, 24 * MIB) == pattern(3, 24 * MIB));
}

/// Who re-encrypts a detached disk on a terminal sees how far that is.
#[test]
fn d8_a_re_encryption_shows_how_far_it_is_on_a_terminal() {
    let ecs = Installation::new();
    ecs.create_disk("d", "--size 16M --encrypted");
    let attached = ecs.attach("d", "web1");
    for at in 0..4_u8 {
        write_and_sync(&attached.path, u64::from(at) << 22, &pattern(at, MIB / 2));
    }
    ecs.ecsctl("disk detach d").ok();
    let ecsctl = ecs.command("ecsctl");
    let mut script = Command::new("script");
    let line = format!("{} disk rekey d --new-data-key --rate 2M", ecsctl.get_program().display());
    script.args(["--quiet", "--return", "--command", &line, "/dev/null"]).current_dir(ecs.dir()).env_clear();
    for (name, value) in ecsctl.get_envs() {
        script.env(name, value.expect("set"));
    }
    let said = run(&mut script).ok().stdout;
    let parts = ["re-encrypting d: ", "%  ", " of 16M  ", "is re-encrypted under a new data key"];
    assert!(parts.iter().all(|part| said.contains(part)), "{said:?}");
}

/// D8, D2, I2: what cannot be re-encrypted is refused, and stays as it is.
#[test]
fn d8_a_re_encryption_that_is_not_possible_changes_nothing() {
    let ecs = Installation::new();
    ecs.ecsctl("key create --alias k").ok();
    let file = file_of(&ecs.create_disk("d", "--size 16M --encrypted --key k"));
    ecs.create_disk("plain", "--size 16M");
    ecs.ecsctl("disk rekey plain --new-data-key").error(3).naming(&["plain", "not encrypted"]);
    ecs.ecsctl("disk rekey d --rate 5M").error(2);
    ecs.ecsctl("disk rekey d --new-data-key --rate fast").error(2).naming(&["fast"]);
    let before = fs::read(&file).expect("ours");
    ecs.ecsctl("key disable k").ok();
    ecs.ecsctl("disk rekey d --new-data-key").error(3).naming(&["d", "k", "disabled"]);
    ecs.evsfs(&["rekey".as_ref(), file.as_os_str(), "--new-data-key".as_ref()])
        .error(3)
        .naming(&["k", "disabled"]);
    assert!(fs::read(&file).expect("ours") == before);
    ecs.ecsctl("key enable k").ok();
    ecs.ecsctl("image create i --from-disk d").ok();
    let image = file_of(&ecs.ecsctl("image show i").json());
    ecs.evsfs(&["rekey".as_ref(), image.as_os_str(), "--new-data-key".as_ref()]).error(3).naming(&["image"]);
}

/// D3: a key service that hangs holds up neither who wants to know how the disk is, nor who detaches it, nor the flush of it. Until the service
/// has been told how far the volume came, nobody else attaches it.
#[test]
fn d3_a_key_service_that_hangs_holds_nobody_up() {
    let ecs = Installation::new();
    let disk = ecs.create_disk("d", "--size 16M --encrypted");
    let (file, point, control) = (file_of(&disk), ecs.dir().join("point"), ecs.dir().join("control"));
    fs::create_dir(&point).expect("a directory can be made");
    let mount =
        ["mount".as_ref(), file.as_os_str(), point.as_os_str(), "--control".as_ref(), control.as_os_str()];
    let served = u32::try_from(ecs.evsfs(&mount).json()["pid"].as_u64().expect("a number")).expect("it fits");
    assert_eq!(ecs.evsfs(&["info".as_ref(), file.as_os_str()]).json()["key_version"], 1);
    let kmsd = ecs.kmsd().pid().expect("it runs");
    process::send(kmsd, Signal::STOP);
    let mut rekey =
        ecs.command("evsfs").arg("rekey").arg(&file).stderr(Stdio::piped()).spawn().expect("evsfs runs");
    let under_way = || {
        let threads = fs::read_dir(format!("/proc/{served}/task")).expect("it runs").flatten();
        threads.into_iter().any(|thread| {
            fs::read_to_string(thread.path().join("comm")).is_ok_and(|name| name.trim() == "key-request")
        })
    };
    let begun = Instant::now();
    while !under_way() {
        assert!(begun.elapsed() < Duration::from_secs(20), "the request never came");
        std::thread::yield_now();
    }
    let mut stream = UnixStream::connect(&control).expect("it listens");
    let mut lines = BufReader::new(stream.try_clone().expect("it can be")).lines();
    // All of them in half the time that one who waits for the service would wait.
    let asked = Instant::now();
    for op in ["status", "flush", "snapshots", "status"] {
        writeln!(stream, "{{\"op\": \"{op}\"}}").expect("it listens");
        let answer = lines.next().expect("an answer").expect("an answer");
        assert!(asked.elapsed() < Duration::from_secs(5), "{op} came after {:?}", asked.elapsed());
        assert!(answer.contains("\"ok\""), "{op}: {answer}");
    }
    assert!(under_way(), "the service has not answered");
    write_and_sync(&point.join("disk"), 0, b"written meanwhile");
    // Unmounted by other means: the process has the file as long as it has something to tell the service.
    run(Command::new("umount").arg(&point)).ok();
    let refused = ecs.evsfs(&mount).error(3).naming(&[&served.to_string()]);
    assert_eq!(refused.code, "already_attached");
    process::send(kmsd, Signal::CONT);
    assert!(process::wait_for_exit(served, Duration::from_secs(25)));
    rekey.wait().expect("it is ours");
    ecs.evsfs(&mount).ok();
    assert_eq!(read(&point.join("disk"), 0, 17), b"written meanwhile");
    ecs.evsfs(&["umount".as_ref(), point.as_os_str()]).ok();
}
