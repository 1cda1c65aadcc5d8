//! Rotation: newer versions of a key's material, on demand and by interval (K5).
//!
//! New wraps use the newest version, every older one still unwraps. When the next rotation is due follows from the record alone: from
//! when rotation was turned on, and from when the newest version came about that the interval made. So a rotation that a crash cut
//! short leaves no date to be put right.

use serde::{Deserialize, Serialize};

use super::{
    id::KeyVersion,
    key::{KeyRecord, Phase, VersionRecord},
    operation::{Operation, StateFault},
    policy::Permit,
    refusal::Refusal,
    state::{KeyState, Origin},
    time::{TrustedTime, WallTime},
};

/// Fewest and most days between two rotations: what the two publications allow between them.
pub const INTERVAL_DAYS: std::ops::RangeInclusive<u16> = 30..=2560;
/// Days between two rotations if nobody says.
pub const DEFAULT_INTERVAL_DAYS: u16 = 365;
/// Most rotations of a key on demand.
pub const MAX_ON_DEMAND: usize = 25;
/// Most versions of a key: forty years of the shortest interval.
pub const MAX_VERSIONS: usize = 500;

/// Why a version was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Cause {
    /// With the key.
    #[default]
    Creation,
    /// Somebody asked for it.
    Demand,
    /// Its day had come.
    Interval,
}

/// Rotation by interval, while it is turned on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Schedule {
    /// Days between two rotations.
    pub interval_days: u16,
    /// When it was turned on.
    pub since: TrustedTime,
}

impl KeyRecord {
    /// When the next rotation by interval is due.
    #[must_use]
    pub fn next_rotation(&self) -> Option<TrustedTime> {
        let schedule = self.rotation?;
        let last = self
            .versions
            .iter()
            .filter(|v| v.cause == Cause::Interval && v.phase == Phase::Live)
            .filter_map(|v| v.trusted_at)
            .max();
        let from = last.map_or(schedule.since, |last| last.max(schedule.since));
        Some(from.plus_days(schedule.interval_days))
    }

    /// Whether it is to be rotated now. A key out of service waits; it is rotated once it is enabled again.
    #[must_use]
    pub fn is_rotation_due(&self, now: TrustedTime) -> bool {
        self.phase == Phase::Live
            && self.state == KeyState::Enabled
            && self.next_rotation().is_some_and(|due| now >= due)
    }

    /// The version that is being made, or whose making was cut short.
    #[must_use]
    pub fn intended(&self) -> Option<KeyVersion> {
        self.versions.iter().rev().find(|v| v.phase == Phase::Creating).map(|v| v.version)
    }

    /// Its newest version, whatever became of it.
    #[must_use]
    pub fn newest(&self) -> KeyVersion {
        self.versions.iter().map(|v| v.version).max().unwrap_or(KeyVersion::FIRST)
    }

    /// With newer versions that the token has and the record does not know: it is a copy from before they were made. They came about by rotation.
    #[must_use]
    pub fn with_found(&self, versions: impl IntoIterator<Item = KeyVersion>, now: WallTime) -> Self {
        let found = |version| VersionRecord {
            version,
            phase: Phase::Live,
            created_at: now,
            cause: Cause::Demand,
            trusted_at: None,
        };
        self.changed(|next| {
            next.versions.extend(versions.into_iter().map(found));
            next.versions.sort_by_key(|v| v.version);
        })
    }

    /// Versions that came about by rotation, oldest first.
    pub fn rotations(&self) -> impl Iterator<Item = &VersionRecord> {
        self.versions.iter().filter(|v| v.cause != Cause::Creation && v.phase != Phase::Creating)
    }

    /// The intent to make a version is given up: the token has nothing of it.
    #[must_use]
    pub fn without_intended(&self) -> Self {
        self.changed(|next| next.versions.retain(|v| v.phase != Phase::Creating))
    }
}

/// The intent to make a newer version than any of the record's and than `taken`, up to which the token has objects of this key that the record may not
/// know of: recorded before the token is asked. An intent that was left half-way is taken up.
///
/// # Errors
/// If the material is not the token's own, or there are too many versions.
pub fn rotating(
    permit: &Permit,
    taken: KeyVersion,
    cause: Cause,
    created_at: WallTime,
    now: TrustedTime,
) -> Result<KeyRecord, Refusal> {
    debug_assert_eq!(permit.operation(), Operation::RotateKey);
    let key = permit.key();
    refuse_imported(permit)?;
    let limit = Refusal::TooManyRotations { key: key.name() };
    let on_demand =
        key.versions.iter().filter(|v| v.cause == Cause::Demand && v.phase != Phase::Creating).count();
    if cause == Cause::Demand && on_demand >= MAX_ON_DEMAND {
        return Err(limit);
    }
    let kept = || key.versions.iter().filter(|v| v.phase != Phase::Creating);
    if kept().count() >= MAX_VERSIONS {
        return Err(limit);
    }
    let version = match key.intended() {
        Some(intended) => intended,
        None => kept().map(|v| v.version).fold(taken, Ord::max).next().ok_or(limit)?,
    };
    Ok(key.changed(|next| {
        next.versions.retain(|v| v.phase != Phase::Creating);
        next.versions.push(VersionRecord {
            version,
            phase: Phase::Creating,
            created_at,
            cause,
            trusted_at: Some(now),
        });
    }))
}

