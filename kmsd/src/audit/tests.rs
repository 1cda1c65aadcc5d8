//! The log on real files: groups, torn ends, a full disk.

use std::{path::Path, sync::Arc};

use super::{AuditError, AuditLog, Extent, outline, tail, verify};
use crate::{
    clock::manual::ManualClock,
    domain::{
        Principal,
        audit::{ChainFault, ChainKey, Event, Head, Stage},
    },
};

fn key(number: u64) -> ChainKey {
    ChainKey::new([u8::try_from(number).unwrap(); 32])
}

fn start(directory: &Path) -> AuditLog {
    let opened = AuditLog::open(directory).unwrap();
    let key = key(opened.number());
    AuditLog::start(opened, key, Arc::new(ManualClock::new()), 7).unwrap()
}

fn event(number: u32) -> Event {
    Event {
        principal: Principal::Uid(number),
        operation: "decrypt-datakey".into(),
        stage: Stage::Done,
        outcome: Some("ok".into()),
        target: None,
        key: None,
        version: None,
        context: None,
        note: None,
    }
}

fn check(directory: &Path, head: Head) -> (u64, Option<ChainFault>) {
    let verdict = verify::<AuditError>(&[directory], Extent::UpTo(head), |number| Ok(key(number))).unwrap();
    (verdict.records, verdict.fault)
}

/// A copy, with the end that was noted elsewhere.
fn check_copy(directory: &Path, noted: Head) -> Option<ChainFault> {
    let extent = Extent::Whole { noted: Some(noted) };
    verify::<AuditError>(&[directory], extent, |number| Ok(key(number))).unwrap().fault
}

#[tokio::test]
async fn many_at_once_share_syncs_and_keep_the_order_of_the_chain() {
    let dir = tempfile::tempdir().unwrap();
    let log = Arc::new(start(dir.path()));
    let mut writers = tokio::task::JoinSet::new();
    for number in 0..500 {
        let log = Arc::clone(&log);
        writers.spawn(async move { log.append(event(number)).await });
    }
    for written in writers.join_all().await {
        written.unwrap();
    }
    assert_eq!(check(dir.path(), log.head()), (501, None));
    assert_eq!(tail(dir.path(), u64::MAX, 1000).unwrap().len(), 501);
    let last: Vec<_> = tail(dir.path(), u64::MAX, 2).unwrap().iter().map(|r| r.seq).collect();
    assert_eq!(last, [500, 501]);
}

/// The process dies in the midst of a line: the rest goes on behind the last whole one, and says so.
#[tokio::test]
async fn k8_a_torn_end_is_cut_off_and_recorded() {
    let dir = tempfile::tempdir().unwrap();
    let log = start(dir.path());
    log.append(event(1)).await.unwrap();
    drop(log);
    let path = dir.path().join("0000000001.log");
    let whole = std::fs::read(&path).unwrap();
    let first = whole.iter().position(|b| *b == b'\n').unwrap() + 1;
    for len in [whole.len() - 1, first + 1, first, first - 1, 1, 0] {
        for file in std::fs::read_dir(dir.path()).unwrap() {
            std::fs::remove_file(file.unwrap().path()).unwrap();
        }
        std::fs::write(&path, &whole[..len]).unwrap();
        let log = start(dir.path());
        let records = tail(dir.path(), u64::MAX, 10).unwrap();
        let is_torn = len > 0 && whole[len - 1] != b'\n';
        let note = records.last().unwrap().event.note.clone().unwrap();
        assert_eq!(note.contains("cut off"), is_torn, "{len}: {note}");
        assert_eq!(check(dir.path(), log.head()).1, None, "{len}");
    }
}

/// K8: a disk that is full refuses, loses nothing, and serves again when there is room.
#[tokio::test]
async fn k8_a_full_disk_refuses_and_recovers() {
    let dir = tempfile::tempdir().unwrap();
    let log = start(dir.path());
    log.append(event(1)).await.unwrap();
    log.fill_disk_for_test(true);
    let refused = log.append(event(2)).await;
    assert!(
        matches!(refused, Err(AuditError::Io { kind: std::io::ErrorKind::StorageFull, .. })),
        "{refused:?}"
    );
    log.fill_disk_for_test(false);
    log.append(event(3)).await.unwrap();
    assert_eq!(check(dir.path(), log.head()), (3, None));
}

