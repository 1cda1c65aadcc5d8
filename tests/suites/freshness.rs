//! F3: a file put back from the past is refused, on a real token, daemon and mount.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use harness::Installation;
use serde_json::Value;

fn write_and_detach(ecs: &Installation, text: &[u8]) {
    let attached = ecs.attach("d", "web1");
    let view = OpenOptions::new().write(true).open(attached.path).expect("the view can be opened");
    view.write_all_at(text, 4096).and_then(|()| view.sync_all()).expect("the view takes writes");
    drop(view);
    ecs.ecsctl("disk detach d").ok();
}

/// What the audit log has of an operation.
fn of_operation(ecs: &Installation, operation: &str) -> Vec<Value> {
    let records = ecs.ecsctl("audit list --limit 1000").json();
    let records: &Vec<Value> = records.as_array().expect("a list of records");
    records.iter().filter(|record| record["operation"] == operation).cloned().collect()
}

fn copy(from: &Path, to: &Path) {
    fs::copy(from, to).expect("it can be copied");
}

/// The whole volume file as it was before is refused, though every block of it is authentic. An operator can accept it on purpose, which is
/// recorded; from then on it is the state that was given up that is refused.
#[test]
fn f3_a_file_from_the_past_is_refused_unless_the_operator_accepts_it() {
    let ecs = Installation::new();
    let disk = ecs.create_disk("d", "--size 16M --encrypted");
    let file: PathBuf = disk["file"].as_str().expect("a file").into();
    let (old, newest) = (ecs.dir().join("old"), ecs.dir().join("newest"));
    write_and_detach(&ecs, b"the first state");
    copy(&file, &old);
    write_and_detach(&ecs, b"the second one ");
    copy(&file, &newest);

    copy(&old, &file);
    ecs.ecsctl("disk attach d web1").error(3).naming(&["older than commit", "an old copy was put back"]);
    assert_eq!(ecs.ecsctl("disk show d").json()["status"], "available");
    copy(&newest, &file);
    // To look at the old copy changes nothing for the new one, and is recorded.
    let (accept, saved) = (OsStr::new("--accept-rollback"), ecs.dir().join("saved"));
    ecs.evsfs(&["check".as_ref(), old.as_os_str(), accept]).ok();
    ecs.evsfs(&["salvage".as_ref(), old.as_os_str(), saved.as_os_str(), accept]).ok();
    assert_eq!(&fs::read(&saved).expect("it was saved")[4096..4096 + 15], b"the first state");
    let looked = of_operation(&ecs, "read-rollback");
    let commands: Vec<String> = looked.iter().map(|record| record["note"].to_string()).collect();
    assert!(
        matches!(&commands[..], [check, salvage] if check.contains("evsfs check") && salvage.contains("evsfs salvage")),
        "{commands:?}"
    );
    write_and_detach(&ecs, b"the third state");
    copy(&file, &newest);

    copy(&old, &file);
    let point = ecs.dir().join("point");
    fs::create_dir(&point).expect("a directory can be made");
    ecs.evsfs(&["mount".as_ref(), file.as_os_str(), point.as_os_str(), accept]).ok();
    let mut text = [0; 15];
    File::open(point.join("disk")).and_then(|view| view.read_exact_at(&mut text, 4096)).expect("a read");
    assert_eq!(&text, b"the first state");
    ecs.evsfs(&["umount".as_ref(), point.as_os_str()]).ok();
    let accepted = of_operation(&ecs, "accept-rollback");
    assert!(accepted.iter().any(|record| record["target"] == disk["id"]), "it is recorded: {accepted:?}");

    write_and_detach(&ecs, b"the first, more");
    copy(&newest, &file);
    let refused = ecs.ecsctl("disk attach d web1").error(3);
    assert_eq!(refused.code, "volume-refused", "{refused:?}");
}
