//! A key's record, and the changes that it can undergo. Each change takes a record and gives the next one.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{
    grant::Grant,
    id::{Alias, KeyId, KeyVersion},
    import::ImportRecord,
    key_policy::KeyPolicy,
    operation::Operation,
    policy::Permit,
    principal::Principal,
    refusal::{KeyName, Refusal},
    rotation::{Cause, Schedule},
    state::{KeyState, Origin},
    tags::Tags,
    time::{TrustedTime, WallTime},
};

/// Where a record or a version stands between intent and confirmation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Recorded; the token may or may not have it yet.
    Creating,
    /// In the token.
    Live,
    /// To be destroyed now; the token may or may not have it still.
    Destroying,
    /// Gone from the token for good.
    Destroyed,
}

/// One version of a key's material.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VersionRecord {
    /// Its number.
    pub version: KeyVersion,
    /// Where it stands.
    pub phase: Phase,
    /// When it was made.
    pub created_at: WallTime,
    /// Why it was made.
    #[serde(default)]
    pub cause: Cause,
    /// When it was made by rotation, on the trusted axis.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trusted_at: Option<TrustedTime>,
}

/// Everything that is stored of a key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyRecord {
    /// Its id.
    pub id: KeyId,
    /// Counts the changes; a change is made to the revision that it was decided on, or not at all.
    pub revision: u64,
    /// Its name.
    pub alias: Alias,
    /// Free text.
    pub description: String,
    /// Who made it.
    pub owner: Principal,
    /// Whether the system made it (K3).
    pub is_default: bool,
    /// Where its material comes from.
    pub origin: Origin,
    /// Where it stands.
    pub phase: Phase,
    /// What it may be used for.
    pub state: KeyState,
    /// When it was made.
    pub created_at: WallTime,
    /// When it is to be destroyed, on the trusted axis.
    pub deletion_due: Option<TrustedTime>,
    /// Its material, oldest first. Never empty while it lives, unless it waits for an import.
    pub versions: Vec<VersionRecord>,
    /// What people sort it by.
    #[serde(default, skip_serializing_if = "Tags::is_empty")]
    pub tags: Tags,
    /// Who may use it besides (K7), oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub grants: Vec<Grant>,
    /// What its owner lets others do, and forbids (K7).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<KeyPolicy>,
    /// What is known of material from elsewhere (K6).
    #[serde(default, skip_serializing_if = "ImportRecord::is_empty")]
    pub import: Box<ImportRecord>,
    /// Rotation by interval, if it is on (K5).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rotation: Option<Schedule>,
}

/// What a new key is made from, already checked.
#[derive(Clone, Debug)]
pub struct KeySpec {
    /// Its name.
    pub alias: Alias,
    /// Free text.
    pub description: String,
    /// Who makes it.
    pub owner: Principal,
    /// Whether the system makes it.
    pub is_default: bool,
    /// Where its material comes from.
    pub origin: Origin,
    /// What people sort it by.
    pub tags: Tags,
    /// What its owner lets others do, and forbids.
    pub policy: Option<KeyPolicy>,
}

/// Fewest and most days between scheduling a deletion and the deletion.
pub const DELETION_DAYS: std::ops::RangeInclusive<u16> = 7..=1096;
/// Longest description, in characters.
pub const MAX_DESCRIPTION: usize = 255;

impl KeySpec {
    /// Checks what a caller asks for.
    ///
    /// # Errors
    /// If the name is not valid or is the system's (K3), or the description is too long.
    pub fn new(alias: &str, description: &str, owner: Principal) -> Result<Self, Refusal> {
        let alias: Alias = alias.parse()?;
        if alias.is_reserved() {
            return Err(Refusal::AliasReserved { alias });
        }
        check_description(description)?;
        Ok(Self {
            alias,
            description: description.to_owned(),
            owner,
            is_default: false,
            origin: Origin::Kms,
            tags: Tags::default(),
            policy: None,
        })
    }

    /// Whose material comes from elsewhere (K6).
    #[must_use]
    pub fn external(mut self) -> Self {
        self.origin = Origin::External;
        self
    }

    /// With tags from the start.
    ///
    /// # Errors
    /// If one of them is not a tag, or there are too many.
    pub fn with_tags(mut self, tags: &[(String, String)]) -> Result<Self, Refusal> {
        self.tags = self.tags.with(tags)?;
        Ok(self)
    }

