use std::{sync::Barrier, thread};

use super::*;
use crate::model::disk::{Disk, DiskStatus};

fn disk(name: &str) -> Disk {
    Disk {
        id: uuid::Uuid::new_v4(),
        name: name.to_owned(),
        status: DiskStatus::Creating,
        size: 4096,
        encrypted: true,
        key_id: None,
        key_alias: Some("evs/default".to_owned()),
        server_id: None,
        serving: None,
        reason: None,
        created_at: "2026-01-01T00:00:00Z".to_owned(),
    }
}

#[test]
fn a_row_comes_back_as_it_was_written() {
    let dir = tempfile::tempdir().unwrap();
    let mut catalog = Catalog::open(&dir.path().join("catalog.db")).unwrap();
    let written = disk("data1");
    catalog.write(|tx| disks::insert(tx, &written)).unwrap();
    drop(catalog);
    let catalog = Catalog::open(&dir.path().join("catalog.db")).unwrap();
    assert_eq!(disks::by_id(catalog.read(), written.id).unwrap(), Some(written));
}

#[test]
fn it_is_durable_at_each_commit() {
    let dir = tempfile::tempdir().unwrap();
    let catalog = Catalog::open(&dir.path().join("catalog.db")).unwrap();
    let pragma =
        |name| catalog.read().pragma_query_value(None, name, |row| row.get::<_, rusqlite::types::Value>(0));
    assert_eq!(pragma("journal_mode").unwrap(), rusqlite::types::Value::Text("wal".into()));
    assert_eq!(pragma("synchronous").unwrap(), rusqlite::types::Value::Integer(2));
}

#[test]
fn a_later_schema_is_refused_untouched() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("catalog.db");
    let catalog = Catalog::open(&path).unwrap();
    catalog.read().pragma_update(None, "user_version", 99).unwrap();
    drop(catalog);
    assert!(matches!(Catalog::open(&path), Err(CatalogError::TooNew { found: 99, .. })));
}

#[test]
fn a_crowd_that_opens_it_first_and_wants_one_name_gets_it_once() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("catalog.db");
    let start = Barrier::new(16);
    let winners: usize = thread::scope(|scope| {
        let threads: Vec<_> = (0..16)
            .map(|_| {
                scope.spawn(|| {
                    start.wait();
                    let mut catalog = Catalog::open(&path).unwrap();
                    match catalog.write(|tx| disks::insert(tx, &disk("same"))) {
                        Ok(()) => 1,
                        Err(Error::Exists { .. }) => 0,
                        Err(other) => panic!("{other}"),
                    }
                })
            })
            .collect();
        threads.into_iter().map(|t| t.join().unwrap()).sum()
    });
    assert_eq!(winners, 1);
}

#[test]
fn names_ids_and_beginnings_of_ids_find_a_disk() {
    let dir = tempfile::tempdir().unwrap();
    let mut catalog = Catalog::open(&dir.path().join("catalog.db")).unwrap();
    let written = disk("data1");
    catalog.write(|tx| disks::insert(tx, &written)).unwrap();
    let id = written.id.to_string();
    for given in ["data1", &id, &id[..8]] {
        assert_eq!(disks::find(catalog.read(), given).unwrap(), written.id);
    }
    let missing = disks::find(catalog.read(), "dat1").unwrap_err();
    assert!(matches!(missing, Error::NotFound { near: Some(near), .. } if near == "data1"));
}
