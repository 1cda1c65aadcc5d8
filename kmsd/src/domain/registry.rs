//! All keys and anchors as they stand: the read model, and the rules between records.

use std::collections::{BTreeMap, HashMap};

use uuid::Uuid;

use super::{
    access_key::{AccessKeyId, AccessKeyRecord},
    anchor::AnchorRecord,
    id::{Alias, KeyId, KeyRef},
    key::{KeyRecord, Phase, SharedKey},
    time::WallTime,
};

/// Everything that the store holds, in memory. The service is the store's only writer, so this is the truth.
#[derive(Debug, Default, Clone)]
pub struct Registry {
    keys: HashMap<KeyId, SharedKey>,
    aliases: HashMap<Alias, KeyId>,
    by_age: BTreeMap<(WallTime, KeyId), SharedKey>,
    anchors: HashMap<Uuid, AnchorRecord>,
    access_keys: HashMap<AccessKeyId, AccessKeyRecord>,
}

/// A change to one record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A new key, or the next revision of one.
    PutKey(KeyRecord),
    /// The intent to make a key is given up: the token has nothing of it.
    ForgetKey(KeyId),
    /// A new anchor, or where one stands now.
    PutAnchor(AnchorRecord),
    /// A new access key.
    PutAccessKey(AccessKeyRecord),
    /// An access key is no longer one.
    ForgetAccessKey(AccessKeyId),
}

/// Why a change does not fit what is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Conflict {
    /// The record was changed in between: decide again.
    #[error("the record was changed at the same time")]
    Stale,
    /// The name is another key's.
    #[error("the alias is taken")]
    AliasTaken,
}

impl Registry {
    /// The key with a name or id, whatever its phase.
    #[must_use]
    pub fn find(&self, key: &KeyRef) -> Option<&SharedKey> {
        let id = match key {
            KeyRef::Id(id) => id,
            KeyRef::Alias(alias) => self.aliases.get(alias)?,
        };
        self.keys.get(id)
    }

    /// All records, oldest first, destroyed ones included.
    pub fn keys(&self) -> impl Iterator<Item = &SharedKey> {
        self.by_age.values()
    }

    /// Keys that are not destroyed.
    #[must_use]
    pub fn living(&self) -> usize {
        self.aliases.len()
    }

    /// A volume's anchor.
    #[must_use]
    pub fn anchor(&self, volume: &Uuid) -> Option<&AnchorRecord> {
        self.anchors.get(volume)
    }

    /// All anchors.
    pub fn anchors(&self) -> impl Iterator<Item = &AnchorRecord> {
        self.anchors.values()
    }

    /// An access key.
    #[must_use]
    pub fn access_key(&self, id: &AccessKeyId) -> Option<&AccessKeyRecord> {
        self.access_keys.get(id)
    }

    /// All access keys, in no order.
    pub fn access_keys(&self) -> impl Iterator<Item = &AccessKeyRecord> {
        self.access_keys.values()
    }

    /// Whether a change fits.
    ///
    /// # Errors
    /// What it collides with.
    pub fn admits(&self, change: &Change) -> Result<(), Conflict> {
        match change {
            Change::PutKey(next) => {
                let revision = self.keys.get(&next.id).map(|key| key.revision);
                if next.revision != revision.map_or(0, |r| r + 1) {
                    return Err(Conflict::Stale);
                }
                let holder = self.aliases.get(&next.alias).filter(|id| **id != next.id);
                if next.phase != Phase::Destroyed && holder.is_some() {
                    return Err(Conflict::AliasTaken);
                }
                Ok(())
            }
            Change::ForgetKey(id) => match self.keys.get(id) {
                Some(key) if key.phase == Phase::Creating => Ok(()),
                _ => Err(Conflict::Stale),
            },
            Change::PutAnchor(next) => {
                let revision = self.anchors.get(&next.volume).map(|anchor| anchor.revision);
                if next.revision == revision.map_or(0, |r| r + 1) { Ok(()) } else { Err(Conflict::Stale) }
            }
            Change::PutAccessKey(next) if self.access_keys.contains_key(&next.id) => Err(Conflict::Stale),
            Change::ForgetAccessKey(id) if !self.access_keys.contains_key(id) => Err(Conflict::Stale),
            Change::PutAccessKey(_) | Change::ForgetAccessKey(_) => Ok(()),
        }
    }

    /// Takes a change that is durable now.
    pub fn apply(&mut self, change: Change) {
        match change {
            Change::PutKey(next) => {
                self.forget(next.id);
                if next.phase != Phase::Destroyed {
                    self.aliases.insert(next.alias.clone(), next.id);
                }
                let next = SharedKey::new(next);
                self.by_age.insert((next.created_at, next.id), SharedKey::clone(&next));
                self.keys.insert(next.id, next);
            }
            Change::ForgetKey(id) => self.forget(id),
            Change::PutAnchor(next) => {
                self.anchors.insert(next.volume, next);
            }
            Change::PutAccessKey(next) => {
                self.access_keys.insert(next.id.clone(), next);
            }
            Change::ForgetAccessKey(id) => {
                self.access_keys.remove(&id);
            }
        }
    }

    fn forget(&mut self, id: KeyId) {
        if let Some(old) = self.keys.remove(&id) {
            self.by_age.remove(&(old.created_at, id));
            if self.aliases.get(&old.alias) == Some(&id) {
                self.aliases.remove(&old.alias);
            }
        }
    }
}

impl Change {
    const fn access_key(&self) -> Option<&AccessKeyId> {
        match self {
            Self::PutAccessKey(record) => Some(&record.id),
            Self::ForgetAccessKey(id) => Some(id),
            _ => None,
        }
    }

    /// Whether two changes touch the same thing, so that the later one must see the earlier one's effect.
    #[must_use]
    pub fn touches(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::PutKey(a), Self::PutKey(b)) => a.id == b.id || a.alias == b.alias,
            (Self::PutKey(key), Self::ForgetKey(id)) | (Self::ForgetKey(id), Self::PutKey(key)) => {
                key.id == *id
            }
            (Self::ForgetKey(a), Self::ForgetKey(b)) => a == b,
            (Self::PutAnchor(a), Self::PutAnchor(b)) => a.volume == b.volume,
            (Self::PutAnchor(_), _) | (_, Self::PutAnchor(_)) => false,
            _ => match (self.access_key(), other.access_key()) {
                (Some(a), Some(b)) => a == b,
                _ => false,
            },
        }
    }
}
