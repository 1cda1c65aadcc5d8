//! Material that comes from elsewhere (K6): what a record knows of it, and how it comes and goes.
//!
//! ```text
//!                 parameters            import: unwrapped in the token, checked
//! pending import ───────────> ticket ──────────────────────────────────────────> enabled
//!       ^                                                                           │
//!       └───────────────────── deleted, or expired: destroyed in the token ─────────┘
//! ```
//!
//! A version that is *creating* or *destroying* while its key lives is material on its way in or out; whatever interrupts that, it ends outside.

use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq;

use super::{
    hex_bytes,
    id::KeyVersion,
    key::{KeyRecord, Phase, VersionRecord},
    operation::Operation,
    policy::Permit,
    refusal::Refusal,
    rotation::Cause,
    state::{KeyState, Origin},
    time::{TrustedTime, WallTime},
};

/// How long the parameters of an import are good, in hours, as published.
pub const TICKET_HOURS: i64 = 24;
/// Length of the material, in bytes.
pub const MATERIAL_LEN: usize = 32;

/// The hash of RSA-OAEP (RFC 8017, section 7.1), for the label and for MGF1 alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OaepHash {
    /// `RSAES_OAEP_SHA_1`
    Sha1,
    /// `RSAES_OAEP_SHA_256`
    Sha256,
}

impl OaepHash {
    /// The algorithm with a published name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Sha1, Self::Sha256].into_iter().find(|hash| hash.name() == name)
    }

    /// Its published name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sha1 => "RSAES_OAEP_SHA_1",
            Self::Sha256 => "RSAES_OAEP_SHA_256",
        }
    }
}

/// Length of the RSA key that wraps the material.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RsaBits {
    /// 2048
    Rsa2048,
    /// 3072
    Rsa3072,
    /// 4096
    Rsa4096,
}

impl RsaBits {
    /// Its bits.
    #[must_use]
    pub const fn bits(self) -> u16 {
        match self {
            Self::Rsa2048 => 2048,
            Self::Rsa3072 => 3072,
            Self::Rsa4096 => 4096,
        }
    }
}

/// Names one RSA pair in the token, and so one offer to import. 128 random bits: who knows it has been given the offer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PairId(#[serde(with = "hex_bytes")] [u8; Self::LEN]);

impl PairId {
    /// Its bytes.
    pub const LEN: usize = 16;
    const TOKEN_HEAD: [u8; 3] = *b"kI\x01";

    /// From random bytes.
    #[must_use]
    pub const fn new(bytes: [u8; Self::LEN]) -> Self {
        Self(bytes)
    }

    /// Its bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; Self::LEN] {
        &self.0
    }

    /// The import token that the caller gets and gives back.
    #[must_use]
    pub fn import_token(&self) -> Vec<u8> {
        [&Self::TOKEN_HEAD[..], &self.0].concat()
    }

    /// Whether that is the import token of this pair.
    #[must_use]
    pub fn is_named_by(&self, token: &[u8]) -> bool {
        self.import_token().as_slice().ct_eq(token).into()
    }
}

/// What tells material from other material without telling anything of it: made with a key of the token's.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CheckValue(#[serde(with = "hex_bytes")] [u8; 32]);

impl CheckValue {
    /// From the token's answer.
    #[must_use]
    pub const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }
}

impl std::fmt::Debug for CheckValue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("CheckValue")
    }
}

/// An offer to import that is open.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ticket {
    /// The pair whose public half wraps the material.
    pub pair: PairId,
    /// How it wraps.
    pub hash: OaepHash,
    /// Until when.
    pub expires: TrustedTime,
}

/// What is stored of a key's material of external origin.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImportRecord {
    /// The open offer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ticket: Option<Ticket>,
    /// Of the first material; no other is taken after it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub check: Option<CheckValue>,
    /// When the material expires.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<TrustedTime>,
}

impl ImportRecord {
    /// Whether there is nothing to store.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// Whether a key's material comes for the first time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// Nothing was ever wrapped by it.
    First,
    /// It was in service before, and was deleted or expired.
    Again,
}

/// The version of a key that all its material is: it is always the same.
pub const VERSION: KeyVersion = KeyVersion::FIRST;

/// The record with an open offer. An earlier one is closed.
#[must_use]
pub fn ticketed(permit: &Permit, ticket: Ticket) -> KeyRecord {
    debug_assert_eq!(permit.operation(), Operation::ImportMaterial);
    permit.key().changed(|next| next.import.ticket = Some(ticket))
}

