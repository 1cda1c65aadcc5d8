//! Files and mount points that cannot be: each refused with its reason, and nothing changed.

use std::fs::{self, File};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use crate::disk::{evsfs, refusal};

#[track_caller]
fn refused(arguments: &[&Path], code: &str, exit: i32, named: &Path) {
    let mut all = vec![Path::new("mount"), Path::new("--raw"), Path::new("--json")];
    all.extend(arguments);
    let (status, error) = refusal(&evsfs(&all));
    assert_eq!((error["code"].as_str(), status), (Some(code), exit), "{error}");
    assert!(error["message"].as_str().unwrap().contains(named.to_str().unwrap()), "{error}");
}

#[test]
fn mount_points_and_files_that_cannot_be() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().canonicalize().unwrap();
    let (file, point) = (dir.join("file"), dir.join("point"));
    File::create(&file).unwrap().set_len(1 << 20).unwrap();
    fs::create_dir(&point).unwrap();
    fs::set_permissions(&point, fs::Permissions::from_mode(0o755)).unwrap();

    let missing = dir.join("missing");
    refused(&[&missing, &point], "file_not_found", 5, &missing);
    refused(&[&dir, &point], "not_a_file", 5, &dir);
    refused(&[Path::new("/dev/null"), &point], "not_a_file", 5, Path::new("/dev/null"));
    let empty = dir.join("empty");
    File::create(&empty).unwrap();
    refused(&[&empty, &point], "not_a_volume", 5, &empty);

    refused(&[&file, &missing], "mountpoint_missing", 1, &missing);
    refused(&[&file, &file], "mountpoint_not_a_directory", 1, &file);
    refused(&[&file, Path::new("/proc")], "mountpoint_in_use", 3, Path::new("/proc"));
    let full = dir.join("full");
    fs::create_dir(&full).unwrap();
    fs::write(full.join("precious"), "data").unwrap();
    refused(&[&file, &full], "mountpoint_not_empty", 3, &full);
    let dangling = dir.join("dangling");
    symlink(&missing, &dangling).unwrap();
    refused(&[&file, &dangling], "mountpoint_missing", 1, &dangling);

    assert_eq!(fs::read_to_string(full.join("precious")).unwrap(), "data");
    assert_eq!(fs::metadata(&point).unwrap().permissions().mode() & 0o777, 0o755, "never mounted");
    assert!(
        !String::from_utf8_lossy(&fs::read("/proc/self/mountinfo").unwrap()).contains(dir.to_str().unwrap())
    );
}

#[test]
fn umount_of_what_is_not_attached() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    File::create(&file).unwrap();
    for (target, code, exit) in [
        (file.as_path(), "not_attached", 1),
        (dir.path(), "not_attached", 1),
        (Path::new("/proc"), "not_attached", 1),
        (&dir.path().join("missing"), "file_not_found", 5),
    ] {
        let (status, error) = refusal(&evsfs(&[Path::new("umount"), Path::new("--json"), target]));
        assert_eq!((error["code"].as_str(), status), (Some(code), exit), "{target:?}");
    }
}

#[test]
fn wrong_usage_is_status_2() {
    for arguments in
        [&["mount"][..], &["mount", "--raw", "file"], &["explode"], &[], &["mount", "--no", "a", "b"]]
    {
        assert_eq!(evsfs(arguments).status.code(), Some(2), "{arguments:?}");
        let mut arguments = arguments.to_vec();
        arguments.push("--json");
        let (code, error) = refusal(&evsfs(&arguments));
        assert_eq!((code, error["code"].as_str()), (2, Some("usage")), "{arguments:?}");
    }
}
