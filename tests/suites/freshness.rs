//! F3: a file put back from the past is refused, on a real token, daemon and mount.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use harness::{Installation, process, whole};
use serde_json::{Value, json};

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
    assert_eq!(refused.code, "rolled-back", "{refused:?}");
}

/// The anchor follows what is flushed while the disk stays attached, so that what is older is refused though nobody ever detached it: the process dies.
#[test]
fn f3_the_anchor_moves_while_the_disk_is_attached() {
    let ecs = Installation::new();
    let disk = ecs.create_disk("d", "--size 16M --encrypted");
    let file: PathBuf = disk["file"].as_str().expect("a file").into();
    let target = format!("/kmsd/v1/anchors/{}", disk["id"].as_str().expect("an ID"));
    let anchored = || ecs.api("GET", &target, None).ok()["anchor"]["generation"].as_u64();
    let (point, control, old) = (ecs.dir().join("point"), ecs.dir().join("control"), ecs.dir().join("old"));
    fs::create_dir(&point).expect("a directory can be made");
    let often = ["--tick", "20", "--control"].map(OsStr::new);
    let mount = ["mount".as_ref(), file.as_os_str(), point.as_os_str()];
    let ready = ecs.evsfs(&[&mount[..], &often, &[control.as_os_str()]].concat()).json();
    let view = OpenOptions::new().write(true).open(point.join("disk")).expect("the view can be opened");
    for round in 0..3 {
        if round == 2 {
            copy(&file, &old);
        }
        let before = anchored();
        view.write_all_at(&[round; 4096], 4096)
            .and_then(|()| view.sync_all())
            .expect("the view takes writes");
        let begun = Instant::now();
        loop {
            // What the process knows of it comes after what the service has.
            let (known, now) = (status(&control)["volume"]["anchored_commit"].as_u64(), anchored());
            if now > before && known > before {
                assert!(known <= now, "{known:?}, {now:?}");
                break;
            }
            assert!(
                begun.elapsed() < Duration::from_secs(30),
                "the anchor stays at {before:?}: {now:?}, {known:?}"
            );
        }
    }
    drop(view);
    process::kill_hard(u32::try_from(ready["pid"].as_u64().expect("a number")).expect("a process"));
    ecs.evsfs(&["umount".as_ref(), point.as_os_str()]).ok();
    let newest = ecs.dir().join("newest");
    copy(&file, &newest);
    copy(&old, &file);
    ecs.evsfs(&["check".as_ref(), file.as_os_str()]).error(3).naming(&["older than commit"]);
    copy(&newest, &file);
    assert_eq!(ecs.evsfs(&["check".as_ref(), file.as_os_str()]).json()["sound"], true);
}

/// What a serving process says of itself.
fn status(control: &Path) -> Value {
    let mut socket = UnixStream::connect(control).expect("the process listens");
    socket.write_all(b"{\"op\": \"status\"}\n").expect("it reads");
    let mut answer = String::new();
    BufReader::new(socket).read_line(&mut answer).expect("it answers");
    let answer: Value = serde_json::from_str(&answer).expect("JSON");
    answer["ok"].clone()
}

/// The records of accepted rollbacks that the key service has.
fn accepted(ecs: &Installation) -> Vec<Value> {
    let records = ecs.ecsctl("audit list --limit 10000").json();
    let records = records.as_array().expect("a list of records").iter();
    records.filter(|record| record["operation"] == "accept-rollback").cloned().collect()
}

#[track_caller]
fn assert_begins(view: &Path, text: &[u8]) {
    let mut seen = vec![0; text.len()];
    File::open(view).and_then(|view| view.read_exact_at(&mut seen, 4096)).expect("a read");
    assert_eq!(seen, text);
}

