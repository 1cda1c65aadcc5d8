use std::{sync::Barrier, thread};

use uuid::Uuid;

use super::*;
use crate::model::{
    disk::{Disk, DiskStatus, Role},
    name::recovered,
    snapshot::Snapshot,
};

fn disk(name: &str) -> Disk {
    Disk {
        id: Uuid::new_v4(),
        kind: Noun::Disk,
        role: Role::Data,
        source: None,
        made_with: None,
        base: None,
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
fn nobody_else_reads_the_catalogue_whatever_the_mode_of_its_directory() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let mut catalog = Catalog::open(&dir.path().join("catalog.db")).unwrap();
    catalog.write(|tx| disks::insert(tx, &disk("data1"))).unwrap();
    for name in ["catalog.db", "catalog.db-wal", "catalog.db-shm"] {
        let mode = std::fs::metadata(dir.path().join(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
}

#[test]
fn a_catalogue_that_others_could_read_is_narrowed_when_its_owner_opens_it() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("catalog.db");
    let mut first = Catalog::open(&path).unwrap();
    first.write(|tx| disks::insert(tx, &disk("data1"))).unwrap();
    let all = ["catalog.db", "catalog.db-wal", "catalog.db-shm"].map(|name| dir.path().join(name));
    for path in &all {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o644)).unwrap();
    }
    drop(Catalog::open(&path).unwrap());
    for path in &all {
        let mode = std::fs::metadata(path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{}", path.display());
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
        assert_eq!(disks::find(catalog.read(), Noun::Disk, given).unwrap(), written.id);
    }
    let missing = disks::find(catalog.read(), Noun::Disk, "dat1").unwrap_err();
    assert!(matches!(missing, Error::NotFound { near: Some(near), .. } if near == "data1"));
}

#[test]
fn a_catalogue_of_the_first_version_keeps_its_disks() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("catalog.db");
    let old = Connection::open(&path).unwrap();
    old.execute_batch(schema::MIGRATIONS[0]).unwrap();
    old.execute_batch(
        "INSERT INTO servers VALUES ('7d444840-9dc0-11d1-b245-5ffdce74fad2', 'web1', 'stopped', 't');
         INSERT INTO disks VALUES ('67e55044-10b1-426f-9247-bb680e5fe0c8', 'd', 'in-use', 4096, 1, 'k', 'a',
             '7d444840-9dc0-11d1-b245-5ffdce74fad2', 7, '1@boot', NULL, 't');
         PRAGMA user_version = 1;",
    )
    .unwrap();
    drop(old);
    let catalog = Catalog::open(&path).unwrap();
    let disk = &disks::all(catalog.read(), Noun::Disk).unwrap()[0];
    assert_eq!(
        (disk.name.as_str(), disk.status, disk.serving.as_ref().unwrap().pid),
        ("d", DiskStatus::InUse, 7)
    );
    assert_eq!(servers::by_id(catalog.read(), disk.server_id.unwrap()).unwrap().unwrap().name, "web1");
}

/// Before version 5 nothing said which server a disk was made with.
#[test]
fn a_catalogue_of_the_fourth_version_is_told_which_disks_were_made_with_a_server() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("catalog.db");
    let old = Connection::open(&path).unwrap();
    schema::MIGRATIONS[..4].iter().for_each(|migration| old.execute_batch(migration).unwrap());
    let (web1, web2) = (Uuid::new_v4(), Uuid::new_v4());
    for (id, name, at) in [(web1, "web1", "t1"), (web2, "web2", "t2")] {
        let sql = "INSERT INTO servers (id, name, status, created_at) VALUES (?1, ?2, 'stopped', ?3)";
        old.execute(sql, (id.to_string(), name, at)).unwrap();
    }
    let disks = [
        // It is attached to another one, to be mended.
        ("web1-system", "system", "t1", web2, Some(web1)),
        ("web1-data1", "data", "t1", web1, Some(web1)),
        ("web1-data12", "data", "t1", web1, Some(web1)),
        ("web1-data1-old", "data", "t1", web1, None),
        ("web1-data2", "data", "t2", web1, None),
        ("precious", "data", "t1", web1, None),
        ("web2-system", "system", "t2", web2, Some(web2)),
    ];
    for (name, role, at, server, _) in &disks {
        let sql = "INSERT INTO volumes (id, kind, name, status, size, encrypted, server_id, role, created_at)
                   VALUES (?1, 'disk', ?2, 'in-use', 4096, 0, ?3, ?4, ?5)";
        old.execute(sql, (Uuid::new_v4().to_string(), name, server.to_string(), role, at)).unwrap();
    }
    old.pragma_update(None, "user_version", 4).unwrap();
    drop(old);
    let catalog = Catalog::open(&path).unwrap();
    let all = disks::all(catalog.read(), Noun::Disk).unwrap();
    for (name, .., made_with) in &disks {
        let found = all.iter().find(|disk| disk.name == *name).unwrap();
        assert_eq!(found.made_with, *made_with, "{name}");
    }
    catalog.read().execute("UPDATE volumes SET server_id = NULL", ()).unwrap();
    servers::remove(catalog.read(), web1).unwrap();
    let of_web1 = |disk: &Disk| disk.made_with == Some(web1);
    assert!(!disks::all(catalog.read(), Noun::Disk).unwrap().iter().any(of_web1), "it is gone");
}

#[test]
fn a_disk_and_an_image_may_share_a_name() {
    let dir = tempfile::tempdir().unwrap();
    let mut catalog = Catalog::open(&dir.path().join("catalog.db")).unwrap();
    let (disk, image) = (disk("same"), Disk { kind: Noun::Image, ..disk("same") });
    catalog.write(|tx| disks::insert(tx, &disk).and_then(|()| disks::insert(tx, &image))).unwrap();
    assert_eq!(disks::find(catalog.read(), Noun::Image, "same").unwrap(), image.id);
    assert_eq!(disks::find(catalog.read(), Noun::Disk, "same").unwrap(), disk.id);
    let crossed = disks::find(catalog.read(), Noun::Disk, &image.id.to_string());
    assert!(matches!(crossed, Err(Error::NotFound { .. })));
}

/// The names come out of a volume's header: whatever is in there.
#[test]
fn a_snapshot_that_is_brought_back_has_a_name_that_can_be_given_here() {
    let dir = tempfile::tempdir().unwrap();
    let mut catalog = Catalog::open(&dir.path().join("catalog.db")).unwrap();
    let disk = disk("d");
    catalog.write(|tx| disks::insert(tx, &disk)).unwrap();
    let long = "x".repeat(65);
    let other = Uuid::new_v4().to_string();
    for (name, kept) in [
        ("before", true),
        ("before", false),
        ("", false),
        ("../x", false),
        ("copy to it", false),
        ("\u{1b}[2J", false),
        (&long, false),
        (&other, false),
    ] {
        let id = Uuid::new_v4();
        let snapshot = Snapshot {
            id,
            name: name.to_owned(),
            disk_id: disk.id,
            size: 4096,
            created_at: disk.created_at.clone(),
        };
        catalog.write(|tx| snapshots::bring_back(tx, snapshot)).unwrap();
        let found = snapshots::by_id(catalog.read(), id).unwrap().name;
        assert_eq!(found, if kept { name.to_owned() } else { recovered(id) }, "{name:?}");
    }
}
