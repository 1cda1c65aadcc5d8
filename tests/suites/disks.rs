//! D1 to D10 on real mounts: encrypted and plain disks, attached to servers, with file systems on them.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use harness::{Installation, LoopDevice, process, run, tree};
use serde_json::{Value, json};

const MIB: usize = 1 << 20;

fn file_of(disk: &Value) -> PathBuf {
    disk["file"].as_str().unwrap_or_else(|| panic!("no file in {disk}")).into()
}

/// A text that stands nowhere else.
fn canary(name: &str) -> String {
    format!("canary-{name}-{}-{:x}", std::process::id(), std::ptr::from_ref(&MIB).addr())
}

fn pattern(seed: u8, length: usize) -> Vec<u8> {
    (0..length).map(|index| (index % 251).to_le_bytes()[0] ^ seed).collect()
}

#[track_caller]
fn write_and_sync(view: &Path, offset: u64, data: &[u8]) {
    let file = OpenOptions::new().write(true).open(view).expect("the view can be opened");
    file.write_all_at(data, offset).expect("the view takes writes");
    file.sync_all().expect("the view can be flushed");
}

#[track_caller]
fn read(view: &Path, offset: u64, length: usize) -> Vec<u8> {
    let mut data = vec![0; length];
    let file = File::open(view).expect("the view can be opened");
    file.read_exact_at(&mut data, offset).expect("the view can be read");
    data
}

/// D10: a tree of files on ext4, detached, attached, compared; and its text nowhere in the volume file.
#[test]
fn d10_a_file_tree_comes_back_and_no_plaintext_is_in_the_volume_file() {
    let ecs = Installation::new();
    let canary = canary("tree");
    let source = ecs.dir().join("source");
    tree::write(&source, 400, &canary);
    let disk = ecs.create_disk("d", "--size 256M --encrypted");
    let point = ecs.dir().join("mnt");

    let attached = ecs.attach("d", "web1");
    {
        let device = LoopDevice::attach(&attached.path);
        device.format("ext4");
        let mounted = device.mount(&point);
        run(Command::new("cp").arg("-a").arg(&source).arg(mounted.path())).ok();
        mounted.unmount();
        assert!(tree::holds(&attached.path, &canary), "the plain view shows it, so the search can find it");
    }
    ecs.ecsctl("disk detach d").ok();
    assert!(!attached.path.exists(), "the view is gone");
    assert!(!tree::holds(&file_of(&disk), &canary), "plaintext stands in the volume file");

    let attached = ecs.attach("d", "web1");
    let device = LoopDevice::attach(&attached.path);
    let check = device.check("ext4");
    assert_eq!(check.code, 0, "{check}");
    let mounted = device.mount(&point);
    tree::assert_same(&source, &mounted.path().join("source"));
    mounted.unmount();
    drop(device);
    ecs.ecsctl("disk detach d").ok();
}

/// D10 at the byte: any offset and length, overwritten, over a detach.
#[test]
fn d10_reads_return_what_was_last_written_at_any_offset_and_length() {
    let ecs = Installation::new();
    ecs.create_disk("d", "--size 16M --encrypted");
    let attached = ecs.attach("d", "web1");
    let mut expected = vec![0_u8; 16 * MIB];
    let spans = [
        (0, 1),
        (1, 4095),
        (4095, 2),
        (4096, 4096),
        (5000, 70_000),
        (512, 512),
        (MIB - 3, 2 * MIB + 7),
        (16 * MIB - 1, 1),
    ];
    for (seed, (offset, length)) in spans.into_iter().enumerate() {
        let data = pattern(u8::try_from(seed).expect("few") + 1, length);
        write_and_sync(&attached.path, offset as u64, &data);
        expected[offset..offset + length].copy_from_slice(&data);
    }
    assert!(read(&attached.path, 0, 16 * MIB) == expected, "differs while attached");
    let view = OpenOptions::new().write(true).open(&attached.path).expect("the view can be opened");
    assert!(view.write_at(b"beyond", 16 * MIB as u64).is_err(), "a write beyond the end is refused");
    drop(view);
    ecs.ecsctl("disk detach d").ok();
    let attached = ecs.attach("d", "web1");
    assert!(read(&attached.path, 0, 16 * MIB) == expected, "differs after a detach");
}

