//! Rows of disks.

use rusqlite::{Connection, OptionalExtension, Row, params};
use uuid::Uuid;

use crate::{
    catalog::{CatalogError, parse_id, resolve},
    error::Error,
    model::{
        Noun,
        disk::{Disk, DiskStatus, Role, Serving},
    },
};

const COLUMNS: &str = "id, name, status, size, encrypted, key_id, key_alias, server_id, serving_pid, \
                       serving_started, reason, created_at, kind, role, source, base_id, made_with";

/// Records a new disk.
///
/// # Errors
/// [`Error::Exists`] when the name is taken.
pub(crate) fn insert(connection: &Connection, disk: &Disk) -> Result<(), Error> {
    let mut taken = connection.prepare_cached("SELECT 1 FROM volumes WHERE kind = ?1 AND name = ?2")?;
    if taken.exists([disk.kind.as_str(), &disk.name])? {
        return Err(Error::Exists { noun: disk.kind, name: disk.name.clone() });
    }
    connection.execute(
        "INSERT INTO volumes (id, name, status, size, encrypted, key_id, key_alias, created_at, kind, role, source,
                              base_id, made_with)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)",
        params![
            disk.id.to_string(),
            disk.name,
            disk.status.as_str(),
            i64::try_from(disk.size)
                .map_err(|_| CatalogError::Word { word: disk.size.to_string(), what: "size" })?,
            disk.encrypted,
            disk.key_id,
            disk.key_alias,
            disk.created_at,
            disk.kind.as_str(),
            disk.role.as_str(),
            disk.source,
            disk.base.map(|id| id.to_string()),
            disk.made_with.map(|id| id.to_string()),
        ],
    )?;
    Ok(())
}

/// Writes everything that changes in a disk's life.
///
/// # Errors
/// Those of the catalogue.
pub(crate) fn update(connection: &Connection, disk: &Disk) -> Result<(), Error> {
    connection.execute(
        "UPDATE volumes SET status = ?2, key_id = ?3, key_alias = ?4, server_id = ?5, serving_pid = ?6,
                          serving_started = ?7, reason = ?8, size = ?9 WHERE id = ?1",
        params![
            disk.id.to_string(),
            disk.status.as_str(),
            disk.key_id,
            disk.key_alias,
            disk.server_id.map(|id| id.to_string()),
            disk.serving.as_ref().map(|s| s.pid),
            disk.serving.as_ref().map(|s| &s.started),
            disk.reason,
            i64::try_from(disk.size)
                .map_err(|_| CatalogError::Word { word: disk.size.to_string(), what: "size" })?,
        ],
    )?;
    Ok(())
}

/// A thin disk is to be flattened; that may go on in the background, and end there.
///
/// # Errors
/// Those of the catalogue.
pub(crate) fn begin_flattening(connection: &Connection, id: Uuid) -> Result<(), Error> {
    connection.execute("UPDATE volumes SET flattening = 1 WHERE id = ?1", [id.to_string()])?;
    Ok(())
}

/// The disks that are to be flattened.
///
/// # Errors
/// Those of the catalogue.
pub(crate) fn flattening(connection: &Connection) -> Result<Vec<Uuid>, Error> {
    let mut statement = connection.prepare_cached("SELECT id FROM volumes WHERE flattening = 1")?;
    let rows = statement.query_map([], |row| row.get::<_, String>(0))?;
    rows.map(|row| parse_id(&row?)).collect()
}

/// A disk that was thin needs its image no more.
///
/// # Errors
/// Those of the catalogue.
pub(crate) fn forget_base(connection: &Connection, id: Uuid) -> Result<(), Error> {
    connection
        .execute("UPDATE volumes SET base_id = NULL, flattening = 0 WHERE id = ?1", [id.to_string()])?;
    Ok(())
}

/// A disk is thin over an image again, as it was once, or half-way to being flattened.
///
/// # Errors
/// Those of the catalogue.
pub(crate) fn set_base(connection: &Connection, id: Uuid, base: Uuid) -> Result<(), Error> {
    connection.execute(
        "UPDATE volumes SET base_id = ?2, flattening = 1 WHERE id = ?1",
        [id.to_string(), base.to_string()],
    )?;
    Ok(())
}

