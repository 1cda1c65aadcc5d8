//! Looking after kmsd: backup while it serves, restore, a new integrity key, `kmsd doctor`.
#![allow(clippy::unwrap_used)] // helpers too: a test that cannot go on has failed

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use harness::{Installation, Outcome, run};
use serde_json::{Value, json};

const DAY: u64 = 24 * 3600;

fn kmsd(ecs: &Installation, arguments: &[&str]) -> Outcome {
    run(ecs.kmsd().command().args(arguments))
}

fn make_key(ecs: &Installation, alias: &str) -> String {
    ecs.ecsctl(&format!("key create --alias {alias}")).json()["key_id"].as_str().unwrap().to_owned()
}

fn wrapped(ecs: &Installation, key: &str) -> Value {
    let made = ecs.kms("create-datakey", &json!({"key_id": key, "datakey_length": "256"})).ok();
    json!({"key_id": key, "cipher_text": made["cipher_text"], "datakey_cipher_length": "32"})
}

fn copy(from: &Path, to: &Path) {
    run(Command::new("cp").arg("-a").arg(from).arg(to)).ok();
}

/// A copy taken while keys are made is one state, is complete, and can be put back; the audit log is not rolled back by it.
#[test]
fn k8_a_backup_taken_while_serving_is_restored_and_rolls_nothing_back_unnoticed() {
    let mut ecs = Installation::new();
    let key = make_key(&ecs, "first");
    let datakey = wrapped(&ecs, &key);
    let busy = AtomicBool::new(true);
    let backup = ecs.dir().join("backup");
    let to = backup.to_str().unwrap();
    thread::scope(|scope| {
        let writers: Vec<_> = (0..3)
            .map(|writer| {
                let (ecs, busy) = (&ecs, &busy);
                scope.spawn(move || {
                    let mut made = 0;
                    while busy.load(Ordering::Relaxed) {
                        ecs.kms("create-key", &json!({"key_alias": format!("k{writer}-{made}")})).ok();
                        made += 1;
                    }
                    made
                })
            })
            .collect();
        for _ in 0..3 {
            let _ = fs::remove_dir_all(&backup);
            kmsd(&ecs, &["backup", to]).ok();
        }
        busy.store(false, Ordering::Relaxed);
        assert!(
            writers.into_iter().map(|writer| writer.join().unwrap()).sum::<i32>() > 0,
            "nothing was written"
        );
    });
    let before = ecs.ecsctl("key list").json().as_array().unwrap().len();
    make_key(&ecs, "after-the-backup");
    // Its mode keeps others out; a second one does not replace it.
    assert_eq!(fs::metadata(&backup).unwrap().permissions().mode() & 0o777, 0o700);
    assert!(kmsd(&ecs, &["backup", to]).stderr.contains("is there already"));
    assert!(!backup.with_extension("partial").exists());
    let manifest: Value = serde_json::from_slice(&fs::read(backup.join("manifest.json")).unwrap()).unwrap();
    assert!(manifest["commit"].as_u64().unwrap() > 0, "{manifest}");
    let pin = fs::read_to_string(ecs.token().pin_file()).unwrap();
    let holds = run(Command::new("grep").args(["-rqF", pin.trim()]).arg(&backup));
    assert_eq!(holds.code, 1, "the PIN is in the backup");

    // Not while it serves, not over a store that is there unless asked to, not when it is damaged.
    assert!(kmsd(&ecs, &["restore", to, "--replace"]).stderr.contains("in use"));
    ecs.kmsd_mut().stop();
    assert!(kmsd(&ecs, &["restore", to]).stderr.contains("--replace"));
    let sum = run(Command::new("sha256sum").arg(ecs.kmsd().home().join("kmsd.db"))).ok().stdout;
    let store = fs::read(backup.join("kmsd.db")).unwrap();
    let mut damaged = store.clone();
    damaged[store.len() / 2] ^= 1;
    fs::write(backup.join("kmsd.db"), damaged).unwrap();
    assert!(kmsd(&ecs, &["restore", to, "--replace"]).stderr.contains("not as it was copied"));
    assert_eq!(run(Command::new("sha256sum").arg(ecs.kmsd().home().join("kmsd.db"))).ok().stdout, sum);
    fs::write(backup.join("kmsd.db"), store).unwrap();

    let records = |ecs: &Installation| ecs.ecsctl("audit verify").json()["records"].as_u64().unwrap();
    ecs.kmsd_mut().start();
    let known = records(&ecs);
    ecs.kmsd_mut().stop();
    let restored = kmsd(&ecs, &["restore", to, "--replace"]).ok();
    assert!(
        restored.stderr.contains("--accept-restored") && restored.stderr.contains("replaced-1"),
        "{restored}"
    );
    assert_eq!(ecs.kmsd_mut().try_start(), Err(78), "an older store is served unasked");
    ecs.kmsd_mut().try_start_with(&[], &["--accept-restored"]).unwrap();
    assert!(records(&ecs) > known, "the audit log was rolled back");
    let accepted = ecs.ecsctl("audit list").json().to_string();
    assert!(accepted.contains("accept-restored"), "{accepted}");
    ecs.kms("decrypt-datakey", &datakey).ok();
    let after = ecs.ecsctl("key list").json();
    assert!(after.as_array().unwrap().len() <= before, "{after}");
    assert!(!after.to_string().contains("after-the-backup"));
    // Once is enough.
    ecs.kmsd_mut().stop();
    ecs.kmsd_mut().start();
}

