//! Growing, snapshots, rolling back and checking, of an attached disk and of a detached one.

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;

use serde_json::{Value, json};

use crate::disk::{Disk, Kind, MIB, evsfs, read, refusal};

/// `evsfs COMMAND FILE MORE... --json`
fn on(disk: &Disk, command: &str, more: &[&str]) -> std::process::Output {
    let file = disk.file();
    let mut arguments = vec![OsStr::new(command), file.as_os_str()];
    arguments.extend(more.iter().map(OsStr::new));
    arguments.push(OsStr::new("--json"));
    evsfs(&arguments)
}

#[track_caller]
fn done(disk: &Disk, command: &str, more: &[&str]) -> Value {
    let output = on(disk, command, more);
    assert!(output.status.success(), "{command}: {output:?}\n{}", disk.log());
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn d6_a_disk_grows_under_those_who_use_it() {
    for options in [&[][..], &["--cached"]] {
        let mut disk = Disk::with(Kind::Plain, 8 * MIB, options);
        let view = disk.open();
        view.write_all_at(b"old end", 8 * MIB - 7).unwrap();
        assert_eq!(done(&disk, "extend", &["--size", "24M"])["size"], 24 * MIB);
        assert_eq!(fs::metadata(disk.path()).unwrap().len(), 24 * MIB, "at once");
        assert_eq!(view.metadata().unwrap().len(), 24 * MIB, "also for the one who has it open");
        view.write_all_at(b"new end", 24 * MIB - 7).unwrap();
        assert_eq!(read(&view, 8 * MIB - 7, 14), b"old end\0\0\0\0\0\0\0");
        assert_eq!(read(&view, 24 * MIB - 7, 7), b"new end");
        let (code, error) = refusal(&on(&disk, "extend", &["--size", "8M"]));
        assert_eq!((code, error["code"].as_str()), (3, Some("would_shrink")));
        drop(view);
        disk.detach();
        assert_eq!(done(&disk, "extend", &["--size", "32M"])["size"], 32 * MIB, "detached as well");
        disk.attach();
        assert_eq!(disk.open().metadata().unwrap().len(), 32 * MIB);
        assert_eq!(read(&disk.open(), 24 * MIB - 7, 7), b"new end");
    }
}

#[test]
fn d5_snapshots_keep_what_was_and_can_be_gone_back_to() {
    let mut disk = Disk::new(Kind::Plain, 16 * MIB);
    disk.open().write_all_at(&[1; 1 << 20], 0).unwrap();
    let first = done(&disk, "snapshot", &["first"]);
    let id = first["id"].as_str().unwrap().to_owned();
    assert_eq!((&first["name"], &first["size"]), (&"first".into(), &(16 * MIB).into()));
    let again = done(&disk, "snapshot", &["first", "--id", &id]);
    assert_eq!(again["id"], first["id"], "the same request gives the same snapshot");
    disk.open().write_all_at(&[2; 1 << 20], 512 << 10).unwrap();

    let held = disk.open();
    let (code, error) = refusal(&on(&disk, "rollback", &[&id]));
    assert_eq!((code, error["code"].as_str()), (3, Some("busy")), "not under the hands of a user");
    assert_eq!(read(&held, 600 << 10, 10), [2; 10]);
    drop(held);
    done(&disk, "rollback", &[&id]);
    let mut expected = vec![1; 1 << 20];
    expected.resize(3 << 19, 0);
    assert!(read(&disk.open(), 0, 3 << 19) == expected);

    disk.open().write_all_at(&[3; 4096], 0).unwrap();
    disk.detach();
    let second = done(&disk, "snapshot", &["second"]);
    let listed = done(&disk, "snapshots", &[]);
    let names: Vec<_> = listed["snapshots"].as_array().unwrap().iter().map(|s| s["name"].clone()).collect();
    assert_eq!(names, ["first", "second"]);
    done(&disk, "rollback", &[&id]);
    done(&disk, "snapshot-delete", &[second["id"].as_str().unwrap()]);
    disk.attach();
    assert!(read(&disk.open(), 0, 1 << 20) == expected[..1 << 20]);
    let (code, error) = refusal(&on(&disk, "snapshot-delete", &[second["id"].as_str().unwrap()]));
    assert_eq!((code, error["code"].as_str()), (3, Some("no_such_snapshot")));
}

#[test]
fn d5_a_snapshot_is_a_file_for_who_knows_its_id() {
    let mut disk = Disk::new(Kind::Plain, 16 * MIB);
    disk.open().write_all_at(&[1; 1 << 20], 4096).unwrap();
    let id = done(&disk, "snapshot", &["s"])["id"].as_str().unwrap().to_owned();
    disk.open().write_all_at(&[2; 1 << 20], 512 << 10).unwrap();
    done(&disk, "extend", &["--size", "24M"]);
    for _ in 0..2 {
        let directory = disk.path().parent().unwrap().to_owned();
        let names: Vec<_> =
            fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["disk"], "it is not listed");
        let path = directory.join(format!("snapshot-{id}"));
        let view = fs::File::open(&path).unwrap();
        assert_eq!(view.metadata().unwrap().len(), 16 * MIB, "the size of then");
        let mut expected = vec![0; 2 << 20];
        expected[4096..4096 + (1 << 20)].fill(1);
        assert!(read(&view, 0, 2 << 20) == expected);
        assert_eq!(view.read_at(&mut [0; 100], 16 * MIB).unwrap(), 0, "the end");
        use rustix::fs::{SeekFrom, seek};
        assert_eq!(seek(&view, SeekFrom::Data(0)).unwrap(), 4096);
        assert_eq!(seek(&view, SeekFrom::Hole(8192)).unwrap(), 4096 + (1 << 20));
        assert!(seek(&view, SeekFrom::Data(2 << 20)).is_err(), "nothing behind");
        assert_eq!(seek(&view, SeekFrom::Hole(2 << 20)).unwrap(), 2 << 20);
        let refused = fs::OpenOptions::new().write(true).open(&path).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::EROFS));
        assert!(fs::File::open(directory.join("snapshot-0")).is_err());
        // It holds nobody up, and goes with its snapshot.
        done(&disk, "rollback", &[&id]);
        drop(view);
        disk.detach();
        disk.attach();
    }
    let path = disk.path().parent().unwrap().join(format!("snapshot-{id}"));
    let view = fs::File::open(&path).unwrap();
    done(&disk, "snapshot-delete", &[&id]);
    assert!(view.read_at(&mut [0; 4096], 4096).is_err());
}

