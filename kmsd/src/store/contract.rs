//! What every store must do; run on SQLite and on the reference.

use uuid::Uuid;

use super::{
    Contents, Store, StoreError,
    memory::MemoryStore,
    sqlite::{self, SqliteStore},
};
use crate::{
    domain::{
        Alias, KeyId, KeyRef, KeyState, Principal,
        access_key::{AccessKeyId, AccessKeyRecord},
        alias::AliasRecord,
        anchor::{Anchor, AnchorRecord},
        integrity::IntegrityKey,
        key::{KeyRecord, KeySpec},
        lease::{Holder, Lease, Ticket},
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
        anchor: Some(Anchor { generation: u64::MAX - 1 + revision, chain_mac: [3; 32] }),
        lease: (revision > 0).then(|| {
            let holder = Holder {
                host: "h".into(),
                boot: "b".into(),
                machine: None,
                process: 1,
                device: u64::MAX,
                inode: 2,
            };
            let ticket = Ticket { session: Uuid::from_bytes([4; 16]), term: u64::MAX };
            Box::new(Lease { ticket, holder, released: true })
        }),
    }
}

fn keys(registry: &Registry) -> Vec<KeyRecord> {
    registry.keys().map(|key| KeyRecord::clone(key)).collect()
}

fn key() -> IntegrityKey {
    IntegrityKey::new([9; 32])
}

fn open(path: &std::path::Path) -> SqliteStore {
    let mut store = SqliteStore::open(path).unwrap();
    store.unlock(key());
    store.load().unwrap();
    store
}

fn loaded(mut store: Box<dyn Store>) -> Box<dyn Store> {
    store.load().unwrap();
    store
}

/// `reopen` gives the store as another process would find it.
fn contract(mut reopen: impl FnMut() -> Box<dyn Store>) {
    assert_eq!(reopen().token().unwrap(), token());
    let contents = reopen().load().unwrap();
    assert_eq!((contents.epoch, contents.clock), (0, None));
    assert_eq!(keys(&contents.registry), []);

    // A group is recorded whole.
    let group = [Change::PutKey(record(1)), Change::PutKey(record(2)), Change::PutAnchor(anchor(0))];
    loaded(reopen()).commit(&group).unwrap();
    loaded(reopen()).commit(&[Change::PutKey(record(1).confirmed()), Change::PutAnchor(anchor(1))]).unwrap();
    let registry = reopen().load().unwrap().registry;
    assert_eq!(keys(&registry), [record(1).confirmed(), record(2)]);
    assert_eq!(registry.anchor(&anchor(0).volume), Some(&anchor(1)));

    let alias = |revision| AliasRecord {
        alias: "other".parse().unwrap(),
        revision,
        key: record(1).id,
        created_at: WallTime(7),
        updated_at: WallTime(8),
    };
    loaded(reopen()).commit(&[Change::PutAlias(alias(0))]).unwrap();
    loaded(reopen()).commit(&[Change::PutAlias(alias(1))]).unwrap();
    let registry = reopen().load().unwrap().registry;
    assert_eq!(registry.alias(&alias(0).alias), Some(&alias(1)));
    assert_eq!(registry.find(&KeyRef::Alias(alias(0).alias)).map(|key| key.id), Some(record(1).id));
    loaded(reopen()).commit(&[Change::ForgetAlias(alias(0).alias, 1)]).unwrap();
    assert_eq!(reopen().load().unwrap().registry.aliases().count(), 0);

    loaded(reopen()).commit(&[Change::ForgetKey(record(2).id)]).unwrap();
    let destroyed = record(1).confirmed().destroying().destroyed();
    loaded(reopen()).commit(&[Change::PutKey(record(1).confirmed().destroying())]).unwrap();
    loaded(reopen()).commit(&[Change::PutKey(destroyed.clone())]).unwrap();
    let mut store = reopen();
    let Contents { epoch, registry, .. } = store.load().unwrap();
    assert_eq!(epoch, 8, "each commit counts");
    assert_eq!(keys(&registry), std::slice::from_ref(&destroyed));
    assert!(registry.find(&KeyRef::Alias(destroyed.alias)).is_none());
    drop(store);

    loaded(reopen()).commit(&[Change::ForgetAnchor(anchor(1).volume, 1)]).unwrap();
    assert_eq!(reopen().load().unwrap().registry.anchors().count(), 0);
    loaded(reopen()).commit(&[Change::PutAnchor(anchor(0))]).unwrap();
    assert_eq!(reopen().load().unwrap().registry.anchor(&anchor(0).volume), Some(&anchor(0)));

    let reading = Reading { wall: WallTime(5), since_boot: 6, boot_id: "b".into() };
    let clock = TrustedClock::start(reading);
    for _ in 0..2 {
        loaded(reopen()).put_clock(&clock).unwrap();
        assert_eq!(reopen().load().unwrap().clock, Some(clock.clone()));
    }

    // Numbers go on from where they are raised to, and never back.
    assert_eq!(loaded(reopen()).raise(1 << 40).unwrap(), 1 << 40);
    assert_eq!(reopen().load().unwrap().epoch, 1 << 40);
    assert_eq!(loaded(reopen()).raise(5).unwrap(), (1 << 40) + 1);
    loaded(reopen()).put_clock(&clock).unwrap();
    assert_eq!(reopen().load().unwrap().epoch, (1 << 40) + 2);
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
    contract(|| {
        let mut store = SqliteStore::open(&path).unwrap();
        store.unlock(key());
        Box::new(store)
    });
}

