//! F3: a file put back from the past is refused, on a real token, daemon and mount.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use harness::Installation;
use serde_json::{Value, json};

fn write_and_detach(ecs: &Installation, text: &[u8]) {
    let attached = ecs.attach("d", "web1");
    let view = OpenOptions::new().write(true).open(attached.path).expect("the view can be opened");
    view.write_all_at(text, 4096).and_then(|()| view.sync_all()).expect("the view takes writes");
    drop(view);
    ecs.ecsctl("disk detach d").ok();
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
    write_and_detach(&ecs, b"the third state");
    copy(&file, &newest);

    copy(&old, &file);
    let point = ecs.dir().join("point");
    fs::create_dir(&point).expect("a directory can be made");
    let (accept, mount) = ("--accept-rollback".as_ref(), "mount".as_ref());
    ecs.evsfs(&[mount, file.as_os_str(), point.as_os_str(), accept]).ok();
    let mut text = [0; 15];
    File::open(point.join("disk")).and_then(|view| view.read_exact_at(&mut text, 4096)).expect("a read");
    assert_eq!(&text, b"the first state");
    ecs.evsfs(&["umount".as_ref(), point.as_os_str()]).ok();
    let records = ecs.ecsctl("audit list --limit 1000").json();
    let records: &Vec<Value> = records.as_array().expect("a list of records");
    let accepted = records.iter().filter(|record| record["operation"] == "accept-rollback");
    assert!(accepted.clone().any(|record| record["target"] == disk["id"]), "it is recorded: {records:?}");

    write_and_detach(&ecs, b"the first, more");
    copy(&newest, &file);
    let refused = ecs.ecsctl("disk attach d web1").error(3);
    assert_eq!(refused.code, "volume-refused", "{refused:?}");
}

/// K7, F3: an administrator hands an anchor over, and forgets one: then the next who attaches the volume begins anew.
#[test]
fn k7_an_anchor_is_handed_over_and_forgotten() {
    let ecs = Installation::new();
    let disk = ecs.create_disk("d", "--size 16M --encrypted");
    write_and_detach(&ecs, b"the first state");
    let anchor = format!("/kmsd/v1/anchors/{}", disk["id"].as_str().expect("an id"));
    let ask = |method: &str, path: &str, body: Option<Value>| {
        ecs.api(method, &format!("{anchor}{path}"), body.as_ref())
    };
    let standing = ask("GET", "", None).ok()["anchor"].clone();
    assert!(standing["generation"].as_u64().is_some_and(|generation| generation > 0), "{standing}");
    for wrong in [json!({"owner": "system"}), json!({"owner": "uid:7", "more": 1}), json!({})] {
        assert_eq!(ask("PUT", "/owner", Some(wrong)).status, 400);
    }
    ask("PUT", "/owner", Some(json!({"owner": "uid:12345"}))).ok();
    assert_eq!(ask("GET", "", None).ok()["anchor"], standing);
    ask("DELETE", "", None).ok();
    assert_eq!(ask("DELETE", "", None).error_code(), "KMSD.0011");
    assert!(ask("GET", "", None).ok()["anchor"].is_null());
    write_and_detach(&ecs, b"the second one ");
    assert!(ask("GET", "", None).ok()["anchor"]["generation"].as_u64() > standing["generation"].as_u64());
    let records = ecs.ecsctl("audit list --limit 1000").json();
    for operation in ["hand-anchor-over", "forget-anchor"] {
        let of = |record: &&Value| record["operation"] == operation && record["target"] == disk["id"];
        assert!(records.as_array().expect("a list").iter().any(|record| of(&record)), "{operation}");
    }
}
