//! Volume files as the commands make, show, open and destroy them; what needs a key service is tried up to the point where it is
//! asked.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use evsfs::backing::FileBacking;
use evsfs::crypto::{Backend, Dek, Suite, SystemEntropy, VolumeKeys};
use evsfs::engine::{CreateParams, Volume};
use evsfs::format::{Header, Text, VolumeKind, WrappedDekField};
use rustix::process::{Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;
use uuid::Uuid;

use crate::disk::{Disk, Kind, MIB, create_plain, evsfs, pid, read, refusal, run};
use crate::file_systems::{self, Mounted};
use crate::slow_host::delayed;

const WRAPPED: &[u8] = b"as a key service would have wrapped it, which nobody here can open";

/// A directory, in it a path for a volume, and a place to mount.
struct Place {
    dir: TempDir,
}

impl Place {
    fn new() -> Self {
        Self::within(&std::env::temp_dir())
    }

    fn within(parent: &Path) -> Self {
        let this = Self { dir: tempfile::tempdir_in(parent).unwrap() };
        fs::create_dir(this.point()).unwrap();
        this
    }

    fn file(&self) -> PathBuf {
        self.dir.path().canonicalize().unwrap().join("volume.evs")
    }

    fn point(&self) -> PathBuf {
        self.dir.path().join("point")
    }

    fn names(&self) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(self.dir.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

/// Runs it with `--json` and a key service that is not there.
fn alone<S: AsRef<OsStr>>(arguments: &[S]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_evsfs"))
        .args(arguments)
        .arg("--json")
        .env("KMSD_SOCKET", "/nonexistent/kmsd.sock")
        .output()
        .unwrap()
}

#[track_caller]
fn value(output: &Output) -> Value {
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Begins to create a volume on a host that takes seconds for each write, with this before the command line, and waits until most of it is written, but not
/// durable. Gives the process.
fn creating(place: &Place, before: &[&str]) -> Child {
    let child = Command::new("env")
        .args(before)
        .args([OsStr::new(env!("CARGO_BIN_EXE_evsfs")), "create".as_ref(), place.file().as_os_str()])
        .args(["--plain", "--size", "1M"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let asked = Instant::now();
    let is_written = |name: &String| {
        name.ends_with(".unfinished")
            && fs::metadata(place.dir.path().join(name)).is_ok_and(|file| file.len() > 4 * MIB)
    };
    while !place.names().iter().any(is_written) {
        assert!(asked.elapsed() < Duration::from_secs(20), "{:?}", place.names());
        std::thread::yield_now();
    }
    child
}

/// Before the host has done anything of what it was asked.
#[test]
fn what_is_interrupted_while_it_is_created_leaves_nothing() {
    let disk = Disk::new(Kind::Raw, 64 * MIB);
    file_systems::make(&disk);
    let host = Mounted::new(&disk);
    // The file system's own journal must not be among what hangs: it is written before, and not for a while.
    run("mount", &["-o".as_ref(), "remount,commit=300".as_ref(), host.point.as_os_str()]);
    let slow = || {
        run("sync", &["--file-system".as_ref(), host.point.as_os_str()]);
        delayed(&disk, "pwrite64", 60_000_000)
    };
    let gone = |place: &Place| {
        let asked = Instant::now();
        while place.names() != ["point"] {
            assert!(asked.elapsed() < Duration::from_secs(20), "{:?}", place.names());
            std::thread::yield_now();
        }
    };
    for signal in [Signal::INT, Signal::TERM, Signal::HUP] {
        let place = Place::within(&host.point);
        let slow = slow();
        let mut child = creating(&place, &["--default-signal=INT,TERM,HUP"]);
        kill_process(pid(child.id()), signal).unwrap();
        gone(&place);
        drop(slow);
        let ended = child.wait().unwrap();
        assert_eq!(ended.signal(), Some(signal.as_raw()), "it ends as any program does: {ended}");
        gone(&place);
    }
    // Who was told to ignore one does.
    let place = Place::within(&host.point);
    let slow = slow();
    let mut child = creating(&place, &["--ignore-signal=HUP"]);
    kill_process(pid(child.id()), Signal::HUP).unwrap();
    drop(slow);
    assert!(child.wait().unwrap().success());
    assert_eq!(place.names(), ["point", "volume.evs"]);
}

/// An encrypted volume whose key no service knows.
pub(crate) fn create_encrypted(path: &Path) -> Uuid {
    let uuid = Uuid::new_v4();
    let params = CreateParams { size: 16 * MIB };
    let header = Header {
        suite: Suite::Aes256Gcm,
        kind: VolumeKind::Disk,
        sequence: 0,
        uuid,
        created: 1_700_000_000,
        ring_pages: params.ring_pages(),
        cmk_id: Text::new("0f0e0d0c-0000-4000-8000-000000000001").unwrap(),
        cmk_version: 3,
        wrapped_dek: WrappedDekField::new(WRAPPED.to_vec()).unwrap(),
        next: None,
        base_copied: false,
        base: None,
    };
    let keys = VolumeKeys::new(Dek::new(&[42; 32]), uuid, Backend::AwsLc);
    let backing = FileBacking::create(path).unwrap();
    Volume::create(&backing, &header, &params, &keys, &SystemEntropy).unwrap();
    uuid
}

fn holds(path: &Path, needle: &[u8]) -> bool {
    fs::read(path).unwrap().windows(needle.len()).any(|window| window == needle)
}

#[test]
fn create_makes_a_private_file_and_never_overwrites() {
    let place = Place::new();
    let file = place.file();
    let created = value(&alone(&[
        OsStr::new("create"),
        file.as_os_str(),
        OsStr::new("--size"),
        OsStr::new("32M"),
        OsStr::new("--plain"),
        OsStr::new("--uuid"),
        OsStr::new("11111111-2222-4333-8444-555555555555"),
    ]));
    assert_eq!(created["uuid"], "11111111-2222-4333-8444-555555555555");
    assert_eq!((&created["size"], &created["key_id"]), (&(32 * MIB).into(), &Value::Null));
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o7777, 0o600);
    assert_eq!(place.names(), ["point", "volume.evs"], "nothing else stays");

    let before = fs::read(&file).unwrap();
    let arguments =
        ["create".as_ref(), file.as_os_str(), "--size".as_ref(), "1M".as_ref(), "--plain".as_ref()];
    let (code, error) = refusal(&alone(&arguments));
    assert_eq!((code, error["code"].as_str()), (3, Some("file_exists")));
    assert!(error["message"].as_str().unwrap().contains(file.to_str().unwrap()));
    assert!(fs::read(&file).unwrap() == before);
}

#[test]
fn what_cannot_be_created_leaves_nothing() {
    let place = Place::new();
    let file = place.file();
    let create = |more: &[&str]| {
        let mut arguments = vec![OsStr::new("create"), file.as_os_str()];
        arguments.extend(more.iter().map(OsStr::new));
        alone(&arguments)
    };
    for size in ["0", "-1G", "4097", "65T", "", "ten", "1.5G", "99999999999999999999"] {
        for arguments in [&["--plain", "--size", size][..], &["--plain", &format!("--size={size}")]] {
            assert_eq!(create(arguments).status.code(), Some(2), "{arguments:?}");
        }
    }
    assert_eq!(create(&["--plain"]).status.code(), Some(2), "no size");
    assert_eq!(create(&["--size", "1M"]).status.code(), Some(2), "neither key nor plain");
    assert_eq!(create(&["--size", "1M", "--plain", "--key", "k"]).status.code(), Some(2), "both");
    let (code, error) = refusal(&create(&["--size", "1M", "--key", "evs/default"]));
    assert_eq!((code, error["code"].as_str()), (4, Some("kms_unreachable")), "{error}");
    let (code, _) = refusal(&alone(&["create", "/nonexistent/volume", "--plain", "--size", "1M"]));
    assert_eq!(code, 1);
    assert_eq!(place.names(), ["point"]);
}

#[test]
fn info_shows_the_header_without_the_key_also_while_attached() {
    let place = Place::new();
    let uuid = create_encrypted(&place.file());
    let info = value(&alone(&["info".as_ref(), place.file().as_os_str()]));
    assert_eq!(info["uuid"], uuid.to_string());
    assert_eq!(info["key_id"], "0f0e0d0c-0000-4000-8000-000000000001");
    assert_eq!((&info["version"], &info["encrypted"]), (&1.into(), &true.into()));
    assert_eq!((&info["kind"], &info["attached"]), (&"disk".into(), &Value::Null));
    assert!(!info.to_string().contains("wrapped it"), "{info}");

    let disk = Disk::new(Kind::Plain, 16 * MIB);
    let info = value(&alone(&["info".as_ref(), disk.file().as_os_str()]));
    assert_eq!((&info["encrypted"], &info["attached"]), (&false.into(), &disk.pid.into()));
}

#[test]
fn info_with_the_key_shows_the_size() {
    let place = Place::new();
    create_plain(&place.file(), 48 * MIB);
    let info = value(&alone(&["info".as_ref(), "--unlock".as_ref(), place.file().as_os_str()]));
    assert_eq!((&info["size"], &info["commit"]), (&(48 * MIB).into(), &0.into()));
}

#[test]
fn d2_without_the_key_service_an_encrypted_volume_is_not_mounted() {
    let place = Place::new();
    create_encrypted(&place.file());
    let (code, error) =
        refusal(&alone(&["mount".as_ref(), place.file().as_os_str(), place.point().as_os_str()]));
    assert_eq!((code, error["code"].as_str()), (4, Some("kms_unreachable")));
    assert!(error["message"].as_str().unwrap().contains("/nonexistent/kmsd.sock"), "{error}");
    assert!(fs::read_dir(place.point()).unwrap().next().is_none());
}

#[test]
fn erase_destroys_the_wrapped_key_in_both_copies() {
    let place = Place::new();
    let file = place.file();
    let uuid = create_encrypted(&file);
    assert!(holds(&file, WRAPPED));
    let erased = value(&alone(&["erase".as_ref(), file.as_os_str()]));
    assert_eq!((&erased["uuid"], &erased["erased"]), (&uuid.to_string().into(), &true.into()));
    assert!(!holds(&file, &WRAPPED[..16]));
    for command in [
        &["mount".as_ref(), file.as_os_str(), place.point().as_os_str()][..],
        &["info".as_ref(), file.as_os_str()],
    ] {
        let (code, error) = refusal(&alone(command));
        assert_eq!((code, error["code"].as_str()), (5, Some("key_erased")), "{error}");
    }
}

#[test]
fn erase_of_an_attached_volume_is_refused() {
    let disk = Disk::new(Kind::Plain, MIB);
    let (code, error) = refusal(&alone(&["erase".as_ref(), disk.file().as_os_str()]));
    assert_eq!((code, error["code"].as_str()), (3, Some("already_attached")));
}

#[test]
fn files_that_are_no_volume_or_a_damaged_one() {
    let place = Place::new();
    let (file, point) = (place.file(), place.point());
    create_plain(&file, 16 * MIB);
    let good = fs::read(&file).unwrap();
    let with = |offset: usize, bytes: &[u8]| {
        let mut changed = good.clone();
        for copy in [0, 8 * 4096] {
            changed[copy + offset..copy + offset + bytes.len()].copy_from_slice(bytes);
        }
        changed
    };
    for (what, contents, code) in [
        ("text", b"root:x:0:0:root:/root:/bin/bash\n".repeat(5000), "not_a_volume"),
        ("zeros", vec![0; 1 << 20], "not_a_volume"),
        ("one byte", vec![b'E'], "truncated"),
        ("half a header", good[..3000].to_vec(), "truncated"),
        ("without a log", good[..64 * 4096].to_vec(), "truncated"),
        ("another version", with(8, &[99]), "other_version"),
        ("an unknown cipher", with(10, &[9]), "damaged"),
        ("a changed header", with(17, &[77]), "header_not_authentic"),
    ] {
        fs::write(&file, &contents).unwrap();
        let (status, error) = refusal(&alone(&["mount".as_ref(), file.as_os_str(), point.as_os_str()]));
        assert_eq!((status, error["code"].as_str()), (5, Some(code)), "{what}: {error}");
        assert!(error["message"].as_str().unwrap().contains(file.to_str().unwrap()), "{what}: {error}");
        assert!(fs::read(&file).unwrap() == contents, "{what}: the file was changed");
    }
    // One copy is enough.
    let mut one = good.clone();
    one[..4096].fill(0xff);
    fs::write(&file, &one).unwrap();
    value(&alone(&["mount".as_ref(), file.as_os_str(), point.as_os_str()]));
    value(&alone(&["umount".as_ref(), file.as_os_str()]));
}

#[test]
fn another_volume_than_expected_is_refused() {
    let place = Place::new();
    let (file, point) = (place.file(), place.point());
    create_plain(&file, 16 * MIB);
    for (option, word) in [
        ("--expect-uuid=11111111-2222-4333-8444-555555555555", "11111111"),
        ("--expect-encrypted", "encrypted"),
    ] {
        let arguments = ["mount".as_ref(), file.as_os_str(), point.as_os_str(), option.as_ref()];
        let (code, error) = refusal(&alone(&arguments));
        assert_eq!((code, error["code"].as_str()), (5, Some("another_volume")));
        assert!(error["message"].as_str().unwrap().contains(word), "{error}");
    }
}

#[test]
fn salvage_saves_what_verifies_and_lists_the_rest() {
    let place = Place::new();
    let mut disk = Disk::new(Kind::Plain, 16 * MIB);
    let view = disk.open();
    for block in 0..64u64 {
        view.write_all_at(&[u8::try_from(block).unwrap() + 1; 4096], 2 * MIB + block * 4096).unwrap();
    }
    view.sync_all().unwrap();
    drop(view);
    disk.detach();
    // The contents of a plain volume can be found: damage block 10 of them.
    let mut bytes = fs::read(disk.file()).unwrap();
    let at = bytes.chunks(4096).position(|slot| slot == [11; 4096]).expect("block 10") * 4096;
    bytes[at + 100] ^= 1;
    fs::write(disk.file(), &bytes).unwrap();

    let output = place.dir.path().join("salvaged");
    let result = alone(&["salvage".as_ref(), disk.file().as_os_str(), output.as_os_str()]);
    assert_eq!(result.status.code(), Some(5), "{result:?}");
    let report: Value = serde_json::from_slice(&result.stdout).unwrap();
    assert_eq!((&report["lost_bytes"], &report["salvaged_bytes"]), (&4096.into(), &(63 * 4096).into()));
    assert_eq!(report["lost"][0]["offset"], 2 * MIB + 10 * 4096);
    let saved = File::open(&output).unwrap();
    assert_eq!(saved.metadata().unwrap().len(), 16 * MIB);
    for block in 0..64u64 {
        let expected = if block == 10 { 0 } else { u8::try_from(block).unwrap() + 1 };
        assert_eq!(read(&saved, 2 * MIB + block * 4096, 4096), [expected; 4096], "block {block}");
    }
    let (code, _) = refusal(&alone(&["salvage".as_ref(), disk.file().as_os_str(), output.as_os_str()]));
    assert_eq!(code, 3, "never over a file");
}

#[test]
fn i4_a_thin_disk_reads_its_base_and_keeps_its_own() {
    let place = Place::new();
    let mut image = Disk::new(Kind::Plain, 16 * MIB);
    image.open().write_all_at(&[7; 100_000], MIB).unwrap();
    image.detach();
    let file = place.file();
    let created = value(&alone(&[
        OsStr::new("create"),
        file.as_os_str(),
        OsStr::new("--plain"),
        OsStr::new("--base"),
        image.file().as_os_str(),
    ]));
    assert_eq!(created["size"], 16 * MIB);
    let point = place.point();
    let mount = ["mount".as_ref(), file.as_os_str(), point.as_os_str()];
    value(&alone(&mount));
    let view = File::options().read(true).write(true).open(place.point().join("disk")).unwrap();
    assert_eq!(read(&view, MIB, 100_000), [7; 100_000]);
    view.write_all_at(&[9; 5000], MIB + 5000).unwrap();
    let mut expected = vec![7; 100_000];
    expected[5000..10_000].fill(9);
    assert_eq!(read(&view, MIB, 100_000), expected);
    drop(view);
    // The image cannot be written while a disk stands on it, and the disk cannot be attached on an image that was.
    let (code, error) = refusal(&evsfs(&image.mount_arguments()));
    assert_eq!((code, error["code"].as_str()), (3, Some("already_attached")), "{error}");
    value(&alone(&["umount".as_ref(), file.as_os_str()]));
    image.attach();
    image.open().write_all_at(b"changed", 0).unwrap();
    image.detach();
    let (code, error) = refusal(&alone(&mount));
    assert_eq!((code, error["code"].as_str()), (5, Some("base_changed")), "{error}");
}
