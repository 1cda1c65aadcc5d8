//! What a start finds out of step between the store and the token, and what finishes it.
//!
//! Nothing is ever deleted because the token shows less than the store: that may be the wrong token.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    access_key,
    id::{KeyId, KeyVersion},
    key::{KeyRecord, Phase},
    registry::Registry,
    state::Origin,
};

/// One version's object in the token: its `CKA_ID` is the key's id and the version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectId {
    /// The key.
    pub key: KeyId,
    /// The version.
    pub version: KeyVersion,
}

impl ObjectId {
    /// Bytes of a `CKA_ID`.
    pub const LEN: usize = 20;

    /// The object's `CKA_ID`.
    #[must_use]
    pub fn to_bytes(self) -> [u8; Self::LEN] {
        let mut out = [0; Self::LEN];
        out[..16].copy_from_slice(self.key.as_bytes());
        out[16..].copy_from_slice(&self.version.number().to_be_bytes());
        out
    }

    /// The object that a `CKA_ID` stands for; `None` if it is not one of this service's.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; Self::LEN] = bytes.try_into().ok()?;
        let (key, version) = bytes.split_first_chunk::<16>()?;
        let version = u32::from_be_bytes(version.try_into().ok()?);
        Some(Self { key: KeyId::from_bytes(*key), version: KeyVersion::new(version)? })
    }
}

/// What a start has to do and to report.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Findings {
    /// The token has what was intended: confirm it.
    pub confirm: Vec<KeyRecord>,
    /// The token has nothing of what was intended: give the intent up.
    pub forget: Vec<KeyId>,
    /// A new version was intended and the token does not have it: take the version back.
    pub drop_version: Vec<KeyRecord>,
    /// Destruction was begun: finish it.
    pub destroy: Vec<KeyRecord>,
    /// The key is destroyed, and the token shows objects of it again: it, or a part of it, was put back. Destroy them again.
    pub revived: BTreeMap<KeyId, Vec<ObjectId>>,
    /// The store says that it is there, the token does not show it. Reported; the key does not work.
    pub missing: Vec<ObjectId>,
    /// The token has it, the store knows nothing of it. Reported, never deleted.
    pub orphans: Vec<ObjectId>,
    /// None of the versions that should be there is: this is another token's content.
    pub is_foreign: bool,
}

