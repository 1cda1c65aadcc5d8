//! The harness itself: comparisons that notice, guards that clean up, and the sweep that takes away what a killed test has left.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::Command;

use harness::{LoopDevice, process, repository, run, scratch_dir, tree};

fn sparse(path: &Path, size: u64) {
    fs::File::create(path).and_then(|file| file.set_len(size)).expect("a sparse file can be made");
}

fn fails(work: impl FnOnce()) -> bool {
    catch_unwind(AssertUnwindSafe(work)).is_err()
}

#[test]
fn the_tree_comparison_notices_every_kind_of_difference() {
    let dir = scratch_dir("tree");
    let (left, right) = (dir.path().join("left"), dir.path().join("right"));
    tree::write(&left, 60, "some text");
    type Change<'a> = (&'a str, &'a dyn Fn(&Path));
    let changes: [Change<'_>; 7] = [
        ("content", &|root| fs::write(root.join("x"), "other").expect("write")),
        ("length", &|root| fs::write(root.join("x"), "same and more").expect("write")),
        ("missing", &|root| fs::remove_file(root.join("x")).expect("remove")),
        ("added", &|root| fs::write(root.join("y"), "").expect("write")),
        ("mode", &|root| {
            fs::set_permissions(root.join("x"), fs::Permissions::from_mode(0o777)).expect("mode");
        }),
        ("target", &|root| {
            fs::remove_file(root.join("link"))
                .and_then(|()| symlink("elsewhere", root.join("link")))
                .expect("link");
        }),
        ("hard link", &|root| fs::hard_link(root.join("x"), dir.path().join("link to x")).expect("link")),
    ];
    fs::write(left.join("x"), "same").expect("write");
    symlink("x", left.join("link")).expect("link");
    for (what, change) in changes {
        run(Command::new("rm").arg("-rf").arg(&right)).ok();
        run(Command::new("cp").arg("-a").arg(&left).arg(&right)).ok();
        tree::assert_same(&left, &right);
        change(&right);
        assert!(fails(|| tree::assert_same(&left, &right)), "{what}: not noticed");
    }
}

#[test]
fn the_search_for_plaintext_finds_it_wherever_it_is() {
    let dir = scratch_dir("search");
    let file = dir.path().join("file");
    let mut content = vec![0_u8; 3 << 20];
    fs::write(&file, &content).expect("write");
    assert!(!tree::holds(&file, "needle"));
    for position in [0, 1, 4093, (3 << 20) - 6] {
        content[position..position + 6].copy_from_slice(b"needle");
        fs::write(&file, &content).expect("write");
        assert!(tree::holds(&file, "needle"), "at {position}");
        content[position..position + 6].fill(0xff);
    }
}

#[test]
fn guards_clean_up_in_a_panic() {
    let dir = scratch_dir("guards");
    let image = dir.path().join("image");
    sparse(&image, 64 << 20);
    assert!(fails(|| {
        let device = LoopDevice::attach(&image);
        device.format("ext4");
        let mounted = device.mount(&dir.path().join("mnt"));
        assert_eq!(process::loops_under(dir.path()).len(), 1);
        assert_eq!(process::mounts_under(dir.path()).len(), 1);
        fs::write(mounted.path().join("file"), "text").expect("write");
        panic!("on purpose");
    }));
    assert_eq!(process::loops_under(dir.path()), [] as [String; 0]);
    assert_eq!(process::mounts_under(dir.path()), []);
}

#[test]
fn the_sweep_takes_away_mounts_loop_devices_and_processes() {
    let dir = scratch_dir("sweep");
    let left = dir.path().join("left");
    fs::create_dir(&left).expect("a directory can be made");
    let sweep = || {
        let root = repository();
        let script = format!(
            ". '{0}/softhsm-config/packages.sh'; . '{0}/tests/sweep.sh'; sweep '{1}'",
            root.display(),
            left.display()
        );
        run(Command::new("bash").args(["-c", &script]))
    };
    let image = left.join("image");
    sparse(&image, 64 << 20);
    let device = LoopDevice::attach(&image);
    device.format("ext4");
    std::mem::forget(device.mount(&left.join("mnt")));
    std::mem::forget(device);
    run(Command::new("setsid").args(["--fork", "tail", "-f"]).arg(&image)).ok();
    let outcome = sweep();
    assert_eq!(outcome.code, 1, "what was left is a failure: {outcome}");
    for word in ["ext4 mounted", "loop device", "process"] {
        assert!(outcome.stdout.contains(word), "{outcome}");
    }
    assert!(!left.exists());
    assert_eq!(process::loops_under(dir.path()), [] as [String; 0]);
    assert_eq!(process::mounts_under(dir.path()), []);
    assert_eq!(sweep().code, 0, "and now there is nothing left");
}

