//! D5, I1: copies of disks that are in use: backups and images, each a state of one moment, independent of what it was made from.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;

use harness::{Installation, LoopDevice, run, tree, whole};
use serde_json::Value;

fn file_of(volume: &Value) -> PathBuf {
    volume["file"].as_str().unwrap_or_else(|| panic!("no file in {volume}")).into()
}

#[track_caller]
fn snapshots_of(ecs: &Installation, disk: &Value) -> Value {
    ecs.evsfs(&["snapshots".as_ref(), file_of(disk).as_path()]).json()["snapshots"].clone()
}

/// Mounts the file system of an attached disk, replays its log, and demands that it is whole.
#[track_caller]
fn inspect(ecs: &Installation, disk: &str, look: impl FnOnce(&Path)) {
    let device = LoopDevice::attach(&ecs.attach(disk, "inspector").path);
    device.mount(&ecs.dir().join("inspected")).unmount();
    let check = device.check("ext4");
    assert_eq!(check.code, 0, "{disk}: {check}");
    let mounted = device.mount(&ecs.dir().join("inspected"));
    look(mounted.path());
    mounted.unmount();
    drop(device);
    ecs.ecsctl(&format!("disk detach {disk}")).ok();
}

/// Writes files one after the other, each durable before the next, until it is told to end; says how many are.
fn write_on(dir: &Path, end: &AtomicBool, done: &AtomicU32) {
    for number in 0_u32.. {
        if end.load(Ordering::Relaxed) {
            return;
        }
        let mut file = File::create(dir.join(format!("w{}", number % 500))).expect("a file can be made");
        file.write_all(&vec![number.to_le_bytes()[0]; 5000]).expect("it can be written");
        file.sync_all().expect("it can be made durable");
        done.store(number + 1, Ordering::Relaxed);
    }
}

/// D5: a backup of a disk that is mounted and written to all the while is whole, holds what was durable before it began, and can be
/// restored with any encryption; the disk keeps no trace of it.
#[test]
fn d5_a_disk_that_is_written_to_is_backed_up_as_it_was_at_one_moment() {
    let ecs = Installation::new();
    for key in ["disk-key", "new-key"] {
        ecs.ecsctl(&format!("key create --alias {key}")).ok();
    }
    let canary = format!("canary-backup-{}", std::process::id());
    let source = ecs.dir().join("source");
    tree::write(&source, 100, &canary);
    let disk = ecs.create_disk("d", "--size 128M --encrypted --key disk-key");
    let device = LoopDevice::attach(&ecs.attach("d", "web1").path);
    device.format("ext4");
    let mounted = device.mount(&ecs.dir().join("mnt"));
    run(Command::new("cp").arg("-a").arg(&source).arg(mounted.path())).ok();
    run(Command::new("sync").arg("-f").arg(mounted.path())).ok();

    let (end, done) = (AtomicBool::new(false), AtomicU32::new(0));
    let writes = mounted.path().join("writes");
    fs::create_dir(&writes).expect("a directory can be made");
    let backup = thread::scope(|scope| {
        scope.spawn(|| write_on(&writes, &end, &done));
        while done.load(Ordering::Relaxed) < 20 {
            thread::yield_now();
        }
        let before = done.load(Ordering::Relaxed);
        let backup = ecs.ecsctl("backup create b --disk d");
        let during = done.load(Ordering::Relaxed) - before;
        end.store(true, Ordering::Relaxed);
        assert!(during > 0, "nothing was written while the backup was made: it proves nothing");
        backup.json()
    });
    assert_eq!(
        (&backup["key_alias"], &backup["status"]),
        (&"disk-key".into(), &"available".into()),
        "{backup}"
    );
    assert_eq!(snapshots_of(&ecs, &disk), Value::Array(vec![]), "the snapshot is gone");
    mounted.unmount();
    drop(device);
    ecs.ecsctl("disk detach d").ok();
    ecs.ecsctl("disk delete d --yes").ok();

    // The way out of encryption is asked about, whichever command takes it.
    for open in ["backup restore b open --plain", "disk create open --backup b --plain"] {
        ecs.ecsctl(open).error(2).naming(&["backup b", "in the open", "--yes"]);
    }
    for (name, options, key) in [
        ("same", "", Some("disk-key")),
        ("rekeyed", "--encrypted --key new-key", Some("new-key")),
        ("open", "--plain --yes", None),
    ] {
        let restored = ecs.ecsctl(&format!("backup restore b {name} {options}")).json();
        assert_eq!(restored["key_alias"].as_str(), key, "{restored}");
        inspect(&ecs, name, |root| {
            tree::assert_same(&source, &root.join("source"));
            for number in 0..20 {
                let written =
                    fs::read(root.join(format!("writes/w{number}"))).expect("it was durable before");
                assert_eq!(written.len(), 5000, "w{number}");
            }
        });
        assert_eq!(tree::holds(&file_of(&restored), &canary), key.is_none(), "{name}");
    }
    assert!(!tree::holds(&file_of(&backup), &canary), "the backup is encrypted");
}