#[test]
fn a_rollback_leaves_nothing_of_the_old_contents_in_the_kernels_cache() {
    let disk = Disk::with(Kind::Plain, 4 * MIB, &["--cached"]);
    disk.open().write_all_at(b"then", 4096).unwrap();
    let id = done(&disk, "snapshot", &["s"])["id"].as_str().unwrap().to_owned();
    disk.open().write_all_at(b"now!", 4096).unwrap();
    assert_eq!(read(&disk.open(), 4096, 4), b"now!");
    done(&disk, "rollback", &[&id]);
    assert_eq!(read(&disk.open(), 4096, 4), b"then");
}

/// The kernel tells of the end of an opening only after the close has returned.
#[test]
fn d5_a_disk_that_was_just_closed_can_be_rolled_back() {
    let disk = Disk::new(Kind::Plain, MIB);
    let id = done(&disk, "snapshot", &["s"])["id"].as_str().unwrap().to_owned();
    let mut stream = UnixStream::connect(disk.control()).unwrap();
    let mut lines = BufReader::new(stream.try_clone().unwrap());
    for round in 0..300 {
        disk.open().write_all_at(b"gone", 0).unwrap();
        writeln!(stream, "{}", json!({"op": "rollback", "id": id})).unwrap();
        let mut line = String::new();
        lines.read_line(&mut line).unwrap();
        assert!(line.contains("\"ok\""), "{round}: {line}");
        assert_eq!(read(&disk.open(), 0, 4), [0; 4]);
    }
}

/// What it left mounted keeps nobody from the file.
#[test]
fn after_a_crash_the_volume_can_be_worked_with_before_it_is_attached_again() {
    let mut disk = Disk::new(Kind::Plain, 8 * MIB);
    disk.open().write_all_at(b"then", 0).unwrap();
    disk.open().sync_all().unwrap();
    disk.kill();
    let id = done(&disk, "snapshot", &["s"])["id"].as_str().unwrap().to_owned();
    assert_eq!(done(&disk, "snapshots", &[])["snapshots"][0]["id"], *id);
    assert_eq!(done(&disk, "extend", &["--size", "16M"])["size"], 16 * MIB);
    done(&disk, "rollback", &[&id]);
    done(&disk, "snapshot-delete", &[&id]);
    for (command, code) in [("rekey", "not_encrypted"), ("flatten", "not_thin")] {
        let (_, error) = refusal(&on(&disk, command, &[]));
        assert_eq!(error["code"], code);
    }
    assert!(done(&disk, "info", &[])["attached"].is_null());
    disk.attach();
    assert_eq!(read(&disk.open(), 0, 4), b"then");
}

#[test]
fn a_raw_file_has_no_snapshots() {
    let disk = Disk::new(Kind::Raw, MIB);
    let (code, error) = refusal(&on(&disk, "snapshot", &["s"]));
    assert_eq!((code, error["code"].as_str()), (3, Some("unsupported")));
}

#[test]
fn check_finds_damage_and_changes_nothing() {
    let mut disk = Disk::new(Kind::Plain, 16 * MIB);
    for block in 0..64u64 {
        disk.open().write_all_at(&[u8::try_from(block).unwrap() + 1; 4096], block * 4096).unwrap();
    }
    let (code, error) = refusal(&on(&disk, "check", &[]));
    assert_eq!((code, error["code"].as_str()), (3, Some("already_attached")));
    disk.detach();
    let report = done(&disk, "check", &[]);
    assert_eq!((&report["sound"], &report["blocks"]), (&true.into(), &64.into()));

    let mut bytes = fs::read(disk.file()).unwrap();
    let at = bytes.chunks(4096).position(|slot| slot == [11; 4096]).expect("block 10") * 4096;
    bytes[at] ^= 0x80;
    fs::write(disk.file(), &bytes).unwrap();
    let output = on(&disk, "check", &[]);
    assert_eq!(output.status.code(), Some(5), "{output:?}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&report["bad_count"], &report["bad"][0]["block"]), (&1.into(), &10.into()));
    assert!(fs::read(disk.file()).unwrap() == bytes, "a check changes nothing");
    // The rest is as it was.
    disk.attach();
    assert_eq!(read(&disk.open(), 9 * 4096, 4096), [10; 4096]);
    let damaged = disk.open().read_at(&mut [0; 4096], 10 * 4096).unwrap_err();
    assert_eq!(damaged.raw_os_error(), Some(libc::EIO));
    assert!(disk.log().contains("block 10"), "the log names the block: {}", disk.log());
}