/// The intent to import: recorded before the token is asked.
///
/// # Errors
/// If the import token is not that of the open offer, or came too late.
pub fn importing(
    permit: &Permit,
    token: &[u8],
    trusted: TrustedTime,
    now: WallTime,
) -> Result<KeyRecord, Refusal> {
    debug_assert_eq!(permit.operation(), Operation::ImportMaterial);
    let key = permit.key();
    let ticket = key.import.ticket.as_ref().filter(|ticket| ticket.pair.is_named_by(token));
    let ticket = ticket.ok_or_else(|| Refusal::ImportTokenInvalid { key: key.name() })?;
    if trusted >= ticket.expires {
        return Err(Refusal::ImportTokenExpired { key: key.name() });
    }
    Ok(key.changed(|next| {
        next.versions.retain(|v| v.version != VERSION);
        next.versions.push(arriving_version(now));
    }))
}

const fn arriving_version(now: WallTime) -> VersionRecord {
    VersionRecord {
        version: VERSION,
        phase: Phase::Creating,
        created_at: now,
        cause: Cause::Creation,
        trusted_at: None,
    }
}

/// The intent to remove the material: recorded before the token is asked.
///
/// # Errors
/// If the material was made in the token, where it is all that there is of it.
pub fn removing(permit: &Permit) -> Result<KeyRecord, Refusal> {
    debug_assert_eq!(permit.operation(), Operation::DeleteMaterial);
    let key = permit.key();
    if key.origin != Origin::External {
        return Err(Refusal::NotExternal { key: key.name() });
    }
    Ok(key.leaving())
}

impl KeyRecord {
    /// The token has the material, and this is its check value: the key is in service.
    ///
    /// # Errors
    /// If it is other material than before.
    pub fn imported(&self, check: CheckValue, expires: Option<TrustedTime>) -> Result<Self, Refusal> {
        if self.import.check.is_some_and(|known| known != check) {
            return Err(Refusal::OtherMaterial { key: self.name() });
        }
        Ok(self.changed(|next| {
            *next.import = ImportRecord { ticket: None, check: Some(check), expires };
            next.state = KeyState::Enabled;
            for version in next.versions.iter_mut().filter(|v| v.phase == Phase::Creating) {
                version.phase = Phase::Live;
            }
        }))
    }

    /// The token has material of this key that the record knows nothing of: no other is taken, as if its import were recorded.
    #[must_use]
    pub fn recognised(&self, check: CheckValue) -> Self {
        self.changed(|next| next.import.check = Some(check))
    }

    /// Whether its material would be of a key that never had any, as far as the record knows.
    #[must_use]
    pub fn awaits_first_material(&self) -> bool {
        self.phase == Phase::Live
            && self.origin == Origin::External
            && self.versions.is_empty()
            && self.arrival() == Arrival::First
    }

    /// Whether material that comes now is its first.
    #[must_use]
    pub const fn arrival(&self) -> Arrival {
        if self.import.check.is_some() { Arrival::Again } else { Arrival::First }
    }

    /// Its material is about to be destroyed.
    #[must_use]
    pub fn leaving(&self) -> Self {
        self.changed(|next| {
            next.import.expires = None;
            if next.state != KeyState::PendingDeletion {
                next.state = KeyState::PendingImport;
            }
            for version in next.versions.iter_mut().filter(|v| v.phase == Phase::Live) {
                version.phase = Phase::Destroying;
            }
        })
    }

    /// The token has nothing left of material that was on its way in or out.
    #[must_use]
    pub fn settled(&self) -> Self {
        self.changed(|next| {
            // Material that never was in service leaves no trace.
            let arrival = next.arrival();
            next.versions.retain(|v| arrival == Arrival::Again || v.phase != Phase::Creating);
            for version in next.versions.iter_mut().filter(|v| v.phase != Phase::Live) {
                version.phase = Phase::Destroyed;
            }
        })
    }

    /// Its material stays for longer.
    #[must_use]
    pub fn put_off_expiry(&self, until: TrustedTime) -> Self {
        self.changed(|next| next.import.expires = Some(until))
    }

    /// Whether material is on its way in.
    #[must_use]
    pub fn is_arriving(&self) -> bool {
        self.is_unsettled() && self.versions.iter().any(|v| v.phase == Phase::Creating)
    }

