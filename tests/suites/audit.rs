//! K8 on real parts: the audit log checked by kmsd, in copies with and without keys, and on a disk that is full; access keys.
#![allow(clippy::unwrap_used)] // helpers too: a test that cannot go on has failed

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use harness::{Installation, KillSwitch, Options, Outcome, run};
use serde_json::{Value, json};

/// Makes records by asking for random bytes, on one connection after the other.
fn ask(ecs: &Installation, times: usize) {
    for _ in 0..times {
        ecs.kms("gen-random", &json!({"random_data_length": "512"})).ok();
    }
}

/// A copy of the log's directory.
fn copy_log(ecs: &Installation, name: &str) -> PathBuf {
    let copy = ecs.dir().join(name);
    run(Command::new("cp").arg("-r").arg(ecs.kmsd().home().join("audit")).arg(&copy)).ok();
    copy
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    found.sort_unstable();
    found
}

fn verify(ecs: &Installation, dir: &Path, keys: Option<&Path>, end: Option<&str>) -> Outcome {
    let mut arguments = vec!["audit", "verify", "--dir", dir.to_str().unwrap()];
    if let Some(keys) = keys {
        arguments.extend(["--keys", keys.to_str().unwrap()]);
    }
    if let Some(end) = end {
        arguments.extend(["--expect", end]);
    }
    ecs.ecsctl_with(&arguments)
}

/// K8: edits, removals, moves and cuts in a log of 1,000 records from three runs of kmsd are found by kmsd itself, and in a copy
/// by its keys and a noted end; without keys, all but edits.
#[test]
fn k8_tampering_with_a_log_of_a_thousand_records_is_found() {
    let mut ecs = Installation::new();
    for _ in 0..2 {
        ask(&ecs, 320);
        ecs.kmsd_mut().stop();
        ecs.kmsd_mut().start();
    }
    ask(&ecs, 360);
    let online = ecs.ecsctl("audit verify").json();
    assert_eq!(online["proof"], "token", "{online}");
    assert!(online["records"].as_u64().unwrap() >= 1000, "{online}");
    let end = online["end"].as_str().unwrap().to_owned();

    let keys = ecs.dir().join("audit-keys.json");
    let exported = ecs.ecsctl_with(&["audit", "export-keys", keys.to_str().unwrap()]).json();
    assert_eq!(exported["files"], 3, "{exported}");
    let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&keys).unwrap().permissions()) & 0o777;
    assert_eq!(mode, 0o600);
    // It does not replace what is there.
    ecs.ecsctl_with(&["audit", "export-keys", keys.to_str().unwrap()]).error(3);
    let last = ecs.ecsctl("audit list --limit 1").json();
    assert_eq!(last[0]["operation"], "export-audit-keys", "an export is recorded: {last}");

    let copy = copy_log(&ecs, "copy");
    ecs.kmsd_mut().stop();
    // From here on nobody serves: copies are checked without kmsd.
    let whole = verify(&ecs, &copy, Some(&keys), Some(&end)).json();
    assert_eq!((&whole["proof"], &whole["intact"]), (&json!("keys"), &json!(true)), "{whole}");
    assert_eq!(verify(&ecs, &copy, None, Some(&end)).json()["proof"], "outline");
    // What was noted then says nothing of what came after it: that it was looked at is a record, too.
    let end = whole["end"].as_str().unwrap().to_owned();
    let listed = ecs.ecsctl_with(&["audit", "list", "--dir", copy.to_str().unwrap(), "--limit", "5"]).json();
    assert_eq!(listed.as_array().unwrap().len(), 5, "{listed}");

    let mut found = 0;
    for file in files(&copy) {
        let text = fs::read_to_string(&file).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        for at in [0, 1, lines.len() / 2, lines.len() - 2] {
            let mut edited = lines.clone();
            let other = lines[at].replacen("\"outcome\":\"ok\"", "\"outcome\":\"KMS.0207\"", 1);
            assert_ne!(other, lines[at]);
            edited[at] = &other;
            let mut removed = lines.clone();
            removed.remove(at);
            let mut moved = lines.clone();
            moved.swap(at, at + 1);
            let cut = lines[..at].to_vec();
            for (kind, changed) in [edited, removed, moved, cut].into_iter().enumerate() {
                let changed: String = changed.iter().map(|line| format!("{line}\n")).collect();
                fs::write(&file, changed).unwrap();
                let told = verify(&ecs, &copy, Some(&keys), Some(&end)).error(5);
                assert_eq!(told.code, "audit-tampered", "{kind} at {at} of {file:?}: {told:?}");
                if kind > 0 {
                    verify(&ecs, &copy, None, Some(&end)).error(5);
                }
                found += 1;
            }
        }
        fs::write(&file, &text).unwrap();
    }
    assert_eq!(found, 48);
    verify(&ecs, &copy, Some(&keys), Some(&end)).ok();
    let last = files(&copy).pop().unwrap();
    fs::remove_file(&last).unwrap();
    verify(&ecs, &copy, Some(&keys), Some(&end)).error(5).naming(&["cut off"]);
    // Keys of another log do not fit, and a file that holds none says so.
    fs::write(ecs.dir().join("none"), "{}").unwrap();
    verify(&ecs, &copy, Some(&ecs.dir().join("none")), None).error(1).naming(&["export-keys"]);
    verify(&ecs, &copy, None, Some("12:zz")).error(2).naming(&["--expect"]);

    // In the log itself, while kmsd serves.
    let own = files(&ecs.kmsd().home().join("audit"))[0].clone();
    let text = fs::read_to_string(&own).unwrap();
    ecs.kmsd_mut().start();
    fs::write(&own, text.replacen("\"outcome\":\"ok\"", "\"outcome\":\"no\"", 1)).unwrap();
    ecs.ecsctl("audit verify").error(5).naming(&["record 1", "changed"]);
    fs::write(&own, &text).unwrap();
    ecs.ecsctl("audit verify").ok();
}

