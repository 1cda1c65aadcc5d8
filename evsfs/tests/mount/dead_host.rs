//! The host of the volume file dies under an attached disk (F11): here it is a disk itself, whose serving process is killed.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;

use crate::disk::{Disk, Kind, MIB, each_kind, ended, make};

each_kind! {
    f11_when_the_host_is_gone_nothing_is_promised_and_the_disk_comes_off;
    f11_the_same_with_a_cache;
}

fn f11_when_the_host_is_gone_nothing_is_promised_and_the_disk_comes_off(kind: Kind) {
    host_dies(kind, &[]);
}

fn f11_the_same_with_a_cache(kind: Kind) {
    host_dies(kind, &["--cached"]);
}

#[track_caller]
fn fails<T: std::fmt::Debug>(what: &str, result: std::io::Result<T>) {
    let error = result.expect_err(what);
    assert_eq!(error.raw_os_error(), Some(libc::EIO), "{what}: {error}");
}

/// What is read is what was written, or an error.
#[track_caller]
fn right_or_refused(view: &File, offset: u64, byte: u8) {
    let mut found = [0; 4096];
    match view.read_exact_at(&mut found, offset) {
        Ok(()) => assert!(found == [byte; 4096], "other data at {offset}"),
        Err(error) => assert_eq!(error.raw_os_error(), Some(libc::EIO), "{error}"),
    }
}

fn host_dies(kind: Kind, options: &[&'static str]) {
    const DURABLE: u64 = 0;
    const UNREAD: u64 = 2 * MIB;
    const UNSYNCED: u64 = 4 * MIB;
    // A file that is served as it is: what lies behind the inner disk is the file of the outer one's view.
    let below = tempfile::tempdir().unwrap();
    let file = below.path().join("file");
    make(kind, &file, 8 * MIB);
    if kind == Kind::Plain {
        // A view does not grow.
        File::options().write(true).open(&file).unwrap().set_len(64 * MIB).unwrap();
    }
    let mut outer = Disk::over(Kind::Raw, &file, &[]);
    let mut inner = Disk::over(kind, &outer.path(), options);
    let view = inner.open();
    for offset in [DURABLE, UNREAD] {
        view.write_all_at(&[1; 4096], offset).unwrap();
    }
    view.sync_all().unwrap();
    drop(view);
    inner.detach();
    inner.attach();
    let view = inner.open();
    right_or_refused(&view, DURABLE, 1);
    view.write_all_at(&[2; 4096], UNSYNCED).unwrap();

    outer.kill();
    fails("a flush of what was written before", view.sync_all());
    fails("a second flush", view.sync_all());
    fails("a write", view.write_all_at(&[3; 4096], UNSYNCED + MIB));
    fails("a flush after it", view.sync_data());
    fails("the next flush", view.sync_data());
    right_or_refused(&view, DURABLE, 1);
    fails("a read of what only the host has", view.read_at(&mut [0; 4096], UNREAD));
    right_or_refused(&view, UNSYNCED, 2);
    drop(view);

    // What could not be made durable is told; the disk comes off all the same.
    let output = inner.umount();
    assert!(!output.status.success(), "{output:?}");
    assert!(ended(inner.pid, std::time::Duration::from_secs(20)), "{}", inner.log());
    inner.pid = 0;
    assert_eq!(fs::read_dir(inner.point()).unwrap().count(), 0, "nothing is mounted there");

    outer.attach();
    inner.attach();
    let view = inner.open();
    for offset in [DURABLE, UNREAD] {
        let mut found = [0; 4096];
        view.read_exact_at(&mut found, offset).unwrap();
        assert!(found == [1; 4096], "what was flushed is there");
    }
    view.write_all_at(&[4; 4096], UNSYNCED).unwrap();
    view.sync_all().unwrap();
    drop(view);
    inner.detach();
}
