//! D2, D4, D6, D7, D8, I4, S3: many ecsctl at once on one installation, each a process of its own, released by a barrier. Of those that exclude
//! each other one does what it was asked, the others are refused as documented, and afterwards everything belongs together.

use std::collections::BTreeMap;
use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use harness::{Installation, at_once, whole};
use serde_json::Value;

/// How one of many fared.
#[derive(Debug)]
struct Answer {
    line: String,
    code: i32,
    /// The error's code; empty when there was none.
    error: String,
    json: Value,
}

/// Gives these commands at once. Each is done, or refused for what another one did: nothing else is an answer.
#[track_caller]
fn crowd<S: AsRef<str>>(ecs: &Installation, lines: &[S]) -> Vec<Answer> {
    let commands: Vec<_> = lines
        .iter()
        .map(|line| {
            let mut command = ecs.command("ecsctl");
            command.arg("--json").args(line.as_ref().split_whitespace());
            command
        })
        .collect();
    let answers = lines.iter().zip(at_once(&commands)).map(|(line, outcome)| {
        let (line, code) = (line.as_ref().to_owned(), outcome.code);
        assert!(matches!(code, 0 | 3 | 6), "{outcome}");
        let said = format!("{}{}", outcome.stdout, outcome.stderr);
        assert!(!said.contains("locked"), "{outcome}");
        if code == 0 {
            return Answer { line, code, error: String::new(), json: outcome.json() };
        }
        let failure = outcome.error(code);
        assert_eq!(failure.code == "not-found", code == 6, "{line}: {failure:?}");
        Answer { line, code, error: failure.code, json: Value::Null }
    });
    answers.collect()
}

/// Ends the others' work, also when the test fails.
struct Done<'a>(&'a AtomicBool);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Does something while `status` and `server recover --all` are given again and again. How often they were.
fn while_others_settle<T>(ecs: &Installation, work: impl FnOnce() -> T) -> (T, usize) {
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let others = scope.spawn(|| {
            let mut times = 0;
            while !done.load(Ordering::SeqCst) {
                let unsettled = ecs.ecsctl("status").json()["unsettled"].clone();
                assert_eq!(
                    unsettled,
                    serde_json::json!([]),
                    "nothing is called cut short that is being done"
                );
                ecs.ecsctl("server recover --all").ok();
                times += 2;
            }
            times
        });
        let result = {
            let _done = Done(&done);
            work()
        };
        (result, others.join().expect("they only look"))
    })
}

/// Demands that one of them did it, and all others were refused with one of these codes. Gives the one.
#[track_caller]
fn one_of<'a>(answers: &'a [Answer], refusals: &[&str]) -> &'a Answer {
    let done: Vec<&Answer> = answers.iter().filter(|answer| answer.code == 0).collect();
    assert!(done.len() == 1, "one of them, not {}: {answers:#?}", done.len());
    let refused = answers.iter().filter(|answer| answer.code != 0);
    assert!(refused.clone().all(|answer| refusals.contains(&&*answer.error)), "{answers:#?}");
    done[0]
}

/// Eight make one disk, attach it to eight servers, detach it, and delete it: each time one does. The installation and its default key are made
/// by the first crowd (K3).
#[test]
fn of_eight_at_once_one_creates_attaches_detaches_and_deletes() {
    let ecs = Installation::new();
    let eight = |line: &dyn Fn(usize) -> String| (1..=8).map(line).collect::<Vec<_>>();

    let answers = crowd(&ecs, &eight(&|_| "disk create d --size 16M --encrypted".to_owned()));
    let disk = &one_of(&answers, &["exists"]).json;
    assert_eq!(ecs.ecsctl("disk show d").json()["id"], disk["id"]);
    assert_eq!(ecs.ecsctl("key list").json().as_array().map(Vec::len), Some(1), "one default key");
    whole(&ecs, &["d"], "created by one of eight");

    let answers = crowd(&ecs, &eight(&|n| format!("server create web{n}")));
    assert!(answers.iter().all(|answer| answer.code == 0), "{answers:#?}");
    let answers = crowd(&ecs, &eight(&|n| format!("disk attach d web{n}")));
    let winner = one_of(&answers, &["already-attached"]);
    let server = winner.json["server"].as_str().expect("a server");
    assert!(winner.line.ends_with(server), "{winner:?}");
    assert_eq!(ecs.ecsctl("disk show d").json()["server"], server);
    assert!(ecs.attached(&winner.json).path.exists());
    whole(&ecs, &["d"], "attached by one of eight");

    let answers = crowd(&ecs, &eight(&|_| "disk detach d".to_owned()));
    one_of(&answers, &["not-attached"]);
    whole(&ecs, &["d"], "detached by one of eight");

    let answers = crowd(&ecs, &eight(&|_| "disk delete d --yes".to_owned()));
    one_of(&answers, &["not-found"]);
    let left = whole(&ecs, &[], "deleted by one of eight");
    assert!(left.iter().all(|thing| thing.starts_with("server ")), "{left:?}");
}

