//! The log on real files: groups, torn ends, a full disk.

use std::{path::Path, sync::Arc};

use super::{AuditError, AuditLog, tail, verify};
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
    AuditLog::start(opened, key, Arc::new(ManualClock::new())).unwrap()
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
    let verdict = verify::<AuditError>(directory, head, |number| Ok(key(number))).unwrap();
    (verdict.records, verdict.fault)
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
    assert_eq!(tail(dir.path(), 1000).unwrap().len(), 501);
    let last: Vec<_> = tail(dir.path(), 2).unwrap().iter().map(|r| r.seq).collect();
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
        let records = tail(dir.path(), 10).unwrap();
        let is_torn = len > 0 && whole[len - 1] != b'\n';
        assert_eq!(records.last().unwrap().event.note.is_some(), is_torn, "{len}");
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