/// `kmsd audit` in the installation's home.
fn kmsd_audit(ecs: &Installation, arguments: &[&str]) -> Outcome {
    run(ecs.kmsd().command().arg("audit").args(arguments).arg("--home").arg(ecs.kmsd().home()))
}

/// K8: the log is archived while nobody serves; what goes on after it verifies alone and together with the archive, and an archive that was changed or is
/// not there is noticed. A backup from before does not put the archived files back.
#[test]
fn k8_a_log_is_archived_and_goes_on() {
    let mut ecs = Installation::new();
    ask(&ecs, 20);
    let keys = ecs.dir().join("audit-keys.json");
    ecs.ecsctl_with(&["audit", "export-keys", keys.to_str().unwrap()]).ok();
    let backup = ecs.dir().join("backup");
    run(ecs.kmsd().command().arg("backup").arg(&backup)).ok();
    let served = kmsd_audit(&ecs, &["archive"]);
    assert!(served.code != 0 && served.stderr.contains("in use by another kmsd"), "{served}");
    ecs.kmsd_mut().stop();
    let told = kmsd_audit(&ecs, &["archive"]).ok().stdout;
    let archive = ecs.kmsd().home().join("audit-archive");
    let archive = files(&archive)[0].clone();
    assert!(told.contains(archive.to_str().unwrap()), "{told}");
    let last = told.lines().find_map(|line| line.strip_prefix("archived up to ")).unwrap().to_owned();
    assert_eq!(
        archive.file_name().unwrap().to_str().unwrap(),
        format!("1-{}", last.split_once(':').unwrap().0)
    );
    let alone = verify(&ecs, &archive, Some(&keys), Some(&last)).json();
    assert_eq!((alone["end"].as_str(), &alone["archived"]), (Some(last.as_str()), &json!(null)), "{alone}");
    let rest = kmsd_audit(&ecs, &["verify"]).ok().stdout;
    assert!(rest.contains(&format!("archived up to {last}")), "{rest}");

    ecs.kmsd_mut().start();
    ask(&ecs, 5);
    let online = ecs.ecsctl("audit verify").json();
    assert_eq!(
        (&online["intact"], online["archived"].as_str()),
        (&json!(true), Some(last.as_str())),
        "{online}"
    );
    let end = online["end"].as_str().unwrap();
    let copy = copy_log(&ecs, "copy");
    assert_eq!(verify(&ecs, &copy, None, Some(end)).json()["archived"].as_str(), Some(last.as_str()));
    ecs.kmsd_mut().stop();

    let with = |archive: &Path| kmsd_audit(&ecs, &["verify", "--archive", archive.to_str().unwrap()]);
    let whole = with(&archive).ok().stdout;
    assert!(!whole.contains("archived up to"), "{whole}");
    let file = files(&archive)[0].clone();
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text.replacen("\"outcome\":\"ok\"", "\"outcome\":\"no\"", 1)).unwrap();
    let changed = with(&archive);
    assert!(changed.code == 5 && changed.stderr.contains("record 1 was changed"), "{changed}");
    fs::write(&file, &text).unwrap();
    let empty = ecs.dir().join("empty");
    fs::create_dir(&empty).unwrap();
    let dropped = with(&empty);
    assert!(dropped.code == 5 && dropped.stderr.contains("are missing: they were archived"), "{dropped}");

    let restored = run(ecs.kmsd().command().args(["restore", "--replace"]).arg(&backup));
    assert!(restored.stderr.contains("left out audit/0000000001.log"), "{restored}");
    assert_eq!(restored.code, 0, "{restored}");
    assert_eq!(files(&ecs.kmsd().home().join("audit")).len(), 2);
    with(&archive).ok();
}