/// D5, D1: a backup has a DEK of its own, and so has each disk that is restored from it; a disk restored under another key needs no other
/// key than that one.
#[test]
fn d5_each_copy_has_a_dek_of_its_own_and_needs_only_its_own_key() {
    let ecs = Installation::new();
    for key in ["k1", "k2"] {
        ecs.ecsctl(&format!("key create --alias {key}")).ok();
    }
    let disk = ecs.create_disk("d", "--size 16M --encrypted --key k1");
    let text = b"what was on the disk".repeat(1000);
    let view = File::options().write(true).open(ecs.attach("d", "web1").path);
    view.and_then(|mut view| view.write_all(&text)).expect("it can be written");
    ecs.ecsctl("disk detach d").ok();
    let backup = ecs.ecsctl("backup create b --disk d").json();
    let same = ecs.ecsctl("backup restore b same").json();
    let other = ecs.ecsctl("backup restore b other --encrypted --key k2").json();
    let keys = [&disk, &backup, &same, &other].map(|volume| ecs.data_key(volume));
    for (n, (wrapped, opened)) in keys.iter().enumerate() {
        for (other_wrapped, other_opened) in &keys[..n] {
            assert_ne!(wrapped, other_wrapped, "volume {n}");
            assert_ne!(opened, other_opened, "volume {n}");
        }
    }
    ecs.ecsctl("key disable k1").ok();
    ecs.ecsctl("disk attach d web1").error(3).naming(&["k1", "disabled"]);
    ecs.ecsctl("backup restore b again").error(3).naming(&["k1", "disabled"]);
    let attached = ecs.attach("other", "web1");
    assert!(fs::read(&attached.path).expect("it can be read").starts_with(&text));
    ecs.ecsctl("disk detach other").ok();
}

/// D5, F3: a copy of a disk whose file is an old one is refused as its attachment is, and nothing of it stays: no file, no mount, no name that is
/// taken.
#[test]
fn d5_a_copy_that_is_refused_at_its_source_leaves_nothing() {
    let ecs = Installation::new();
    let disk = ecs.create_disk("d", "--size 16M --encrypted");
    let (file, old) = (file_of(&disk), ecs.dir().join("old"));
    for text in ["first", "second"] {
        fs::copy(&file, &old).expect("it can be copied");
        let view = File::options().write(true).open(ecs.attach("d", "web1").path);
        view.and_then(|mut view| view.write_all(text.as_bytes())).expect("it can be written");
        ecs.ecsctl("disk detach d").ok();
    }
    fs::copy(&old, &file).expect("it can be copied");
    let before = whole(&ecs, &["d"], "before");
    for line in ["backup create b --disk d", "backup create b --disk d", "image create b --from-disk d"] {
        let refused = ecs.ecsctl(line).error(3);
        assert_eq!(refused.code, "rolled-back", "{line}: {refused:?}");
        assert_eq!(whole(&ecs, &["d"], line), before);
    }
}

