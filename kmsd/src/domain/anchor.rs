//! Volume anchors: the newest state of each volume that the service was told of (F3).

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{
    lease::Lease,
    principal::{Caller, Principal},
    refusal::Refusal,
};

/// A volume's state: the generation of a commit, and the MAC of the log chain at it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Anchor {
    /// Grows with every commit.
    pub generation: u64,
    /// What the volume's file must lead to.
    #[serde(with = "super::hex_bytes")]
    pub chain_mac: [u8; 32],
}

/// What is stored of a volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AnchorRecord {
    /// The volume.
    pub volume: Uuid,
    /// Counts the changes.
    pub revision: u64,
    /// Who attached it first.
    pub owner: Principal,
    /// Where it stands; nowhere before the first writer has told.
    pub anchor: Option<Anchor>,
    /// Who writes to it, or did last (F12). Beside the anchor, so that one revision counts for both: no anchor moves past a lease that
    /// is taken at that moment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease: Option<Box<Lease>>,
}

impl AnchorRecord {
    /// Generation at which the anchor stands.
    fn generation(&self) -> Option<u64> {
        self.anchor.map(|anchor| anchor.generation)
    }
}

/// What to do with an offered anchor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Advance {
    /// It is where the anchor stands already.
    Unchanged,
    /// Record this.
    Record(AnchorRecord),
}

/// Whether a caller may read and move a volume's anchor (K7).
///
/// # Errors
/// If it is another caller's.
pub fn permit(current: Option<&AnchorRecord>, caller: &Caller, volume: Uuid) -> Result<(), Refusal> {
    match current {
        Some(record) if !caller.is_admin && record.owner != caller.principal => {
            Err(Refusal::AnchorNotPermitted { volume })
        }
        _ => Ok(()),
    }
}

/// Moves an anchor: only forward, and the same one twice is one step.
///
/// # Errors
/// If the offered state is older, or another one of the same generation.
pub fn advance(
    current: Option<&AnchorRecord>,
    caller: &Caller,
    volume: Uuid,
    offered: Anchor,
) -> Result<Advance, Refusal> {
    permit(current, caller, volume)?;
    if current.is_some_and(|record| record.anchor == Some(offered)) {
        return Ok(Advance::Unchanged);
    }
    match current.and_then(AnchorRecord::generation) {
        Some(newest) if offered.generation <= newest => {
            Err(Refusal::AnchorBehind { volume, newest, offered: offered.generation })
        }
        _ => Ok(Advance::Record(next(current, caller, volume, offered))),
    }
}

/// Sets an anchor to an older state, on an operator's word.
///
/// # Errors
/// If it is another caller's.
pub fn accept_rollback(
    current: Option<&AnchorRecord>,
    caller: &Caller,
    volume: Uuid,
    accepted: Anchor,
) -> Result<AnchorRecord, Refusal> {
    permit(current, caller, volume)?;
    Ok(next(current, caller, volume, accepted))
}

/// An anchor that is to be forgotten: its volume is gone, or its owner does without.
///
/// # Errors
/// If there is none, or it is another caller's.
pub fn forgotten<'a>(
    current: Option<&'a AnchorRecord>,
    caller: &Caller,
    volume: Uuid,
) -> Result<&'a AnchorRecord, Refusal> {
    permit(current, caller, volume)?;
    current.ok_or(Refusal::NoSuchAnchor { volume })
}

/// An anchor with another owner: whoever was first may not have been the one whose volume it is.
///
/// # Errors
/// Unless the caller is an administrator and there is one.
pub fn handed_over(
    current: Option<&AnchorRecord>,
    caller: &Caller,
    volume: Uuid,
    owner: Principal,
) -> Result<AnchorRecord, Refusal> {
    if !caller.is_admin {
        return Err(Refusal::NotAdministrator { action: "handing an anchor over" });
    }
    let record = current.ok_or(Refusal::NoSuchAnchor { volume })?;
    Ok(AnchorRecord { revision: record.revision + 1, owner, ..record.clone() })
}