#[test]
fn sqlite_records_a_group_whole_or_not_at_all() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("kmsd.db");
    SqliteStore::create(&path, &token()).unwrap();
    let mut store = open(&path);
    store.commit(&[Change::PutKey(record(1))]).unwrap();
    // The second change is of a revision that does not follow; the third takes a name that is taken.
    let stale = KeyRecord { revision: 7, ..record(1) };
    let taken = KeyRecord { alias: record(1).alias, ..record(3) };
    for bad in [Change::PutKey(stale), Change::PutKey(taken), Change::ForgetKey(record(9).id)] {
        store.commit(&[Change::PutKey(record(2)), bad]).unwrap_err();
        assert_eq!(keys(&store.load().unwrap().registry), [record(1)]);
    }
}

/// A name is read back as it was written, also one that looks as if it had the prefix of aliases; an older version wrote such names.
#[test]
fn names_with_the_prefix_of_aliases_are_read_back() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("kmsd.db");
    SqliteStore::create(&path, &token()).unwrap();
    let named = KeyRecord { alias: Alias::stored("alias/k1").unwrap(), ..record(2) };
    let alias = AliasRecord {
        alias: Alias::stored("alias/alias/x").unwrap(),
        revision: 0,
        key: record(1).id,
        created_at: WallTime(7),
        updated_at: WallTime(8),
    };
    let changes = [Change::PutKey(record(1)), Change::PutKey(named.clone()), Change::PutAlias(alias.clone())];
    open(&path).commit(&changes).unwrap();
    for _ in 0..2 {
        let registry = open(&path).load().unwrap().registry;
        assert_eq!(keys(&registry), [record(1), named.clone()]);
        assert_eq!(registry.alias(&alias.alias), Some(&alias));
        assert_eq!(registry.find(&"k1".parse().unwrap()).map(|key| key.id), Some(record(1).id));
    }
}

/// The column that keeps names unique says what the records say, or the store is not served.
#[test]
fn k4_a_name_beside_its_record_is_refused() {
    for edit in ["UPDATE keys SET alias = 'k9'", "UPDATE keys SET alias = NULL"] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("kmsd.db");
        SqliteStore::create(&path, &token()).unwrap();
        open(&path).commit(&[Change::PutKey(record(1))]).unwrap();
        rusqlite::Connection::open(&path).unwrap().execute_batch(edit).unwrap();
        let mut store = SqliteStore::open(&path).unwrap();
        store.unlock(key());
        let refused = store.load().err();
        assert!(matches!(refused, Some(StoreError::Damaged { what: "keys", .. })), "{edit}: {refused:?}");
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
    open(&path);
}

