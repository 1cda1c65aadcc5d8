//! All keys and anchors as they stand: the read model, and the rules between records.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use uuid::Uuid;

use super::{
    access_key::{AccessKeyId, AccessKeyRecord},
    alias::{AliasRecord, MAX_ALIASES},
    anchor::AnchorRecord,
    id::{Alias, KeyId, KeyRef},
    key::{KeyRecord, Phase, SharedKey},
    principal::Principal,
    quota::Count,
    time::WallTime,
};

/// Everything that the store holds, in memory. The service is the store's only writer, so this is the truth.
#[derive(Debug, Default, Clone)]
pub struct Registry {
    keys: HashMap<KeyId, SharedKey>,
    /// Own names of keys that are not destroyed.
    names: HashMap<Alias, KeyId>,
    /// Names besides.
    aliases: HashMap<Alias, AliasRecord>,
    aliases_of: HashMap<KeyId, BTreeSet<Alias>>,
    by_age: BTreeMap<(WallTime, KeyId), SharedKey>,
    anchors: HashMap<Uuid, AnchorRecord>,
    access_keys: HashMap<AccessKeyId, AccessKeyRecord>,
}

/// A change to one record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A new key, or the next revision of one.
    PutKey(KeyRecord),
    /// A new alias, or what one stands for now.
    PutAlias(AliasRecord),
    /// An alias is no longer one; as it stood at that revision.
    ForgetAlias(Alias, u64),
    /// The intent to make a key is given up: the token has nothing of it.
    ForgetKey(KeyId),
    /// A new anchor, or where one stands now.
    PutAnchor(AnchorRecord),
    /// An anchor is no longer one; as it stood at that revision.
    ForgetAnchor(Uuid, u64),
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
    /// The key has as many as it may have.
    #[error("the key has too many aliases")]
    TooManyAliases,
}