fn next(current: Option<&AnchorRecord>, caller: &Caller, volume: Uuid, anchor: Anchor) -> AnchorRecord {
    AnchorRecord { anchor: Some(anchor), ..changed(current, caller, volume) }
}

/// The next revision, or the first, of a caller's own.
pub(super) fn changed(current: Option<&AnchorRecord>, caller: &Caller, volume: Uuid) -> AnchorRecord {
    match current {
        Some(record) => AnchorRecord { revision: record.revision + 1, ..record.clone() },
        None => {
            AnchorRecord { volume, revision: 0, owner: caller.principal.clone(), anchor: None, lease: None }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn anchor(generation: u64, mac: u8) -> Anchor {
        Anchor { generation, chain_mac: [mac; 32] }
    }

    fn uid(uid: u32) -> Caller {
        Caller { principal: Principal::Uid(uid), is_admin: false }
    }

    /// F3: an anchor moves forward only.
    #[test]
    fn f3_only_forward() {
        let volume = Uuid::from_bytes([7; 16]);
        let Advance::Record(first) = advance(None, &uid(1), volume, anchor(5, 1)).unwrap() else { panic!() };
        assert_eq!(advance(Some(&first), &uid(1), volume, anchor(5, 1)), Ok(Advance::Unchanged));
        for offered in [anchor(5, 2), anchor(4, 1), anchor(0, 0)] {
            let refusal = advance(Some(&first), &uid(1), volume, offered).unwrap_err();
            assert!(matches!(refusal, Refusal::AnchorBehind { newest: 5, .. }));
        }
        let Advance::Record(second) = advance(Some(&first), &uid(1), volume, anchor(6, 9)).unwrap() else {
            panic!()
        };
        assert_eq!((second.revision, second.anchor), (1, Some(anchor(6, 9))));
        let back = accept_rollback(Some(&second), &uid(1), volume, anchor(2, 2)).unwrap();
        assert_eq!((back.revision, back.anchor), (2, Some(anchor(2, 2))));
    }

    /// K7: a volume's anchor belongs to whoever attached it first.
    #[test]
    fn k7_anchors_have_owners() {
        let volume = Uuid::from_bytes([7; 16]);
        let Advance::Record(first) = advance(None, &uid(1), volume, anchor(5, 1)).unwrap() else { panic!() };
        let refused = Refusal::AnchorNotPermitted { volume };
        assert_eq!(advance(Some(&first), &uid(2), volume, anchor(6, 1)), Err(refused.clone()));
        assert_eq!(permit(Some(&first), &uid(2), volume), Err(refused));
        assert!(accept_rollback(Some(&first), &uid(2), volume, anchor(1, 1)).is_err());
        assert!(advance(Some(&first), &Caller::SYSTEM, volume, anchor(6, 1)).is_ok());
    }

    /// K7: an owner or an administrator forgets an anchor; only an administrator hands one over.
    #[test]
    fn k7_anchors_are_forgotten_and_handed_over() {
        let volume = Uuid::from_bytes([7; 16]);
        let Advance::Record(first) = advance(None, &uid(1), volume, anchor(5, 1)).unwrap() else { panic!() };
        assert_eq!(forgotten(Some(&first), &uid(1), volume), Ok(&first));
        assert_eq!(forgotten(Some(&first), &Caller::SYSTEM, volume), Ok(&first));
        assert_eq!(forgotten(Some(&first), &uid(2), volume), Err(Refusal::AnchorNotPermitted { volume }));
        assert_eq!(forgotten(None, &uid(2), volume), Err(Refusal::NoSuchAnchor { volume }));
        for caller in [uid(1), uid(2)] {
            let refused = handed_over(Some(&first), &caller, volume, Principal::Uid(2));
            assert!(matches!(refused, Err(Refusal::NotAdministrator { .. })));
        }
        let handed = handed_over(Some(&first), &Caller::SYSTEM, volume, Principal::Uid(2)).unwrap();
        assert_eq!((handed.revision, &handed.anchor, &handed.owner), (1, &first.anchor, &Principal::Uid(2)));
        assert!(handed_over(None, &Caller::SYSTEM, volume, Principal::Uid(2)).is_err());
    }
}
