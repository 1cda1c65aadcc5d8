//! D8: keys of disks are exchanged in place, on a real token, daemon and mount.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use harness::Installation;
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
