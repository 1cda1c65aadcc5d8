//! SQLite: write-ahead log, `synchronous=FULL` (with `NORMAL` a committed change may be lost with the power).
//!
//! A record is one JSON document, kept as the bytes that were written; names that must be unique stand in columns of
//! their own. The file is locked for as long as it is open: two daemons on one store would each believe their memory.

mod copy;
mod rekey;
mod row;

use std::{
    collections::HashMap,
    fs::{self, File},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use rusqlite::{Connection, OpenFlags, OptionalExtension, params};
use serde::de::DeserializeOwned;

pub use self::copy::{Facts, copy, facts};
use self::row::{Row, number, to_json};
use super::{Contents, Store, StoreError};
use crate::{
    domain::{
        access_key::AccessKeyRecord,
        alias::AliasRecord,
        anchor::AnchorRecord,
        integrity::{IntegrityKey, RowMac, RowMacs, same},
        key::KeyRecord,
        registry::{Change, Registry},
        time::TrustedClock,
    },
    hsm::TokenIdentity,
};

/// Steps from an empty file to the schema of this version; each is run once, in one transaction with its number.
const MIGRATIONS: [&str; 3] = [FIRST, ALIASES, LEASES];

/// Nothing but the number: a record of an anchor may hold a lease, and stand there without an anchor, which no version of before reads.
const LEASES: &str = "";

const ALIASES: &str = "CREATE TABLE aliases (
         alias    TEXT PRIMARY KEY,
         revision INTEGER NOT NULL,
         record   TEXT NOT NULL,
         mac      BLOB NOT NULL
     ) STRICT, WITHOUT ROWID;";

const FIRST: &str = "CREATE TABLE meta (
         name  TEXT PRIMARY KEY,
         value TEXT NOT NULL
     ) STRICT, WITHOUT ROWID;
     CREATE TABLE keys (
         key_id   TEXT PRIMARY KEY,
         revision INTEGER NOT NULL,
         alias    TEXT UNIQUE,          -- NULL once the key is destroyed: its name is free again
         record   TEXT NOT NULL,
         mac      BLOB NOT NULL         -- over table, key_id and record
     ) STRICT, WITHOUT ROWID;
     CREATE TABLE anchors (
         volume   TEXT PRIMARY KEY,
         revision INTEGER NOT NULL,
         record   TEXT NOT NULL,
         mac      BLOB NOT NULL
     ) STRICT, WITHOUT ROWID;
     CREATE TABLE access_keys (
         access_key_id TEXT PRIMARY KEY,
         record        TEXT NOT NULL,      -- the secret in it is sealed by the token
         mac           BLOB NOT NULL
     ) STRICT, WITHOUT ROWID;
     CREATE TABLE state (               -- one row once something was recorded
         one   INTEGER PRIMARY KEY CHECK (one = 1),
         epoch INTEGER NOT NULL,        -- number of the newest commit
         clock TEXT,
         mac   BLOB,                    -- of the clock
         root  BLOB NOT NULL            -- over the epoch and every MAC
     ) STRICT;";

/// The store in a file.
pub struct SqliteStore {
    path: PathBuf,
    db: Connection,
    key: Option<IntegrityKey>,
    macs: RowMacs,
    epoch: u64,
    /// Held for the life of the store.
    _lock: File,
}