/// Compares the store with what the token shows.
#[must_use]
pub fn reconcile(registry: &Registry, token: &BTreeSet<ObjectId>) -> Findings {
    let mut findings = Findings::default();
    // The service's own; whether it is there matters only when access keys are used.
    let mut known = BTreeSet::from([access_key::SEALING_OBJECT]);
    let mut expected = 0;
    let mut destroyed = BTreeSet::new();
    for key in registry.keys() {
        let has = |version| token.contains(&ObjectId { key: key.id, version });
        for version in &key.versions {
            let object = ObjectId { key: key.id, version: version.version };
            known.insert(object);
            if version.phase == Phase::Live {
                expected += 1;
                if !has(version.version) {
                    findings.missing.push(object);
                }
            }
        }
        let intended: Vec<_> = key.versions.iter().filter(|v| v.phase == Phase::Creating).collect();
        match key.phase {
            Phase::Creating if intended.iter().all(|v| has(v.version)) => {
                findings.confirm.push(key.confirmed());
            }
            Phase::Creating => findings.forget.push(key.id),
            // Material from elsewhere that is on its way in or out is cleared away by the scheduler.
            Phase::Live if intended.is_empty() || key.origin == Origin::External => {}
            Phase::Live if intended.iter().all(|v| has(v.version)) => findings.confirm.push(key.confirmed()),
            Phase::Live => findings
                .drop_version
                .push(key.changed(|next| next.versions.retain(|v| v.phase != Phase::Creating))),
            Phase::Destroying => findings.destroy.push(KeyRecord::clone(key)),
            Phase::Destroyed => drop(destroyed.insert(key.id)),
        }
    }
    for object in token {
        if destroyed.contains(&object.key) {
            // Also versions that the record does not know: a key's id is never used again.
            findings.revived.entry(object.key).or_default().push(*object);
        } else if !known.contains(object) {
            findings.orphans.push(*object);
        }
    }
    findings.is_foreign = expected > 0 && findings.missing.len() == expected;
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{
        key::{self, KeySpec},
        principal::Principal,
        registry::Change,
        rotation,
        time::WallTime,
    };

    fn record(number: u8) -> KeyRecord {
        let spec = KeySpec::new(&format!("k{number}"), "", Principal::Uid(1)).unwrap();
        KeyRecord::creating(spec, KeyId::from_bytes([number; 16]), WallTime(i64::from(number)))
    }

    fn object(number: u8, version: u32) -> ObjectId {
        ObjectId { key: KeyId::from_bytes([number; 16]), version: KeyVersion::new(version).unwrap() }
    }

    fn registry(records: &[KeyRecord]) -> Registry {
        let mut registry = Registry::default();
        records.iter().for_each(|r| registry.apply(Change::PutKey(r.clone())));
        registry
    }

    #[test]
    fn object_ids_are_golden_and_invertible() {
        let id = object(0xab, 3);
        assert_eq!(hex::encode(id.to_bytes()), "ab".repeat(16) + "00000003");
        assert_eq!(ObjectId::from_bytes(&id.to_bytes()), Some(id));
        assert_eq!(ObjectId::from_bytes(b"other"), None);
        assert_eq!(ObjectId::from_bytes(&[0; 20]), None);
    }

    #[test]
    fn k4_an_intended_key_is_confirmed_or_given_up() {
        let registry = registry(&[record(1), record(2)]);
        let findings = reconcile(&registry, &[object(1, 1)].into());
        assert_eq!(findings.confirm, [record(1).confirmed()]);
        assert_eq!(findings.forget, [record(2).id]);
        assert_eq!(findings.orphans, []);
        assert!(!findings.is_foreign);
    }

    #[test]
    fn k4_a_begun_destruction_is_finished() {
        let destroying = record(1).confirmed().destroying();
        let findings = reconcile(&registry(std::slice::from_ref(&destroying)), &BTreeSet::new());
        assert_eq!(findings.destroy, [destroying]);
        assert!(findings.missing.is_empty() && !findings.is_foreign);
    }

    /// K4: a destroyed key is gone for good, whatever the token shows of it; and the record costs no living key anything.
    #[test]
    fn k4_a_destroyed_key_that_is_back_is_destroyed_again() {
        let destroyed = record(1).confirmed().destroying().destroyed();
        let registry = registry(&[destroyed, record(2).confirmed()]);
        let findings = reconcile(&registry, &[object(1, 1), object(1, 2), object(2, 1)].into());
        assert_eq!(findings.revived, [(record(1).id, vec![object(1, 1), object(1, 2)])].into());
        assert!(findings.orphans.is_empty() && findings.missing.is_empty() && !findings.is_foreign);
        assert!(reconcile(&registry, &[object(2, 1)].into()).revived.is_empty());
    }

    /// K6: material that was being imported is not taken for a new version.
    #[test]
    fn k6_unchecked_material_is_not_confirmed() {
        let spec = KeySpec::new("k1", "", Principal::Uid(1)).unwrap().external();
        let key = KeyRecord::creating(spec, KeyId::from_bytes([1; 16]), WallTime(1));
        let version = key::VersionRecord {
            version: KeyVersion::FIRST,
            phase: Phase::Creating,
            created_at: WallTime(1),
            cause: rotation::Cause::Creation,
            trusted_at: None,
        };
        let arriving = key.changed(|next| next.versions.push(version));
        let mut registry = registry(&[key]);
        registry.apply(Change::PutKey(arriving));
        for token in [BTreeSet::from([object(1, 1)]), BTreeSet::new()] {
            assert_eq!(reconcile(&registry, &token), Findings::default());
        }
    }

    #[test]
    fn k4_a_token_that_shows_less_costs_no_record() {
        let registry = registry(&[record(1).confirmed(), record(2).confirmed()]);
        let findings = reconcile(&registry, &[object(1, 1), object(9, 1)].into());
        assert_eq!(findings.missing, [object(2, 1)]);
        assert_eq!(findings.orphans, [object(9, 1)]);
        assert!(findings.forget.is_empty() && findings.destroy.is_empty() && !findings.is_foreign);
        assert!(reconcile(&registry, &[object(9, 1)].into()).is_foreign);
    }
}