impl Registry {
    /// The key with a name or id, whatever its phase.
    #[must_use]
    pub fn find(&self, key: &KeyRef) -> Option<&SharedKey> {
        let id = match key {
            KeyRef::Id(id) => id,
            KeyRef::Alias(alias) => match self.names.get(alias) {
                Some(id) => id,
                None => &self.aliases.get(alias)?.key,
            },
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
        self.names.len()
    }

    /// Keys that are not destroyed, default keys aside: all, and those of an owner.
    #[must_use]
    pub fn count(&self, owner: &Principal) -> Count {
        let living = self.keys.values().filter(|key| key.phase != Phase::Destroyed && !key.is_default);
        living.fold(Count::default(), |count, key| Count {
            all: count.all + 1,
            own: count.own + usize::from(key.owner == *owner),
        })
    }

    /// Grants on keys that are not destroyed: all, and those on keys of an owner.
    #[must_use]
    pub fn count_grants(&self, owner: &Principal) -> Count {
        self.keys.values().fold(Count::default(), |count, key| Count {
            all: count.all + key.grants.len(),
            own: count.own + if key.owner == *owner { key.grants.len() } else { 0 },
        })
    }

    /// An alias that is no key's own name.
    #[must_use]
    pub fn alias(&self, alias: &Alias) -> Option<&AliasRecord> {
        self.aliases.get(alias)
    }

    /// A key's aliases besides its own name, sorted.
    pub fn aliases_of(&self, key: KeyId) -> impl Iterator<Item = &AliasRecord> {
        self.aliases_of.get(&key).into_iter().flatten().filter_map(|alias| self.aliases.get(alias))
    }

    /// All aliases, in no order.
    pub fn aliases(&self) -> impl Iterator<Item = &AliasRecord> {
        self.aliases.values()
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
                let holder = self.names.get(&next.alias).filter(|id| **id != next.id);
                let is_taken = holder.is_some() || self.aliases.contains_key(&next.alias);
                if next.phase != Phase::Destroyed && is_taken {
                    return Err(Conflict::AliasTaken);
                }
                Ok(())
            }
            Change::PutAlias(next) => {
                if self.names.contains_key(&next.alias) {
                    return Err(Conflict::AliasTaken);
                }
                let old = self.aliases.get(&next.alias);
                if old.is_some() && next.revision == 0 {
                    return Err(Conflict::AliasTaken);
                }
                let is_live = self.keys.get(&next.key).is_some_and(|key| key.phase == Phase::Live);
                if next.revision != old.map_or(0, |old| old.revision + 1) || !is_live {
                    return Err(Conflict::Stale);
                }
                let is_new = old.is_none_or(|old| old.key != next.key);
                let count = self.aliases_of.get(&next.key).map_or(0, BTreeSet::len);
                if is_new && count >= MAX_ALIASES { Err(Conflict::TooManyAliases) } else { Ok(()) }
            }
            Change::ForgetAlias(alias, revision) => match self.aliases.get(alias) {
                Some(record) if record.revision == *revision => Ok(()),
                _ => Err(Conflict::Stale),
            },
            Change::ForgetKey(id) => match self.keys.get(id) {
                Some(key) if key.phase == Phase::Creating => Ok(()),
                _ => Err(Conflict::Stale),
            },
            Change::PutAnchor(next) => {
                let revision = self.anchors.get(&next.volume).map(|anchor| anchor.revision);
                if next.revision == revision.map_or(0, |r| r + 1) { Ok(()) } else { Err(Conflict::Stale) }
            }
            Change::ForgetAnchor(volume, revision) => match self.anchors.get(volume) {
                Some(record) if record.revision == *revision => Ok(()),
                _ => Err(Conflict::Stale),
            },
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
                    self.names.insert(next.alias.clone(), next.id);
                }
                let next = SharedKey::new(next);
                self.by_age.insert((next.created_at, next.id), SharedKey::clone(&next));
                self.keys.insert(next.id, next);
            }
            Change::ForgetKey(id) => self.forget(id),
            Change::PutAlias(next) => {
                self.forget_alias(&next.alias);
                self.aliases_of.entry(next.key).or_default().insert(next.alias.clone());
                self.aliases.insert(next.alias.clone(), next);
            }
            Change::ForgetAlias(alias, _) => self.forget_alias(&alias),
            Change::PutAnchor(next) => {
                self.anchors.insert(next.volume, next);
            }
            Change::ForgetAnchor(volume, _) => {
                self.anchors.remove(&volume);
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
            if self.names.get(&old.alias) == Some(&id) {
                self.names.remove(&old.alias);
            }
        }
    }

    fn forget_alias(&mut self, alias: &Alias) {
        let Some(old) = self.aliases.remove(alias) else { return };
        if let Some(all) = self.aliases_of.get_mut(&old.key) {
            all.remove(alias);
            if all.is_empty() {
                self.aliases_of.remove(&old.key);
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

    const fn volume(&self) -> Option<Uuid> {
        match self {
            Self::PutAnchor(record) => Some(record.volume),
            Self::ForgetAnchor(volume, _) => Some(*volume),
            _ => None,
        }
    }

    /// Names that it is about, and the key.
    fn names(&self) -> (Option<&Alias>, Option<KeyId>) {
        match self {
            Self::PutKey(key) => (Some(&key.alias), Some(key.id)),
            Self::ForgetKey(id) => (None, Some(*id)),
            Self::PutAlias(record) => (Some(&record.alias), Some(record.key)),
            Self::ForgetAlias(alias, _) => (Some(alias), None),
            _ => (None, None),
        }
    }

    /// Whether two changes touch the same thing, so that the later one must see the earlier one's effect.
    #[must_use]
    pub fn touches(&self, other: &Self) -> bool {
        let (a, b) = (self.names(), other.names());
        let same_name = a.0.is_some() && a.0 == b.0;
        let same_key = a.1.is_some() && a.1 == b.1;
        let same_access_key = self.access_key().is_some() && self.access_key() == other.access_key();
        let same_volume = self.volume().is_some() && self.volume() == other.volume();
        same_name || same_key || same_access_key || same_volume
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Principal, key::KeySpec};

    fn key(number: u8) -> KeyRecord {
        let spec = KeySpec::new(&format!("k{number}"), "", Principal::Uid(1)).unwrap();
        KeyRecord::creating(spec, KeyId::from_bytes([number; 16]), WallTime(0)).confirmed()
    }

    fn alias(name: &str, number: u8, revision: u64) -> Change {
        Change::PutAlias(AliasRecord {
            alias: name.parse().unwrap(),
            revision,
            key: KeyId::from_bytes([number; 16]),
            created_at: WallTime(1),
            updated_at: WallTime(1),
        })
    }

    fn named(registry: &Registry, name: &str) -> Option<KeyId> {
        registry.find(&name.parse().unwrap()).map(|key| key.id)
    }

    /// A name is one key's, whichever way it became that.
    #[test]
    fn names_and_aliases_share_one_space() {
        let mut registry = Registry::default();
        registry.apply(Change::PutKey(key(1)));
        registry.apply(Change::PutKey(key(2)));
        assert_eq!(registry.admits(&alias("k2", 1, 0)), Err(Conflict::AliasTaken));
        assert_eq!(registry.admits(&alias("a", 9, 0)), Err(Conflict::Stale), "no such key");
        registry.apply(alias("a", 1, 0));
        assert_eq!(named(&registry, "a"), Some(key(1).id));
        assert_eq!(registry.admits(&alias("a", 2, 0)), Err(Conflict::AliasTaken));
        let renamed = key(2).changed(|next| next.alias = "a".parse().unwrap());
        assert_eq!(registry.admits(&Change::PutKey(renamed)), Err(Conflict::AliasTaken));
        // Moved, it is the other key's alone; the key's own name still stands for it.
        assert_eq!(registry.admits(&alias("a", 2, 1)), Ok(()));
        registry.apply(alias("a", 2, 1));
        assert_eq!((named(&registry, "a"), registry.aliases_of(key(1).id).count()), (Some(key(2).id), 0));
        assert_eq!(registry.admits(&alias("a", 1, 1)), Err(Conflict::Stale), "moved meanwhile");
        assert_eq!(named(&registry, "k1"), Some(key(1).id));
        assert_eq!(registry.admits(&Change::ForgetAlias("a".parse().unwrap(), 0)), Err(Conflict::Stale));
        registry.apply(Change::ForgetAlias("a".parse().unwrap(), 1));
        assert_eq!(named(&registry, "a"), None);
        assert_eq!(registry.living(), 2, "aliases are no keys");
    }

    #[test]
    fn aliases_of_a_key_are_bounded() {
        let mut registry = Registry::default();
        registry.apply(Change::PutKey(key(1)));
        registry.apply(Change::PutKey(key(2)));
        for number in 0..MAX_ALIASES {
            let put = alias(&format!("a{number}"), 1, 0);
            assert_eq!(registry.admits(&put), Ok(()));
            registry.apply(put);
        }
        assert_eq!(registry.admits(&alias("more", 1, 0)), Err(Conflict::TooManyAliases));
        registry.apply(alias("more", 2, 0));
        assert_eq!(registry.admits(&alias("more", 1, 1)), Err(Conflict::TooManyAliases));
        assert_eq!(registry.admits(&alias("a0", 1, 1)), Ok(()), "it is one of the key's already");
    }
}