    /// With a policy from the start.
    #[must_use]
    pub fn with_policy(self, policy: Option<KeyPolicy>) -> Self {
        Self { policy, ..self }
    }

    /// A key that its caller gives no name: it gets one that nobody would choose.
    ///
    /// # Errors
    /// If the description is too long.
    pub fn unnamed(random: [u8; 16], description: &str, owner: Principal) -> Result<Self, Refusal> {
        Self::new(Alias::generated(random).as_str(), description, owner)
    }

    /// A default key (K3).
    #[must_use]
    pub fn default_key(alias: Alias) -> Self {
        Self {
            alias,
            description: "Default key".to_owned(),
            owner: Principal::System,
            is_default: true,
            origin: Origin::Kms,
            tags: Tags::default(),
            policy: None,
        }
    }
}

impl KeyRecord {
    /// The intent to make a key: recorded before the token is asked. One of external origin is not made, but waits for its material.
    #[must_use]
    pub fn creating(spec: KeySpec, id: KeyId, now: WallTime) -> Self {
        let (phase, state) = match spec.origin {
            Origin::Kms => (Phase::Creating, KeyState::Enabled),
            Origin::External => (Phase::Live, KeyState::PendingImport),
        };
        let first = VersionRecord {
            version: KeyVersion::FIRST,
            phase,
            created_at: now,
            cause: Cause::Creation,
            trusted_at: None,
        };
        Self {
            id,
            revision: 0,
            alias: spec.alias,
            description: spec.description,
            owner: spec.owner,
            is_default: spec.is_default,
            origin: spec.origin,
            phase,
            state,
            created_at: now,
            deletion_due: None,
            versions: if phase == Phase::Creating { vec![first] } else { Vec::new() },
            tags: spec.tags,
            import: Box::default(),
            rotation: None,
            grants: Vec::new(),
            policy: spec.policy,
        }
    }

    /// How messages name it.
    #[must_use]
    pub fn name(&self) -> KeyName {
        KeyName { alias: self.alias.clone(), id: self.id }
    }

    /// The version that wraps: the newest one in the token.
    #[must_use]
    pub fn current(&self) -> Option<KeyVersion> {
        self.versions.iter().rev().find(|v| v.phase == Phase::Live).map(|v| v.version)
    }

    /// A version, if the key ever had it.
    #[must_use]
    pub fn version(&self, version: KeyVersion) -> Option<&VersionRecord> {
        self.versions.iter().find(|v| v.version == version)
    }

    /// The token has what was intended: the key and its newest version are in service.
    #[must_use]
    pub fn confirmed(&self) -> Self {
        self.changed(|next| {
            if next.phase == Phase::Creating {
                next.phase = Phase::Live;
            }
            for version in next.versions.iter_mut().filter(|v| v.phase == Phase::Creating) {
                version.phase = Phase::Live;
            }
        })
    }

    /// Its day has come: the intent to destroy it, recorded before the token is asked.
    #[must_use]
    pub fn destroying(&self) -> Self {
        self.changed(|next| {
            next.phase = Phase::Destroying;
            for version in next.versions.iter_mut().filter(|v| v.phase != Phase::Destroyed) {
                version.phase = Phase::Destroying;
            }
        })
    }

    /// Its deletion is moved to a later day.
    #[must_use]
    pub fn put_off(&self, due: TrustedTime) -> Self {
        self.changed(|next| next.deletion_due = Some(due))
    }

    /// The token has none of it left. What nobody needs any more of the record goes too: it stays for good.
    #[must_use]
    pub fn destroyed(&self) -> Self {
        self.changed(|next| {
            next.phase = Phase::Destroyed;
            (next.tags, next.grants, next.policy, next.rotation) = (Tags::default(), Vec::new(), None, None);
            for version in &mut next.versions {
                version.phase = Phase::Destroyed;
            }
        })
    }

    /// Whether it has dates on the trusted axis that it had not before.
    #[must_use]
    pub fn has_new_dates(&self, before: &Self) -> bool {
        (self.deletion_due.is_some() && self.deletion_due != before.deletion_due)
            || (self.rotation.is_some() && self.rotation != before.rotation)
    }

