//! A log that was archived, with and without its archive; and what a crash leaves.

use super::*;
use crate::{
    audit::{outline, tail, verify},
    clock::manual::ManualClock,
    domain::audit::ChainFault,
};

fn key(number: u64) -> Result<ChainKey, AuditError> {
    Ok(ChainKey::new([u8::try_from(number).unwrap(); 32]))
}

fn event(operation: &str, number: u8) -> Event {
    Event {
        principal: Principal::Uid(7),
        operation: operation.into(),
        stage: Stage::Done,
        outcome: Some("ok".into()),
        target: None,
        key: Some(KeyId::from_bytes([number; 16])),
        version: None,
        context: None,
        note: None,
    }
}

/// A start of the service that leaves some records.
fn run(log: &Path, commit: u64, events: Vec<Event>) {
    let opened = AuditLog::open(log).unwrap();
    let key = key(opened.number()).unwrap();
    let log = AuditLog::start(opened, key, Arc::new(ManualClock::new()), commit).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    events.into_iter().for_each(|event| runtime.block_on(log.append(event)).unwrap());
}

/// Two starts, and a key that was destroyed.
fn begun() -> (tempfile::TempDir, PathBuf) {
    let home = tempfile::tempdir().unwrap();
    let log = home.path().join("audit");
    run(&log, 3, vec![event("create-key", 1), event(DESTROY, 1)]);
    run(&log, 5, vec![event("create-key", 2)]);
    (home, log)
}

fn archive_it(log: &Path) -> Archived {
    archive::<AuditError>(log, None, key, Arc::new(ManualClock::new())).unwrap().unwrap()
}

fn check(directories: &[&Path], noted: Option<Head>) -> Verdict {
    verify::<AuditError>(directories, Extent::Whole { noted }, key).unwrap()
}

fn files(directory: &Path) -> Vec<PathBuf> {
    crate::audit::files(directory).unwrap()
}

/// K8: what remains begins with a record that names the last archived one; both verify together, and each by itself.
#[test]
fn k8_a_log_goes_on_after_its_archive() {
    let (_home, log) = begun();
    let before = check(&[&log], None);
    assert_eq!((before.records, before.fault), (5, None));
    let first = archive_it(&log);
    assert_eq!((first.first, first.last), (1, before.head));
    assert!(first.directory.ends_with("audit-archive/1-5"), "{first:?}");
    let rest = check(&[&log], Some(first.end));
    assert_eq!((rest.records, rest.archived, rest.head, rest.fault), (2, first.last, first.end, None));
    // The last archived record is known by the one that names it.
    assert_eq!(check(&[&log], Some(first.last)).fault, None);
    let other = Head { mac: [1; 32], ..first.last };
    assert_eq!(check(&[&log], Some(other)).fault, Some(ChainFault::Mac { seq: 5 }));
    assert_eq!(outline(&log, Some(first.last)).unwrap().fault, None);
    assert!(outline(&log, Some(other)).unwrap().fault.is_some());

    run(&log, 6, vec![event("create-key", 3), event(DESTROY, 2)]);
    let second = archive_it(&log);
    assert_eq!((second.first, second.last.seq), (6, 10));
    run(&log, 7, vec![event("create-key", 4)]);
    let (one, two) = (first.directory.as_path(), second.directory.as_path());
    let all = check(&[one, two, &log], None);
    assert_eq!((all.records, all.archived.seq, all.fault.clone()), (15, 0, None), "{all:?}");
    assert_eq!((check(&[one], Some(first.last)).fault, check(&[two], Some(second.last)).fault), (None, None));
    assert_eq!(outline(&log, None).unwrap().records, 5);
    assert_eq!(tail(&log, u64::MAX, 100).unwrap().first().unwrap().seq, 11);

    // Every destruction is still told of, and how far the store was.
    let told: Vec<_> =
        tail(&log, u64::MAX, 100).unwrap().iter().filter_map(|r| r.event.destroyed()).collect();
    assert_eq!(told, [1, 2].map(|number| KeyId::from_bytes([number; 16])));
    let third = archive_it(&log);
    let opened = AuditLog::open(&log).unwrap();
    let newest = opened.newest_start().unwrap();
    assert_eq!(newest.commit(key(newest.file()).unwrap()), Some(7));
    assert_eq!(check(&[one, two, &third.directory, &log], None).fault, None);
}

