//! What the view looks like and what may be changed of it.

use std::fs::{self, OpenOptions, Permissions};
use std::io::ErrorKind;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, chown};

use rustix::fs::{FallocateFlags, SeekFrom, fallocate, seek};
use rustix::thread::{Uid, set_thread_res_uid};

use crate::disk::{Disk, Kind, MIB, each_kind, evsfs, read, refusal};

each_kind! {
    the_mount_holds_one_private_file;
    the_size_cannot_be_changed_from_within;
    owner_and_mode_can_be_changed_as_those_of_a_device;
    a_read_only_disk_takes_no_writes;
    f7_who_has_given_up_his_rights_goes_on_with_what_he_has_open;
}

fn the_mount_holds_one_private_file(kind: Kind) {
    let disk = Disk::new(kind, MIB);
    let names: Vec<_> = fs::read_dir(disk.point()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["disk"]);
    let metadata = fs::metadata(disk.path()).unwrap();
    assert!(metadata.is_file());
    assert_eq!((metadata.len(), metadata.blksize(), metadata.mode() & 0o777), (MIB, 4096, 0o600));
    for attempt in [
        fs::write(disk.point().join("other"), "x"),
        fs::create_dir(disk.point().join("dir")),
        fs::remove_file(disk.path()),
        fs::rename(disk.path(), disk.point().join("other")),
    ] {
        attempt.unwrap_err();
    }
    assert_eq!(fs::read(disk.point().join("other")).unwrap_err().kind(), ErrorKind::NotFound);
    let flags = rustix::fs::statvfs(disk.point()).unwrap().f_flag;
    use rustix::fs::StatVfsMountFlags as Flags;
    assert!(flags.contains(Flags::NOSUID | Flags::NODEV | Flags::NOEXEC | Flags::NOATIME), "{flags:?}");
}

fn the_size_cannot_be_changed_from_within(kind: Kind) {
    let disk = Disk::new(kind, MIB);
    disk.open().write_all_at(b"kept", 0).unwrap();
    for size in [0, MIB - 4096, MIB + 4096] {
        assert_eq!(disk.open().set_len(size).unwrap_err().kind(), ErrorKind::PermissionDenied, "{size}");
    }
    disk.open().set_len(MIB).unwrap();
    OpenOptions::new().write(true).truncate(true).open(disk.path()).unwrap_err();
    let mut buf = [0; 4];
    disk.open().read_exact_at(&mut buf, 0).unwrap();
    assert_eq!((&buf, disk.open().metadata().unwrap().len()), (b"kept", MIB));
}

fn owner_and_mode_can_be_changed_as_those_of_a_device(kind: Kind) {
    let mut disk = Disk::new(kind, MIB);
    fs::set_permissions(disk.path(), Permissions::from_mode(0o640)).unwrap();
    chown(disk.path(), Some(12), Some(34)).unwrap();
    let metadata = fs::metadata(disk.path()).unwrap();
    assert_eq!((metadata.mode() & 0o7777, metadata.uid(), metadata.gid()), (0o640, 12, 34));
    disk.open().set_modified(std::time::SystemTime::now()).unwrap();
    disk.detach();
    disk.attach();
    let metadata = fs::metadata(disk.path()).unwrap();
    assert_eq!((metadata.mode() & 0o777, metadata.uid()), (0o600, 0), "it lasts while it is attached");
}

fn a_read_only_disk_takes_no_writes(kind: Kind) {
    let mut disk = Disk::new(kind, MIB);
    disk.open().write_all_at(b"before", 0).unwrap();
    disk.detach();
    let mut arguments = disk.mount_arguments();
    arguments.push("--read-only".into());
    assert!(evsfs(&arguments).status.success());
    assert_eq!(&fs::read(disk.path()).unwrap()[..6], b"before");
    let denied = OpenOptions::new().write(true).open(disk.path()).unwrap_err();
    assert_eq!(denied.raw_os_error(), Some(libc::EROFS));
    assert!(disk.umount().status.success());
    let (code, error) = refusal(&disk.umount());
    assert_eq!((code, error["code"].as_str()), (1, Some("not_attached")));
}

/// As a machine of `qemu_user` does: it opens the disk as root, and discards and asks for holes as somebody else.
fn f7_who_has_given_up_his_rights_goes_on_with_what_he_has_open(kind: Kind) {
    let disk = Disk::new(kind, MIB);
    let view = disk.open();
    view.write_all_at(&[1; 65536], 0).unwrap();
    std::thread::scope(|scope| {
        let done = scope.spawn(|| {
            // Of this thread alone.
            let nobody = Uid::from_raw(65_534);
            set_thread_res_uid(nobody, nobody, nobody).unwrap();
            let keep = FallocateFlags::KEEP_SIZE;
            fallocate(&view, FallocateFlags::PUNCH_HOLE | keep, 0, 8192).unwrap();
            fallocate(&view, FallocateFlags::ZERO_RANGE | keep, 8192, 4096).unwrap();
            view.write_all_at(&[2; 4096], 32768).unwrap();
            view.sync_all().unwrap();
            assert_eq!(seek(&view, SeekFrom::Hole(40_000)).unwrap(), 65536);
            assert_eq!(seek(&view, SeekFrom::End(0)).unwrap(), MIB);
            fs::File::open(disk.path()).unwrap_err();
        });
        done.join().unwrap();
    });
    assert_eq!(read(&view, 0, 12288), [0; 12288]);
    assert_eq!(read(&view, 32768, 4096), [2; 4096]);
}