/// D1: an encrypted disk's file alone, plus kmsd, is enough to open it elsewhere; and what it is never changes.
#[test]
fn d1_the_file_and_kmsd_are_enough_on_another_host() {
    let ecs = Installation::new();
    ecs.ecsctl("key create --alias k").ok();
    let disk = ecs.create_disk("d", "--size 16M --encrypted --key k");
    assert_eq!((disk["encrypted"].as_bool(), disk["key_alias"].as_str()), (Some(true), Some("k")), "{disk}");
    let attached = ecs.attach("d", "web1");
    write_and_sync(&attached.path, 12_345, b"carried over");
    ecs.ecsctl("disk detach d").ok();

    let carried = ecs.dir().join("carried.evs");
    fs::rename(file_of(&disk), &carried).expect("the file can be moved");
    let point = ecs.dir().join("elsewhere");
    fs::create_dir(&point).expect("a directory can be made");
    let mounted = ecs.evsfs(&["mount".as_ref(), carried.as_os_str(), point.as_os_str()]).json();
    let view: PathBuf = mounted["path"].as_str().expect("a path").into();
    assert_eq!(read(&view, 12_345, 12), b"carried over");
    ecs.evsfs(&["umount".as_ref(), point.as_os_str()]).ok();
}

/// D1: two disks under one CMK have two DEKs, so the same data gives different ciphertext.
#[test]
fn d1_each_disk_has_its_own_dek() {
    let ecs = Installation::new();
    let wrapped: Vec<Vec<u8>> = ["a", "b"]
        .iter()
        .map(|name| {
            let disk = ecs.create_disk(name, "--size 16M --encrypted");
            let attached = ecs.attach(name, "web1");
            write_and_sync(&attached.path, 0, &vec![7; 4 * MIB]);
            ecs.ecsctl(&format!("disk detach {name}")).ok();
            fs::read(file_of(&disk)).expect("the volume file can be read")
        })
        .collect();
    let blocks = |file: &[u8]| -> std::collections::BTreeSet<Vec<u8>> {
        let blocks = file.as_chunks::<4096>().0.iter();
        blocks.filter(|block| block.iter().any(|&byte| byte != 0)).map(|block| block.to_vec()).collect()
    };
    let (first, second) = (blocks(&wrapped[0]), blocks(&wrapped[1]));
    assert!(first.len() >= 1024 && second.len() >= 1024, "equal blocks are encrypted to different ones");
    assert_eq!(first.intersection(&second).count(), 0, "the two files share a block");
}

/// D2: the key's state is looked at before anything is mounted, and the error names key, state and remedy.
#[test]
fn d2_attach_with_an_unusable_key_fails_before_anything_is_mounted() {
    let ecs = Installation::new();
    ecs.ecsctl("server create web1").ok();
    for (alias, change, state, remedy) in [
        ("k1", "key disable k1", "disabled", "enable"),
        ("k2", "key schedule-deletion k2 --days 7 --yes", "pending", "cancel"),
    ] {
        ecs.ecsctl(&format!("key create --alias {alias}")).ok();
        ecs.create_disk(alias, &format!("--size 16M --encrypted --key {alias}"));
        ecs.ecsctl(change).ok();
        let before = ecs.fingerprint();
        ecs.ecsctl(&format!("disk attach {alias} web1")).error(3).naming(&[alias, state, remedy]);
        assert_eq!(ecs.fingerprint(), before, "a refused attach left something behind");
        assert_eq!(process::mounts_under(ecs.dir()), []);
        assert_eq!(process::with_argument(&ecs.home()), [] as [u32; 0]);
        ecs.ecsctl(&format!("disk create new-{alias} --size 16M --encrypted --key {alias}"))
            .error(3)
            .naming(&[alias, state, remedy]);
        assert_eq!(ecs.fingerprint(), before, "a refused create left something behind");
    }
}

