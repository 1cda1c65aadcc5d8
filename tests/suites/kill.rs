//! D10, K4: evsfs and kmsd killed with SIGKILL at inconvenient moments, with real mounts. Nothing that was acknowledged is lost,
//! nothing half-made stays, and the next command brings everything back. ecsctl: kill_commands.rs.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use harness::{Filesystem, Installation, KillSwitch, LoopDevice, process};
use rustix::process::Signal;
use serde_json::{Value, json};

/// Writes files one after the other, each with fsync of itself and of its directory, and reports each once that has returned.
/// Ends at the first error, which is how the death of the disk shows.
fn write_files(dir: &Path, first: u32, done: &mpsc::Sender<(u32, Vec<u8>)>) {
    for number in first.. {
        let length = usize::try_from(number % 37).expect("small") * 1500 + 1;
        let content: Vec<u8> = number.to_le_bytes().into_iter().cycle().take(length).collect();
        let written = File::create(dir.join(number.to_string())).and_then(|mut file| {
            file.write_all(&content)?;
            file.sync_all()?;
            File::open(dir)?.sync_all()
        });
        if written.is_err() || done.send((number, content)).is_err() {
            return;
        }
    }
}

/// Rounds of: attach, mount, see that every file that was ever fsynced is there, write more, kill evsfs amid that, and start the key
/// service again, which was stopped or killed as well. `ECS_TEST_KILL_ROUNDS` sets the rounds of each file system.
fn rounds_of_sigkill(kind: &str, rounds: u32) {
    let rounds = std::env::var("ECS_TEST_KILL_ROUNDS").map_or(rounds, |text| text.parse().expect("a number"));
    let mut ecs = Installation::new();
    ecs.create_disk("d", "--size 1G --encrypted");
    let point = ecs.dir().join("mnt");
    let mut expected: BTreeMap<u32, Vec<u8>> = BTreeMap::new();
    {
        let attached = ecs.attach("d", "web1");
        LoopDevice::attach(&attached.path).format(kind);
        ecs.ecsctl("disk detach d").ok();
    }
    for round in 0..rounds {
        let attached = ecs.attach("d", "web1");
        let device = LoopDevice::attach(&attached.path);
        let mounted = device.mount(&point); // replays the file system's own log
        mounted.unmount();
        let check = device.check(kind);
        assert_eq!(check.code, 0, "{kind} is not clean after round {round}: {check}");
        let mounted = device.mount(&point);
        for (number, content) in &expected {
            let found = fs::read(mounted.path().join(number.to_string()));
            assert!(
                found.as_ref().is_ok_and(|found| found == content),
                "fsynced file {number} after round {round}: {found:?}"
            );
        }
        // Old files go, so that deletions and reuse of space are in it too.
        while expected.len() > 300 {
            let (number, _) = expected.pop_first().expect("not empty");
            fs::remove_file(mounted.path().join(number.to_string())).expect("it is there");
        }

        let (sender, done) = mpsc::channel();
        let first = (round + 1) * 100_000;
        thread::scope(|scope| {
            for lane in 0..2 {
                let (sender, dir) = (sender.clone(), mounted.path());
                scope.spawn(move || write_files(dir, first + lane * 50_000, &sender));
            }
            drop(sender);
            for _ in 0..(5 + round * 7 % 60) {
                let (number, content) = done.recv().expect("the writers are at work");
                expected.insert(number, content);
            }
            process::kill_hard(attached.pid);
            expected.extend(done.iter());
        });
        release(mounted, device);
        // The disk did without it; the next attach asks it for the key and the anchor.
        if round % 2 == 0 {
            ecs.kmsd_mut().kill();
        } else {
            ecs.kmsd_mut().stop();
        }
        ecs.kmsd_mut().start();
    }
    assert!(expected.len() > 50, "there was something to lose");
}

/// What an administrator does with mounts whose disk has died.
fn release(mounted: Filesystem, device: LoopDevice) {
    mounted.unmount();
    drop(device);
}

