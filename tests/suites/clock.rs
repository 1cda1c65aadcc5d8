//! K4 on real clocks: the kernel's boot clock is moved by a time namespace, the wall clock by libfaketime. Keys are destroyed when they
//! are due, also after downtime, and never early.
#![allow(clippy::unwrap_used)] // helpers too: a test that cannot go on has failed

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use harness::{Installation, Options, Provider};
use serde_json::{Value, json};

const HOUR: u64 = 3600;
const DAY: u64 = 24 * HOUR;

/// libfaketime where Debian and Ubuntu have it.
fn library() -> PathBuf {
    let found = fs::read_dir("/usr/lib").unwrap().flatten();
    let file = found.map(|entry| entry.path().join("faketime/libfaketimeMT.so.1")).find(|file| file.exists());
    file.expect("the package faketime is installed")
}

/// An installation whose clocks can be set.
struct Clocked {
    ecs: Installation,
    leap: PathBuf,
}

impl Clocked {
    fn new() -> Self {
        Self::on(Provider::SoftHsm)
    }

    fn on(provider: Provider) -> Self {
        let ecs = Installation::with(Options { start: false, provider, ..Options::default() });
        let leap = ecs.dir().join("leap");
        Self { ecs, leap }
    }

    /// By how much the wall clock is wrong from now on, such as `+10y`.
    fn set_wall(&self, leap: &str) {
        let next = self.leap.with_extension("next");
        fs::write(&next, leap).and_then(|()| fs::rename(&next, &self.leap)).unwrap();
    }

    /// Starts kmsd when so many seconds more have gone by since the host booted.
    fn start(&mut self, later: u64, leap: &str) {
        self.set_wall(leap);
        let later = later.to_string();
        let preload = format!("LD_PRELOAD={}", library().display());
        let file = format!("FAKETIME_TIMESTAMP_FILE={}", self.leap.display());
        let runner = [
            "unshare",
            "--time",
            "--boottime",
            &later,
            "env",
            &preload,
            &file,
            "FAKETIME_NO_CACHE=1",
            "DONT_FAKE_MONOTONIC=1",
            "FAKETIME_DONT_FAKE_MONOTONIC=1",
        ];
        let kmsd = self.ecs.kmsd_mut();
        kmsd.try_start_under(&runner).unwrap_or_else(|code| panic!("{code}: {}", kmsd.log()));
    }

    fn stop(&mut self) {
        self.ecs.kmsd_mut().stop();
    }

    fn is_distrusted(&self) -> bool {
        self.ecs.api("GET", "/kmsd/v1/health", None).ok()["scheduler"]["clock_distrusted"] == json!(true)
    }

    /// Whether the key is there, its object in the token too, after the scheduler has looked at the clock.
    fn lives(&mut self, key: &str, later: u64, leap: &str) -> bool {
        self.start(later, leap);
        let state = self.ecs.ecsctl(&format!("key show {key}"));
        // It looks when it starts, and once a second.
        let seen = Instant::now();
        while seen.elapsed() < Duration::from_millis(1200) {
            self.is_distrusted();
            thread::yield_now();
        }
        let lives = self.ecs.ecsctl(&format!("key show {key}")).code == 0;
        assert!(state.code == 0 || !lives, "a key came back");
        self.stop();
        assert_eq!(has_object(&self.ecs, key), lives, "store and token tell different stories");
        lives
    }
}

/// Whether the token has the key's object: its ID begins with the key's.
fn has_object(ecs: &Installation, key: &str) -> bool {
    let id = key.replace('-', "");
    ecs.token().master_keys().iter().any(|object| object.id.starts_with(&id))
}

fn make_key(ecs: &Installation, alias: &str) -> String {
    ecs.ecsctl(&format!("key create --alias {alias}")).json()["key_id"].as_str().unwrap().to_owned()
}

fn wrapped(ecs: &Installation, key: &str) -> Value {
    let made = ecs.kms("create-datakey", &json!({"key_id": key, "datakey_length": "256"})).ok();
    json!({"key_id": key, "cipher_text": made["cipher_text"], "datakey_cipher_length": "32"})
}

/// K4: leaps of the wall clock by ten years either way, while kmsd runs and between two runs, and however long they stand, destroy
/// nothing early and hold nothing up; suspend counts, and so does downtime.
#[test]
fn k4_leaps_of_the_clock_destroy_nothing_early_and_hold_nothing_up() {
    let mut at = Clocked::new();
    at.start(0, "+0");
    let (doomed, other) = (make_key(&at.ecs, "doomed"), make_key(&at.ecs, "other"));
    let (lost, kept) = (wrapped(&at.ecs, &doomed), wrapped(&at.ecs, &other));
    at.ecs.ecsctl(&format!("--yes key schedule-deletion {doomed} --days 7")).ok();
    assert!(!at.is_distrusted());
    // While it runs.
    at.set_wall("+10y");
    assert!(at.is_distrusted(), "kmsd does not see the leap");
    at.set_wall("-10y");
    assert!(!at.is_distrusted());
    at.stop();
    // In between, for longer and longer: not even a leap that stands for days brings it nearer.
    for (later, leap) in [
        (HOUR, "+10y"),
        (2 * HOUR, "-10y"),
        (2 * DAY, "+10y"),
        (4 * DAY, "+10y"),
        (6 * DAY, "-10y"),
        (7 * DAY - HOUR, "+10y"),
    ] {
        assert!(at.lives(&doomed, later, leap), "destroyed early: after {later} s, {leap}");
    }
    // Seven days have gone by, of which kmsd ran for minutes. The wall clock says it is ten years ago.
    assert!(!at.lives(&doomed, 7 * DAY + HOUR, "-10y"), "not destroyed though its day has come");

    at.start(7 * DAY + 2 * HOUR, "+0");
    at.ecs.kms("decrypt-datakey", &kept).ok();
    let refused = at.ecs.kms("decrypt-datakey", &lost);
    assert!(refused.status != 200, "{refused:?}");
    let records = at.ecs.ecsctl("audit list --limit 100").json();
    let destroyed = |record: &&Value| record["operation"] == "destroy-key" && record["stage"] == "done";
    assert_eq!(records.as_array().unwrap().iter().filter(destroyed).count(), 1, "{records}");
    at.stop();
}

