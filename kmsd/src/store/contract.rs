//! What every store must do; run on SQLite and on the reference.

use uuid::Uuid;

use super::{Store, StoreError, memory::MemoryStore, sqlite::SqliteStore};
use crate::{
    domain::{
        KeyId, KeyRef, Principal,
        anchor::{Anchor, AnchorRecord},
        key::{KeyRecord, KeySpec},
        registry::{Change, Registry},
        time::{Reading, TrustedClock, WallTime},
    },
    hsm::TokenIdentity,
};

fn token() -> TokenIdentity {
    TokenIdentity { label: "t".into(), serial: "s".into() }
}

fn record(number: u8) -> KeyRecord {
    let spec = KeySpec::new(&format!("k{number}"), "d\u{e9}", Principal::Uid(1)).unwrap();
    KeyRecord::creating(spec, KeyId::from_bytes([number; 16]), WallTime(i64::from(number)))
}

fn anchor(revision: u64) -> AnchorRecord {
    AnchorRecord {
        volume: Uuid::from_bytes([9; 16]),
        revision,
        owner: Principal::Uid(5),
        anchor: Anchor { generation: u64::MAX - 1 + revision, chain_mac: [3; 32] },
    }
}

fn keys(registry: &Registry) -> Vec<KeyRecord> {
    registry.keys().map(|key| KeyRecord::clone(key)).collect()
}

/// `reopen` gives the store as another process would find it.
fn contract(mut reopen: impl FnMut() -> Box<dyn Store>) {
    let contents = reopen().load().unwrap();
    assert_eq!((contents.token, contents.clock), (token(), None));
    assert_eq!(keys(&contents.registry), []);

    // A group is recorded whole.
    let group = [Change::PutKey(record(1)), Change::PutKey(record(2)), Change::PutAnchor(anchor(0))];
    reopen().commit(&group).unwrap();
    reopen().commit(&[Change::PutKey(record(1).confirmed()), Change::PutAnchor(anchor(1))]).unwrap();
    let registry = reopen().load().unwrap().registry;
    assert_eq!(keys(&registry), [record(1).confirmed(), record(2)]);
    assert_eq!(registry.anchor(&anchor(0).volume), Some(&anchor(1)));

    reopen().commit(&[Change::ForgetKey(record(2).id)]).unwrap();
    let destroyed = record(1).confirmed().destroying().destroyed();
    reopen().commit(&[Change::PutKey(record(1).confirmed().destroying())]).unwrap();
    reopen().commit(&[Change::PutKey(destroyed.clone())]).unwrap();
    let mut store = reopen();
    let registry = store.load().unwrap().registry;
    assert_eq!(keys(&registry), std::slice::from_ref(&destroyed));
    assert!(registry.find(&KeyRef::Alias(destroyed.alias)).is_none());
    drop(store);

    let reading = Reading { wall: WallTime(5), since_boot: 6, boot_id: "b".into() };
    let clock = TrustedClock::start(reading);
    for _ in 0..2 {
        reopen().put_clock(&clock).unwrap();
        assert_eq!(reopen().load().unwrap().clock, Some(clock.clone()));
    }
}

#[test]
fn the_reference_keeps_the_contract() {
    let store = MemoryStore::new(token());
    contract(|| Box::new(store.clone()));
}

#[test]
fn sqlite_keeps_the_contract() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("kmsd.db");
    SqliteStore::create(&path, &token()).unwrap();
    contract(|| Box::new(SqliteStore::open(&path).unwrap()));
}

#[test]
fn sqlite_records_a_group_whole_or_not_at_all() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("kmsd.db");
    SqliteStore::create(&path, &token()).unwrap();
    let mut store = SqliteStore::open(&path).unwrap();
    store.commit(&[Change::PutKey(record(1))]).unwrap();
    // The second change is of a revision that does not follow; the third takes a name that is taken.
    let stale = KeyRecord { revision: 7, ..record(1) };
    let taken = KeyRecord { alias: record(1).alias, ..record(3) };
    for bad in [Change::PutKey(stale), Change::PutKey(taken), Change::ForgetKey(record(9).id)] {
        store.commit(&[Change::PutKey(record(2)), bad]).unwrap_err();
        assert_eq!(keys(&store.load().unwrap().registry), [record(1)]);
    }
}

#[test]
fn a_store_has_one_daemon_at_a_time() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("kmsd.db");
    assert!(matches!(SqliteStore::open(&path).err(), Some(StoreError::Missing { .. })));
    SqliteStore::create(&path, &token()).unwrap();
    assert!(matches!(SqliteStore::create(&path, &token()).err(), Some(StoreError::Exists { .. })));
    let store = SqliteStore::open(&path).unwrap();
    assert!(matches!(SqliteStore::open(&path).err(), Some(StoreError::InUse { .. })));
    drop(store);
    SqliteStore::open(&path).unwrap();
}

#[test]
fn a_newer_or_damaged_store_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("kmsd.db");
    SqliteStore::create(&path, &token()).unwrap();
    let mut store = SqliteStore::open(&path).unwrap();
    store.commit(&[Change::PutKey(record(1))]).unwrap();
    drop(store);
    let edit = |sql: &str| rusqlite::Connection::open(&path).unwrap().execute_batch(sql).unwrap();
    edit("UPDATE keys SET record = replace(record, 'enabled', 'enable')");
    let damaged = SqliteStore::open(&path).unwrap().load().err();
    assert!(matches!(damaged, Some(StoreError::Damaged { what: "key", .. })), "{damaged:?}");
    edit("PRAGMA user_version = 99");
    assert!(matches!(SqliteStore::open(&path).err(), Some(StoreError::Newer { found: 99, .. })));
}

#[test]
fn a_backup_is_a_whole_store_while_the_original_is_in_use() {
    let dir = tempfile::tempdir().unwrap();
    let (path, copy) = (dir.path().join("kmsd.db"), dir.path().join("copy.db"));
    SqliteStore::create(&path, &token()).unwrap();
    let mut store = SqliteStore::open(&path).unwrap();
    store.commit(&[Change::PutKey(record(1))]).unwrap();
    store.backup(&copy).unwrap();
    store.commit(&[Change::PutKey(record(2))]).unwrap();
    assert!(matches!(store.backup(&copy).err(), Some(StoreError::Exists { .. })));
    assert_eq!(keys(&SqliteStore::open(&copy).unwrap().load().unwrap().registry), [record(1)]);
}