/// K8: an archive that was changed, cut, or left out is noticed; so is a log that begins anew on nobody's word.
#[test]
fn k8_an_archive_that_was_tampered_with_is_noticed() {
    let (_home, log) = begun();
    let archived = archive_it(&log);
    let directory = archived.directory.as_path();
    let together = || check(&[directory, &log], Some(archived.end)).fault;
    assert_eq!(together(), None);
    for file in files(directory) {
        let whole = std::fs::read(&file).unwrap();
        for at in 0..whole.len() {
            let mut changed = whole.clone();
            changed[at] ^= 1;
            std::fs::write(&file, &changed).unwrap();
            assert!(together().is_some(), "{} byte {at}", file.display());
        }
        for len in 0..whole.len() {
            std::fs::write(&file, &whole[..len]).unwrap();
            assert!(together().is_some(), "{} cut to {len}", file.display());
        }
        std::fs::remove_file(&file).unwrap();
        assert!(together().is_some(), "{} removed", file.display());
        std::fs::write(&file, &whole).unwrap();
    }
    assert_eq!(together(), None);
    // The whole archive.
    let empty = tempfile::tempdir().unwrap();
    let dropped = check(&[empty.path(), &log], None);
    assert_eq!(dropped.fault, Some(ChainFault::Archived { last: archived.last.seq }));
    // Twice the same file.
    let twice = verify::<AuditError>(&[directory, directory, &log], Extent::Whole { noted: None }, key);
    assert!(matches!(twice, Err(AuditError::Damaged { .. })));
    // The record that the rest begins with.
    let file = files(&log)[0].clone();
    let whole = std::fs::read(&file).unwrap();
    let first = whole.iter().position(|byte| *byte == b'\n').unwrap();
    for at in 0..first {
        let mut changed = whole.clone();
        changed[at] ^= 1;
        std::fs::write(&file, &changed).unwrap();
        assert!(check(&[&log], None).fault.is_some(), "byte {at}");
    }
    // Without that record nothing but record 1 is a beginning.
    std::fs::write(&file, &whole[first + 1..]).unwrap();
    assert!(check(&[&log], None).fault.is_some());
}

/// K8: a log that is not intact, or that lacks what is known to have been written, is not archived.
#[test]
fn k8_what_is_not_intact_is_not_archived() {
    let (home, log) = begun();
    let end = check(&[&log], None).head;
    let beyond = Head { seq: end.seq + 1, mac: [1; 32] };
    let archive = |noted| archive::<AuditError>(&log, noted, key, Arc::new(ManualClock::new())).unwrap();
    let fault = archive(Some(beyond)).unwrap_err().fault;
    assert_eq!(fault, Some(ChainFault::CutOff { seq: end.seq, anchor: end.seq + 1 }));
    let file = files(&log)[0].clone();
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replacen("uid:7", "uid:8", 1)).unwrap();
    assert_eq!(archive(Some(end)).unwrap_err().fault, Some(ChainFault::Mac { seq: 2 }));
    std::fs::write(&file, text).unwrap();
    let names: Vec<_> =
        std::fs::read_dir(home.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["audit"], "nothing is left of an attempt");
    assert_eq!(check(&[&log], Some(end)).fault, None);
    archive(Some(end)).unwrap();
}