/// K4: a key whose day comes while kmsd is down is destroyed by the next start, and one that was cancelled in time is not.
#[test]
fn k4_what_comes_due_in_downtime_is_destroyed_at_the_next_start() {
    let mut at = Clocked::new();
    at.start(0, "+0");
    let (doomed, spared) = (make_key(&at.ecs, "doomed"), make_key(&at.ecs, "spared"));
    for key in [&doomed, &spared] {
        at.ecs.ecsctl(&format!("--yes key schedule-deletion {key} --days 7")).ok();
    }
    at.ecs.ecsctl(&format!("key cancel-deletion {spared}")).ok();
    at.stop();
    assert!(has_object(&at.ecs, &doomed));
    assert!(!at.lives(&doomed, 8 * DAY, "+8d"));
    assert!(at.lives(&spared, 8 * DAY, "+8d"));
}

/// K4: the token refuses to destroy a key when its day comes. The key is not used any more, and gone as soon as the token does it.
#[test]
fn k4_a_destruction_that_the_token_refuses_is_done_when_it_can_be() {
    // Enough for a start of kmsd.
    const AHEAD: Duration = Duration::from_secs(6);
    let mut at = Clocked::on(Provider::SoftHsmByProxy);
    at.start(0, "+0");
    let (doomed, other) = (make_key(&at.ecs, "doomed"), make_key(&at.ecs, "other"));
    let lost = wrapped(&at.ecs, &doomed);
    let scheduled = Instant::now();
    at.ecs.ecsctl(&format!("--yes key schedule-deletion {doomed} --days 7")).ok();
    at.stop();
    at.start(7 * DAY - (scheduled.elapsed() + AHEAD).as_secs(), "+7d");
    assert_eq!(at.ecs.ecsctl(&format!("key show {doomed}")).json()["state"], "pending-deletion");
    // CKR_FUNCTION_REJECTED: an answer, and no loss.
    let rejected: String = (0..2000).map(|call| format!("fail {call} 0x200\n")).collect();
    at.ecs.proxy().order(&rejected);
    let patience = Instant::now();
    while !at.ecs.kmsd().log().contains("cannot be destroyed yet") {
        assert!(patience.elapsed() < Duration::from_secs(20), "{}", at.ecs.kmsd().log());
        thread::yield_now();
    }
    assert!(has_object(&at.ecs, &doomed), "the token has not done it");
    assert_ne!(at.ecs.kms("enable-key", &json!({"key_id": doomed})).status, 200);
    assert_ne!(at.ecs.kms("cancel-key-deletion", &json!({"key_id": doomed})).status, 200, "it is too late");
    assert_ne!(at.ecs.kms("decrypt-datakey", &lost).status, 200);
    at.ecs.proxy().order("");
    let patience = Instant::now();
    while has_object(&at.ecs, &doomed) {
        assert!(patience.elapsed() < Duration::from_secs(10), "{}", at.ecs.kmsd().log());
    }
    assert!(has_object(&at.ecs, &other));
    let destroyed = |record: &Value| {
        let done = record["operation"] == "destroy-key" && record["stage"] == "done";
        done.then(|| record["outcome"] == "ok")
    };
    // The record follows the token's answer.
    let outcomes = loop {
        let records = at.ecs.ecsctl("audit list --limit 1000").json();
        let mut found: Vec<bool> = records.as_array().unwrap().iter().filter_map(destroyed).collect();
        found.sort_unstable();
        if found.last() == Some(&true) {
            break found;
        }
        assert!(patience.elapsed() < Duration::from_secs(20), "{records}");
    };
    assert!(outcomes.len() >= 2 && outcomes.iter().filter(|ok| **ok).count() == 1, "{outcomes:?}");
    assert_ne!(at.ecs.ecsctl(&format!("key show {doomed}")).code, 0);
    at.stop();
}

/// The suites' own tools: the namespace moves the boot clock, and nothing else.
#[test]
fn the_clocks_can_be_moved() {
    let uptime = |later: &str| -> f64 {
        let mut command = std::process::Command::new("unshare");
        let out = harness::run(command.args(["--time", "--boottime", later, "cat", "/proc/uptime"])).ok();
        out.stdout.split(' ').next().unwrap().parse().unwrap()
    };
    let moved = uptime("1000000") - uptime("0");
    assert!((moved - 1e6).abs() < 60.0, "{moved}");
    assert!(library().is_file() && Path::new("/proc/self/timens_offsets").exists());
}