/// The names of the disks that are thin over an image.
///
/// # Errors
/// Those of the catalogue.
pub(crate) fn over(connection: &Connection, image: Uuid) -> Result<Vec<String>, Error> {
    let mut statement =
        connection.prepare_cached("SELECT name FROM volumes WHERE base_id = ?1 ORDER BY name")?;
    let rows = statement.query_map([image.to_string()], |row| row.get(0))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// Forgets a disk.
///
/// # Errors
/// Those of the catalogue.
pub(crate) fn remove(connection: &Connection, id: Uuid) -> Result<(), Error> {
    connection.execute("DELETE FROM volumes WHERE id = ?1", [id.to_string()])?;
    Ok(())
}

/// The ID that a user's word means.
///
/// # Errors
/// [`Error::NotFound`], [`Error::Ambiguous`].
pub(crate) fn find(connection: &Connection, kind: Noun, given: &str) -> Result<Uuid, Error> {
    resolve(connection, kind, given)
}

/// A disk by its ID, if it exists still.
///
/// # Errors
/// Those of the catalogue.
pub(crate) fn by_id(connection: &Connection, id: Uuid) -> Result<Option<Disk>, Error> {
    let mut statement = connection.prepare_cached(&format!("SELECT {COLUMNS} FROM volumes WHERE id = ?1"))?;
    let row = statement.query_row([id.to_string()], |row| Ok(disk(row))).optional()?;
    row.transpose()
}

/// Every volume of a kind, by name.
///
/// # Errors
/// Those of the catalogue.
pub(crate) fn all(connection: &Connection, kind: Noun) -> Result<Vec<Disk>, Error> {
    let mut statement =
        connection.prepare_cached(&format!("SELECT {COLUMNS} FROM volumes WHERE kind = ?1 ORDER BY name"))?;
    let rows = statement.query_map([kind.as_str()], |row| Ok(disk(row)))?;
    rows.map(|row| row?).collect()
}

/// The disks of one server, by name.
///
/// # Errors
/// Those of the catalogue.
pub(crate) fn of_server(connection: &Connection, server: Uuid) -> Result<Vec<Disk>, Error> {
    let mut statement = connection
        .prepare_cached(&format!("SELECT {COLUMNS} FROM volumes WHERE server_id = ?1 ORDER BY name"))?;
    let rows = statement.query_map([server.to_string()], |row| Ok(disk(row)))?;
    rows.map(|row| row?).collect()
}

fn disk(row: &Row<'_>) -> Result<Disk, Error> {
    let status: String = row.get(2)?;
    let (kind, role): (String, String) = (row.get(12)?, row.get(13)?);
    let (base, made_with): (Option<String>, Option<String>) = (row.get(15)?, row.get(16)?);
    let size: i64 = row.get(3)?;
    let server: Option<String> = row.get(7)?;
    let (pid, started): (Option<u32>, Option<String>) = (row.get(8)?, row.get(9)?);
    Ok(Disk {
        id: parse_id(&row.get::<_, String>(0)?)?,
        name: row.get(1)?,
        size: u64::try_from(size).map_err(|_| CatalogError::Word { word: size.to_string(), what: "size" })?,
        status: DiskStatus::parse(&status).ok_or(CatalogError::Word { word: status, what: "disk status" })?,
        encrypted: row.get(4)?,
        key_id: row.get(5)?,
        key_alias: row.get(6)?,
        server_id: server.map(|id| parse_id(&id)).transpose()?,
        serving: pid.zip(started).map(|(pid, started)| Serving { pid, started }),
        reason: row.get(10)?,
        created_at: row.get(11)?,
        kind: Noun::parse_volume(&kind).ok_or(CatalogError::Word { word: kind, what: "kind of volume" })?,
        role: if role == Role::System.as_str() { Role::System } else { Role::Data },
        source: row.get(14)?,
        base: base.map(|id| parse_id(&id)).transpose()?,
        made_with: made_with.map(|id| parse_id(&id)).transpose()?,
    })
}
