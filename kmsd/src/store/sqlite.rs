//! SQLite: write-ahead log, `synchronous=FULL` (with `NORMAL` a committed change may be lost with the power).
//!
//! A record is one JSON document, kept as the bytes that were written; names that must be unique stand in columns of
//! their own. The file is locked for as long as it is open: two daemons on one store would each believe their memory.

use std::{
    fs::{self, File},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use rusqlite::{Connection, OpenFlags, OptionalExtension, Transaction, params};
use serde::de::DeserializeOwned;

use super::{Contents, Store, StoreError};
use crate::{
    domain::{
        access_key::AccessKeyRecord,
        anchor::AnchorRecord,
        key::{KeyRecord, Phase},
        registry::{Change, Registry},
        time::TrustedClock,
    },
    hsm::TokenIdentity,
};

/// Steps from an empty file to the schema of this version; each is run once, in one transaction with its number.
const MIGRATIONS: [&str; 2] = [
    "CREATE TABLE meta (
         name  TEXT PRIMARY KEY,
         value TEXT NOT NULL
     ) STRICT, WITHOUT ROWID;
     CREATE TABLE keys (
         key_id   TEXT PRIMARY KEY,
         revision INTEGER NOT NULL,
         alias    TEXT UNIQUE,          -- NULL once the key is destroyed: its name is free again
         record   TEXT NOT NULL
     ) STRICT, WITHOUT ROWID;
     CREATE TABLE anchors (
         volume   TEXT PRIMARY KEY,
         revision INTEGER NOT NULL,
         record   TEXT NOT NULL
     ) STRICT, WITHOUT ROWID;",
    "CREATE TABLE access_keys (
         access_key_id TEXT PRIMARY KEY,
         record        TEXT NOT NULL       -- the secret in it is sealed by the token
     ) STRICT, WITHOUT ROWID;",
];

/// The store in a file.
pub struct SqliteStore {
    path: PathBuf,
    db: Connection,
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
        Ok(Self { path: path.to_owned(), db, _lock: lock })
    }

    /// Copies the store, as it stands, into a new file. Runs beside writers.
    ///
    /// # Errors
    /// If there is such a file already, or it cannot be written.
    pub fn backup(&self, to: &Path) -> Result<(), StoreError> {
        if to.exists() {
            return Err(StoreError::Exists { path: to.to_owned() });
        }
        fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(to)?;
        let mut copy = Connection::open(to)?;
        rusqlite::backup::Backup::new(&self.db, &mut copy)?.run_to_completion(
            1024,
            std::time::Duration::ZERO,
            None,
        )?;
        copy.close().map_err(|(_, e)| e)?;
        File::open(to)?.sync_all()?;
        Ok(())
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn meta(&self, name: &'static str) -> Result<Option<String>, StoreError> {
        let query = "SELECT value FROM meta WHERE name = ?1";
        Ok(self.db.query_row(query, [name], |row| row.get(0)).optional()?)
    }
}

impl Store for SqliteStore {
    fn load(&mut self) -> Result<Contents, StoreError> {
        let damaged = |what, id: &str| StoreError::Damaged { what, id: id.to_owned() };
        let token = TokenIdentity {
            label: self.meta("token_label")?.ok_or_else(|| damaged("meta", "token_label"))?,
            serial: self.meta("token_serial")?.ok_or_else(|| damaged("meta", "token_serial"))?,
        };
        let clock = match self.meta("clock")? {
            Some(text) => Some(serde_json::from_str(&text).map_err(|_| damaged("meta", "clock"))?),
            None => None,
        };
        let mut registry = Registry::default();
        for (id, revision, text) in rows(&self.db, "SELECT key_id, revision, record FROM keys")? {
            let key: KeyRecord = parse(&text).ok_or_else(|| damaged("key", &id))?;
            if key.id.to_string() != id || i64::try_from(key.revision) != Ok(revision) {
                return Err(damaged("key", &id));
            }
            registry.apply(Change::PutKey(key));
        }
        for (id, revision, text) in rows(&self.db, "SELECT volume, revision, record FROM anchors")? {
            let anchor: AnchorRecord = parse(&text).ok_or_else(|| damaged("anchor", &id))?;
            if anchor.volume.to_string() != id || i64::try_from(anchor.revision) != Ok(revision) {
                return Err(damaged("anchor", &id));
            }
            registry.apply(Change::PutAnchor(anchor));
        }
        for (id, _, text) in rows(&self.db, "SELECT access_key_id, 0, record FROM access_keys")? {
            let record: AccessKeyRecord = parse(&text).ok_or_else(|| damaged("access key", &id))?;
            if record.id.as_str() != id {
                return Err(damaged("access key", &id));
            }
            registry.apply(Change::PutAccessKey(record));
        }
        Ok(Contents { token, clock, registry })
    }