    /// The open offer is closed.
    #[must_use]
    pub fn without_ticket(&self) -> Self {
        self.changed(|next| next.import.ticket = None)
    }

    /// Whether material is on its way in or out.
    #[must_use]
    pub fn is_unsettled(&self) -> bool {
        let between = |v: &VersionRecord| matches!(v.phase, Phase::Creating | Phase::Destroying);
        self.phase == Phase::Live && self.origin == Origin::External && self.versions.iter().any(between)
    }

    /// Whether its material's day has come.
    #[must_use]
    pub fn is_material_due(&self, now: TrustedTime) -> bool {
        self.phase == Phase::Live
            && self.current().is_some()
            && self.import.expires.is_some_and(|expires| now >= expires)
    }

    /// Whether its open offer has come to its end.
    #[must_use]
    pub fn is_ticket_due(&self, now: TrustedTime) -> bool {
        self.phase == Phase::Live && self.import.ticket.as_ref().is_some_and(|ticket| now >= ticket.expires)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{KeyId, Principal, key::KeySpec};

    fn record() -> KeyRecord {
        let spec = KeySpec::new("k", "", Principal::Uid(1)).unwrap().external();
        KeyRecord::creating(spec, KeyId::from_bytes([1; 16]), WallTime(0))
    }

    fn check(byte: u8) -> CheckValue {
        CheckValue::new([byte; 32])
    }

    fn arriving(record: &KeyRecord) -> KeyRecord {
        record.changed(|next| {
            next.versions.retain(|v| v.version != VERSION);
            next.versions.push(arriving_version(WallTime(0)));
        })
    }

    #[test]
    fn k6_a_key_of_external_origin_begins_without_material() {
        let key = record();
        assert_eq!(
            (key.phase, key.state, key.origin),
            (Phase::Live, KeyState::PendingImport, Origin::External)
        );
        assert!(key.versions.is_empty() && key.current().is_none() && !key.is_unsettled());
    }

    #[test]
    fn k6_only_the_same_material_comes_back() {
        let key = arriving(&record());
        assert!(key.is_unsettled());
        let key = key.imported(check(1), Some(TrustedTime(10))).unwrap();
        assert_eq!((key.state, key.current()), (KeyState::Enabled, Some(VERSION)));
        assert!(!key.is_material_due(TrustedTime(9)) && key.is_material_due(TrustedTime(10)));
        let key = key.leaving();
        assert_eq!((key.state, key.current(), key.is_unsettled()), (KeyState::PendingImport, None, true));
        let key = key.settled();
        assert_eq!(key.version(VERSION).unwrap().phase, Phase::Destroyed);
        let key = arriving(&key);
        assert!(matches!(key.imported(check(2), None), Err(Refusal::OtherMaterial { .. })));
        let refused = key.settled();
        assert!(!refused.is_unsettled() && refused.current().is_none());
        assert_eq!(key.imported(check(1), None).unwrap().state, KeyState::Enabled);
    }

    #[test]
    fn k6_material_that_never_was_in_service_leaves_no_trace() {
        assert!(arriving(&record()).settled().versions.is_empty());
        assert_eq!(arriving(&record()).arrival(), Arrival::First);
        let key = arriving(&record()).imported(check(1), None).unwrap().leaving().settled();
        assert_eq!((key.arrival(), arriving(&key).arrival()), (Arrival::Again, Arrival::Again));
    }

    /// K4: material that goes while its key waits for its deletion does not bring the key back.
    #[test]
    fn k4_material_that_expires_leaves_a_scheduled_deletion_alone() {
        let key = arriving(&record()).imported(check(1), Some(TrustedTime(10))).unwrap();
        let key = key.changed(|next| next.state = KeyState::PendingDeletion);
        assert!(key.is_material_due(TrustedTime(10)));
        assert_eq!(key.leaving().state, KeyState::PendingDeletion);
    }

    #[test]
    fn import_tokens_are_golden_and_exact() {
        let pair = PairId::new([7; 16]);
        assert_eq!(hex::encode(pair.import_token()), "6b4901".to_owned() + &"07".repeat(16));
        assert!(pair.is_named_by(&pair.import_token()));
        assert!(!pair.is_named_by(&PairId::new([8; 16]).import_token()));
        assert!(!pair.is_named_by(&[]) && !pair.is_named_by(&[pair.import_token(), vec![0]].concat()));
    }
}