/// A log of 1,000 records in four files, as lines.
async fn thousand(dir: &Path) -> (Head, Vec<Vec<String>>) {
    let mut head = Head::default();
    for _ in 0..4 {
        let log = Arc::new(start(dir));
        let mut writers = tokio::task::JoinSet::new();
        for number in 0..249 {
            let log = Arc::clone(&log);
            writers.spawn(async move { log.append(event(number)).await });
        }
        writers.join_all().await.into_iter().for_each(|written| written.unwrap());
        head = log.head();
    }
    assert_eq!(head.seq, 1000);
    let read = |number: u64| {
        let text = std::fs::read_to_string(dir.join(format!("{number:010}.log"))).unwrap();
        text.lines().map(|line| format!("{line}\n")).collect()
    };
    (head, (1..=4).map(read).collect())
}

/// K8: in the files of a log of 1,000 records, an edit, deletion, repetition, swap or truncation at any of them is found: while the
/// service goes on with the log, in a copy with the keys, and but for edits in a copy without them.
#[tokio::test]
async fn k8_every_tampering_with_the_files_of_a_thousand_records_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let (head, files) = thousand(dir.path()).await;
    assert_eq!(check(dir.path(), head), (1000, None));
    assert_eq!(check_copy(dir.path(), head), None);
    assert_eq!(outline(dir.path(), Some(head)).unwrap().fault, None);

    let mut tried = 0;
    for (file, lines) in files.iter().enumerate() {
        let path = dir.path().join(format!("{:010}.log", file + 1));
        for at in 0..lines.len() {
            let is_last = file == 3 && at + 1 == lines.len();
            let edit = |from: &str, to: &str| {
                let mut all = lines.clone();
                assert!(all[at].contains(from), "{}", all[at]);
                all[at] = all[at].replacen(from, to, 1);
                all
            };
            let mut deleted = lines.clone();
            deleted.remove(at);
            let mut repeated = lines.clone();
            repeated.insert(at, lines[at].clone());
            let mut swapped = lines.clone();
            swapped.swap(at, if at == 0 { 1 } else { at - 1 });
            let truncated = lines[..at].to_vec();
            let half = lines[at].len() / 2;
            let torn: Vec<_> = lines[..at].iter().cloned().chain([lines[at][..half].to_owned()]).collect();
            let edits = [edit("\"outcome\":\"ok\"", "\"outcome\":\"no\""), edit("\"up\":0", "\"up\":1")];
            let moved = [deleted, swapped, truncated, torn];
            let changes: Vec<_> = edits.iter().chain(&moved).chain([&repeated]).enumerate().collect();
            // Each kind at every seventh record; the chain's own tests have every kind at every record.
            for (kind, changed) in changes.into_iter().filter(|(kind, _)| (file + at) % 7 == *kind) {
                tried += 1;
                std::fs::write(&path, changed.concat()).unwrap();
                // A record said twice at the very end lies behind the end that the service knows of: it does not count it.
                if !(is_last && kind == 6) {
                    assert!(check(dir.path(), head).1.is_some(), "file {file} line {at} kind {kind}");
                }
                assert!(check_copy(dir.path(), head).is_some(), "copy, file {file} line {at} kind {kind}");
                if kind >= 2 {
                    let found = outline(dir.path(), Some(head)).unwrap().fault;
                    assert!(found.is_some(), "outline, file {file} line {at} kind {kind}");
                }
            }
        }
        std::fs::write(&path, lines.concat()).unwrap();
        let aside = dir.path().join("aside");
        std::fs::rename(&path, &aside).unwrap();
        assert!(check(dir.path(), head).1.is_some(), "file {file} removed");
        assert!(check_copy(dir.path(), head).is_some(), "file {file} removed from a copy");
        std::fs::rename(&aside, &path).unwrap();
    }
    assert_eq!(tried, 1000);
    assert_eq!(check(dir.path(), head), (1000, None));
}

#[tokio::test]
async fn pages_of_the_log_fit_together() {
    let dir = tempfile::tempdir().unwrap();
    let (_, files) = thousand(dir.path()).await;
    assert_eq!(files.len(), 4);
    let (mut before, mut seen) = (u64::MAX, Vec::new());
    loop {
        let page = tail(dir.path(), before, 300).unwrap();
        let Some(first) = page.first() else { break };
        before = first.seq;
        seen.splice(0..0, page.iter().map(|record| record.seq));
    }
    assert_eq!(seen, (1..=1000).collect::<Vec<_>>());
}