    fn commit(&mut self, changes: &[Change]) -> Result<(), StoreError> {
        let transaction = self.db.transaction()?;
        changes.iter().try_for_each(|change| write(&transaction, change))?;
        // One fsync of the write-ahead log for the whole group; dropping the transaction instead undoes it.
        transaction.commit()?;
        Ok(())
    }

    fn put_clock(&mut self, clock: &TrustedClock) -> Result<(), StoreError> {
        let text = to_json(clock);
        self.db.execute(
            "INSERT INTO meta (name, value) VALUES ('clock', ?1) ON CONFLICT (name) DO UPDATE SET value = ?1",
            [text],
        )?;
        Ok(())
    }
}

fn write(transaction: &Transaction<'_>, change: &Change) -> Result<(), StoreError> {
    let written = match change {
        Change::PutKey(key) => {
            let alias = (key.phase != Phase::Destroyed).then(|| key.alias.as_str());
            transaction
                .prepare_cached(
                    "INSERT INTO keys (key_id, revision, alias, record) VALUES (?1, ?2, ?3, ?4)
                     ON CONFLICT (key_id) DO UPDATE SET revision = ?2, alias = ?3, record = ?4 WHERE revision = ?2 - 1",
                )?
                .execute(params![key.id.to_string(), number(key.revision), alias, to_json(key)])?
        }
        Change::ForgetKey(id) => {
            transaction.prepare_cached("DELETE FROM keys WHERE key_id = ?1")?.execute([id.to_string()])?
        }
        Change::PutAnchor(anchor) => transaction
            .prepare_cached(
                "INSERT INTO anchors (volume, revision, record) VALUES (?1, ?2, ?3)
                 ON CONFLICT (volume) DO UPDATE SET revision = ?2, record = ?3 WHERE revision = ?2 - 1",
            )?
            .execute(params![anchor.volume.to_string(), number(anchor.revision), to_json(anchor)])?,
        Change::PutAccessKey(record) => transaction
            .prepare_cached("INSERT INTO access_keys (access_key_id, record) VALUES (?1, ?2)")?
            .execute(params![record.id.as_str(), to_json(record)])?,
        Change::ForgetAccessKey(id) => transaction
            .prepare_cached("DELETE FROM access_keys WHERE access_key_id = ?1")?
            .execute([id.as_str()])?,
    };
    // The writer has checked against memory; a row that differs was changed by somebody else.
    if written == 1 { Ok(()) } else { Err(StoreError::Conflict) }
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
fn lock(path: &Path) -> Result<File, StoreError> {
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

fn side_file(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

fn rows(db: &Connection, query: &str) -> Result<Vec<(String, i64, String)>, StoreError> {
    let mut statement = db.prepare(query)?;
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

fn parse<T: DeserializeOwned>(text: &str) -> Option<T> {
    serde_json::from_str(text).ok()
}

fn to_json(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).expect("records serialise")
}

fn number(revision: u64) -> i64 {
    i64::try_from(revision).expect("fewer than 2^63 changes")
}

/// Whether others than the owner may read a path.
///
/// # Errors
/// If it cannot be looked at.
pub fn is_exposed(path: &Path) -> std::io::Result<bool> {
    Ok(fs::metadata(path)?.permissions().mode() & 0o077 != 0)
}
