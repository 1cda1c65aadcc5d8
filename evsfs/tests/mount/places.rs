//! Where a disk is mounted: what others do to that place meanwhile, and what must not become of it.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use evsfs::device::RawDevice;
use evsfs::fuse::{DiskFs, Threads};
use evsfs::mount::{self, MountError, Options, table};
use serde_json::{Value, json};

use crate::disk::{Disk, Kind, MIB, ended, evsfs, read, refusal, run};

#[track_caller]
fn busy_because_of(disk: &Disk, target: &Path, holder: &Path) {
    let (code, error) = refusal(&evsfs(&["umount".as_ref(), target.as_os_str(), "--json".as_ref()]));
    assert_eq!((code, error["code"].as_str()), (3, Some("busy")), "{error}\n{}", disk.log());
    assert!(
        error["message"].as_str().unwrap().contains(&format!("mount at {}", holder.display())),
        "{error}"
    );
}

#[test]
fn d4_what_is_mounted_over_a_disk_keeps_it_and_is_not_unmounted_in_its_place() {
    let mut disk = Disk::new(Kind::Raw, MIB);
    disk.open().write_all_at(b"kept", 0).unwrap();
    let point = disk.point().canonicalize().unwrap();
    run("mount", &["-t".as_ref(), "tmpfs".as_ref(), "none".as_ref(), point.as_os_str()]);
    fs::write(point.join("precious"), "data").unwrap();
    busy_because_of(&disk, &disk.file(), &point);
    assert_eq!(fs::read_to_string(point.join("precious")).unwrap(), "data");
    run("umount", &[&point]);
    // Nor is it lost behind a directory above it.
    let above = point.parent().unwrap();
    let (file, name) = (disk.file(), PathBuf::from(format!("{}.link", above.display())));
    fs::hard_link(&file, &name).unwrap();
    run("mount", &["-t".as_ref(), "tmpfs".as_ref(), "none".as_ref(), above.as_os_str()]);
    busy_because_of(&disk, &name, above);
    run("umount", &[above]);
    fs::remove_file(name).unwrap();
    assert_eq!(read(&disk.open(), 0, 4), b"kept");
    disk.detach();
}

#[test]
fn d4_a_second_mount_here_keeps_the_disk_and_the_last_one_can_be_detached() {
    let mut disk = Disk::new(Kind::Raw, MIB);
    let point = disk.point().canonicalize().unwrap();
    let dir = disk.dir().canonicalize().unwrap();
    let (second, third) = (dir.join("second"), dir.join("third"));
    fs::create_dir(&second).unwrap();
    File::create(&third).unwrap();
    run("mount", &["--bind".as_ref(), point.as_os_str(), second.as_os_str()]);
    busy_because_of(&disk, &point, &second);
    File::options().write(true).open(second.join("disk")).unwrap().write_all_at(b"here", 0).unwrap();
    run("umount", &[&second]);
    run("mount", &["--bind".as_ref(), disk.path().as_os_str(), third.as_os_str()]);
    busy_because_of(&disk, &disk.file(), &third);
    // What is left when somebody unmounts the first is the disk.
    run("umount", &[&point]);
    assert_eq!(read(&File::open(&third).unwrap(), 0, 4), b"here");
    let output = evsfs(&["umount".as_ref(), disk.file().as_os_str()]);
    assert!(output.status.success(), "{output:?}\n{}", disk.log());
    assert_eq!(fs::metadata(&third).unwrap().len(), 0, "nothing is mounted there");
    disk.attach();
    assert_eq!(read(&disk.open(), 0, 4), b"here");
}

/// The command line that attaches a disk somewhere else.
fn at_another_point(disk: &Disk, point: &Path) -> Vec<OsString> {
    let mut arguments = disk.mount_arguments();
    let place = arguments.iter().position(|argument| *argument == *disk.point().as_os_str()).unwrap();
    arguments[place] = point.into();
    arguments
}

