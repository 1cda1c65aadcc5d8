//! The catalogue: which disks and servers exist and what is being done to them. SQLite, durable at each commit,
//! safe under many processes. A volume file is never found by what lies in a directory, only by its row here.

pub(crate) mod disks;
pub(crate) mod operations;
pub(crate) mod scaling;
mod schema;
pub(crate) mod servers;
pub(crate) mod snapshots;

use std::{
    fs::{self, File, Permissions},
    os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    time::Duration,
};

use rusqlite::{Connection, Transaction, TransactionBehavior};
use thiserror::Error;

use crate::{error::Error, model::Noun};

/// How long a writer waits for another one. A write takes milliseconds; this covers a crowd.
const BUSY: Duration = Duration::from_secs(60);

/// The open catalogue.
#[derive(Debug)]
pub(crate) struct Catalog {
    connection: Connection,
}

/// What is wrong with the catalogue.
#[derive(Debug, Error)]
pub(crate) enum CatalogError {
    /// SQLite says so.
    #[error("the catalogue {}: {source}", path.display())]
    Sqlite {
        /// The database.
        path: PathBuf,
        /// The reason.
        source: rusqlite::Error,
    },
    /// It was written by a later version of this program.
    #[error("the catalogue has schema {found}, this ecsctl knows up to {known}")]
    TooNew {
        /// What the file says.
        found: i64,
        /// What this program knows.
        known: i64,
    },
    /// A word in it is none that this program writes.
    #[error("the catalogue holds {word:?} where a {what} is expected")]
    Word {
        /// The word.
        word: String,
        /// What it should be.
        what: &'static str,
    },
    /// Its file.
    #[error("cannot open {}: {source}", path.display())]
    Open {
        /// The database.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The lock for its first opening.
    #[error("cannot lock {}: {source}", path.display())]
    Lock {
        /// The lock file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

impl From<rusqlite::Error> for CatalogError {
    fn from(source: rusqlite::Error) -> Self {
        Self::Sqlite { path: PathBuf::from("catalog.db"), source }
    }
}

/// Takes from others what an older ecsctl gave them: only the owner of a file can.
fn narrow(catalogue: &Path) -> Result<(), CatalogError> {
    for beside in ["", "-wal", "-shm"] {
        let mut path = catalogue.as_os_str().to_owned();
        path.push(beside);
        let path = PathBuf::from(path);
        let narrowed = fs::metadata(&path).and_then(|found| {
            let is_ours = found.uid() == rustix::process::geteuid().as_raw();
            if is_ours && found.mode() & 0o077 != 0 {
                fs::set_permissions(&path, Permissions::from_mode(0o600))?;
            }
            Ok(())
        });
        match narrowed {
            // SQLite takes them away when the last one is done.
            Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                return Err(CatalogError::Open { path, source });
            }
            _ => {}
        }
    }
    Ok(())
}

impl From<rusqlite::Error> for Error {
    fn from(source: rusqlite::Error) -> Self {
        Self::Catalog(source.into())
    }
}

impl Catalog {
    /// Opens the catalogue, making or migrating it first.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub(crate) fn open(path: &Path) -> Result<Self, CatalogError> {
        let at = |source| CatalogError::Sqlite { path: path.to_owned(), source };
        // For its owner only, whatever the mode of the directory; what SQLite puts beside it gets the same mode.
        let made = File::options().append(true).create(true).mode(0o600).open(path);
        made.map_err(|source| CatalogError::Open { path: path.to_owned(), source })?;
        narrow(path)?;
        let mut connection = Connection::open(path).map_err(at)?;
        connection.busy_timeout(BUSY).map_err(at)?;
        if schema::version(&connection).map_err(at)? != schema::VERSION {
            // The switch to WAL does not wait for others; one process at a time does it.
            let lock_path = path.with_extension("db-lock");
            let locked = |source| CatalogError::Lock { path: lock_path.clone(), source };
            let lock = File::create(&lock_path).map_err(locked)?;
            lock.lock().map_err(locked)?;
            connection.pragma_update(None, "journal_mode", "WAL").map_err(at)?;
            schema::migrate(&mut connection)?;
        }
        connection.pragma_update(None, "synchronous", "FULL").map_err(at)?;
        connection.pragma_update(None, "foreign_keys", true).map_err(at)?;
        Ok(Self { connection })
    }

    /// What SQLite's own check of the file says: `ok`, or what is wrong.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub(crate) fn verify(&self) -> Result<String, CatalogError> {
        Ok(self.connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?)
    }

    /// Reads, outside a transaction.
    pub(crate) fn read(&self) -> &Connection {
        &self.connection
    }

    /// Reads and writes in one transaction that holds the write lock from its beginning, so that what it reads is
    /// still so when it writes. Rolled back when `work` fails.
    ///
    /// # Errors
    /// Those of `work`, and of the catalogue.
    pub(crate) fn write<T>(
        &mut self,
        work: impl FnOnce(&Transaction<'_>) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let done = work(&transaction)?;
        transaction.commit()?;
        Ok(done)
    }
}

/// Finds the one row that `given` means: its name, its ID, or the beginning of its ID.
fn resolve(connection: &Connection, noun: Noun, given: &str) -> Result<uuid::Uuid, Error> {
    let (table, kind) = match noun {
        Noun::Server => ("servers", None),
        Noun::AsConfig => ("as_configs", None),
        Noun::AsGroup => ("as_groups", None),
        Noun::Snapshot => ("snapshots", None),
        Noun::Disk | Noun::Image | Noun::Backup | Noun::Key | Noun::AccessKey => {
            ("volumes", Some(noun.as_str()))
        }
    };
    // A table without kinds takes any.
    let column = if kind.is_some() { "kind" } else { "NULL" };
    let mut exact = connection
        .prepare_cached(&format!("SELECT id FROM {table} WHERE (name = ?1 OR id = ?1) AND {column} IS ?2"))?;
    if let Some(id) = exact.query_map((given, kind), |row| row.get::<_, String>(0))?.next() {
        return parse_id(&id?);
    }
    let mut all = connection
        .prepare_cached(&format!("SELECT id, name FROM {table} WHERE {column} IS ?1 ORDER BY name"))?;
    let rows: Vec<(String, String)> =
        all.query_map([kind], |row| Ok((row.get(0)?, row.get(1)?)))?.collect::<Result<_, _>>()?;
    let pairs = rows.iter().map(|(id, name)| (id.as_str(), name.as_str()));
    parse_id(crate::select::by_prefix(noun, given, pairs)?)
}

fn parse_id(text: &str) -> Result<uuid::Uuid, Error> {
    uuid::Uuid::parse_str(text).map_err(|_| CatalogError::Word { word: text.to_owned(), what: "ID" }.into())
}

#[cfg(test)]
mod tests;