/// Of each pair the second cannot be done after the first, nor the first after the second.
const PAIRS: [(&str, &str); 3] = [
    ("disk delete a --yes", "disk attach a web1"),
    ("snapshot create sn --disk s", "disk delete s --yes"),
    ("image delete i --yes", "disk create t --image i"),
];

/// With which codes a command may be refused when the others came first. What is not here is always done.
fn refusals(line: &str) -> &'static [&'static str] {
    match line {
        "disk delete a --yes" => &["already-attached"],
        "disk attach a web1" | "snapshot create sn --disk s" => &["not-found"],
        "disk delete s --yes" | "image delete i --yes" => &["has-dependants"],
        "disk create t --image i" | "backup create bk --disk b" => &["not-found", "wrong-state"],
        "disk extend e --size 6M" | "disk extend e --size 7M" => &["shrink"],
        "disk detach w-data1" => &["not-attached"],
        _ => &[],
    }
}

/// Commands that exclude each other, in pairs, all at the same time, while others settle, recover and look. The pair's outcome is that of one
/// after the other, in one order or the other.
#[test]
fn changes_that_meet_end_as_one_after_the_other() {
    let ecs = Installation::new();
    let ok = |line: &str| drop(ecs.ecsctl(line).ok());
    let bytes: Vec<u8> = (0..1_u32 << 18).flat_map(u32::to_le_bytes).collect();
    fs::write(ecs.dir().join("original.raw"), bytes).expect("it can be written");
    for line in ["server create web1", "key create --alias k1", "key create --alias k2"] {
        ok(line);
    }
    ok("server create source --data-disk size=1M,encrypted");
    ok("as-config create c --from-server source");
    ok("as-group create g --config c --desired 0");
    let looks = ["status", "server recover --all", "disk list", "doctor"];
    let mut orders: BTreeMap<String, usize> = BTreeMap::new();
    for round in 0..4 {
        for disk in ["a", "s", "e", "k", "b"] {
            ok(&format!("disk create {disk} --size 4M --encrypted"));
        }
        ok("image create i --from-file original.raw --encrypted");
        ok("server create w --data-disk size=1M,encrypted");
        let mut lines = vec![
            "disk delete a --yes",
            "disk attach a web1",
            "snapshot create sn --disk s",
            "disk delete s --yes",
            "disk extend e --size 6M",
            "disk extend e --size 8M",
            "disk extend e --size 7M",
            "disk rekey k --key k1",
            "disk rekey k --key k2",
            "image delete i --yes",
            "disk create t --image i",
            "server delete w --yes",
            "disk detach w-data1",
            "backup create bk --disk b",
            "disk delete b --yes",
            "as-group scale g --desired 2",
            "as-group scale g --desired 1 --yes",
        ];
        lines.extend(looks);
        if round % 2 == 1 {
            lines.reverse();
        }
        let (answers, settled) = while_others_settle(&ecs, || crowd(&ecs, &lines));
        assert!(settled > 1, "others settle meanwhile");
        let answer = |line: &str| answers.iter().find(|answer| answer.line == line).expect("it was given");
        for (first, second) in PAIRS {
            let (first, second) = (answer(first), answer(second));
            assert!((first.code == 0) != (second.code == 0), "{first:?} {second:?}");
            *orders.entry(first.line.clone()).or_default() += usize::from(first.code == 0);
        }
        for answer in &answers {
            let refusals = refusals(&answer.line);
            assert!(answer.code == 0 || refusals.contains(&&*answer.error), "{answer:?}");
            let unsettled = &answer.json["unsettled"];
            assert!(unsettled.is_null() || unsettled == &serde_json::json!([]), "{answer:?}");
        }
        let context = format!("round {round}");
        let found = whole(&ecs, &["a", "s", "e", "k", "t", "w-data1"], &context);
        assert_eq!(ecs.ecsctl("disk show e").json()["size"], 8 << 20, "{context}");
        assert!(found.contains("disk w-data1 available") && !found.contains("server w stopped"), "{found:?}");
        let members = found.iter().filter(|thing| thing.starts_with("server g-")).count();
        let wanted = ecs.ecsctl("as-group show g").json()["desired"].clone();
        assert_eq!(wanted, members, "{context}: {found:?}");

        for disk in ["a", "s", "e", "k", "b", "t", "w-data1"] {
            if ecs.ecsctl(&format!("disk show {disk}")).code == 0 {
                drop(ecs.ecsctl(&format!("disk detach {disk}")));
                drop(ecs.ecsctl("snapshot delete sn --yes"));
                ok(&format!("disk delete {disk} --yes"));
            }
        }
        drop((ecs.ecsctl("image delete i --yes"), ecs.ecsctl("backup delete bk --yes")));
        ok("as-group scale g --desired 0 --yes");
    }
    eprintln!("{orders:?}");
    let left = whole(&ecs, &[], "in the end");
    assert!(left.iter().all(|thing| !thing.starts_with("image") && !thing.starts_with("backup")), "{left:?}");
}