#[test]
fn a_disk_below_a_directory_that_was_renamed_is_found_where_it_is() {
    // With many looks whether it was unmounted from outside.
    let mut disk = Disk::with(Kind::Plain, MIB, &["--tick=1"]);
    disk.detach();
    let (before, now) = (disk.dir().join("before"), disk.dir().join("now"));
    fs::create_dir_all(before.join("p")).unwrap();
    let output = evsfs(&at_another_point(&disk, &before.join("p")));
    let ready: Value = serde_json::from_slice(&output.stdout).unwrap();
    disk.pid = u32::try_from(ready["pid"].as_u64().unwrap()).unwrap();
    fs::rename(&before, &now).unwrap();
    // Another directory at the old place is not the disk's.
    fs::create_dir_all(before.join("p")).unwrap();
    let mut stream = UnixStream::connect(disk.control()).unwrap();
    writeln!(stream, "{}", json!({"op": "status"})).unwrap();
    let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
    let asked = Instant::now();
    let mut status: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
    while asked.elapsed() < Duration::from_millis(500) {
        writeln!(stream, "{}", json!({"op": "status"})).unwrap();
        status = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
    }
    let path = now.canonicalize().unwrap().join("p/disk");
    assert_eq!(status["ok"]["path"], path.to_str().unwrap(), "{}", disk.log());
    let view = File::options().read(true).write(true).open(&path).unwrap();
    view.write_all_at(b"kept", 0).unwrap();
    drop(view);
    let output = evsfs(&["umount".as_ref(), disk.file().as_os_str()]);
    assert!(output.status.success(), "{output:?}\n{}", disk.log());
    assert!(fs::read_dir(now.join("p")).unwrap().next().is_none(), "it is unmounted");
    disk.attach();
    assert_eq!(read(&disk.open(), 0, 4), b"kept");
}

fn raw(file: &Path) -> (DiskFs<RawDevice>, Options) {
    let device = RawDevice::new(File::open(file).unwrap(), file.to_owned(), true).unwrap();
    let threads = Arc::new(Threads::new(1));
    let fs = DiskFs::new(Arc::new(device), "test".into(), false, true, Arc::default(), threads);
    let source = table::source(1, 2, uuid::Uuid::new_v4().as_u64_pair().0);
    (fs, Options { allow_other: false, read_only: true, source })
}

fn mounts_at(point: &Path) -> usize {
    table::read().unwrap().into_iter().filter(|entry| entry.point == point).count()
}

/// Both have seen an empty directory before either mounts on it.
#[test]
fn of_two_who_mount_at_one_point_the_first_has_it() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().canonicalize().unwrap();
    let (file, point) = (dir.join("file"), dir.join("point"));
    File::create(&file).unwrap().set_len(MIB).unwrap();
    fs::create_dir(&point).unwrap();
    let (first, second) = (mount::prepare(&point).unwrap(), mount::prepare(&point).unwrap());
    let (served, options) = raw(&file);
    let (mounted, session) = mount::mount(served, &first, &options).unwrap();
    let (served, other) = raw(&file);
    let refused = mount::mount(served, &second, &other).err().unwrap();
    assert!(
        matches!(&refused, MountError::InUse { source_name, .. } if *source_name == options.source),
        "{refused}"
    );
    assert_eq!(mounts_at(&point), 1, "nothing of the second is left");
    assert_eq!(mounted.entry().source, *options.source);
    mount::unmount(mounted.entry()).unwrap();
    drop(session);
    assert_eq!(mounts_at(&point), 0);
}