#[test]
fn a_newer_store_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("kmsd.db");
    SqliteStore::create(&path, &token()).unwrap();
    rusqlite::Connection::open(&path).unwrap().execute_batch("PRAGMA user_version = 99").unwrap();
    assert!(matches!(SqliteStore::open(&path).err(), Some(StoreError::Newer { found: 99, .. })));
}

/// K4: editing the file cannot enable a disabled key: neither by changing its row, nor by putting an older row back, nor by
/// removing rows, nor with the key of another token.
#[test]
fn k4_an_edited_store_is_refused() {
    let edits = [
        "UPDATE keys SET record = replace(record, '\"disabled\"', '\"enabled\"')",
        // An older row of the key, with its own right MAC.
        "UPDATE keys SET revision = o.revision, record = o.record, mac = o.mac FROM old.keys o WHERE o.key_id = keys.key_id",
        "DELETE FROM keys",
        "DELETE FROM anchors",
        "DELETE FROM aliases",
        "UPDATE aliases SET record = replace(record, '\"01010101', '\"02010101')",
        "DELETE FROM state",
        "DELETE FROM keys; DELETE FROM anchors; DELETE FROM aliases; UPDATE state SET clock = NULL, mac = NULL",
        "UPDATE anchors SET record = o.record, mac = o.mac, revision = o.revision FROM old.anchors o",
        "UPDATE state SET epoch = epoch + 1",
        "UPDATE state SET clock = replace(clock, '5', '6')",
        "UPDATE state SET clock = NULL, mac = NULL",
    ];
    for edit in edits {
        let dir = tempfile::tempdir().unwrap();
        let (path, old) = (dir.path().join("kmsd.db"), dir.path().join("old.db"));
        SqliteStore::create(&path, &token()).unwrap();
        let mut store = open(&path);
        let reading = Reading { wall: WallTime(5), since_boot: 6, boot_id: "b".into() };
        store.put_clock(&TrustedClock::start(reading)).unwrap();
        store.commit(&[Change::PutKey(record(1)), Change::PutAnchor(anchor(0))]).unwrap();
        let alias = AliasRecord {
            alias: "other".parse().unwrap(),
            revision: 0,
            key: record(1).id,
            created_at: WallTime(7),
            updated_at: WallTime(8),
        };
        store.commit(&[Change::PutAlias(alias)]).unwrap();
        sqlite::copy(&path, &old).unwrap();
        let disabled = KeyRecord { state: KeyState::Disabled, revision: 1, ..record(1) };
        store.commit(&[Change::PutKey(disabled), Change::PutAnchor(anchor(1))]).unwrap();
        drop(store);
        drop(open(&path));
        let db = rusqlite::Connection::open(&path).unwrap();
        db.execute("ATTACH ?1 AS old", [old.to_str().unwrap()]).unwrap();
        db.execute_batch(edit).unwrap();
        drop(db);
        let mut store = SqliteStore::open(&path).unwrap();
        store.unlock(key());
        let refused = store.load().err();
        assert!(matches!(refused, Some(StoreError::Tampered { .. })), "{edit}: {refused:?}");
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("kmsd.db");
    SqliteStore::create(&path, &token()).unwrap();
    open(&path).commit(&[Change::PutKey(record(1))]).unwrap();
    let mut store = SqliteStore::open(&path).unwrap();
    store.unlock(IntegrityKey::new([8; 32]));
    assert!(matches!(store.load().err(), Some(StoreError::Tampered { .. })));
}

#[test]
fn a_backup_is_a_whole_store_while_the_original_is_in_use() {
    let dir = tempfile::tempdir().unwrap();
    let (path, copy) = (dir.path().join("kmsd.db"), dir.path().join("copy.db"));
    SqliteStore::create(&path, &token()).unwrap();
    let mut store = open(&path);
    store.commit(&[Change::PutKey(record(1))]).unwrap();
    sqlite::copy(&path, &copy).unwrap();
    store.commit(&[Change::PutKey(record(2))]).unwrap();
    assert!(matches!(sqlite::copy(&path, &copy).err(), Some(StoreError::Exists { .. })));
    assert_eq!(sqlite::facts(&copy).unwrap(), sqlite::Facts { token: token(), epoch: 1 });
    assert_eq!(keys(&open(&copy).load().unwrap().registry), [record(1)]);
}

/// With rows in every table: after a new key no MAC is the old one, the store opens with the new key only, and goes on.
#[test]
fn a_new_key_guards_every_row() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("kmsd.db");
    SqliteStore::create(&path, &token()).unwrap();
    let mut store = open(&path);
    let reading = Reading { wall: WallTime(5), since_boot: 6, boot_id: "b".into() };
    store.put_clock(&TrustedClock::start(reading)).unwrap();
    let access_key = AccessKeyRecord {
        id: AccessKeyId::from_random([7; AccessKeyId::LEN]),
        description: String::new(),
        is_admin: false,
        created_by: Principal::Uid(1),
        created_at: WallTime(1),
        sealed: vec![1, 2, 3],
    };
    store
        .commit(&[
            Change::PutKey(record(1)),
            Change::PutAnchor(anchor(0)),
            Change::PutAccessKey(access_key.clone()),
        ])
        .unwrap();
    let alias = AliasRecord {
        alias: "other".parse().unwrap(),
        revision: 0,
        key: record(1).id,
        created_at: WallTime(7),
        updated_at: WallTime(8),
    };
    store.commit(&[Change::PutAlias(alias)]).unwrap();
    let macs = || -> Vec<Vec<u8>> {
        let db = rusqlite::Connection::open(&path).unwrap();
        let all = "SELECT mac FROM keys UNION ALL SELECT mac FROM anchors UNION ALL SELECT mac FROM access_keys \
                   UNION ALL SELECT mac FROM aliases UNION ALL SELECT mac FROM state UNION ALL SELECT root FROM state";
        let mut all = db.prepare(all).unwrap();
        all.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
    };
    let before = macs();
    assert_eq!((store.key_number().unwrap(), before.len()), (1, 6));
    store.rekey(2, IntegrityKey::new([1; 32])).unwrap();
    assert_eq!(store.key_number().unwrap(), 2);
    assert!(macs().iter().all(|mac| !before.contains(mac)), "a MAC is still the old one");
    store.commit(&[Change::PutKey(record(2))]).unwrap();
    drop(store);

    let mut old = SqliteStore::open(&path).unwrap();
    old.unlock(key());
    assert!(matches!(old.load().err(), Some(StoreError::Tampered { .. })));
    drop(old);
    let mut store = SqliteStore::open(&path).unwrap();
    store.unlock(IntegrityKey::new([1; 32]));
    let Contents { epoch, clock, registry } = store.load().unwrap();
    assert_eq!((epoch, clock.is_some(), keys(&registry)), (5, true, vec![record(1), record(2)]));
    assert_eq!(registry.access_keys().next(), Some(&access_key));
}

/// What somebody else wrote does not get a new MAC.
#[test]
fn a_new_key_vouches_for_nothing_that_was_changed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("kmsd.db");
    SqliteStore::create(&path, &token()).unwrap();
    let mut store = open(&path);
    store.commit(&[Change::PutKey(record(1))]).unwrap();
    let db = rusqlite::Connection::open(&path).unwrap();
    db.execute_batch("UPDATE keys SET record = replace(record, 'k1', 'k2')").unwrap();
    drop(db);
    let refused = store.rekey(2, IntegrityKey::new([1; 32])).err();
    assert!(matches!(refused, Some(StoreError::Tampered { .. })), "{refused:?}");
}