/// K8: an archiving is killed before each of its syncs, renamings and deletions in turn. Each time the log is the old one or the new one, and verifies; the next
/// start clears up; at the end every record from the first on is there.
#[test]
fn k8_an_archiving_is_killed_before_each_call() {
    let mut ecs = Installation::new();
    ask(&ecs, 3);
    ecs.kmsd_mut().stop();
    let home = ecs.kmsd().home().to_owned();
    let (aside, archives) = (home.join("audit.archiving"), home.join("audit-archive"));
    let archived = || if archives.exists() { files(&archives) } else { Vec::new() };
    let switch = KillSwitch::new(ecs.dir().join("switch"));
    let runner = switch.runner();
    let (mut prepared, mut exchanged, mut done) = (0, 0, 0);
    for at in 1.. {
        assert!(at < 100, "an archiving has an end");
        let before = archived().len();
        switch.arm(at, &["fsync", "fdatasync", "rename", "unlink"]);
        let kmsd = ecs.kmsd().command();
        let mut command = Command::new(&runner[0]);
        command.args(&runner[1..]).arg(kmsd.get_program()).args(kmsd.get_args());
        command.envs(kmsd.get_envs().filter_map(|(name, value)| Some((name, value?))));
        let outcome = run(command.args(["audit", "archive", "--home"]).arg(&home));
        switch.disarm();
        kmsd_audit(&ecs, &["verify"]).ok();
        if outcome.code == 0 {
            break;
        }
        let first = |dir: &Path| files(dir).first().and_then(|file| file.file_name().map(ToOwned::to_owned));
        let is_new = if !aside.exists() {
            let is_new = archived().len() > before;
            done += usize::from(is_new);
            is_new
        } else if first(&aside).is_some_and(|old| Some(old) < first(&home.join("audit"))) {
            exchanged += 1;
            true
        } else {
            prepared += 1;
            false
        };
        ecs.kmsd_mut().start();
        ecs.ecsctl("audit verify").ok();
        ecs.kmsd_mut().stop();
        assert_eq!((aside.exists(), archived().len()), (false, before + usize::from(is_new)), "{at}");
    }
    assert!(prepared > 1 && exchanged > 1 && done > 1, "{prepared} {exchanged} {done}");
    let mut arguments = vec!["verify".to_owned()];
    for archive in archived() {
        arguments.extend(["--archive".to_owned(), archive.to_str().unwrap().to_owned()]);
    }
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let whole = kmsd_audit(&ecs, &arguments).ok().stdout;
    assert!(!whole.contains("archived up to"), "{whole}");
}

/// A file system of its own in memory, unmounted when dropped.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn new(at: PathBuf) -> Self {
        fs::create_dir(&at).unwrap();
        let mut mount = Command::new("mount");
        run(mount.args(["-t", "tmpfs", "-o", "size=3m,mode=0700", "tmpfs"]).arg(&at)).ok();
        Self(at)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        run(Command::new("umount").arg("-l").arg(&self.0));
    }
}