/// K4: what was destroyed stays so, though store *and* token are put back as they were before: the audit log knows.
#[test]
fn k4_a_restore_does_not_bring_destroyed_keys_back() {
    let mut ecs = Installation::new();
    let (doomed, kept) = (make_key(&ecs, "doomed"), make_key(&ecs, "kept"));
    let (lost, fine) = (wrapped(&ecs, &doomed), wrapped(&ecs, &kept));
    ecs.ecsctl(&format!("--yes key schedule-deletion {doomed} --days 7")).ok();
    let (backup, token) = (ecs.dir().join("backup"), ecs.dir().join("token"));
    kmsd(&ecs, &["backup", backup.to_str().unwrap()]).ok();
    ecs.kmsd_mut().stop();
    let older = ecs.dir().join("older-token");
    copy(&token, &older);
    let later = (8 * DAY).to_string();
    let runner = ["unshare", "--time", "--boottime", &later];
    // The first start after its day destroys it, before it stops.
    ecs.kmsd_mut().try_start_under(&runner).unwrap();
    while ecs.ecsctl(&format!("key show {doomed}")).code == 0 {
        thread::yield_now();
    }
    ecs.kmsd_mut().stop();
    assert_eq!(ecs.token().master_keys().len(), 1);

    // The store alone: the token does not have the key any more.
    kmsd(&ecs, &["restore", backup.to_str().unwrap(), "--replace"]).ok();
    assert_eq!(ecs.kmsd_mut().try_start_under(&runner), Err(78));
    ecs.kmsd_mut().try_start_with(&runner, &["--accept-restored"]).unwrap();
    assert_ne!(ecs.kms("decrypt-datakey", &lost).status, 200);
    ecs.kms("decrypt-datakey", &fine).ok();
    ecs.kmsd_mut().stop();

    // Store and token together.
    kmsd(&ecs, &["restore", backup.to_str().unwrap(), "--replace"]).ok();
    fs::remove_dir_all(&token).unwrap();
    copy(&older, &token);
    assert_eq!(ecs.token().master_keys().len(), 2, "the older token has the key");
    assert_eq!(ecs.kmsd_mut().try_start_under(&runner), Err(78), "nobody noticed the older token and store");
    ecs.kmsd_mut().try_start_with(&runner, &["--accept-restored"]).unwrap();
    assert_ne!(ecs.kms("decrypt-datakey", &lost).status, 200, "a destroyed key came back to life");
    assert_eq!(ecs.token().master_keys().len(), 1, "a destroyed key came back to life");
    ecs.kms("decrypt-datakey", &fine).ok();
    assert_eq!(ecs.ecsctl("audit verify").json()["intact"], true);
    ecs.kmsd_mut().stop();
}