/// D3: what is attached works on, whatever becomes of the key; the next attach fails, and works again once the key does.
#[test]
fn d3_an_attached_disk_outlives_its_keys_state() {
    let ecs = Installation::new();
    for (alias, take_away, give_back) in [
        ("k1", "key disable k1", "key enable k1"),
        ("k2", "key schedule-deletion k2 --days 7 --yes", "key cancel-deletion k2"),
    ] {
        ecs.ecsctl(&format!("key create --alias {alias}")).ok();
        ecs.create_disk(alias, &format!("--size 64M --encrypted --key {alias}"));
        let attached = ecs.attach(alias, "web1");
        write_and_sync(&attached.path, 0, &pattern(1, MIB));
        ecs.ecsctl(take_away).ok();
        write_and_sync(&attached.path, 20 * MIB as u64, &pattern(2, 8 * MIB));
        assert!(read(&attached.path, 0, MIB) == pattern(1, MIB));
        assert!(read(&attached.path, 20 * MIB as u64, 8 * MIB) == pattern(2, 8 * MIB));
        ecs.ecsctl(&format!("disk detach {alias}")).ok();
        ecs.ecsctl(&format!("disk attach {alias} web1")).error(3);
        ecs.ecsctl(give_back).ok();
        if give_back.contains("cancel") {
            // As in the cloud, the key comes back disabled.
            ecs.ecsctl(&format!("disk attach {alias} web1")).error(3).naming(&["disabled"]);
            ecs.ecsctl(&format!("key enable {alias}")).ok();
        }
        let attached = ecs.attach(alias, "web1");
        assert!(
            read(&attached.path, 20 * MIB as u64, 8 * MIB) == pattern(2, 8 * MIB),
            "what was written is there"
        );
        ecs.ecsctl(&format!("disk detach {alias}")).ok();
    }
}

/// D3: attached disks do not notice when kmsd stops, dies, or loses its token.
#[test]
fn d3_attached_disks_need_neither_kmsd_nor_the_token() {
    let mut ecs = Installation::new();
    ecs.create_disk("d", "--size 64M --encrypted");
    let attached = ecs.attach("d", "web1");
    let work = |round: u8| {
        let data = pattern(round, 3 * MIB);
        write_and_sync(&attached.path, u64::from(round) * 4 * MIB as u64, &data);
        for earlier in 1..=round {
            let offset = u64::from(earlier) * 4 * MIB as u64;
            assert!(
                read(&attached.path, offset, 3 * MIB) == pattern(earlier, 3 * MIB),
                "round {round}, part {earlier}"
            );
        }
    };
    work(1);
    ecs.kmsd_mut().stop();
    work(2);
    ecs.ecsctl("disk list").ok();
    ecs.kmsd_mut().start();
    work(3);
    ecs.kmsd_mut().kill();
    work(4);
    let hidden = ecs.dir().join("token-away");
    fs::rename(ecs.token().objects(), &hidden).expect("the token can be taken away");
    work(5);
    // It can even be detached, and then not attached.
    ecs.ecsctl("disk detach d").ok();
    ecs.ecsctl("disk attach d web1").error(4).naming(&["kmsd"]);
    fs::rename(&hidden, ecs.token().objects()).expect("the token can be given back");
    ecs.kmsd_mut().start();
    let attached = ecs.attach("d", "web1");
    assert!(read(&attached.path, 20 * MIB as u64, 3 * MIB) == pattern(5, 3 * MIB));
}

