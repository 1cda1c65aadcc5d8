//! Rows of servers.

use rusqlite::{Connection, OptionalExtension, Row, params};
use uuid::Uuid;

use crate::{
    catalog::{CatalogError, parse_id, resolve},
    error::Error,
    model::{
        Noun,
        server::{Server, ServerStatus},
    },
};

const COLUMNS: &str = "id, name, status, created_at, image, group_id";

/// Records a new server.
///
/// # Errors
/// [`Error::Exists`] when the name is taken.
pub(crate) fn insert(connection: &Connection, server: &Server) -> Result<(), Error> {
    let mut taken = connection.prepare_cached("SELECT 1 FROM servers WHERE name = ?1")?;
    if taken.exists([&server.name])? {
        return Err(Error::Exists { noun: Noun::Server, name: server.name.clone() });
    }
    connection.execute(
        "INSERT INTO servers (id, name, status, created_at, image, group_id) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        params![
            server.id.to_string(),
            server.name,
            server.status.as_str(),
            server.created_at,
            server.image,
            server.group_id.map(|id| id.to_string()),
        ],
    )?;
    Ok(())
}

/// Writes a server's state.
///
/// # Errors
/// Those of the catalogue.
pub(crate) fn set_status(connection: &Connection, id: Uuid, status: ServerStatus) -> Result<(), Error> {
    connection
        .execute("UPDATE servers SET status = ?2 WHERE id = ?1", params![id.to_string(), status.as_str()])?;
    Ok(())
}

/// Forgets a server. Its disks must be off it: the schema insists.
///
/// # Errors
/// Those of the catalogue.
pub(crate) fn remove(connection: &Connection, id: Uuid) -> Result<(), Error> {
    connection.execute("DELETE FROM servers WHERE id = ?1", [id.to_string()])?;
    Ok(())
}

/// The ID that a user's word means.
///
/// # Errors
/// [`Error::NotFound`], [`Error::Ambiguous`].
pub(crate) fn find(connection: &Connection, given: &str) -> Result<Uuid, Error> {
    resolve(connection, Noun::Server, given)
}

/// A server by its ID, if it exists still.
///
/// # Errors
/// Those of the catalogue.
pub(crate) fn by_id(connection: &Connection, id: Uuid) -> Result<Option<Server>, Error> {
    let mut statement = connection.prepare_cached(&format!("SELECT {COLUMNS} FROM servers WHERE id = ?1"))?;
    let row = statement.query_row([id.to_string()], |row| Ok(server(row))).optional()?;
    row.transpose()
}

/// Every server, by name.
///
/// # Errors
/// Those of the catalogue.
pub(crate) fn all(connection: &Connection) -> Result<Vec<Server>, Error> {
    let mut statement = connection.prepare_cached(&format!("SELECT {COLUMNS} FROM servers ORDER BY name"))?;
    let rows = statement.query_map([], |row| Ok(server(row)))?;
    rows.map(|row| row?).collect()
}

fn server(row: &Row<'_>) -> Result<Server, Error> {
    let status: String = row.get(2)?;
    let group: Option<String> = row.get(5)?;
    Ok(Server {
        id: parse_id(&row.get::<_, String>(0)?)?,
        name: row.get(1)?,
        status: ServerStatus::parse(&status)
            .ok_or(CatalogError::Word { word: status, what: "server status" })?,
        created_at: row.get(3)?,
        image: row.get(4)?,
        group_id: group.map(|id| parse_id(&id)).transpose()?,
    })
}