/// A disk whose file came back from a backup of the host. The refusal tells what would be lost, the way is named, asks, is recorded once, and
/// afterwards the catalogue says of the disk what its file holds.
#[test]
fn f3_a_disk_put_back_on_purpose_is_gone_on_with() {
    let ecs = Installation::new();
    let ok = |line: &str| ecs.ecsctl(line).ok();
    ok("key create --alias other");
    let disk = ecs.create_disk("d", "--size 16M --encrypted");
    let file: PathBuf = disk["file"].as_str().expect("a file").into();
    let (old, newest) = (ecs.dir().join("old"), ecs.dir().join("newest"));
    ok("snapshot create before --disk d");
    write_and_detach(&ecs, b"the first state");
    copy(&file, &old);
    ok("snapshot delete before --yes");
    ok("disk extend d --size 32M");
    ok("disk rekey d --key other");
    ok("snapshot create since --disk d");
    write_and_detach(&ecs, b"the second one ");
    copy(&file, &newest);
    copy(&old, &file);

    let told = [
        "older than commit",
        "snapshot since would be lost",
        "snapshot before would be there again",
        "16M, not 32M",
        "evs/default, not other",
        "ecsctl disk attach d web1 --accept-rollback",
    ];
    let refused = ecs.ecsctl("disk attach d web1");
    let error: Value = serde_json::from_str(&refused.stderr).expect("one JSON document");
    let rollback = &error["error"]["rollback"];
    assert_eq!(rollback["snapshots_lost"], serde_json::json!(["since"]), "{error}");
    assert!(rollback["found"].as_u64() < rollback["newest"].as_u64(), "{error}");
    assert_eq!(refused.error(3).naming(&told).code, "rolled-back");
    ecs.ecsctl("disk extend d --size 64M").error(3).naming(&["--accept-rollback"]);
    let before = ecs.ecsctl("disk show d").json();
    ecs.ecsctl("disk attach d web1 --accept-rollback").error(2).naming(&["would be lost", "--yes"]);
    assert_eq!((ecs.ecsctl("disk show d").json(), accepted(&ecs).len()), (before, 0), "nothing was done");

    let shown = ok("disk attach d web1 --accept-rollback --yes").json();
    assert_eq!((&shown["size"], &shown["key_alias"]), (&(16 << 20).into(), &"evs/default".into()), "{shown}");
    assert_begins(&ecs.attached(&shown).path, b"the first state");
    let snapshots = ok("snapshot list --disk d").json();
    assert_eq!((snapshots.as_array().map(Vec::len), &snapshots[0]["name"]), (Some(1), &"before".into()));
    let records = accepted(&ecs);
    let done = records.iter().filter(|record| record["stage"] == "done").collect::<Vec<_>>();
    assert!(done.len() == 1 && done[0]["target"] == disk["id"] && done[0]["outcome"] == "ok", "{records:#?}");
    whole(&ecs, &["d"], "accepted");
    ok("disk detach d");
    whole(&ecs, &["d"], "accepted and detached");

    // What is not older is attached as ever, and the state that was given up is the one that is refused now.
    ok("disk attach d web1 --accept-rollback");
    ok("disk detach d");
    assert_eq!(accepted(&ecs).len(), records.len(), "nothing was to be accepted");
    write_and_detach(&ecs, b"the first, more");
    copy(&newest, &file);
    assert_eq!(ecs.ecsctl("disk attach d web1").error(3).code, "rolled-back");
}