/// MACs of the store's rows, by key.
fn macs(ecs: &Installation) -> BTreeMap<String, String> {
    let mut sqlite = Command::new("sqlite3");
    let query = "SELECT key_id, hex(mac) FROM keys";
    let out = run(sqlite.arg(ecs.kmsd().home().join("kmsd.db")).arg(query)).ok().stdout;
    out.lines().filter_map(|line| line.split_once('|')).map(|(k, m)| (k.to_owned(), m.to_owned())).collect()
}

/// A new integrity key: every MAC is another one, a store under the old key is not taken, and a crash at any sync leaves a store
/// that serves.
#[test]
fn a_new_integrity_key_replaces_every_mac_and_survives_crashes() {
    let mut ecs = Installation::new();
    let key = make_key(&ecs, "first");
    let datakey = wrapped(&ecs, &key);
    ecs.kms("create-datakey", &json!({"key_id": "evs/default", "datakey_length": "256"})).ok();
    assert!(kmsd(&ecs, &["rekey-store"]).stderr.contains("in use"));
    ecs.kmsd_mut().stop();
    let (before, home) = (macs(&ecs), ecs.kmsd().home().to_owned());
    let older = ecs.dir().join("older.db");
    copy(&home.join("kmsd.db"), &older);
    let said = kmsd(&ecs, &["rekey-store"]).ok();
    assert!(said.stdout.contains("integrity key 2"), "{said}");
    let after = macs(&ecs);
    assert_eq!(after.len(), 2);
    assert!(after.iter().all(|(key, mac)| before[key] != *mac), "a MAC is still the old one");
    ecs.kmsd_mut().start();
    ecs.kms("decrypt-datakey", &datakey).ok();
    ecs.kmsd_mut().stop();

    let newer = ecs.dir().join("newer.db");
    copy(&home.join("kmsd.db"), &newer);
    copy(&older, &home.join("kmsd.db"));
    assert_eq!(ecs.kmsd_mut().try_start(), Err(78), "a store under a replaced key is served");
    copy(&newer, &home.join("kmsd.db"));

    let mut killed = 0;
    loop {
        let inject = format!("inject=fsync,fdatasync:signal=KILL:when={}", killed + 1);
        let mut strace = Command::new("strace");
        let outcome = run(strace
            .args(["-f", "-qq", "-o", "/dev/null", "-e", "trace=fsync,fdatasync", "-e", &inject])
            .arg(harness::program("kmsd"))
            .args(["rekey-store", "--home"])
            .arg(&home)
            .env("SOFTHSM2_CONF", ecs.token().config()));
        ecs.kmsd_mut().start();
        ecs.kms("decrypt-datakey", &datakey).ok();
        ecs.kmsd_mut().stop();
        if outcome.code == 0 {
            break;
        }
        killed += 1;
        assert!(killed < 60, "{outcome}");
    }
    assert!(killed >= 4, "only {killed} places to die at");
}

/// The findings of `kmsd doctor --json` by check: health and what to do.
fn findings(ecs: &Installation, code: i32) -> BTreeMap<String, (String, String)> {
    let outcome = kmsd(ecs, &["doctor", "--json"]);
    assert_eq!(outcome.code, code, "{outcome}");
    let found: Value = serde_json::from_str(&outcome.stdout).unwrap_or_else(|e| panic!("{e}: {outcome}"));
    let text = |finding: &Value, name: &str| finding[name].as_str().unwrap_or_default().to_owned();
    let pair =
        |f: &Value| (text(f, "check"), (text(f, "health"), text(f, "found") + " -> " + &text(f, "remedy")));
    found.as_array().unwrap().iter().map(pair).collect()
}