/// K8: on a full disk every operation is refused, nothing acknowledged is lost, and service goes on when there is room again,
/// without a restart.
#[test]
fn k8_on_a_full_disk_operations_are_refused_and_go_on_when_there_is_room() {
    let mut ecs = Installation::with(Options { init: false, start: false, ..Options::default() });
    let disk = SmallDisk::new(ecs.kmsd().home().to_owned());
    ecs.kmsd().try_init(&[]).ok();
    ecs.kmsd_mut().start();
    let key = ecs.ecsctl("key create --alias kept").json()["key_id"].as_str().unwrap().to_owned();
    let datakey = ecs.kms("create-datakey", &json!({"key_id": key, "datakey_length": "256"})).ok();
    let unwrap = |ecs: &Installation| {
        let body =
            json!({"key_id": key, "cipher_text": datakey["cipher_text"], "datakey_cipher_length": "32"});
        ecs.kms("decrypt-datakey", &body)
    };
    unwrap(&ecs).ok();

    // Full to the last page.
    let ballast = disk.0.join("ballast");
    run(Command::new("dd").args(["if=/dev/zero", "bs=4k"]).arg(format!("of={}", ballast.display())));
    // What is left of the log's last page is used up first.
    let refused = (0..200).map(|_| unwrap(&ecs)).find(|reply| reply.status != 200).expect("the disk is full");
    assert_eq!((refused.status, refused.error_code()), (503, "KMS.0102"), "{refused:?}");
    for (verb, body) in [
        ("decrypt-datakey", json!({"cipher_text": datakey["cipher_text"], "datakey_cipher_length": "32"})),
        ("create-key", json!({"key_alias": "lost"})),
        ("disable-key", json!({"key_id": key})),
        ("list-keys", json!({})),
        ("gen-random", json!({"random_data_length": "512"})),
    ] {
        let reply = ecs.kms(verb, &body);
        assert_eq!((reply.status, reply.error_code()), (503, "KMS.0102"), "{verb}: {reply:?}");
        assert!(reply.body.get("data_key").is_none(), "{verb} gave something out: {reply:?}");
    }
    let health = ecs.api("GET", "/kmsd/v1/health", None).ok();
    assert_eq!(
        (&health["status"], &health["audit"]["writable"]),
        (&json!("degraded"), &json!(false)),
        "{health}"
    );
    assert_eq!(ecs.token().master_keys().len(), 1, "a refused operation made a key");

    fs::remove_file(&ballast).unwrap();
    assert_eq!(unwrap(&ecs).ok()["data_key"], datakey["plain_text"], "service did not go on");
    ecs.ecsctl("key create --alias after").ok();
    assert_eq!(ecs.ecsctl("audit verify").json()["intact"], true);
    assert_eq!(ecs.api("GET", "/kmsd/v1/health", None).ok()["status"], "ok");
    let keys = ecs.ecsctl("key list").json();
    let states: Vec<_> = keys.as_array().unwrap().iter().map(|k| (&k["alias"], &k["state"])).collect();
    let enabled = json!("enabled");
    assert_eq!(states, [(&json!("after"), &enabled), (&json!("kept"), &enabled)], "{keys}");
    ecs.kmsd_mut().stop();
    ecs.kmsd_mut().start();
    unwrap(&ecs).ok();
    ecs.kmsd_mut().stop();
}

/// Access keys: shown once, listed without their secret, deleted.
#[test]
fn access_keys_are_made_listed_and_deleted() {
    let ecs = Installation::new();
    let made = ecs.ecsctl_with(&["access-key", "create", "--description", "backup host"]).json();
    let id = made["access_key_id"].as_str().unwrap().to_owned();
    let secret = made["secret_access_key"].as_str().unwrap().to_owned();
    assert!(secret.len() >= 32, "{made}");
    ecs.ecsctl("access-key create --admin").ok();
    let listed = ecs.ecsctl("access-key list").json();
    let shown: Vec<(&Value, &Value)> =
        listed.as_array().unwrap().iter().map(|key| (&key["description"], &key["admin"])).collect();
    let expected = [(json!("backup host"), json!(false)), (json!(""), json!(true))];
    assert_eq!(shown, expected.iter().map(|(d, a)| (d, a)).collect::<Vec<_>>(), "{listed}");
    assert!(!listed.to_string().contains(&secret), "a list gives a secret away");

    ecs.ecsctl(&format!("access-key delete {id}")).error(2).naming(&["--yes"]);
    ecs.ecsctl(&format!("--yes access-key delete {id}")).ok();
    ecs.ecsctl(&format!("--yes access-key delete {id}")).error(6).naming(&["access-key list"]);
    assert_eq!(ecs.ecsctl("access-key list").json().as_array().unwrap().len(), 1);
    let operations = ecs.ecsctl("audit list --limit 30").json().to_string();
    for recorded in ["create-access-key", "delete-access-key"] {
        assert!(operations.contains(recorded), "{operations}");
    }
    assert!(!operations.contains(&secret), "the audit log holds a secret");
    assert!(!ecs.home().exists(), "commands about kmsd alone made a catalogue");
}
