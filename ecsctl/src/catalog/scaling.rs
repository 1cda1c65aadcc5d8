//! Rows of auto scaling: configurations, groups, and what happened to them.

use rusqlite::{Connection, OptionalExtension, Row, params};
use uuid::Uuid;

use crate::{
    catalog::{CatalogError, parse_id, resolve, servers},
    error::Error,
    model::{
        Noun,
        scaling::{Config, Event, Group, Template},
        server::Server,
    },
};

/// Records a configuration.
///
/// # Errors
/// [`Error::Exists`] when the name is taken.
pub(crate) fn insert_config(connection: &Connection, config: &Config) -> Result<(), Error> {
    refuse_taken(connection, Noun::AsConfig, "as_configs", &config.name)?;
    let template = serde_json::to_string(&config.template)
        .map_err(|_| CatalogError::Word { word: config.name.clone(), what: "template" })?;
    connection.execute(
        "INSERT INTO as_configs (id, name, template, created_at) VALUES (?1, ?2, ?3, ?4)",
        params![config.id.to_string(), config.name, template, config.created_at],
    )?;
    Ok(())
}

/// Records a group.
///
/// # Errors
/// [`Error::Exists`] when the name is taken.
pub(crate) fn insert_group(connection: &Connection, group: &Group) -> Result<(), Error> {
    refuse_taken(connection, Noun::AsGroup, "as_groups", &group.name)?;
    connection.execute(
        "INSERT INTO as_groups (id, name, config_id, desired, smallest, largest, created_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        params![
            group.id.to_string(),
            group.name,
            group.config_id.to_string(),
            group.desired,
            group.smallest,
            group.largest,
            group.created_at
        ],
    )?;
    Ok(())
}

fn refuse_taken(connection: &Connection, noun: Noun, table: &str, name: &str) -> Result<(), Error> {
    let mut taken = connection.prepare_cached(&format!("SELECT 1 FROM {table} WHERE name = ?1"))?;
    if taken.exists([name])? { Err(Error::Exists { noun, name: name.to_owned() }) } else { Ok(()) }
}

/// Sets how many servers a group is to have.
///
/// # Errors
/// Those of the catalogue.
pub(crate) fn set_desired(connection: &Connection, group: Uuid, desired: u32) -> Result<(), Error> {
    connection
        .execute("UPDATE as_groups SET desired = ?2 WHERE id = ?1", params![group.to_string(), desired])?;
    Ok(())
}

/// Forgets a configuration.
///
/// # Errors
/// Those of the catalogue.
pub(crate) fn remove_config(connection: &Connection, id: Uuid) -> Result<(), Error> {
    connection.execute("DELETE FROM as_configs WHERE id = ?1", [id.to_string()])?;
    Ok(())
}

/// Forgets a group and its events.
///
/// # Errors
/// Those of the catalogue.
pub(crate) fn remove_group(connection: &Connection, id: Uuid) -> Result<(), Error> {
    connection.execute("DELETE FROM as_events WHERE group_id = ?1", [id.to_string()])?;
    connection.execute("DELETE FROM as_groups WHERE id = ?1", [id.to_string()])?;
    Ok(())
}

/// The configuration that a user's word means.
///
/// # Errors
/// [`Error::NotFound`], [`Error::Ambiguous`].
pub(crate) fn config(connection: &Connection, given: &str) -> Result<Config, Error> {
    let id = resolve(connection, Noun::AsConfig, given)?;
    let mut statement = connection.prepare_cached("SELECT * FROM as_configs WHERE id = ?1")?;
    let row = statement.query_row([id.to_string()], |row| Ok(read_config(row))).optional()?;
    row.unwrap_or_else(|| Err(Error::NotFound { noun: Noun::AsConfig, given: given.to_owned(), near: None }))
}

/// The group that a user's word means.
///
/// # Errors
/// [`Error::NotFound`], [`Error::Ambiguous`].
pub(crate) fn group(connection: &Connection, given: &str) -> Result<Group, Error> {
    let id = resolve(connection, Noun::AsGroup, given)?;
    let mut statement = connection.prepare_cached("SELECT * FROM as_groups WHERE id = ?1")?;
    let row = statement.query_row([id.to_string()], |row| Ok(read_group(row))).optional()?;
    row.unwrap_or_else(|| Err(Error::NotFound { noun: Noun::AsGroup, given: given.to_owned(), near: None }))
}