/// The names of all functions in the sources.
fn functions(dir: &Path, found: &mut BTreeSet<String>) {
    for entry in fs::read_dir(dir).expect("a directory").map(|entry| entry.expect("an entry").path()) {
        if entry.is_dir() && !entry.ends_with("target") {
            functions(&entry, found);
        } else if entry.extension().is_some_and(|ending| ending == "rs") {
            let text = fs::read_to_string(&entry).expect("a source file");
            let names = text
                .lines()
                .filter_map(|line| line.trim().strip_prefix("fn ").or(line.trim().strip_prefix("async fn ")));
            found.extend(names.filter_map(|line| Some(line.split_once('(')?.0.to_owned())));
        } else if entry.extension().is_some_and(|ending| ending == "py") {
            let text = fs::read_to_string(&entry).expect("a source file");
            let names = text.lines().filter_map(|line| line.trim().strip_prefix("def "));
            found.extend(names.filter_map(|line| Some(line.split_once('(')?.0.to_owned())));
        }
    }
}

/// The tables of docs/testing.md that name tests: under which heading, for which rules, and how many rows at least.
const TABLES: [(&str, &[&str], usize); 3] = [
    (
        "## The volume engine: properties and their tests",
        &["F1", "F2", "F3", "F4", "F5", "F6", "F7", "F8", "F9", "F10", "F11", "F12", "F13"],
        13,
    ),
    // Its second table is of promises.
    ("## The key service: rules and their tests", &["K1", "K2", "K3", "K4", "K5", "K6", "K7", "K8"], 38),
    (
        "## The cloud model: rules and their tests",
        &[
            "D1", "D2", "D3", "D4", "D5", "D6", "D7", "D8", "D9", "D10", "I1", "I2", "I3", "I4", "S1", "S2",
            "S3", "A1", "A2",
        ],
        19,
    ),
];

/// docs/testing.md names tests for each property of a volume file, for each rule of keys, disks, images, servers and auto scaling, and for what is
/// promised of the key service besides; and those tests exist.
#[test]
fn every_rule_is_shown_by_tests_that_there_are() {
    let root = repository();
    let mut known = BTreeSet::new();
    for part in ["kmsd", "evsfs", "ecsctl", "tests"] {
        functions(&root.join(part), &mut known);
    }
    let page = fs::read_to_string(root.join("docs/testing.md")).expect("the page");
    for (heading, rules, least) in TABLES {
        let (_, part) =
            page.split_once(heading).unwrap_or_else(|| panic!("docs/testing.md has no {heading}"));
        let part = part.split("\n## ").next().expect("the first part");
        let rows = part.lines().filter_map(|line| line.strip_prefix("| ")?.split_once(" | "));
        let rows: Vec<_> = rows.filter(|(_, rest)| rest.contains('`')).collect();
        assert!(rows.len() >= least, "{heading}: {} rows", rows.len());
        for rule in rules {
            assert!(rows.iter().any(|(first, _)| first == rule), "docs/testing.md has no tests for {rule}");
        }
        for (rule, rest) in rows {
            // Every second part stands between two ticks.
            let names =
                rest.split('`').skip(1).step_by(2).filter(|word| word.contains('_') && !word.contains('.'));
            let names: Vec<&str> = names.collect();
            let unknown: Vec<&str> = names.iter().copied().filter(|name| !known.contains(*name)).collect();
            assert!(!names.is_empty(), "{rule} names no test");
            assert_eq!(unknown, [] as [&str; 0], "{rule}: there are no such tests");
        }
    }
}

