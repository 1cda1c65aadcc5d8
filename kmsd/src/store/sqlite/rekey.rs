//! Every MAC anew, within one transaction: after a crash either all are the old ones or all are the new ones.

use rusqlite::{Transaction, params};

use super::row::number;
use crate::{
    domain::integrity::{IntegrityKey, RowMac, RowMacs},
    store::StoreError,
};

/// Where MACs stand: table as the MAC names it, and how its rows are read and written. A table that is forgotten here is noticed by the
/// caller, who knows the names of all rows.
const PLACES: [(&str, &str, &str); 5] = [
    ("keys", "SELECT key_id, record FROM keys", "UPDATE keys SET mac = ?2 WHERE key_id = ?1"),
    ("aliases", "SELECT alias, record FROM aliases", "UPDATE aliases SET mac = ?2 WHERE alias = ?1"),
    ("anchors", "SELECT volume, record FROM anchors", "UPDATE anchors SET mac = ?2 WHERE volume = ?1"),
    (
        "access_keys",
        "SELECT access_key_id, record FROM access_keys",
        "UPDATE access_keys SET mac = ?2 WHERE access_key_id = ?1",
    ),
    (
        "clock",
        "SELECT 'clock', clock FROM state WHERE clock IS NOT NULL",
        "UPDATE state SET mac = ?2 WHERE 'clock' = ?1",
    ),
];

pub(super) fn renew(transaction: &Transaction<'_>, key: &IntegrityKey) -> Result<RowMacs, StoreError> {
    let mut macs = RowMacs::new();
    for (table, read, write) in PLACES {
        let mut read = transaction.prepare(read)?;
        let rows = read.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
        let rows: Vec<(String, String)> = rows.collect::<Result<_, _>>()?;
        let mut write = transaction.prepare(write)?;
        for (name, record) in rows {
            let mac = key.row(table, &name, record.as_bytes());
            write.execute(params![name, mac.as_slice()])?;
            macs.insert((table, name), mac);
        }
    }
    Ok(macs)
}

pub(super) fn finish(
    transaction: &Transaction<'_>,
    key_number: u64,
    epoch: u64,
    root: &RowMac,
) -> Result<(), StoreError> {
    let state = "INSERT INTO state (one, epoch, root) VALUES (1, ?1, ?2)
                 ON CONFLICT (one) DO UPDATE SET epoch = ?1, root = ?2";
    transaction.execute(state, params![number(epoch), root.as_slice()])?;
    let meta = "INSERT OR REPLACE INTO meta (name, value) VALUES ('store_key', ?1)";
    transaction.execute(meta, [key_number.to_string()])?;
    Ok(())
}
