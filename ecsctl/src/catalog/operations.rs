//! Rows of operations under way: written before the first step, removed by the transaction that confirms the last.

use rusqlite::{Connection, OptionalExtension, params};
use serde::{Serialize, de::DeserializeOwned};
use uuid::Uuid;

use crate::{
    catalog::{CatalogError, parse_id},
    error::Error,
    model::Noun,
};

/// Records what is about to be done.
///
/// # Errors
/// Those of the catalogue; one resource has at most one operation.
pub(crate) fn begin(
    connection: &Connection,
    noun: Noun,
    resource: Uuid,
    operation: &impl Serialize,
    now: &str,
) -> Result<(), Error> {
    let text =
        serde_json::to_string(operation).map_err(|_| bad(noun, "an operation that cannot be written"))?;
    connection.execute(
        "INSERT INTO operations (resource_id, noun, operation, began_at) VALUES (?1, ?2, ?3, ?4)",
        params![resource.to_string(), noun.to_string(), text, now],
    )?;
    Ok(())
}

/// What is being, or was to be, done to a resource.
///
/// # Errors
/// Those of the catalogue.
pub(crate) fn of<T: DeserializeOwned>(
    connection: &Connection,
    noun: Noun,
    resource: Uuid,
) -> Result<Option<T>, Error> {
    let mut statement =
        connection.prepare_cached("SELECT operation FROM operations WHERE resource_id = ?1 AND noun = ?2")?;
    let row = statement
        .query_row([resource.to_string(), noun.to_string()], |row| row.get::<_, String>(0))
        .optional()?;
    row.map(|text| serde_json::from_str(&text).map_err(|_| bad(noun, &text))).transpose()
}

/// Forgets the operation of a resource.
///
/// # Errors
/// Those of the catalogue.
pub(crate) fn end(connection: &Connection, resource: Uuid) -> Result<(), Error> {
    connection.execute("DELETE FROM operations WHERE resource_id = ?1", [resource.to_string()])?;
    Ok(())
}

/// The resources of this kind with an operation under way.
///
/// # Errors
/// Those of the catalogue.
pub(crate) fn pending(connection: &Connection, noun: Noun) -> Result<Vec<Uuid>, Error> {
    let mut statement =
        connection.prepare_cached("SELECT resource_id FROM operations WHERE noun = ?1 ORDER BY rowid")?;
    let rows = statement.query_map([noun.to_string()], |row| row.get::<_, String>(0))?;
    rows.map(|row| parse_id(&row?)).collect()
}

fn bad(noun: Noun, text: &str) -> Error {
    let what = match noun {
        Noun::Server => "operation of a server",
        _ => "operation of a volume",
    };
    CatalogError::Word { word: text.to_owned(), what }.into()
}