/// I1: an image of a server whose system disk is in use is a state of that disk, under the same key, and a new server can be made from it.
#[test]
fn i1_an_image_is_made_of_a_system_disk_in_use() {
    let ecs = Installation::new();
    ecs.ecsctl("key create --alias img-key").ok();
    let original = tree::file_system(ecs.dir(), "canary");
    ecs.ecsctl(&format!("image create base --from-file {} --encrypted --key img-key", original.display()))
        .ok();
    ecs.ecsctl("server create web1 --image base").ok();
    let system = ecs.ecsctl("disk show web1-system").json();
    let device = LoopDevice::attach(Path::new(system["path"].as_str().expect("it is attached")));
    let mounted = device.mount(&ecs.dir().join("mnt"));
    fs::write(mounted.path().join("installed"), "later").expect("it can be written");
    run(Command::new("sync").arg("-f").arg(mounted.path())).ok();
    let image = ecs.ecsctl("image create golden --from-server web1").json();
    fs::write(mounted.path().join("installed"), "too late for the image").expect("it is in use still");
    assert_eq!((&image["key_alias"], &image["encrypted"]), (&"img-key".into(), &true.into()), "{image}");
    assert_eq!(snapshots_of(&ecs, &system), Value::Array(vec![]), "the snapshot is gone");
    mounted.unmount();
    drop(device);

    ecs.ecsctl("server create web2 --image golden").ok();
    ecs.ecsctl("disk detach web2-system").ok();
    inspect(&ecs, "web2-system", |root| {
        assert_eq!(fs::read_to_string(root.join("installed")).expect("it is in the image"), "later");
        fs::remove_file(root.join("installed")).expect("it is there");
        tree::assert_same(&ecs.dir().join("files"), root);
    });
    // It does not depend on the server that it was made from.
    ecs.ecsctl("server delete web1 --yes").ok();
    ecs.ecsctl("image delete base --yes").ok();
}

/// D10: a copy of a disk, image or backup with a block that does not verify says which one and what saves the rest; nothing half-made stays.
#[test]
fn d10_a_copy_of_a_damaged_volume_names_it_and_what_saves_the_rest() {
    let ecs = Installation::new();
    fs::write(ecs.dir().join("raw"), vec![0xd7; 1 << 20]).expect("it can be written");
    let image = ecs.ecsctl("image create same --from-file raw").json();
    ecs.ecsctl("image copy same good").ok();
    let disk = ecs.create_disk("same", "--size 1M");
    let view = ecs.attach("same", "web1").path;
    fs::File::options()
        .write(true)
        .open(&view)
        .expect("the view opens")
        .write_all(&[0xd8; 1 << 20])
        .expect("it takes writes");
    ecs.ecsctl("disk detach same").ok();
    for (volume, byte) in [(&image, 0xd7), (&disk, 0xd8)] {
        let file = file_of(volume);
        let mut bytes = fs::read(&file).expect("the volume file can be read");
        let slot =
            bytes.chunks(4096).position(|slot| slot.iter().all(|b| *b == byte)).expect("a block of data");
        bytes[slot * 4096 + 9] ^= 1;
        fs::write(&file, bytes).expect("it is ours");
    }
    let before = whole(&ecs, &[], "before");
    for (line, named, volume) in [
        ("backup create b --disk same", "disk same", &disk),
        ("image create i --from-disk same", "disk same", &disk),
        ("image copy same i", "image same", &image),
        ("image export same out.raw --format raw", "image same", &image),
    ] {
        let refused = ecs.ecsctl(line).error(5).naming(&[named, "verify"]);
        assert_eq!(refused.code, "volume-damaged", "{line}: {refused:?}");
        let file = file_of(volume);
        assert!(refused.hint.contains(&format!("evsfs salvage {}", file.display())), "{line}: {refused:?}");
        assert_eq!(whole(&ecs, &[], line), before, "{line}");
        assert!(!ecs.dir().join("out.raw").exists());
    }
    let saved = ecs.dir().join("saved");
    ecs.evsfs(&["salvage".as_ref(), file_of(&disk).as_os_str(), saved.as_os_str()]);
    let saved = fs::read(saved).expect("what verifies was saved");
    assert_eq!(saved.iter().filter(|byte| **byte == 0xd8).count(), (1 << 20) - 4096);
}