/// D7: a disk goes with what evsfs left unfinished of it, and with nothing else: a copy of its file is whoever's made it.
#[test]
fn d7_a_deleted_disk_takes_no_copies_with_it_that_somebody_keeps_beside_it() {
    let ecs = Installation::new();
    let disk = ecs.create_disk("d", "--size 16M --encrypted");
    let other = ecs.create_disk("other", "--size 16M --encrypted");
    let file = |disk: &Value| disk["file"].as_str().expect("a file").to_owned();
    let id = |disk: &Value| disk["id"].as_str().expect("an ID").to_owned();
    let beside = |name: String| ecs.home().join("volumes").join(name);
    let kept = [
        format!("{}.evs.newest-kept", id(&disk)),
        format!(".{}.evs.swp", id(&disk)),
        format!(".evsfs-{}.x.unfinished", id(&other)),
    ]
    .map(beside);
    let unfinished = beside(format!(".evsfs-{}.x.unfinished", id(&disk)));
    for path in kept.iter().chain([&unfinished]) {
        fs::copy(file(&disk), path).expect("it can be copied");
    }
    ecs.ecsctl("disk delete d --yes").ok();
    assert!(!PathBuf::from(file(&disk)).exists() && !unfinished.exists());
    for path in kept {
        assert!(path.exists(), "{} went with the disk", path.display());
    }
}

/// D4: detach flushes, unmounts and ends the one process that held the DEK.
#[test]
fn d4_detach_ends_the_process_that_held_the_dek() {
    let ecs = Installation::new();
    ecs.create_disk("d", "--size 16M --encrypted");
    let attached = ecs.attach("d", "web1");
    // Written and not flushed: the detach has to do it.
    let view = OpenOptions::new().write(true).open(&attached.path).expect("the view can be opened");
    view.write_all_at(b"not flushed by its writer", 0).expect("the view takes writes");
    drop(view);
    let shown = ecs.ecsctl("disk detach d").json();
    assert!(shown["path"].is_null() && shown["server"].is_null(), "{shown}");
    assert!(!process::is_running(attached.pid), "the process is gone when the command returns");
    assert_eq!(process::mounts_under(ecs.dir()), []);
    assert_eq!(process::with_argument(&ecs.home()), [] as [u32; 0]);
    let attached = ecs.attach("d", "web1");
    assert_eq!(read(&attached.path, 0, 25), b"not flushed by its writer");
}

/// D4: while attached, the DEK cannot get into a core dump, nor be read by another process of the same user.
#[test]
fn d4_the_serving_process_dumps_no_core_and_shows_its_memory_to_nobody() {
    let ecs = Installation::new();
    ecs.create_disk("d", "--size 16M --encrypted");
    ecs.ecsctl("server create web1").ok();
    // As root without CAP_SYS_PTRACE, only dumpable processes of the same user can be looked into.
    let unprivileged = |program: &str| {
        let mut command = Command::new("setpriv");
        command.args(["--bounding-set=-sys_ptrace", "--inh-caps=-sys_ptrace", program]);
        command
    };
    let evsctl = harness::program("ecsctl");
    let mut attach = unprivileged(evsctl.to_str().expect("UTF-8"));
    for (name, value) in ecs.command("ecsctl").get_envs() {
        attach.env(name, value.expect("set"));
    }
    let disk = run(attach.args(["--json", "disk", "attach", "d", "web1"])).json();
    let attached = ecs.attached(&disk);
    assert_eq!(process::core_limits(attached.pid), Some(("0".into(), "0".into())));

    let mut cat = unprivileged("cat");
    cat.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped());
    let mut other = cat.spawn().expect("cat can be run");
    // When it answers it is cat, without the capability that it began with.
    let (mut asked, mut answered) = (other.stdin.take().expect("piped"), other.stdout.take().expect("piped"));
    asked.write_all(b"?").and_then(|()| answered.read_exact(&mut [0])).expect("cat answers");
    // Opening its memory is what a debugger does; reading its map alone is allowed to whoever may use perf.
    let peek = |pid: u32| run(unprivileged("sh").args(["-c", &format!(": < /proc/{pid}/mem")])).code == 0;
    assert!(peek(other.id()), "an ordinary process can be looked into, so the next line means something");
    assert!(!peek(attached.pid), "the serving process can be looked into");
    other.kill().and_then(|()| other.wait()).expect("cat is ours");
}

