//! Copies of the store, taken beside a running service, and what a copy says of itself.

use std::{
    fs::{self, File},
    os::unix::fs::OpenOptionsExt,
    path::Path,
    time::Duration,
};

use rusqlite::{Connection, OpenFlags, OptionalExtension, backup::Backup};

use crate::{hsm::TokenIdentity, store::StoreError};

/// What can be read of a store without its key. Nothing of it is proved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// The token that it is bound to.
    pub token: TokenIdentity,
    /// Number of its newest commit.
    pub epoch: u64,
}

/// Copies the store, as it stands, into a new file. Another process may go on writing to it.
///
/// # Errors
/// If there is no store, there is such a file already, or the copy is not sound.
pub fn copy(from: &Path, to: &Path) -> Result<(), StoreError> {
    if !from.exists() {
        return Err(StoreError::Missing { path: from.to_owned() });
    }
    if to.exists() {
        return Err(StoreError::Exists { path: to.to_owned() });
    }
    fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(to)?;
    let source = open(from)?;
    let mut copy = open(to)?;
    {
        // All pages in one step: one state, however much is written meanwhile.
        let backup = Backup::new(&source, &mut copy)?;
        backup.step(-1)?;
    }
    let sound: String = copy.query_row("PRAGMA integrity_check", [], |row| row.get(0))?;
    if sound != "ok" {
        return Err(StoreError::Damaged { what: "database", id: from.display().to_string() });
    }
    copy.close().map_err(|(_, e)| e)?;
    File::open(to)?.sync_all()?;
    Ok(())
}

/// What a store says of itself.
///
/// # Errors
/// If it is none.
pub fn facts(path: &Path) -> Result<Facts, StoreError> {
    if !path.exists() {
        return Err(StoreError::Missing { path: path.to_owned() });
    }
    let db = open(path)?;
    let meta = |name: &'static str| -> Result<String, StoreError> {
        let query = "SELECT value FROM meta WHERE name = ?1";
        let value = db.query_row(query, [name], |row| row.get(0)).optional()?;
        value.ok_or_else(|| StoreError::Damaged { what: "meta", id: name.to_owned() })
    };
    let token = TokenIdentity { label: meta("token_label")?, serial: meta("token_serial")? };
    let epoch: Option<i64> = db.query_row("SELECT epoch FROM state", [], |row| row.get(0)).optional()?;
    let epoch = u64::try_from(epoch.unwrap_or(0))
        .map_err(|_| StoreError::Damaged { what: "state", id: "epoch".to_owned() })?;
    Ok(Facts { token, epoch })
}

fn open(path: &Path) -> Result<Connection, StoreError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let db = Connection::open_with_flags(path, flags)?;
    db.busy_timeout(Duration::from_secs(10))?;
    Ok(db)
}
