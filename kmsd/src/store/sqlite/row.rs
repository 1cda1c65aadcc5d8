//! One row: its place, its bytes, and how it is written.

use rusqlite::{Transaction, params};

use crate::{
    domain::{
        alias::AliasRecord,
        anchor::AnchorRecord,
        integrity::{RowMac, RowMacs},
        key::{KeyRecord, Phase},
        registry::Change,
    },
    store::StoreError,
};

/// A row to be written, as the bytes that its MAC covers.
pub(super) enum Row<'a> {
    Key(&'a KeyRecord, String),
    NoKey(String),
    Alias(&'a AliasRecord, String),
    NoAlias(String),
    Anchor(&'a AnchorRecord, String),
    NoAnchor(String),
    AccessKey(String, String),
    NoAccessKey(String),
    Clock(String),
}

impl<'a> Row<'a> {
    pub(super) fn new(change: &'a Change) -> Self {
        match change {
            Change::PutKey(key) => Self::Key(key, to_json(key)),
            Change::ForgetKey(id) => Self::NoKey(id.to_string()),
            Change::PutAlias(record) => Self::Alias(record, to_json(record)),
            Change::ForgetAlias(alias, _) => Self::NoAlias(alias.to_string()),
            Change::PutAnchor(anchor) => Self::Anchor(anchor, to_json(anchor)),
            Change::ForgetAnchor(volume, _) => Self::NoAnchor(volume.to_string()),
            Change::PutAccessKey(record) => Self::AccessKey(record.id.to_string(), to_json(record)),
            Change::ForgetAccessKey(id) => Self::NoAccessKey(id.to_string()),
        }
    }

    pub(super) const fn table(&self) -> &'static str {
        match self {
            Self::Key(..) | Self::NoKey(_) => "keys",
            Self::Alias(..) | Self::NoAlias(_) => "aliases",
            Self::Anchor(..) | Self::NoAnchor(_) => "anchors",
            Self::AccessKey(..) | Self::NoAccessKey(_) => "access_keys",
            Self::Clock(_) => "clock",
        }
    }

    pub(super) fn name(&self) -> String {
        match self {
            Self::Key(key, _) => key.id.to_string(),
            Self::NoKey(id)
            | Self::NoAlias(id)
            | Self::NoAnchor(id)
            | Self::AccessKey(id, _)
            | Self::NoAccessKey(id) => id.clone(),
            Self::Alias(record, _) => record.alias.to_string(),
            Self::Anchor(anchor, _) => anchor.volume.to_string(),
            Self::Clock(_) => "clock".to_owned(),
        }
    }

    pub(super) fn json(&self) -> Option<&str> {
        match self {
            Self::Key(_, json)
            | Self::Alias(_, json)
            | Self::Anchor(_, json)
            | Self::AccessKey(_, json)
            | Self::Clock(json) => Some(json),
            Self::NoKey(_) | Self::NoAlias(_) | Self::NoAnchor(_) | Self::NoAccessKey(_) => None,
        }
    }

    pub(super) fn write(&self, transaction: &Transaction<'_>, macs: &RowMacs) -> Result<(), StoreError> {
        let name = self.name();
        let mac = macs.get(&(self.table(), name.clone())).map(RowMac::as_slice);
        let written = match self {
            Self::Key(key, json) => {
                let alias = name_of(key);
                transaction
                    .prepare_cached(
                        "INSERT INTO keys (key_id, revision, alias, record, mac) VALUES (?1, ?2, ?3, ?4, ?5)
                         ON CONFLICT (key_id) DO UPDATE
                         SET revision = ?2, alias = ?3, record = ?4, mac = ?5 WHERE revision = ?2 - 1",
                    )?
                    .execute(params![name, number(key.revision), alias, json, mac])?
            }
            Self::NoKey(id) => {
                transaction.prepare_cached("DELETE FROM keys WHERE key_id = ?1")?.execute([id])?
            }
            Self::Alias(record, json) => transaction
                .prepare_cached(
                    "INSERT INTO aliases (alias, revision, record, mac) VALUES (?1, ?2, ?3, ?4)
                     ON CONFLICT (alias) DO UPDATE
                     SET revision = ?2, record = ?3, mac = ?4 WHERE revision = ?2 - 1",
                )?
                .execute(params![name, number(record.revision), json, mac])?,
            Self::NoAlias(alias) => {
                transaction.prepare_cached("DELETE FROM aliases WHERE alias = ?1")?.execute([alias])?
            }
            Self::Anchor(anchor, json) => transaction
                .prepare_cached(
                    "INSERT INTO anchors (volume, revision, record, mac) VALUES (?1, ?2, ?3, ?4)
                     ON CONFLICT (volume) DO UPDATE
                     SET revision = ?2, record = ?3, mac = ?4 WHERE revision = ?2 - 1",
                )?
                .execute(params![name, number(anchor.revision), json, mac])?,
            Self::NoAnchor(volume) => {
                transaction.prepare_cached("DELETE FROM anchors WHERE volume = ?1")?.execute([volume])?
            }
            Self::AccessKey(id, json) => transaction
                .prepare_cached("INSERT INTO access_keys (access_key_id, record, mac) VALUES (?1, ?2, ?3)")?
                .execute(params![id, json, mac])?,
            Self::NoAccessKey(id) => transaction
                .prepare_cached("DELETE FROM access_keys WHERE access_key_id = ?1")?
                .execute([id])?,
            Self::Clock(json) => transaction
                .prepare_cached(
                    "INSERT INTO state (one, epoch, clock, mac, root) VALUES (1, 0, ?1, ?2, x'')
                     ON CONFLICT (one) DO UPDATE SET clock = ?1, mac = ?2",
                )?
                .execute(params![json, mac])?,
        };
        // The writer has checked against memory; a row that differs was changed by somebody else.
        if written == 1 { Ok(()) } else { Err(StoreError::Conflict) }
    }
}

/// The name that a key keeps others from having: a destroyed one none.
pub(super) fn name_of(key: &KeyRecord) -> Option<&str> {
    (key.phase != Phase::Destroyed).then(|| key.alias.as_str())
}

pub(super) fn to_json(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).expect("records serialise")
}

pub(super) fn number(count: u64) -> i64 {
    i64::try_from(count).expect("fewer than 2^63 changes")
}