/// Every configuration, by name.
///
/// # Errors
/// Those of the catalogue.
pub(crate) fn configs(connection: &Connection) -> Result<Vec<Config>, Error> {
    let mut statement = connection.prepare_cached("SELECT * FROM as_configs ORDER BY name")?;
    let rows = statement.query_map([], |row| Ok(read_config(row)))?;
    rows.map(|row| row?).collect()
}

/// Every group, by name.
///
/// # Errors
/// Those of the catalogue.
pub(crate) fn groups(connection: &Connection) -> Result<Vec<Group>, Error> {
    let mut statement = connection.prepare_cached("SELECT * FROM as_groups ORDER BY name")?;
    let rows = statement.query_map([], |row| Ok(read_group(row)))?;
    rows.map(|row| row?).collect()
}

/// The names of a group's servers, shortest first, so that `g-10` follows `g-9`. What is half made, or half deleted, is none of them.
///
/// # Errors
/// Those of the catalogue.
pub(crate) fn members(connection: &Connection, group: Uuid) -> Result<Vec<String>, Error> {
    let members = of_group(connection, group)?.into_iter().filter(|server| server.status.is_whole());
    Ok(members.map(|server| server.name).collect())
}

/// The servers of a group that are half made, or half deleted, in the same order.
///
/// # Errors
/// Those of the catalogue.
pub(crate) fn unfinished(connection: &Connection, group: Uuid) -> Result<Vec<Server>, Error> {
    let mut servers = of_group(connection, group)?;
    servers.retain(|server| !server.status.is_whole());
    Ok(servers)
}

fn of_group(connection: &Connection, group: Uuid) -> Result<Vec<Server>, Error> {
    let mut servers = servers::all(connection)?;
    servers.retain(|server| server.group_id == Some(group));
    servers.sort_by(|a, b| (a.name.len(), &a.name).cmp(&(b.name.len(), &b.name)));
    Ok(servers)
}

/// Records what happened.
///
/// # Errors
/// Those of the catalogue.
pub(crate) fn tell(connection: &Connection, group: Uuid, event: &Event) -> Result<(), Error> {
    connection.execute(
        "INSERT INTO as_events (group_id, at, event, failed) VALUES (?1, ?2, ?3, ?4)",
        params![group.to_string(), event.at, event.event, event.failed],
    )?;
    Ok(())
}

/// The newest hundred events of a group, oldest first.
///
/// # Errors
/// Those of the catalogue.
pub(crate) fn events(connection: &Connection, group: Uuid) -> Result<Vec<Event>, Error> {
    let mut statement = connection.prepare_cached(
        "SELECT at, event, failed FROM as_events WHERE group_id = ?1 ORDER BY id DESC LIMIT 100",
    )?;
    let rows = statement.query_map([group.to_string()], |row| {
        Ok(Event { at: row.get(0)?, event: row.get(1)?, failed: row.get(2)? })
    })?;
    let mut events: Vec<Event> = rows.collect::<Result<_, _>>()?;
    events.reverse();
    Ok(events)
}

fn read_config(row: &Row<'_>) -> Result<Config, Error> {
    let template: String = row.get("template")?;
    Ok(Config {
        id: parse_id(&row.get::<_, String>("id")?)?,
        name: row.get("name")?,
        template: serde_json::from_str::<Template>(&template)
            .map_err(|_| CatalogError::Word { word: template, what: "template" })?,
        created_at: row.get("created_at")?,
    })
}

fn read_group(row: &Row<'_>) -> Result<Group, Error> {
    Ok(Group {
        id: parse_id(&row.get::<_, String>("id")?)?,
        name: row.get("name")?,
        config_id: parse_id(&row.get::<_, String>("config_id")?)?,
        desired: row.get("desired")?,
        smallest: row.get("smallest")?,
        largest: row.get("largest")?,
        created_at: row.get("created_at")?,
    })
}