/// Turns rotation by interval on.
///
/// # Errors
/// If it is on, the interval is not allowed, or the material is not the token's own.
pub fn turned_on(permit: &Permit, interval_days: u16, since: TrustedTime) -> Result<KeyRecord, Refusal> {
    debug_assert_eq!(permit.operation(), Operation::ConfigureRotation);
    refuse_imported(permit)?;
    if permit.key().rotation.is_some() {
        return Err(Refusal::RotationEnabled { key: permit.key().name() });
    }
    let schedule = Schedule { interval_days: check_interval(interval_days)?, since };
    Ok(permit.key().changed(|next| next.rotation = Some(schedule)))
}

/// Sets another interval; it counts from the last rotation.
///
/// # Errors
/// If rotation is off, the interval is not allowed, or the material is not the token's own.
pub fn every(permit: &Permit, interval_days: u16) -> Result<KeyRecord, Refusal> {
    debug_assert_eq!(permit.operation(), Operation::ConfigureRotation);
    refuse_imported(permit)?;
    let schedule = current(permit)?;
    let schedule = Schedule { interval_days: check_interval(interval_days)?, ..schedule };
    Ok(permit.key().changed(|next| next.rotation = Some(schedule)))
}

/// Turns rotation by interval off.
///
/// # Errors
/// If it is off, or the material is not the token's own.
pub fn turned_off(permit: &Permit) -> Result<KeyRecord, Refusal> {
    debug_assert_eq!(permit.operation(), Operation::ConfigureRotation);
    refuse_imported(permit)?;
    current(permit)?;
    Ok(permit.key().changed(|next| next.rotation = None))
}

fn current(permit: &Permit) -> Result<Schedule, Refusal> {
    permit.key().rotation.ok_or_else(|| Refusal::RotationNotEnabled { key: permit.key().name() })
}

fn check_interval(days: u16) -> Result<u16, Refusal> {
    if INTERVAL_DAYS.contains(&days) { Ok(days) } else { Err(Refusal::RotationInterval { days }) }
}

