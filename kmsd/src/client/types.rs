//! What the client gives and takes, in the product's own types.

use jiff::Timestamp;

use crate::{
    Dek, WrappedDek,
    domain::{KeyId, KeyState, Origin},
    wire::huawei::KeyDetails,
};

/// A key to be made.
#[derive(Clone, Debug, Default)]
pub struct NewKey {
    /// Its name.
    pub alias: String,
    /// Free text.
    pub description: String,
    /// Where its material comes from.
    pub origin: Origin,
}

/// A key as the service describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyInfo {
    /// Its id.
    pub key_id: KeyId,
    /// Its name.
    pub alias: String,
    /// Free text.
    pub description: String,
    /// Its state.
    pub state: KeyState,
    /// Whether the system made it (K3).
    pub default: bool,
    /// Where its material comes from.
    pub origin: Origin,
    /// Newest version of the material; 0 while there is none.
    pub versions: u32,
    /// Whether it is rotated by interval.
    pub rotation: bool,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it will be destroyed.
    pub deletion_date: Option<Timestamp>,
    /// When imported material expires.
    pub expires_at: Option<Timestamp>,
}

/// A new data key.
pub struct NewDek {
    /// The key itself.
    pub dek: Dek,
    /// The form to store.
    pub wrapped: WrappedDek,
    /// The master key that wraps it.
    pub key_id: KeyId,
}

/// A new data key that only the service has seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewWrappedDek {
    /// The form to store.
    pub wrapped: WrappedDek,
    /// The master key that wraps it.
    pub key_id: KeyId,
}

/// The newest state of a volume that the service was told of (F3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Anchor {
    /// Generation of the commit.
    pub generation: u64,
    /// MAC of the log chain at that generation.
    pub chain_mac: [u8; 32],
}

impl TryFrom<KeyDetails> for KeyInfo {
    /// Name of the field that makes no sense.
    type Error = &'static str;

    fn try_from(details: KeyDetails) -> Result<Self, &'static str> {
        Ok(Self {
            key_id: details.key_id.parse().map_err(|_| "key_id")?,
            alias: details.key_alias,
            description: details.key_description,
            state: details.key_state.parse().ok().and_then(KeyState::from_number).ok_or("key_state")?,
            default: details.default_key_flag == "1",
            origin: match details.origin.as_str() {
                "kms" => Origin::Kms,
                "external" => Origin::External,
                _ => return Err("origin"),
            },
            versions: details.key_version,
            rotation: details.key_rotation_enabled == "true",
            created_at: time(&details.creation_date, "creation_date")?.ok_or("creation_date")?,
            deletion_date: time(&details.scheduled_deletion_date, "scheduled_deletion_date")?,
            expires_at: time(&details.expiration_time, "expiration_time")?,
        })
    }
}

/// Milliseconds since 1970 as text; empty for none.
pub(super) fn time(text: &str, field: &'static str) -> Result<Option<Timestamp>, &'static str> {
    if text.is_empty() {
        return Ok(None);
    }
    let millis: i64 = text.parse().map_err(|_| field)?;
    Timestamp::from_millisecond(millis).map(Some).map_err(|_| field)
}