impl SqliteStore {
    /// Makes a store bound to a token. The file appears whole or not at all.
    ///
    /// # Errors
    /// If there is one already, or it cannot be made.
    pub fn create(path: &Path, token: &TokenIdentity) -> Result<(), StoreError> {
        if path.exists() {
            return Err(StoreError::Exists { path: path.to_owned() });
        }
        let lock = lock(path)?;
        let temporary = path.with_extension("new");
        for leftover in [&temporary, &side_file(&temporary, "-wal"), &side_file(&temporary, "-shm")] {
            match fs::remove_file(leftover) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e.into()),
                _ => {}
            }
        }
        fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
        let mut db = connect(&temporary)?;
        migrate(&temporary, &mut db)?;
        for (name, value) in [("token_label", &token.label), ("token_serial", &token.serial)] {
            db.execute("INSERT INTO meta (name, value) VALUES (?1, ?2)", params![name, value])?;
        }
        // Closing folds the log into the file; then the file is complete under its own name.
        db.close().map_err(|(_, e)| e)?;
        File::open(&temporary)?.sync_all()?;
        fs::rename(&temporary, path)?;
        if let Some(directory) = path.parent() {
            File::open(directory)?.sync_all()?;
        }
        drop(lock);
        Ok(())
    }

    /// Opens a store, and brings its schema up to date.
    ///
    /// # Errors
    /// If there is none, it is in use, or it is not one.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        if !path.exists() {
            return Err(StoreError::Missing { path: path.to_owned() });
        }
        let lock = lock(path)?;
        let mut db = connect(path)?;
        migrate(path, &mut db)?;
        Ok(Self { path: path.to_owned(), db, key: None, macs: RowMacs::new(), epoch: 0, _lock: lock })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn meta(&self, name: &'static str) -> Result<String, StoreError> {
        let query = "SELECT value FROM meta WHERE name = ?1";
        let value = self.db.query_row(query, [name], |row| row.get(0)).optional()?;
        value.ok_or_else(|| StoreError::Damaged { what: "meta", id: name.to_owned() })
    }

    fn key(&self) -> &IntegrityKey {
        self.key.as_ref().expect("the service unlocks the store before it uses it")
    }

    /// Reads a table, checks each row's MAC and takes it into the root.
    fn checked<T: DeserializeOwned>(
        &self,
        table: &'static str,
        query: &str,
        macs: &mut RowMacs,
    ) -> Result<Vec<(String, i64, T)>, StoreError> {
        let mut statement = self.db.prepare(query)?;
        let mut rows = statement.query([])?;
        let mut out = Vec::new();
        while let Some(row) = rows.next()? {
            let (id, revision, text): (String, i64, String) = (row.get(0)?, row.get(1)?, row.get(2)?);
            let mac = self.key().row(table, &id, text.as_bytes());
            if !row.get::<_, Option<Vec<u8>>>(3)?.is_some_and(|found| same(&mac, &found)) {
                return Err(StoreError::Tampered { what: table, id });
            }
            let record = serde_json::from_str(&text)
                .map_err(|_| StoreError::Damaged { what: table, id: id.clone() })?;
            macs.insert((table, id.clone()), mac);
            out.push((id, revision, record));
        }
        Ok(out)
    }

    /// The names of keys as their column has them.
    fn names(&self) -> Result<HashMap<String, Option<String>>, StoreError> {
        let mut statement = self.db.prepare("SELECT key_id, alias FROM keys")?;
        let names = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
        Ok(names.collect::<Result<_, _>>()?)
    }

    /// Writes rows and the root over all of them in one transaction.
    fn record(&mut self, rows: &[Row<'_>]) -> Result<u64, StoreError> {
        self.record_as(self.epoch + 1, rows)
    }

    fn record_as(&mut self, epoch: u64, rows: &[Row<'_>]) -> Result<u64, StoreError> {
        let mut before = Vec::new();
        for row in rows {
            let name = (row.table(), row.name());
            let old = match row.json() {
                Some(json) => {
                    let mac = self.key().row(name.0, &name.1, json.as_bytes());
                    self.macs.insert(name.clone(), mac)
                }
                None => self.macs.remove(&name),
            };
            before.push((name, old));
        }
        let root = self.key().root(epoch, &self.macs);
        let written = self.transact(rows, epoch, &root);
        match written {
            Ok(()) => self.epoch = epoch,
            Err(_) => {
                for (name, old) in before.into_iter().rev() {
                    match old {
                        Some(mac) => self.macs.insert(name, mac),
                        None => self.macs.remove(&name),
                    };
                }
            }
        }
        written.map(|()| epoch)
    }

    fn transact(&mut self, rows: &[Row<'_>], epoch: u64, root: &RowMac) -> Result<(), StoreError> {
        let transaction = self.db.transaction()?;
        rows.iter().try_for_each(|row| row.write(&transaction, &self.macs))?;
        transaction
            .prepare_cached(
                "INSERT INTO state (one, epoch, root) VALUES (1, ?1, ?2)
                 ON CONFLICT (one) DO UPDATE SET epoch = ?1, root = ?2",
            )?
            .execute(params![number(epoch), root.as_slice()])?;
        // One fsync of the write-ahead log for the whole group; dropping the transaction instead undoes it.
        transaction.commit()?;
        Ok(())
    }
}

impl Store for SqliteStore {
    fn token(&mut self) -> Result<TokenIdentity, StoreError> {
        Ok(TokenIdentity { label: self.meta("token_label")?, serial: self.meta("token_serial")? })
    }

    fn key_number(&mut self) -> Result<u64, StoreError> {
        let query = "SELECT value FROM meta WHERE name = 'store_key'";
        let number: Option<String> = self.db.query_row(query, [], |row| row.get(0)).optional()?;
        let damaged = || StoreError::Damaged { what: "meta", id: "store_key".to_owned() };
        number.map_or(Ok(1), |number| number.parse().map_err(|_| damaged()))
    }

    fn unlock(&mut self, key: IntegrityKey) {
        self.key = Some(key);
    }

    fn load(&mut self) -> Result<Contents, StoreError> {
        let damaged = |what, id: &str| StoreError::Damaged { what, id: id.to_owned() };
        let mut macs = RowMacs::new();
        let mut registry = Registry::default();
        // The column that keeps names unique is not under the MAC: it has to say what the record says.
        let names = self.names()?;
        let query = "SELECT key_id, revision, record, mac FROM keys";
        for (id, revision, key) in self.checked::<KeyRecord>("keys", query, &mut macs)? {
            let is_named = names.get(&id).and_then(Option::as_deref) == row::name_of(&key);
            if key.id.to_string() != id || i64::try_from(key.revision) != Ok(revision) || !is_named {
                return Err(damaged("keys", &id));
            }
            registry.apply(Change::PutKey(key));
        }
        let query = "SELECT alias, revision, record, mac FROM aliases";
        for (id, revision, record) in self.checked::<AliasRecord>("aliases", query, &mut macs)? {
            if record.alias.as_str() != id || i64::try_from(record.revision) != Ok(revision) {
                return Err(damaged("aliases", &id));
            }
            registry.apply(Change::PutAlias(record));
        }
        let query = "SELECT volume, revision, record, mac FROM anchors";
        for (id, revision, anchor) in self.checked::<AnchorRecord>("anchors", query, &mut macs)? {
            if anchor.volume.to_string() != id || i64::try_from(anchor.revision) != Ok(revision) {
                return Err(damaged("anchors", &id));
            }
            registry.apply(Change::PutAnchor(anchor));
        }
        let query = "SELECT access_key_id, 0, record, mac FROM access_keys";
        for (id, _, record) in self.checked::<AccessKeyRecord>("access_keys", query, &mut macs)? {
            if record.id.as_str() != id {
                return Err(damaged("access_keys", &id));
            }
            registry.apply(Change::PutAccessKey(record));
        }
        let query = "SELECT 'clock', 0, clock, mac FROM state WHERE clock IS NOT NULL";
        let clock = self.checked::<TrustedClock>("clock", query, &mut macs)?.pop().map(|(_, _, clock)| clock);

        let query = "SELECT epoch, root FROM state";
        let state = self.db.query_row(query, [], |row| Ok((row.get(0)?, row.get(1)?))).optional()?;
        let epoch = match state {
            None if macs.is_empty() => 0,
            None => return Err(StoreError::Tampered { what: "state", id: "root".to_owned() }),
            Some((epoch, root)) => {
                let (epoch, root): (i64, Vec<u8>) = (epoch, root);
                let epoch = u64::try_from(epoch).map_err(|_| damaged("state", "epoch"))?;
                // A row that was put back or removed has a right MAC of its own; the root shows it.
                if !same(&self.key().root(epoch, &macs), &root) {
                    return Err(StoreError::Tampered { what: "state", id: "root".to_owned() });
                }
                epoch
            }
        };
        (self.macs, self.epoch) = (macs, epoch);
        Ok(Contents { epoch, clock, registry })
    }

    fn commit(&mut self, changes: &[Change]) -> Result<u64, StoreError> {
        let rows: Vec<_> = changes.iter().map(Row::new).collect();
        self.record(&rows)
    }

    fn put_clock(&mut self, clock: &TrustedClock) -> Result<u64, StoreError> {
        self.record(&[Row::Clock(to_json(clock))])
    }

    fn raise(&mut self, epoch: u64) -> Result<u64, StoreError> {
        self.record_as(epoch.max(self.epoch + 1), &[])
    }

    fn rekey(&mut self, number: u64, key: IntegrityKey) -> Result<u64, StoreError> {
        // What is there must be right, or the new MACs would vouch for what somebody else wrote.
        self.load()?;
        let epoch = self.epoch + 1;
        let transaction = self.db.transaction()?;
        let macs = rekey::renew(&transaction, &key)?;
        if !macs.keys().eq(self.macs.keys()) {
            return Err(StoreError::Conflict);
        }
        rekey::finish(&transaction, number, epoch, &key.root(epoch, &macs))?;
        transaction.commit()?;
        (self.key, self.macs, self.epoch) = (Some(key), macs, epoch);
        Ok(epoch)
    }
}

fn connect(path: &Path) -> Result<Connection, StoreError> {
    let db = Connection::open_with_flags(
        path,
        OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX,
    )?;
    db.pragma_update(None, "journal_mode", "WAL")?;
    db.pragma_update(None, "synchronous", "FULL")?;
    db.pragma_update(None, "foreign_keys", true)?;
    db.pragma_update(None, "trusted_schema", false)?;
    db.pragma_update(None, "secure_delete", true)?;
    Ok(db)
}

fn migrate(path: &Path, db: &mut Connection) -> Result<(), StoreError> {
    let found: u32 = db.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let known = u32::try_from(MIGRATIONS.len()).expect("a handful");
    if found > known {
        return Err(StoreError::Newer { path: path.to_owned(), found, known });
    }
    for (version, step) in (1..=known).zip(MIGRATIONS).skip(usize::try_from(found).expect("a handful")) {
        let transaction = db.transaction()?;
        transaction.execute_batch(step)?;
        transaction.pragma_update(None, "user_version", version)?;
        transaction.commit()?;
    }
    Ok(())
}

/// Locks the store against other processes. The lock file stays; the lock goes with the process.
///
/// # Errors
/// If another process holds it, or it cannot be made.
pub fn lock(path: &Path) -> Result<File, StoreError> {
    let file = fs::OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(side_file(path, ".lock"))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(fs::TryLockError::WouldBlock) => Err(StoreError::InUse { path: path.to_owned() }),
        Err(fs::TryLockError::Error(e)) => Err(e.into()),
    }
}

pub(crate) fn side_file(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Whether others than the owner may read a path.
///
/// # Errors
/// If it cannot be looked at.
pub fn is_exposed(path: &Path) -> std::io::Result<bool> {
    Ok(fs::metadata(path)?.permissions().mode() & 0o077 != 0)
}