/// What was imported is its owner's to renew.
fn refuse_imported(permit: &Permit) -> Result<(), Refusal> {
    let key = permit.key();
    if key.origin == Origin::Kms {
        return Ok(());
    }
    Err(Refusal::State {
        key: key.name(),
        state: key.state,
        operation: permit.operation(),
        fault: StateFault::Imported,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{
        Caller, EncryptionContext, KeyId, KeyRef, Principal, Registry, key::KeySpec, policy,
        registry::Change, time::DAY_MS,
    };

    const T0: TrustedTime = TrustedTime(1_000_000);

    fn live() -> KeyRecord {
        let spec = KeySpec::new("k", "", Principal::Uid(1)).unwrap();
        KeyRecord::creating(spec, KeyId::from_bytes([1; 16]), WallTime(0)).confirmed()
    }

    fn permit(key: &KeyRecord, operation: Operation) -> Permit {
        let mut registry = Registry::default();
        registry.apply(Change::PutKey(key.clone()));
        let none = EncryptionContext::default();
        policy::authorise(&registry, &Caller::SYSTEM, &KeyRef::Id(key.id), operation, &none).unwrap()
    }

    fn rotate(key: &KeyRecord, cause: Cause, now: TrustedTime) -> Result<KeyRecord, Refusal> {
        rotating(&permit(key, Operation::RotateKey), KeyVersion::FIRST, cause, WallTime(0), now)
            .map(|next| next.confirmed())
    }

    /// K5: what is being made does not wrap yet; confirmed, it does, and the older ones stay.
    #[test]
    fn k5_the_newest_version_in_service_wraps() {
        let key = live();
        let begin = |key: &KeyRecord, taken: u32, at| {
            let taken = KeyVersion::new(taken).unwrap();
            rotating(&permit(key, Operation::RotateKey), taken, Cause::Demand, WallTime(at), T0).unwrap()
        };
        let intent = begin(&key, 1, 5);
        assert_eq!(intent.current(), Some(KeyVersion::FIRST));
        assert_eq!(intent.intended(), KeyVersion::new(2));
        // An intent that was left half-way is taken up: no number is used twice, none is left out.
        let again = begin(&intent, 1, 6);
        assert_eq!(again.versions.len(), 2);
        let confirmed = again.confirmed();
        assert_eq!(confirmed.current(), KeyVersion::new(2));
        assert_eq!(confirmed.version(KeyVersion::FIRST).unwrap().phase, Phase::Live);
        assert_eq!(intent.without_intended().versions, key.versions);
        // A number that the token has an object of is nobody's intent; one that is intended stays so.
        let above = begin(&key, 3, 5);
        assert_eq!(above.intended(), KeyVersion::new(4));
        assert_eq!(begin(&above, 1, 6).intended(), KeyVersion::new(4));
    }

    /// K5: what the token has beyond a record from before is taken on in order, and the newest of it wraps.
    #[test]
    fn k5_versions_that_were_found_are_in_service() {
        let found = [3, 2].map(|n| KeyVersion::new(n).unwrap());
        let key = live().with_found(found, WallTime(9));
        let numbers: Vec<u32> = key.versions.iter().map(|v| v.version.number()).collect();
        assert_eq!((numbers, key.current(), key.revision), (vec![1, 2, 3], KeyVersion::new(3), 2));
        assert_eq!(key.rotations().count(), 2);
    }

    /// K5: due an interval after it was turned on, then an interval after each rotation that it made; what was done on demand
    /// in between does not count.
    #[test]
    fn k5_an_interval_after_the_last_one() {
        let day = |n: i64| TrustedTime(T0.0 + n * DAY_MS);
        let key = turned_on(&permit(&live(), Operation::ConfigureRotation), 30, T0).unwrap();
        assert_eq!(key.next_rotation(), Some(day(30)));
        let key = rotate(&key, Cause::Demand, day(20)).unwrap();
        assert!(!key.is_rotation_due(TrustedTime(day(30).0 - 1)) && key.is_rotation_due(day(30)));
        let key = rotate(&key, Cause::Interval, day(34)).unwrap();
        assert_eq!(key.next_rotation(), Some(day(64)));
        let key = every(&permit(&key, Operation::ConfigureRotation), 90).unwrap();
        assert_eq!(key.next_rotation(), Some(day(124)));
        let disabled = KeyRecord { state: KeyState::Disabled, ..key.clone() };
        assert!(key.is_rotation_due(day(200)) && !disabled.is_rotation_due(day(200)));
        let key = turned_off(&permit(&key, Operation::ConfigureRotation)).unwrap();
        assert_eq!(key.next_rotation(), None);
        // Turned on again, an interval counts from then.
        let key = turned_on(&permit(&key, Operation::ConfigureRotation), 30, day(200)).unwrap();
        assert_eq!(key.next_rotation(), Some(day(230)));
    }

    #[test]
    fn k5_intervals_and_numbers_are_bounded() {
        let configure = |key: &KeyRecord| permit(key, Operation::ConfigureRotation);
        for (days, fits) in [(0, false), (29, false), (30, true), (2560, true), (2561, false)] {
            assert_eq!(turned_on(&configure(&live()), days, T0).is_ok(), fits, "{days}");
        }
        let on = turned_on(&configure(&live()), 30, T0).unwrap();
        assert!(matches!(turned_on(&configure(&on), 30, T0), Err(Refusal::RotationEnabled { .. })));
        assert!(matches!(every(&configure(&on), 29), Err(Refusal::RotationInterval { days: 29 })));
        assert!(matches!(every(&configure(&live()), 30), Err(Refusal::RotationNotEnabled { .. })));
        assert!(matches!(turned_off(&configure(&live())), Err(Refusal::RotationNotEnabled { .. })));

        let mut key = on;
        for _ in 0..MAX_ON_DEMAND {
            key = rotate(&key, Cause::Demand, T0).unwrap();
        }
        assert!(matches!(rotate(&key, Cause::Demand, T0), Err(Refusal::TooManyRotations { .. })));
        for _ in MAX_ON_DEMAND + 1..MAX_VERSIONS {
            key = rotate(&key, Cause::Interval, T0).unwrap();
        }
        assert_eq!(key.versions.len(), MAX_VERSIONS);
        assert!(matches!(rotate(&key, Cause::Interval, T0), Err(Refusal::TooManyRotations { .. })));
    }

    #[test]
    fn k5_imported_material_is_not_rotated() {
        let key = KeyRecord { origin: Origin::External, ..live() };
        let configure = permit(&key, Operation::ConfigureRotation);
        for refused in [
            rotate(&key, Cause::Demand, T0),
            turned_on(&configure, 30, T0),
            every(&configure, 30),
            turned_off(&configure),
        ] {
            assert!(matches!(refused, Err(Refusal::State { fault: StateFault::Imported, .. })));
        }
    }

    /// Records of a version without rotation are read as what they were.
    #[test]
    fn records_from_before_rotation_are_read() {
        let old = r#"{"version":1,"phase":"live","created_at":7}"#;
        let version: VersionRecord = serde_json::from_str(old).unwrap();
        assert_eq!((version.cause, version.trusted_at), (Cause::Creation, None));
    }
}