#[test]
fn d10_sigkill_of_evsfs_under_ext4_loses_nothing_that_was_fsynced() {
    rounds_of_sigkill("ext4", 50);
}

#[test]
fn d10_sigkill_of_evsfs_under_xfs_loses_nothing_that_was_fsynced() {
    rounds_of_sigkill("xfs", 50);
}

#[test]
fn d10_sigkill_of_evsfs_under_btrfs_loses_nothing_that_was_fsynced() {
    rounds_of_sigkill("btrfs", 50);
}

/// The calls by which kmsd, SQLite and SoftHSM make a change last or take something away.
const LASTING: [&str; 4] = ["fsync", "fdatasync", "rename", "unlink"];

/// K4: kmsd is killed before each of its syncs, renamings and deletions in turn, whichever thread makes it, from its start to its clean end, amid create, disable,
/// enable, schedule, cancel. What it acknowledged holds after a restart; what it did not has happened whole or not at all; token and store agree.
#[test]
fn k4_sigkill_of_kmsd_before_each_sync_keeps_what_was_acknowledged() {
    sigkill_of_kmsd_before_each(&LASTING, true);
}

/// The same amid the making of an object in the token: SoftHSM writes it anew for each of its attributes, each time from an empty file. A key
/// whose object is not whole must not come to life. Only from when kmsd is ready: at each login SoftHSM writes its token object in
/// the same way, and loses the token when it dies in the midst, which no program that uses it can help.
#[test]
fn k4_sigkill_of_kmsd_amid_the_making_of_an_object_leaves_no_half_key() {
    sigkill_of_kmsd_before_each(&["ftruncate"], false);
}

fn sigkill_of_kmsd_before_each(calls: &[&str], from_the_start: bool) {
    let mut ecs = Installation::new();
    ecs.kmsd_mut().stop();
    let switch = KillSwitch::new(ecs.dir().join("switch"));
    let runner = switch.runner();
    let runner = [runner[0].as_str(), &runner[1], &runner[2]];
    let mut acknowledged: BTreeMap<String, String> = BTreeMap::new();
    let mut kills = BTreeMap::<String, u32>::new();
    for effect in 1.. {
        assert!(effect < 400, "kmsd never ends its work");
        if from_the_start {
            switch.arm(effect, calls);
        }
        let lived = ecs.kmsd_mut().try_start_under(&runner).is_ok() && {
            if !from_the_start {
                switch.arm(effect, calls);
            }
            let done = work(&ecs, effect, &mut acknowledged);
            ends_cleanly(&mut ecs) && done
        };
        let counted = switch.calls();
        let was_killed = counted.len() as u64 == effect;
        assert!(lived != was_killed, "it was not the switch that ended kmsd:\n{}", ecs.kmsd().log());
        switch.disarm();
        ecs.kmsd_mut().start();
        let Some(call) = counted.last().filter(|_| was_killed) else {
            check_after_kill(&ecs, &mut acknowledged, "the end");
            break;
        };
        *kills.entry(call.clone()).or_default() += 1;
        check_after_kill(&ecs, &mut acknowledged, &format!("{effect}, {call}"));
        ecs.kmsd_mut().stop();
    }
    eprintln!("{kills:?}");
    assert!(kills.values().sum::<u32>() > 20, "only {kills:?}: the switch did not do its work");
}

/// Stops it as systemd does. False when it died on the way, or was dead before.
fn ends_cleanly(ecs: &mut Installation) -> bool {
    let pid = ecs.kmsd().pid().expect("kmsd was started");
    process::send(pid, Signal::TERM);
    let ended = process::wait_for_exit(pid, Duration::from_secs(20));
    assert!(ended, "kmsd does not end:\n{}", ecs.kmsd().log());
    ecs.kmsd_mut().ended()
}