#[test]
fn a_directory_that_is_put_in_place_of_the_mount_point_stays_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().canonicalize().unwrap();
    let (file, point, moved, other) =
        (dir.join("file"), dir.join("point"), dir.join("moved"), dir.join("other"));
    File::create(&file).unwrap().set_len(MIB).unwrap();
    for made in [&point, &other] {
        fs::create_dir(made).unwrap();
        fs::set_permissions(made, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let prepared = mount::prepare(&point).unwrap();
    fs::rename(&point, &moved).unwrap();
    symlink(&other, &point).unwrap();
    let (served, options) = raw(&file);
    let (mounted, session) = mount::mount(served, &prepared, &options).unwrap();
    assert_eq!(mounted.entry().point, moved);
    assert_eq!(fs::metadata(&other).unwrap().permissions().mode() & 0o777, 0o755);
    mount::unmount(mounted.entry()).unwrap();
    drop(session);
    assert_eq!(fs::metadata(&moved).unwrap().permissions().mode() & 0o777, 0o700);
}

#[test]
fn of_many_who_attach_at_one_point_at_once_one_is_ready() {
    const AT_ONCE: usize = 4;
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().canonicalize().unwrap();
    let point = dir.join("point");
    fs::create_dir(&point).unwrap();
    let files: Vec<PathBuf> = (0..AT_ONCE).map(|number| dir.join(number.to_string())).collect();
    for (number, file) in (1u8..).zip(&files) {
        fs::write(file, vec![number; 4096]).unwrap();
    }
    for round in 0..8 {
        let outputs: Vec<_> = thread::scope(|scope| {
            let attach = |file: &PathBuf| {
                let arguments = ["mount".as_ref(), "--raw".as_ref(), file.as_os_str(), point.as_os_str()];
                evsfs(&arguments)
            };
            let started: Vec<_> = files.iter().map(|file| scope.spawn(move || attach(file))).collect();
            started.into_iter().map(|one| one.join().unwrap()).collect()
        });
        let ready: Vec<usize> = (0..AT_ONCE).filter(|number| outputs[*number].status.success()).collect();
        assert_eq!(ready.len(), 1, "{round}: {outputs:?}");
        assert_eq!(mounts_at(&point), 1);
        let shown = fs::read(point.join("disk")).unwrap();
        assert_eq!(usize::from(shown[0]), ready[0] + 1, "it shows the disk of the one who was told so");
        let output = evsfs(&["umount".as_ref(), point.as_os_str()]);
        assert!(output.status.success(), "{output:?}");
    }
}

#[test]
fn what_follows_two_dashes_is_a_name() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("-v"), vec![7; 4096]).unwrap();
    fs::create_dir(dir.path().join("--point")).unwrap();
    let here = |arguments: &[&str]| {
        let output =
            Command::new(env!("CARGO_BIN_EXE_evsfs")).args(arguments).current_dir(&dir).output().unwrap();
        assert!(output.status.success(), "{output:?}");
    };
    here(&["mount", "--raw", "--", "-v", "--point"]);
    assert_eq!(fs::read(dir.path().join("--point/disk")).unwrap(), vec![7; 4096]);
    here(&["umount", "--", "-v"]);
}

/// On btrfs the table of locks has another device for a file than the file itself.
#[test]
fn on_btrfs_it_is_known_who_has_a_volume() {
    struct Unmounted(PathBuf);
    impl Drop for Unmounted {
        fn drop(&mut self) {
            run("umount", &[&self.0]);
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().canonicalize().unwrap();
    let (image, fs, point) = (dir.join("image"), dir.join("fs"), dir.join("point"));
    File::create(&image).unwrap().set_len(128 * MIB).unwrap();
    run("mkfs.btrfs", &["-q".as_ref(), image.as_os_str()]);
    fs::create_dir(&fs).unwrap();
    fs::create_dir(&point).unwrap();
    run(
        "mount",
        &["-t".as_ref(), "btrfs".as_ref(), "-o".as_ref(), "loop".as_ref(), image.as_os_str(), fs.as_os_str()],
    );
    let _unmounted = Unmounted(fs.clone());
    let file = fs.join("volume");
    crate::disk::create_plain(&file, MIB);
    let output = run(
        env!("CARGO_BIN_EXE_evsfs"),
        &["mount".as_ref(), file.as_os_str(), point.as_os_str(), "--json".as_ref()],
    );
    let ready: Value = serde_json::from_slice(&output.stdout).unwrap();
    let output = run(env!("CARGO_BIN_EXE_evsfs"), &["info".as_ref(), file.as_os_str(), "--json".as_ref()]);
    let info: Value = serde_json::from_slice(&output.stdout).unwrap();
    let (code, error) = refusal(&evsfs(&["check".as_ref(), file.as_os_str(), "--json".as_ref()]));
    // From where its name cannot be seen, too, it is waited for.
    let output = run(
        "unshare",
        &["--net".as_ref(), env!("CARGO_BIN_EXE_evsfs").as_ref(), "umount".as_ref(), point.as_os_str()],
    );
    assert!(output.status.success());
    let pid = u32::try_from(ready["pid"].as_u64().unwrap()).unwrap();
    assert!(ended(pid, Duration::ZERO), "it has the key still");
    assert_eq!(info["attached"], ready["pid"]);
    assert_eq!((code, error["code"].as_str()), (3, Some("already_attached")));
    assert!(error["message"].as_str().unwrap().contains(&pid.to_string()), "{error}");
}
