//! The schema and its migrations. A migration that has landed is never changed; a new one is appended.

use rusqlite::{Connection, TransactionBehavior};

use crate::catalog::CatalogError;

/// Migration n brings version n to n + 1 (`user_version`).
pub(super) const MIGRATIONS: [&str; 5] = [
    "CREATE TABLE servers (
        id          TEXT PRIMARY KEY,
        name        TEXT NOT NULL UNIQUE,
        status      TEXT NOT NULL,
        created_at  TEXT NOT NULL
    ) STRICT;
    CREATE TABLE disks (
        id              TEXT PRIMARY KEY,
        name            TEXT NOT NULL UNIQUE,
        status          TEXT NOT NULL,
        size            INTEGER NOT NULL CHECK (size > 0 AND size % 4096 = 0),
        encrypted       INTEGER NOT NULL CHECK (encrypted IN (0, 1)),
        key_id          TEXT,
        key_alias       TEXT,
        server_id       TEXT REFERENCES servers (id),
        serving_pid     INTEGER,
        serving_started TEXT,
        reason          TEXT,
        created_at      TEXT NOT NULL
    ) STRICT;
    CREATE INDEX disks_by_server ON disks (server_id);
    -- What is being done: one row from the intent to its confirmation.
    CREATE TABLE operations (
        resource_id TEXT PRIMARY KEY,
        noun        TEXT NOT NULL,
        operation   TEXT NOT NULL,
        began_at    TEXT NOT NULL
    ) STRICT;",
    // Images and backups are volumes too, with names of their own; servers know their image; auto scaling.
    "CREATE TABLE volumes (
        id              TEXT PRIMARY KEY,
        kind            TEXT NOT NULL,
        name            TEXT NOT NULL,
        status          TEXT NOT NULL,
        size            INTEGER NOT NULL CHECK (size > 0 AND size % 4096 = 0),
        encrypted       INTEGER NOT NULL CHECK (encrypted IN (0, 1)),
        key_id          TEXT,
        key_alias       TEXT,
        server_id       TEXT REFERENCES servers (id),
        role            TEXT NOT NULL,
        source          TEXT,
        serving_pid     INTEGER,
        serving_started TEXT,
        reason          TEXT,
        created_at      TEXT NOT NULL,
        UNIQUE (kind, name)
    ) STRICT;
    INSERT INTO volumes
        SELECT id, 'disk', name, status, size, encrypted, key_id, key_alias, server_id, 'data', NULL,
               serving_pid, serving_started, reason, created_at FROM disks;
    DROP TABLE disks;
    CREATE INDEX volumes_by_server ON volumes (server_id);
    CREATE TABLE as_configs (
        id          TEXT PRIMARY KEY,
        name        TEXT NOT NULL UNIQUE,
        template    TEXT NOT NULL,
        created_at  TEXT NOT NULL
    ) STRICT;
    CREATE TABLE as_groups (
        id          TEXT PRIMARY KEY,
        name        TEXT NOT NULL UNIQUE,
        config_id   TEXT NOT NULL REFERENCES as_configs (id),
        desired     INTEGER NOT NULL,
        smallest    INTEGER NOT NULL,
        largest     INTEGER NOT NULL,
        created_at  TEXT NOT NULL
    ) STRICT;
    CREATE TABLE as_events (
        id          INTEGER PRIMARY KEY AUTOINCREMENT,
        group_id    TEXT NOT NULL,
        at          TEXT NOT NULL,
        event       TEXT NOT NULL,
        failed      INTEGER NOT NULL CHECK (failed IN (0, 1))
    ) STRICT;
    CREATE INDEX as_events_by_group ON as_events (group_id);
    ALTER TABLE servers ADD COLUMN image TEXT;
    ALTER TABLE servers ADD COLUMN group_id TEXT REFERENCES as_groups (id);",
    // Snapshots, and disks that are thin over an image.
    "CREATE TABLE snapshots (
        id          TEXT PRIMARY KEY,
        name        TEXT NOT NULL UNIQUE,
        disk_id     TEXT NOT NULL REFERENCES volumes (id),
        size        INTEGER NOT NULL,
        created_at  TEXT NOT NULL
    ) STRICT;
    CREATE INDEX snapshots_by_disk ON snapshots (disk_id);
    ALTER TABLE volumes ADD COLUMN base_id TEXT REFERENCES volumes (id);
    CREATE INDEX volumes_by_base ON volumes (base_id);",
    // Thin disks that are, or were to be, flattened: whether they need their image still is looked up in their headers.
    "ALTER TABLE volumes ADD COLUMN flattening INTEGER NOT NULL DEFAULT 0 CHECK (flattening IN (0, 1));
    CREATE INDEX volumes_flattening ON volumes (id) WHERE flattening = 1;",
    // The server that a disk was made with. Until here that was not recorded: the two have one time, that of the command, and the disk has
    // the server's name.
    "ALTER TABLE volumes ADD COLUMN made_with TEXT REFERENCES servers (id) ON DELETE SET NULL;
    CREATE INDEX volumes_by_maker ON volumes (made_with);
    UPDATE volumes SET made_with = (
        SELECT servers.id FROM servers
        WHERE volumes.kind = 'disk' AND volumes.created_at = servers.created_at
            AND (volumes.role = 'system' AND volumes.name = servers.name || '-system'
                OR volumes.role = 'data' AND (volumes.name GLOB servers.name || '-data[1-9]'
                    OR volumes.name GLOB servers.name || '-data[1-9][0-9]'))
        ORDER BY length(servers.name) DESC LIMIT 1);",
];

/// The version that this program writes.
pub(super) const VERSION: i64 = 5;
const _: () = assert!(MIGRATIONS.len() == 5, "VERSION counts the migrations");

/// The version of a database; 0 is an empty one.
pub(super) fn version(connection: &Connection) -> Result<i64, rusqlite::Error> {
    connection.pragma_query_value(None, "user_version", |row| row.get(0))
}

/// Brings a database up to [`VERSION`], each migration in a transaction of its own.
pub(super) fn migrate(connection: &mut Connection) -> Result<(), CatalogError> {
    loop {
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let found = version(&transaction)?;
        if found > VERSION {
            return Err(CatalogError::TooNew { found, known: VERSION });
        }
        let Some(migration) = usize::try_from(found).ok().and_then(|n| MIGRATIONS.get(n)) else {
            return Ok(());
        };
        transaction.execute_batch(migration)?;
        transaction.pragma_update(None, "user_version", found + 1)?;
        transaction.commit()?;
    }
}