/// A disk that is attached to a server, and whose file is older when the host comes back: recovery and start do not accept that by themselves.
#[test]
fn f3_a_server_s_disk_put_back_is_refused_until_it_is_accepted() {
    let ecs = Installation::new();
    let disk = ecs.create_disk("d", "--size 16M --encrypted");
    let file: PathBuf = disk["file"].as_str().expect("a file").into();
    let old = ecs.dir().join("old");
    write_and_detach(&ecs, b"the first state");
    copy(&file, &old);
    write_and_detach(&ecs, b"the second one ");
    let serving = ecs.attach("d", "web1").pid;
    process::kill_hard(serving);
    copy(&old, &file);

    let recovered = ecs.ecsctl("server recover --all");
    let error: Value = serde_json::from_str(&recovered.stderr).expect("one JSON document");
    let hint = error["error"]["disks"][0]["error"]["hint"].as_str().unwrap_or_default().to_owned();
    assert!(hint.contains("ecsctl disk attach d web1 --accept-rollback"), "{error}");
    let code = recovered.error(1).code;
    assert_eq!(code, "not-recovered");
    ecs.ecsctl("server start web1").error(3).naming(&["older than commit", "--accept-rollback"]);
    ecs.ecsctl("disk attach d web1").error(3).naming(&["older than commit", "--accept-rollback"]);
    assert_eq!(ecs.ecsctl("disk show d").json()["status"], "error");
    assert_eq!(accepted(&ecs).len(), 0);

    let shown = ecs.ecsctl("disk attach d web1 --accept-rollback --yes").json();
    assert_begins(&ecs.attached(&shown).path, b"the first state");
    assert_eq!(shown["server"], "web1");
    whole(&ecs, &["d"], "accepted where it was");
    ecs.ecsctl("server recover --all").ok();
}

/// A thin disk that was flattened since needs its image again; with the image gone, or put back itself, nothing is accepted.
#[test]
fn f3_a_thin_disk_put_back_needs_its_image_as_it_was() {
    let ecs = Installation::new();
    let ok = |line: &str| ecs.ecsctl(line).ok();
    let bytes: Vec<u8> = (0..1_u32 << 18).flat_map(u32::to_le_bytes).collect();
    fs::write(ecs.dir().join("original.raw"), bytes).expect("it can be written");
    let image = ok("image create i --from-file original.raw --encrypted").json();
    let disk = ecs.create_disk("d", "--image i --encrypted");
    let place = |volume: &Value| PathBuf::from(volume["file"].as_str().expect("a file"));
    let (file, old) = (place(&disk), ecs.dir().join("old"));
    write_and_detach(&ecs, b"the first state");
    copy(&file, &old);
    ok("disk flatten d");
    write_and_detach(&ecs, b"the second one ");
    copy(&old, &file);

    // An image that was written to, and put back: no disk makes that good.
    let (image_file, original) = (place(&image), ecs.dir().join("original.evs"));
    copy(&image_file, &original);
    let point = ecs.dir().join("point");
    fs::create_dir(&point).expect("a directory can be made");
    ecs.evsfs(&["mount".as_ref(), image_file.as_os_str(), point.as_os_str()]).ok();
    let view = OpenOptions::new().write(true).open(point.join("disk")).expect("the view can be opened");
    view.write_all_at(b"changed", 0).and_then(|()| view.sync_all()).expect("the view takes writes");
    drop(view);
    ecs.evsfs(&["umount".as_ref(), point.as_os_str()]).ok();
    copy(&original, &image_file);
    let id = image["id"].as_str().expect("an ID");
    let refused = ecs.ecsctl("disk attach d web1 --accept-rollback --yes").error(3);
    refused.naming(&[id, "older than commit", "newest file of the image"]);
    assert_eq!(accepted(&ecs).len(), 0, "the disk stands on another image");
    ecs.evsfs(&["accept-rollback".as_ref(), image_file.as_os_str()]).ok();

    ecs.ecsctl("disk attach d web1").error(3).naming(&["it would need image i again", "--accept-rollback"]);
    let shown = ok("disk attach d web1 --accept-rollback --yes").json();
    assert_eq!(shown["image_id"], image["id"], "thin as it was");
    assert_begins(&ecs.attached(&shown).path, b"the first state");
    ok("disk detach d");
    ecs.ecsctl("image delete i --yes").error(3).naming(&["disk d"]);
    whole(&ecs, &["d"], "thin again");

    copy(&file, &old);
    ok("disk flatten d");
    ok("image delete i --yes");
    copy(&old, &file);
    let records = accepted(&ecs).len();
    ecs.ecsctl("disk attach d web1 --accept-rollback --yes").error(3).naming(&[id, "put the image's file"]);
    assert_eq!(accepted(&ecs).len(), records, "nothing is accepted that cannot be used");
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