/// What was acknowledged is there, what is there can be used, and the token has neither more nor less.
fn check_after_kill(ecs: &Installation, acknowledged: &mut BTreeMap<String, String>, at: &str) {
    let page = ecs.kms("list-keys", &json!({"limit": "1000"})).ok();
    let known: BTreeMap<String, String> = page["key_details"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|key| (field(key, "key_id"), field(key, "key_state")))
        .collect();
    for (key, state) in &*acknowledged {
        let found =
            known.get(key).unwrap_or_else(|| panic!("acknowledged key {key} is lost, before call {at}"));
        assert!(
            state == "?" || found == state,
            "key {key} is {found}, acknowledged was {state}, before call {at}"
        );
    }
    for (key, _) in known.iter().filter(|(key, state)| *state == "2" && !acknowledged.contains_key(*key)) {
        let reply = ecs.kms("create-datakey", &json!({"key_id": key, "datakey_length": "256"}));
        assert!(reply.status == 200, "key {key} is enabled and of no use, before call {at}: {reply:?}");
    }
    let objects = ecs.token().master_keys().len();
    assert_eq!(objects, known.len(), "token and store differ, before call {at}");
    *acknowledged = known;
}

/// The kill suite's own tool: the switch counts every call that the kernel sees, of every thread.
#[test]
fn the_kill_switch_misses_no_call() {
    let mut ecs = Installation::new();
    ecs.kmsd_mut().stop();
    let switch = KillSwitch::new(ecs.dir().join("switch"));
    let trace = ecs.dir().join("trace");
    let output = format!("--output={}", trace.display());
    let traced = "--trace=fsync,fdatasync,rename,renameat,renameat2,unlink,unlinkat,rmdir,ftruncate";
    let calls = [&LASTING[..], &["rmdir", "ftruncate"]].concat();
    switch.arm(u64::MAX, &calls);
    let runner = switch.runner();
    let mut words = vec!["strace", "--follow-forks", &output, traced];
    words.extend(runner.iter().map(String::as_str));
    ecs.kmsd_mut().try_start_under(&words).expect("kmsd starts");
    assert!(work(&ecs, 1, &mut BTreeMap::new()));
    // strace is the child; kmsd is the other process that has this home.
    let strace = ecs.kmsd().pid().expect("it was started");
    for pid in process::with_argument(ecs.kmsd().home()).into_iter().filter(|pid| *pid != strace) {
        process::send(pid, Signal::TERM);
    }
    assert!(process::wait_for_exit(strace, Duration::from_secs(20)));
    assert!(ecs.kmsd_mut().ended(), "{}", ecs.kmsd().log());
    let counted = switch.calls();
    let text = fs::read_to_string(&trace).expect("strace wrote it");
    let seen = text.lines().filter(|line| line.contains('(') && !line.contains("resumed>")).count();
    assert_eq!(counted.len(), seen, "{counted:?}\n{text}");
    for call in ["fsync", "fdatasync", "unlink", "ftruncate"] {
        assert!(counted.iter().any(|counted| counted == call), "{call} is never called: {counted:?}");
    }
}

/// A key through its states; each acknowledged state is recorded, and "?" while a change is under way. True when all was done.
fn work(ecs: &Installation, round: u64, acknowledged: &mut BTreeMap<String, String>) -> bool {
    let Ok(made) = ecs.try_kms("create-key", &json!({"key_alias": format!("round-{round}")})) else {
        return false;
    };
    let key = field(&made.ok()["key_info"], "key_id");
    acknowledged.insert(key.clone(), "2".to_owned());
    for (verb, state) in [
        ("disable-key", "3"),
        ("enable-key", "2"),
        ("schedule-key-deletion", "4"),
        ("cancel-key-deletion", "3"),
    ] {
        acknowledged.insert(key.clone(), "?".to_owned());
        let Ok(reply) = ecs.try_kms(verb, &json!({"key_id": key, "pending_days": "7"})) else { return false };
        reply.ok();
        acknowledged.insert(key.clone(), state.to_owned());
    }
    true
}

fn field(value: &Value, name: &str) -> String {
    value[name].as_str().unwrap_or_else(|| panic!("no {name} in {value}")).to_owned()
}