    /// Whether its day has come (K4).
    #[must_use]
    pub fn is_due(&self, now: TrustedTime) -> bool {
        self.phase == Phase::Live
            && self.state == KeyState::PendingDeletion
            && self.deletion_due.is_some_and(|due| now >= due)
    }

    /// The next revision of the record.
    pub(crate) fn changed(&self, change: impl FnOnce(&mut Self)) -> Self {
        let mut next = self.clone();
        change(&mut next);
        next.revision += 1;
        next
    }
}

/// The next record after an allowed change of state. The permit proves that the state table allows it.
#[must_use]
pub fn enabled(permit: &Permit) -> KeyRecord {
    debug_assert_eq!(permit.operation(), Operation::EnableKey);
    permit.key().changed(|next| next.state = KeyState::Enabled)
}

/// See [`enabled`].
#[must_use]
pub fn disabled(permit: &Permit) -> KeyRecord {
    debug_assert_eq!(permit.operation(), Operation::DisableKey);
    permit.key().changed(|next| next.state = KeyState::Disabled)
}

/// See [`enabled`].
///
/// # Errors
/// If the period is not allowed (K4).
pub fn scheduled(permit: &Permit, days: &str, now: TrustedTime) -> Result<KeyRecord, Refusal> {
    debug_assert_eq!(permit.operation(), Operation::ScheduleDeletion);
    let period = days.trim().parse().ok().filter(|d| DELETION_DAYS.contains(d));
    let period: u16 =
        period.ok_or_else(|| Refusal::DeletionPeriod { days: days.chars().take(20).collect() })?;
    Ok(permit.key().changed(|next| {
        next.state = KeyState::PendingDeletion;
        next.deletion_due = Some(now.plus_days(period));
    }))
}

/// See [`enabled`]. The key comes back disabled, or waiting for its material if it had none.
#[must_use]
pub fn cancelled(permit: &Permit) -> KeyRecord {
    debug_assert_eq!(permit.operation(), Operation::CancelDeletion);
    permit.key().changed(|next| {
        let waits = next.origin == Origin::External && next.current().is_none();
        next.state = if waits { KeyState::PendingImport } else { KeyState::Disabled };
        next.deletion_due = None;
    })
}

/// See [`enabled`].
///
/// # Errors
/// If the description is too long.
pub fn described(permit: &Permit, description: &str) -> Result<KeyRecord, Refusal> {
    debug_assert_eq!(permit.operation(), Operation::UpdateKey);
    check_description(description)?;
    Ok(permit.key().changed(|next| description.clone_into(&mut next.description)))
}

/// See [`enabled`].
#[must_use]
pub fn tagged(permit: &Permit, tags: Tags) -> KeyRecord {
    debug_assert_eq!(permit.operation(), Operation::TagKey);
    permit.key().changed(|next| next.tags = tags)
}

/// See [`enabled`]. The key's own name.
///
/// # Errors
/// If the name is not valid or is the system's (K3).
pub fn renamed(permit: &Permit, alias: &str) -> Result<KeyRecord, Refusal> {
    debug_assert_eq!(permit.operation(), Operation::UpdateKey);
    let alias: Alias = alias.parse()?;
    if alias.is_reserved() {
        return Err(Refusal::AliasReserved { alias });
    }
    Ok(permit.key().changed(|next| next.alias = alias))
}

/// See [`enabled`]. Its own name is taken away: it gets one that nobody would choose.
#[must_use]
pub fn unnamed(permit: &Permit, random: [u8; 16]) -> KeyRecord {
    debug_assert_eq!(permit.operation(), Operation::DeleteAlias);
    permit.key().changed(|next| next.alias = Alias::generated(random))
}

/// See [`enabled`].
#[must_use]
pub fn with_policy(permit: &Permit, policy: Option<KeyPolicy>) -> KeyRecord {
    debug_assert_eq!(permit.operation(), Operation::WritePolicy);
    permit.key().changed(|next| next.policy = policy)
}

fn check_description(description: &str) -> Result<(), Refusal> {
    let len = description.chars().count();
    if len > MAX_DESCRIPTION {
        return Err(Refusal::DescriptionTooLong { len, max: MAX_DESCRIPTION });
    }
    Ok(())
}

/// A record that many may read at once.
pub type SharedKey = Arc<KeyRecord>;