/// What a crash leaves, by how far the archiving had come; the last is that it was done.
fn crashed(at: usize, log: &Path) -> bool {
    let opened = AuditLog::open(log).unwrap();
    let new_key = || key(opened.number()).unwrap();
    let clock = || Arc::new(ManualClock::new());
    if at == 0 {
        std::fs::create_dir(aside(log)).unwrap();
        return false;
    }
    prepare(log, &opened, new_key(), 5, &BTreeSet::from([KeyId::from_bytes([1; 16])]), clock()).unwrap();
    let file = files(&aside(log))[0].clone();
    let len = std::fs::metadata(&file).unwrap().len();
    match at {
        1 => std::fs::write(&file, "").unwrap(),
        2 => std::fs::OpenOptions::new().write(true).open(&file).unwrap().set_len(len / 2).unwrap(),
        3 => {}
        _ => exchange(log).unwrap(),
    }
    if at == 5 {
        std::fs::create_dir(log.with_file_name(ARCHIVES)).unwrap();
    }
    if at == 6 {
        file_away(log).unwrap();
    }
    at > 3
}

/// K8: wherever an archiving dies, the log is the old one or the new one, whole, and verifies; the next start clears up, and an archiving comes to its end.
#[test]
fn k8_an_archiving_that_dies_leaves_the_old_log_or_the_new_one() {
    for at in 0..=6 {
        let (home, log) = begun();
        let end = check(&[&log], None).head;
        let is_new = crashed(at, &log);
        for settled in [false, true] {
            if settled {
                settle(&log).unwrap();
                assert!(!aside(&log).exists(), "{at}");
            }
            let verdict = check(&[&log], Some(end));
            let expected = if is_new { (2, end) } else { (5, Head::default()) };
            assert_eq!(
                (verdict.records, verdict.archived, verdict.fault),
                (expected.0, expected.1, None),
                "{at}"
            );
        }
        let archive = home.path().join("audit-archive/1-5");
        assert_eq!(archive.exists(), is_new, "{at}");
        run(&log, 8, vec![event("create-key", 3)]);
        let archived = archive_it(&log);
        let mut directories = vec![archived.directory.as_path(), &log];
        if is_new {
            directories.push(&archive);
        }
        let whole = check(&directories, Some(archived.end));
        assert_eq!((whole.archived.seq, whole.fault.clone()), (0, None), "{at}: {whole:?}");
    }
}

/// An archiving that begun, and a log that is gone: neither is taken for the other.
#[test]
fn a_log_that_is_gone_is_not_settled() {
    let (_home, log) = begun();
    crashed(3, &log);
    files(&log).iter().for_each(|file| std::fs::remove_file(file).unwrap());
    assert!(matches!(settle(&log), Err(AuditError::Damaged { .. })));
    assert_eq!(files(&aside(&log)).len(), 1);
}

/// What cannot be done leaves nothing behind: here a file stands where archives are to lie, which shows only when the log has begun anew.
#[test]
fn a_refusal_leaves_a_whole_log() {
    let (home, log) = begun();
    let end = check(&[&log], None).head;
    let obstacle = home.path().join(ARCHIVES);
    std::fs::write(&obstacle, "").unwrap();
    let refused = archive::<AuditError>(&log, None, key, Arc::new(ManualClock::new()));
    assert!(matches!(refused, Err(AuditError::Archive { .. })), "{refused:?}");
    assert_eq!(check(&[&log], Some(end)).fault, None);
    std::fs::remove_file(&obstacle).unwrap();
    settle(&log).unwrap();
    assert!(obstacle.join("1-5").is_dir() && !aside(&log).exists());
    let archives = obstacle.join("1-5");
    assert_eq!(check(&[&archives, &log], Some(end)).fault, None);
    // And one that cannot even begin.
    let empty = home.path().join("none");
    let refused = archive::<AuditError>(&empty, None, key, Arc::new(ManualClock::new()));
    assert!(matches!(refused, Err(AuditError::Empty { .. })), "{refused:?}");
}
