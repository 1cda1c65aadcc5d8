//! `ecsctl doctor` on a real installation: what is well, what is broken on purpose, and a catalogue that was lost.

use std::fs;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::PathBuf;

use harness::Installation;
use serde_json::Value;

fn grade(report: &Value, check: &str) -> String {
    let findings = report["findings"].as_array().expect("findings");
    let of_check = findings.iter().filter(|finding| finding["check"] == check);
    of_check
        .map(|finding| finding["grade"].as_str().expect("a grade").to_owned())
        .max_by_key(|grade| ["good", "warning", "bad"].iter().position(|known| known == grade))
        .unwrap_or_else(|| panic!("nothing was said of {check}: {report}"))
}

/// The report, whatever the exit status.
fn doctor(ecs: &Installation, options: &str) -> (i32, Value) {
    let outcome = ecs.ecsctl(&format!("doctor {options}"));
    let report = serde_json::from_str(&outcome.stdout).unwrap_or_else(|_| panic!("no report: {outcome}"));
    (outcome.code, report)
}

#[test]
fn a_sound_installation_is_found_well_and_each_thing_broken_is_named_with_its_remedy() {
    let mut ecs = Installation::new();
    let disk = ecs.create_disk("d", "--size 64M --encrypted");
    ecs.attach("d", "web1");
    let (code, report) = doctor(&ecs, "");
    assert_eq!((code, report["grade"].as_str()), (0, Some("good")), "{report:#}");
    for check in
        ["fuse", "evsfs", "kmsd", "token", "home", "space", "catalogue", "volumes", "mounts", "operations"]
    {
        assert_eq!(grade(&report, check), "good", "{check}");
    }

    fs::set_permissions(ecs.home(), fs::Permissions::from_mode(0o755)).expect("it is ours");
    assert_eq!(grade(&doctor(&ecs, "").1, "home"), "warning");
    fs::set_permissions(ecs.home(), fs::Permissions::from_mode(0o700)).expect("it is ours");

    ecs.kmsd_mut().stop();
    let (code, report) = doctor(&ecs, "");
    assert_eq!((code, grade(&report, "kmsd").as_str()), (1, "bad"));
    ecs.kmsd_mut().start();

    ecs.ecsctl("disk detach d").ok();
    let file: PathBuf = disk["file"].as_str().expect("a file").into();
    let hidden = ecs.dir().join("hidden.evs");
    fs::rename(&file, &hidden).expect("it can be moved");
    let (code, report) = doctor(&ecs, "");
    assert_eq!((code, grade(&report, "volumes").as_str()), (1, "bad"));
    let other: PathBuf =
        ecs.create_disk("other", "--size 64M --encrypted")["file"].as_str().expect("a file").into();
    fs::copy(&other, &file).expect("it can be copied");
    let report = doctor(&ecs, "").1;
    assert!(report.to_string().contains("holds another volume"), "{report:#}");
    fs::rename(&hidden, &file).expect("it can be moved back");
    assert_eq!(doctor(&ecs, "").0, 0);

    for finding in report["findings"].as_array().expect("findings") {
        assert!(finding["grade"] == "good" || finding["remedy"].is_string(), "no remedy: {finding}");
    }
}

/// The catalogue is gone: the volumes come back from their headers with their data, keys, snapshots and thin parents.
#[test]
fn a_lost_catalogue_is_rebuilt_from_the_headers_of_the_volumes() {
    let ecs = Installation::new();
    ecs.ecsctl("key create --alias k").ok();
    let raw = ecs.dir().join("image.raw");
    fs::write(&raw, vec![0x5a; 4 << 20]).expect("an image can be written");
    ecs.ecsctl(&format!("image create base --from-file {} --encrypted --key k", raw.display())).ok();
    let thin = ecs.create_disk("thin", "--size 64M --image base --encrypted");
    let full = ecs.create_disk("full", "--size 64M --encrypted --key k");
    let plain = ecs.create_disk("plain", "--size 64M");
    let view = ecs.attach("full", "web1").path;
    let disk = fs::OpenOptions::new().write(true).open(&view).expect("the view opens");
    disk.write_all_at(b"before the snapshot", 0).expect("it takes writes");
    disk.sync_all().expect("it can be flushed");
    ecs.ecsctl("snapshot create s1 --disk full").ok();
    disk.write_all_at(b"after the snapshot!", 0).expect("it takes writes");
    disk.sync_all().expect("it can be flushed");
    drop(disk);
    ecs.ecsctl("disk detach full").ok();
    ecs.ecsctl("key create --alias other").ok();
    let refused = ecs.create_disk("refused", "--size 64M --encrypted --key other");
    ecs.ecsctl("key disable other").ok();

    for name in ["catalog.db", "catalog.db-wal", "catalog.db-shm"] {
        let _ = fs::remove_file(ecs.home().join(name));
    }
    let (code, report) = doctor(&ecs, "");
    assert_eq!((code, grade(&report, "volumes").as_str()), (0, "warning"), "files without rows: {report:#}");

    let (_, report) = doctor(&ecs, "--rebuild");
    let left: Vec<&Value> = report["rebuilt"]
        .as_array()
        .expect("results")
        .iter()
        .filter(|line| line["result"] == "left")
        .collect();
    assert_eq!(left.len(), 1, "{report:#}");
    assert_eq!(left[0]["id"], refused["id"]);
    ecs.ecsctl("key enable other").ok();
    let (_, report) = doctor(&ecs, "--rebuild");
    assert_eq!(report["rebuilt"].as_array().map(Vec::len), Some(1), "only what was left: {report:#}");
    assert_eq!(report["grade"], "good", "{report:#}");

    let name = |disk: &Value| {
        let id = disk["id"].as_str().expect("an ID");
        ecs.ecsctl(&format!("disk show {id}")).json()
    };
    for (before, after) in [(&thin, name(&thin)), (&full, name(&full)), (&plain, name(&plain))] {
        for field in ["id", "size", "encrypted", "key_id", "key_alias"] {
            assert_eq!(before[field], after[field], "{field}");
        }
    }
    let recovered = name(&full)["name"].as_str().expect("a name").to_owned();
    let view = ecs.attach(&recovered, "web2").path;
    assert!(fs::read(&view).expect("the view reads").starts_with(b"after the snapshot!"));
    ecs.ecsctl(&format!("disk detach {recovered}")).ok();
    ecs.ecsctl("--yes snapshot rollback s1").ok();
    let view = ecs.attach(&recovered, "web2").path;
    assert!(fs::read(&view).expect("the view reads").starts_with(b"before the snapshot"));
    let thin = name(&thin)["name"].as_str().expect("a name").to_owned();
    let view = ecs.attach(&thin, "web2").path;
    assert!(
        fs::read(&view).expect("the view reads").starts_with(&[0x5a; 4096]),
        "it reads through to its image"
    );
}