/// `kmsd doctor` finds nothing wrong with a sound installation, and names each thing that is, with its remedy.
#[test]
fn doctor_names_what_is_wrong_and_what_to_do() {
    let mut ecs = Installation::new();
    make_key(&ecs, "first");
    let ill = |found: &BTreeMap<String, (String, String)>| -> Vec<String> {
        found.iter().filter(|(_, (health, _))| health != "ok").map(|(check, _)| check.clone()).collect()
    };
    let serving = findings(&ecs, 0);
    let lookup = ["config", "home", "permissions", "space", "pin", "socket", "service", "module", "token"];
    for check in lookup.iter().chain(&["mechanisms", "login", "store", "audit", "clock", "memory"]) {
        assert!(serving.contains_key(*check), "{check} was not looked at: {serving:?}");
    }
    assert!(ill(&serving).iter().all(|check| check == "memory"), "{serving:?}");
    assert!(serving["mechanisms"].1.contains("CKM_AES_GCM"), "{serving:?}");
    ecs.kmsd_mut().stop();
    let stopped = findings(&ecs, 0);
    let sound = |check: &String| check == "service" || check == "memory" || check == "socket";
    assert!(ill(&stopped).iter().all(sound), "{stopped:?}");
    for check in ["login", "store", "audit"] {
        assert_eq!(stopped[check].0, "ok", "{stopped:?}");
    }
    assert!(kmsd(&ecs, &["doctor"]).ok().stdout.contains("service"));

    let home = ecs.kmsd().home().to_owned();
    let chmod = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    let broken = |check: &str, words: &[&str]| {
        let found = findings(&ecs, 1);
        let (health, text) = &found[check];
        assert_eq!(health, "failed", "{found:?}");
        for word in words {
            assert!(text.contains(word), "{check} does not say {word:?}: {text}");
        }
    };
    chmod(&ecs.token().pin_file(), 0o644);
    broken("pin", &["0644", "0600"]);
    chmod(&ecs.token().pin_file(), 0o600);
    chmod(&home, 0o755);
    broken("home", &["chmod 700"]);
    chmod(&home, 0o700);
    let run_dir = ecs.kmsd().socket().parent().unwrap().to_owned();
    chmod(&run_dir, 0o755);
    broken("socket", &["chmod o-rwx"]);
    chmod(&run_dir, 0o700);

    let config = home.join("kmsd.toml");
    let text = fs::read_to_string(&config).unwrap();
    fs::write(&config, text.replace("libsofthsm2.so", "libnothing.so")).unwrap();
    broken("module", &["libnothing.so", "install"]);
    fs::write(&config, text.replace("label = \"", "label = \"not-")).unwrap();
    broken("token", &["not-", "SOFTHSM2_CONF"]);
    fs::write(&config, "socket = 1").unwrap();
    broken("config", &["kmsd.toml"]);
    fs::write(&config, &text).unwrap();

    let log = fs::read_dir(home.join("audit")).unwrap().next().unwrap().unwrap().path();
    let lines = fs::read_to_string(&log).unwrap();
    fs::write(&log, lines.replacen("\"ok\"", "\"no\"", 1)).unwrap();
    broken("audit", &["changed"]);
    assert_eq!(kmsd(&ecs, &["audit", "verify"]).code, 5);
    fs::write(&log, &lines).unwrap();
    assert!(kmsd(&ecs, &["audit", "verify"]).ok().stdout.contains("intact"));

    let edit = "UPDATE keys SET record = replace(record, 'first', 'fjrst')";
    run(Command::new("sqlite3").arg(home.join("kmsd.db")).arg(edit)).ok();
    broken("store", &["changed by another program", "kmsd restore"]);
    let back = "UPDATE keys SET record = replace(record, 'fjrst', 'first')";
    run(Command::new("sqlite3").arg(home.join("kmsd.db")).arg(back)).ok();
    assert_eq!(findings(&ecs, 0)["store"].0, "ok");
}