/// D4: the DEK is in the memory of the one serving process while it serves, in kmsd's not even then, and in no file ever.
#[test]
fn d4_the_dek_is_in_one_process_while_attached_and_nowhere_after_detach() {
    let ecs = Installation::new();
    let disk = ecs.create_disk("d", "--size 16M --encrypted");
    let attached = ecs.attach("d", "web1");
    write_and_sync(&attached.path, 0, b"something");
    // The wrapped DEK from the header (docs/volume-format.md), opened the way evsfs does it.
    let header = fs::read(file_of(&disk)).expect("the volume file can be read");
    let length = usize::from(u16::from_le_bytes([header[134], header[135]]));
    let reply = ecs.kms(
        "decrypt-datakey",
        &json!({
            "cipher_text": hex(&header[136..136 + length]),
            "encryption_context": {"evs:volume": disk["id"], "evs:kind": "disk"},
        }),
    );
    let dek_hex = reply.ok()["data_key"].as_str().expect("a data key").to_owned();
    let dek: Vec<u8> =
        (0..64).step_by(2).map(|at| u8::from_str_radix(&dek_hex[at..at + 2], 16).expect("hex")).collect();

    let kmsd = ecs.kmsd().pid().expect("kmsd runs");
    assert_eq!(process::memory_holds(attached.pid, &dek), Some(true), "the scan finds it where it has to be");
    assert_eq!(
        process::memory_holds(attached.pid, dek_hex.as_bytes()),
        Some(false),
        "the reply with the DEK was kept"
    );
    assert_eq!(process::memory_holds(kmsd, &dek), Some(false), "kmsd keeps a DEK");
    assert_eq!(
        process::memory_holds(kmsd, dek_hex.as_bytes()),
        Some(false),
        "kmsd keeps a DEK in hexadecimal"
    );
    ecs.ecsctl("disk detach d").ok();
    assert_eq!(process::memory_holds(attached.pid, &dek), None, "the process is gone");
    assert_eq!(process::memory_holds(kmsd, &dek), Some(false));
    for line in tree::fingerprint(ecs.dir()) {
        let path = Path::new(line.split(' ').next().expect("a path"));
        if path.is_file() {
            let content = fs::read(path).expect("ours");
            let found = content.windows(32).any(|window| window == dek) || tree::holds(path, &dek_hex);
            assert!(!found, "the DEK stands in {}", path.display());
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// D4: a busy disk is not torn away from whoever uses it.
#[test]
fn d4_detach_of_a_busy_disk_names_who_holds_it() {
    let ecs = Installation::new();
    ecs.create_disk("d", "--size 64M --encrypted");
    let attached = ecs.attach("d", "web1");
    let held = File::open(&attached.path).expect("the view can be opened");
    let mut holder = Command::new("sleep").arg("infinity").stdin(held).spawn().expect("sleep can be run");
    ecs.ecsctl("disk detach d").error(3).naming(&["d", &holder.id().to_string(), "sleep"]);
    assert_eq!(ecs.ecsctl("disk show d").json()["server"], "web1");
    write_and_sync(&attached.path, 0, b"still works");
    holder.kill().and_then(|()| holder.wait()).expect("sleep is ours");

    {
        let device = LoopDevice::attach(&attached.path);
        let name = device.path().display().to_string();
        ecs.ecsctl("disk detach d").error(3).naming(&[&name]);
        assert_eq!(read(&attached.path, 0, 11), b"still works");
    }
    ecs.ecsctl("disk detach d").ok();
    assert!(process::wait_for_exit(attached.pid, Duration::ZERO));
}

/// D7: only a detached disk can be deleted; and the wrapped DEK goes first, so that a copy of the file that shares
/// its blocks (here a hard link) does not open any more.
#[test]
fn d7_delete_needs_a_detached_disk_and_erases_the_wrapped_dek_first() {
    let ecs = Installation::new();
    let disk = ecs.create_disk("d", "--size 16M --encrypted");
    let attached = ecs.attach("d", "web1");
    write_and_sync(&attached.path, 0, b"secret");
    let before = ecs.fingerprint();
    ecs.ecsctl("disk delete d --yes").error(3).naming(&["d", "web1", "detach"]);
    assert_eq!(ecs.fingerprint(), before);
    ecs.ecsctl("disk detach d").ok();

    let (file, link) = (file_of(&disk), ecs.dir().join("link.evs"));
    fs::hard_link(&file, &link).expect("a hard link can be made");
    ecs.evsfs(&["info".as_ref(), link.as_os_str()]).ok();
    let anchor = format!("/kmsd/v1/anchors/{}", disk["id"].as_str().expect("an ID"));
    let anchor = || ecs.api("GET", &anchor, None).ok()["anchor"].clone();
    assert!(anchor().is_object(), "it was written to");
    ecs.ecsctl("disk delete d --yes").ok();
    assert!(!file.exists());
    assert_eq!(anchor(), Value::Null, "its place is free");
    assert_eq!(ecs.ecsctl("disk list").json(), Value::Array(vec![]));
    let point = ecs.dir().join("point");
    fs::create_dir(&point).expect("a directory can be made");
    ecs.evsfs(&["mount".as_ref(), link.as_os_str(), point.as_os_str()]).error(5);
    assert_eq!(process::mounts_under(ecs.dir()), []);
    ecs.ecsctl("disk show d").error(6);
}

/// D7: deleting asks, and without a terminal and without --yes it does nothing.
#[test]
fn d7_delete_without_yes_and_without_a_terminal_is_refused() {
    let ecs = Installation::new();
    ecs.create_disk("d", "--size 16M --encrypted");
    let before = ecs.fingerprint();
    let refused = ecs.ecsctl("disk delete d");
    let code = refused.code;
    refused.error(code).naming(&["--yes"]);
    assert!(code == 2 || code == 3, "exit code {code}");
    assert_eq!(ecs.fingerprint(), before);
}

/// D9: plain disks have the same commands, need no key service, and are as plain as they say.
#[test]
fn d9_plain_disks_exist_beside_encrypted_ones() {
    let mut ecs = Installation::new();
    ecs.create_disk("secret", "--size 64M --encrypted");
    let plain = ecs.create_disk("open", "--size 64M");
    assert_eq!((plain["encrypted"].as_bool(), &plain["key_id"]), (Some(false), &Value::Null), "{plain}");
    let canary = canary("plain");
    let mut files = Vec::new();
    for name in ["secret", "open"] {
        let attached = ecs.attach(name, "web1");
        write_and_sync(&attached.path, 8192, canary.as_bytes());
        files.push(file_of(&ecs.ecsctl(&format!("disk show {name}")).json()));
    }
    let listed = ecs.ecsctl("disk list").json();
    assert_eq!(listed.as_array().map(Vec::len), Some(2), "{listed}");
    for name in ["secret", "open"] {
        ecs.ecsctl(&format!("disk detach {name}")).ok();
    }
    assert!(!tree::holds(&files[0], &canary), "the encrypted disk's file shows plaintext");
    assert!(tree::holds(&files[1], &canary), "the plain disk's file is plain");
    ecs.kmsd_mut().stop();
    let attached = ecs.attach("open", "web1");
    assert_eq!(read(&attached.path, 8192, canary.len()), canary.as_bytes());
    ecs.ecsctl("disk detach open").ok();
    ecs.ecsctl("disk delete open --yes").ok();
}

/// S2, D2: the path is stable over detaches, and two servers do not share a disk.
#[test]
fn d2_a_disk_is_attached_once_and_at_a_stable_path() {
    let ecs = Installation::new();
    ecs.create_disk("d", "--size 16M --encrypted");
    let first = ecs.attach("d", "web1");
    ecs.ecsctl("server create web2").ok();
    let before = ecs.fingerprint();
    ecs.ecsctl("disk attach d web2").error(3).naming(&["d", "web1"]);
    ecs.ecsctl("disk attach d web1").error(3).naming(&["d", "web1"]);
    assert_eq!(ecs.fingerprint(), before);
    ecs.ecsctl("disk detach d").ok();
    let second = ecs.attach("d", "web1");
    assert_eq!(first.path, second.path);
}

/// D5, D7: a new disk from a snapshot of a disk that is in use: what the snapshot holds, encrypted as that disk is, and independent of both.
#[test]
fn d5_a_new_disk_from_a_snapshot_is_independent_of_it() {
    let ecs = Installation::new();
    ecs.ecsctl("key create --alias k").ok();
    for (name, options) in [("secret", "--size 64M --encrypted --key k"), ("open", "--size 64M")] {
        let source = ecs.create_disk(name, options);
        let attached = ecs.attach(name, "web1");
        let canary = canary(name);
        write_and_sync(&attached.path, 0, &pattern(1, 8 * MIB));
        write_and_sync(&attached.path, 20 << 20, canary.as_bytes());
        ecs.ecsctl(&format!("snapshot create {name}-then --disk {name}")).ok();
        write_and_sync(&attached.path, 0, &pattern(2, 12 * MIB));
        // It is in use: somebody has it open, and writes.
        let view = OpenOptions::new().write(true).open(&attached.path).expect("the view can be opened");
        let made = ecs.ecsctl(&format!("disk create {name}-copy --snapshot {name}-then")).json();
        view.write_all_at(b"still in use", 0).expect("the view takes writes");
        drop(view);
        let fields = ["size", "encrypted", "key_id", "key_alias"];
        assert_eq!(fields.map(|field| &made[field]), fields.map(|field| &source[field]), "{made}");
        assert_eq!((&made["status"], &made["image_id"]), (&"available".into(), &Value::Null), "{made}");
        assert_eq!(made["source"], format!("snapshot {name}-then"));
        // Its source is wholly destroyed.
        ecs.ecsctl(&format!("disk detach {name}")).ok();
        ecs.ecsctl(&format!("snapshot delete {name}-then --yes")).ok();
        ecs.ecsctl(&format!("disk delete {name} --yes")).ok();
        let attached = ecs.attach(&format!("{name}-copy"), "web1");
        assert!(read(&attached.path, 0, 8 * MIB) == pattern(1, 8 * MIB));
        assert_eq!(read(&attached.path, 8 << 20, 4 * MIB), vec![0; 4 * MIB]);
        assert_eq!(read(&attached.path, 20 << 20, canary.len()), canary.as_bytes());
        ecs.ecsctl(&format!("disk detach {name}-copy")).ok();
        assert_eq!(tree::holds(&file_of(&made), &canary), name == "open");
    }
}

/// D5, D2: from a detached disk as well, larger if it is asked for; what cannot be is refused, and nothing is left.
#[test]
fn d5_a_disk_from_a_snapshot_keeps_the_rules() {
    let ecs = Installation::new();
    ecs.ecsctl("key create --alias k").ok();
    ecs.create_disk("d", "--size 16M --encrypted --key k");
    let attached = ecs.attach("d", "web1");
    write_and_sync(&attached.path, 4096, b"then");
    ecs.ecsctl("disk detach d").ok();
    ecs.ecsctl("snapshot create s --disk d").ok();
    let before = ecs.fingerprint();
    ecs.ecsctl("disk create e --snapshot s --size 8M").error(3).naming(&["e", "8388608"]);
    ecs.ecsctl("disk create e --snapshot s --encrypted --key k").error(2);
    ecs.ecsctl("disk create e --snapshot nothing").error(6).naming(&["nothing"]);
    ecs.ecsctl("key disable k").ok();
    ecs.ecsctl("disk create e --snapshot s").error(3).naming(&["k", "disabled"]);
    assert_eq!(ecs.fingerprint(), before);
    ecs.ecsctl("key enable k").ok();
    assert_eq!(ecs.ecsctl("disk create e --snapshot s --size 32M").json()["size"], 32 * MIB);
    let attached = ecs.attach("e", "web1");
    assert_eq!(read(&attached.path, 4096, 4), b"then");
    ecs.ecsctl("disk delete d --yes").error(3).naming(&["snapshot s"]);
}

/// D4, S3: any user can mount something at a name that is no text. It hides from nobody what is attached and by whom it is held.
#[test]
fn d4_a_mount_point_whose_name_is_no_text_hides_no_disk() {
    const SCRIPT: &str = r#"
        mount -t tmpfs strange "$1"
        "$2" disk attach d web1 >/dev/null
        exec 3<"$ECS_HOME/servers/web1/d"
        busy=0
        "$2" --json disk detach d 2>busy || busy=$?
        [ $busy = 3 ] && grep -q '"holders".*"pid"' busy || { cat busy; exit 40; }
        "$2" --json server recover --all | tee recovered | grep -q '"result": "present"' || { cat recovered; exit 41; }
        "$2" doctor --json >doctor 2>&1 || { cat doctor; exit 42; }
        exec 3<&-
        "$2" disk detach d >/dev/null
        "$2" disk attach d web1 >/dev/null
        "$2" disk detach d >/dev/null
    "#;
    let ecs = Installation::new();
    ecs.ecsctl("server create web1").ok();
    ecs.create_disk("d", "--size 16M --encrypted");
    let strange = ecs.dir().join(OsStr::from_bytes(b"a\xff"));
    fs::create_dir(&strange).expect("a directory can be made");
    let ecsctl = ecs.command("ecsctl");
    // A mount namespace of its own: nobody else is to be disturbed.
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-euc", SCRIPT, "sh"]);
    command.arg(&strange).arg(ecsctl.get_program()).current_dir(ecs.dir()).env_clear();
    command.envs(ecsctl.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let outcome = run(&mut command);
    assert_eq!(outcome.code, 0, "{outcome}");
}

/// D7: a deletion that evsfs refuses, or that there is no evsfs for, changes nothing: the disk can be used as before.
#[test]
fn d7_a_deletion_that_could_not_begin_does_not_condemn_the_disk() {
    let ecs = Installation::new();
    let disk = ecs.create_disk("d", "--size 16M --encrypted");
    let file = Path::new(disk["file"].as_str().expect("a file"));
    let elsewhere = ecs.dir().join("elsewhere");
    fs::create_dir(&elsewhere).expect("a directory can be made");
    ecs.evsfs(&["mount".as_ref(), file, elsewhere.as_path()]).ok();
    ecs.ecsctl("disk delete d --yes").error(3).naming(&["in use"]);
    assert_eq!(ecs.ecsctl("disk show d").json()["status"], "available");
    ecs.evsfs(&["umount".as_ref(), elsewhere.as_path()]).ok();

    let config = ecs.home().join("ecs.toml");
    fs::write(&config, "evsfs = '/nowhere/evsfs'\n").expect("it can be written");
    assert_eq!(ecs.ecsctl("disk delete d --yes").error(1).code, "evsfs-missing");
    fs::remove_file(&config).expect("it is there");
    ecs.attach("d", "web1");
    ecs.ecsctl("disk detach d").ok();
    ecs.ecsctl("disk delete d --yes").ok();
    assert!(!file.exists());
}

/// What could not be done beside what was asked is told to people and to programs: here, that kmsd cannot be told of a deletion.
#[test]
fn what_a_deletion_leaves_behind_is_told() {
    let mut ecs = Installation::new();
    for name in ["a", "b"] {
        ecs.create_disk(name, "--size 1M --encrypted");
    }
    ecs.kmsd_mut().stop();
    let deleted = ecs.ecsctl("disk delete a --yes").ok();
    let told: Value = serde_json::from_str(&deleted.stderr).expect("one JSON document");
    let warning = &told["warnings"][0];
    let message = warning["message"].as_str().expect("a message");
    assert!(message.contains("anchor of a") && message.contains("cannot reach"), "{told}");
    assert!(warning["hint"].as_str().is_some_and(|hint| hint.contains("administrator")), "{told}");
    let deleted = run(ecs.command("ecsctl").args(["disk", "delete", "b", "--yes"])).ok();
    assert!(deleted.stderr.starts_with("warning: kmsd keeps the anchor of b"), "{}", deleted.stderr);
    assert!(deleted.stdout.contains("disk b deleted"), "{}", deleted.stdout);
}
