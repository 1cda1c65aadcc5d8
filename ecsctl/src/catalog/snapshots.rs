//! Rows of snapshots.

use rusqlite::{Connection, OptionalExtension, Row, params};
use uuid::Uuid;

use crate::{
    catalog::{CatalogError, parse_id, resolve},
    error::Error,
    model::{
        Noun,
        name::{Name, recovered},
        snapshot::Snapshot,
    },
};

const COLUMNS: &str = "id, name, disk_id, size, created_at";

/// Whether a name is taken already.
///
/// # Errors
/// [`Error::Exists`] if it is.
pub(crate) fn refuse_taken(connection: &Connection, name: &str) -> Result<(), Error> {
    let mut taken = connection.prepare_cached("SELECT 1 FROM snapshots WHERE name = ?1")?;
    if taken.exists([name])? {
        return Err(Error::Exists { noun: Noun::Snapshot, name: name.to_owned() });
    }
    Ok(())
}

/// Records a snapshot.
///
/// # Errors
/// [`Error::Exists`] when the name is taken.
pub(crate) fn insert(connection: &Connection, snapshot: &Snapshot) -> Result<(), Error> {
    refuse_taken(connection, &snapshot.name)?;
    connection.execute(
        "INSERT INTO snapshots (id, name, disk_id, size, created_at) VALUES (?1, ?2, ?3, ?4, ?5)",
        params![
            snapshot.id.to_string(),
            snapshot.name,
            snapshot.disk_id.to_string(),
            i64::try_from(snapshot.size)
                .map_err(|_| CatalogError::Word { word: snapshot.size.to_string(), what: "size" })?,
            snapshot.created_at,
        ],
    )?;
    Ok(())
}

/// Records a snapshot that a volume was found to have. When the snapshot of another disk has taken its name, or nobody could give it here, it
/// gets one of its ID.
///
/// # Errors
/// Those of the catalogue.
pub(crate) fn bring_back(connection: &Connection, snapshot: Snapshot) -> Result<(), Error> {
    let serves = snapshot.name.parse::<Name>().is_ok() && refuse_taken(connection, &snapshot.name).is_ok();
    let name = if serves { snapshot.name } else { recovered(snapshot.id) };
    insert(connection, &Snapshot { name, ..snapshot })
}

/// Forgets a snapshot.
///
/// # Errors
/// Those of the catalogue.
pub(crate) fn remove(connection: &Connection, id: Uuid) -> Result<(), Error> {
    connection.execute("DELETE FROM snapshots WHERE id = ?1", [id.to_string()])?;
    Ok(())
}

/// The snapshot that a user's word means.
///
/// # Errors
/// [`Error::NotFound`], [`Error::Ambiguous`].
pub(crate) fn find(connection: &Connection, given: &str) -> Result<Snapshot, Error> {
    by_id(connection, resolve(connection, Noun::Snapshot, given)?)
}

/// A snapshot by its ID.
///
/// # Errors
/// [`Error::NotFound`].
pub(crate) fn by_id(connection: &Connection, id: Uuid) -> Result<Snapshot, Error> {
    let mut statement =
        connection.prepare_cached(&format!("SELECT {COLUMNS} FROM snapshots WHERE id = ?1"))?;
    let row = statement.query_row([id.to_string()], |row| Ok(snapshot(row))).optional()?;
    row.unwrap_or_else(|| Err(Error::NotFound { noun: Noun::Snapshot, given: id.to_string(), near: None }))
}

/// Every snapshot, or those of one disk, oldest first.
///
/// # Errors
/// Those of the catalogue.
pub(crate) fn all(connection: &Connection, disk: Option<Uuid>) -> Result<Vec<Snapshot>, Error> {
    let mut statement = connection.prepare_cached(&format!(
        "SELECT {COLUMNS} FROM snapshots WHERE ?1 IS NULL OR disk_id = ?1 ORDER BY created_at, name"
    ))?;
    let rows = statement.query_map([disk.map(|id| id.to_string())], |row| Ok(snapshot(row)))?;
    rows.map(|row| row?).collect()
}

fn snapshot(row: &Row<'_>) -> Result<Snapshot, Error> {
    let size: i64 = row.get(3)?;
    Ok(Snapshot {
        id: parse_id(&row.get::<_, String>(0)?)?,
        name: row.get(1)?,
        disk_id: parse_id(&row.get::<_, String>(2)?)?,
        size: u64::try_from(size).map_err(|_| CatalogError::Word { word: size.to_string(), what: "size" })?,
        created_at: row.get(4)?,
    })
}