/// What a killed run left is taken away; what belongs to a run that lives, to another user or to another host of processes is not.
#[test]
fn only_runs_of_ones_own_that_are_dead_are_swept() {
    let dir = scratch_dir("runs");
    let mut ended = Command::new("true").spawn().expect("true runs");
    ended.wait().expect("it ends");
    let here = fs::read_link("/proc/self/ns/pid").expect("/proc").display().to_string();
    let dead = format!("{} {here}\n", ended.id());
    let (live, elsewhere) = (format!("{} {here}\n", std::process::id()), format!("{} pid:[1]\n", ended.id()));
    let make = |name: &str, owner: &str| {
        let run = dir.path().join(format!("ecs-tests.{name}"));
        fs::create_dir(&run).and_then(|()| fs::write(run.join("owner"), owner)).expect("it can be made");
        run
    };
    make("dead", &dead);
    make("live", &live);
    make("elsewhere", &elsewhere);
    make("unknown", "");
    symlink(make("target", &live), dir.path().join("ecs-tests.link")).expect("link");
    let foreign = make("foreign", &dead);
    let is_root = rustix::process::geteuid().is_root();
    if is_root {
        std::os::unix::fs::chown(&foreign, Some(65534), None).expect("root can");
    }
    let script = "set -u; . softhsm-config/packages.sh; . tests/sweep.sh; sweep_dead_runs \"$1\"; mkdir \"$1/own\"; own_run \"$1/own\"; cat \"$1/own/owner\"; echo $$";
    let mut bash = Command::new("bash");
    let said = run(bash.args(["-c", script, "bash"]).arg(dir.path()).current_dir(repository())).ok();
    let lines: Vec<&str> = said.stdout.lines().collect();
    assert_eq!(lines, [&format!("{} {here}", lines[1]), lines[1]], "a run is its shell's");
    let left: BTreeSet<String> = fs::read_dir(dir.path())
        .expect("it is there")
        .map(|entry| entry.expect("it can be read").file_name().into_string().expect("text"))
        .filter_map(|name| name.strip_prefix("ecs-tests.").map(str::to_owned))
        .collect();
    let mut expected = vec!["elsewhere", "link", "live", "target", "unknown"];
    if is_root {
        expected.push("foreign");
    }
    assert_eq!(left, expected.into_iter().map(str::to_owned).collect());
}

/// Each error that docs/kms-api.md lists is asked for by name in a test with the public clients.
#[test]
fn every_documented_error_is_tested_with_the_public_clients() {
    let root = repository();
    let page = fs::read_to_string(root.join("docs/kms-api.md")).expect("the page");
    let clients = fs::read_dir(root.join("tests/clients")).expect("a directory");
    let tests: String = clients
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|ending| ending == "py"))
        .map(|path| fs::read_to_string(path).expect("a test"))
        .collect();
    let code = regex::Regex::new(r"(KMSD?|APIGW)\.[0-9]{4}|[A-Z][A-Za-z]+Exception").expect("a pattern");
    let tables = page.lines().filter(|line| line.starts_with("| "));
    let documented: BTreeSet<&str> =
        tables.flat_map(|line| code.find_iter(line)).map(|found| found.as_str()).collect();
    assert!(documented.len() > 60, "{documented:?}");
    let untested: Vec<_> = documented.into_iter().filter(|code| !tests.contains(code)).collect();
    // A day has to go by, and then the scheduler takes the offer away: `k6_an_offer_expires` has clocks for that. The others are those of
    // `a_record_that_was_made_an_administrator_in_the_store_is_useless`, `there_are_at_most_a_thousand`, `k7_anchors_are_bounded_given_back_and_handed_over` and
    // `f12_after_a_restore_those_come_back_first_whom_the_store_forgot`.
    assert_eq!(untested, ["ExpiredImportTokenException", "KMSD.0003", "KMSD.0004", "KMSD.0012", "KMSD.0016"]);
    // And the page has every code that there is.
    let answered = ["domain/refusal.rs", "service/error.rs"]
        .map(|file| fs::read_to_string(root.join("kmsd/src").join(file)).expect("a source file"))
        .concat();
    let quoted = regex::Regex::new(r#""(KMSD?\.[0-9]{4})""#).expect("a pattern");
    let answered: BTreeSet<&str> =
        quoted.captures_iter(&answered).filter_map(|found| Some(found.get(1)?.as_str())).collect();
    assert!(answered.len() > 40, "{answered:?}");
    let missing: Vec<_> = answered.into_iter().filter(|code| !page.contains(code)).collect();
    assert_eq!(missing, [] as [&str; 0]);
}
