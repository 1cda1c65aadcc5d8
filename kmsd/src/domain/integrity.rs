//! MACs over the store's rows, and over all of them together, so that editing the file changes nothing unseen.
//!
//! A row's MAC covers its table, its name and its bytes. The root covers the number of the commit and every row's MAC, so
//! that an older row cannot be put back, nor one be removed. An older file as a whole is shown by the epoch that the token
//! keeps.

use std::collections::BTreeMap;

use hmac::{Hmac, KeyInit, Mac};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use zeroize::{Zeroize, ZeroizeOnDrop};

use super::audit::Head;

/// A key that the token derives at the service's start. It stays in memory, so that a key can be disabled while the token is
/// away.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct IntegrityKey([u8; 32]);

/// What the MACs of a row cover.
pub type RowMac = [u8; 32];

/// MACs by table and row.
pub type RowMacs = BTreeMap<(&'static str, String), RowMac>;

impl IntegrityKey {
    /// Takes what the token derived.
    #[must_use]
    pub const fn new(key: [u8; 32]) -> Self {
        Self(key)
    }

    /// The MAC of a row.
    #[must_use]
    pub fn row(&self, table: &str, name: &str, bytes: &[u8]) -> RowMac {
        self.mac(b"kmsd row", &[table.as_bytes(), name.as_bytes(), bytes])
    }

    /// The MAC over all rows, at the commit with that number.
    #[must_use]
    pub fn root(&self, epoch: u64, rows: &RowMacs) -> RowMac {
        let mut all = Sha256::new();
        rows.values().for_each(|mac| all.update(mac));
        self.mac(b"kmsd root", &[&epoch.to_be_bytes(), &all.finalize()])
    }

    fn mac(&self, purpose: &[u8], parts: &[&[u8]]) -> RowMac {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0).expect("HMAC takes keys of any length");
        mac.update(purpose);
        for part in parts {
            mac.update(&u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
            mac.update(part);
        }
        mac.finalize().into_bytes().into()
    }
}

/// Whether two MACs are the same, in constant time.
#[must_use]
pub fn same(a: &RowMac, b: &[u8]) -> bool {
    use subtle::ConstantTimeEq;
    a.as_slice().ct_eq(b).into()
}

/// What the token remembers of the files beside it, so that older copies of them are known as such.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenNote {
    /// Number of the store's newest commit.
    pub epoch: u64,
    /// Where the audit log ends.
    pub audit: Head,
    /// Number of the store's integrity key, from 1; 0 in notes of versions that knew only one.
    #[serde(default)]
    pub store_key: u64,
    /// Number of the audit log's newest file: its key is derived from it, so a number is never used twice. 0 in notes of versions that did not note it.
    #[serde(default)]
    pub file: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn macs_bind_table_name_bytes_and_their_boundaries() {
        let key = IntegrityKey::new([1; 32]);
        let mac = key.row("keys", "ab", b"cd");
        for other in [
            key.row("key", "sab", b"cd"),
            key.row("keys", "abc", b"d"),
            key.row("keys", "a", b"bcd"),
            key.row("anchors", "ab", b"cd"),
            IntegrityKey::new([2; 32]).row("keys", "ab", b"cd"),
        ] {
            assert!(!same(&mac, &other));
        }
        assert!(same(&mac, &key.row("keys", "ab", b"cd")));
    }

    #[test]
    fn the_root_binds_epoch_and_every_row() {
        let key = IntegrityKey::new([1; 32]);
        let mut rows: RowMacs =
            [(("keys", "a".to_owned()), [1; 32]), (("keys", "b".to_owned()), [2; 32])].into();
        let root = key.root(5, &rows);
        assert!(!same(&root, &key.root(6, &rows)));
        rows.insert(("keys", "b".to_owned()), [3; 32]);
        assert!(!same(&root, &key.root(5, &rows)));
        rows.remove(&("keys", "b".to_owned()));
        assert!(!same(&root, &key.root(5, &rows)));
    }
}
