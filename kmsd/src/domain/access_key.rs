//! Access keys: how network clients prove who they are. The secret is sealed by the token; a record alone gives it to nobody.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use super::{
    context::EncryptionContext,
    envelope::{Header, Mechanism, Purpose},
    id::{KeyId, KeyVersion},
    principal::{Caller, Principal},
    reconcile::ObjectId,
    refusal::Refusal,
    time::WallTime,
};

/// The token's object that seals the secrets. It is no customer's key, and is made when the first access key is.
pub const SEALING_OBJECT: ObjectId =
    ObjectId { key: KeyId::from_bytes(*b"kmsd access keys"), version: KeyVersion::FIRST };

/// Longest description, in characters.
pub const MAX_DESCRIPTION: usize = 255;
/// Most access keys.
pub const MAX_ACCESS_KEYS: usize = 1000;

const ALPHABET: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";

/// The public half of an access key: 1 to 128 letters and digits.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct AccessKeyId(String);

/// Not an access key id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an access key id has 1 to 128 letters and digits")]
pub struct InvalidAccessKeyId;

impl AccessKeyId {
    /// Characters of an id that this service makes: 100 bits.
    pub const LEN: usize = 20;

    /// Makes one from random bytes.
    #[must_use]
    pub fn from_random(bytes: [u8; Self::LEN]) -> Self {
        Self(bytes.iter().map(|byte| char::from(ALPHABET[usize::from(byte & 31)])).collect())
    }

    /// The id.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for AccessKeyId {
    type Err = InvalidAccessKeyId;

    fn from_str(text: &str) -> Result<Self, InvalidAccessKeyId> {
        let fits = (1..=128).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_alphanumeric());
        if fits { Ok(Self(text.to_owned())) } else { Err(InvalidAccessKeyId) }
    }
}

impl TryFrom<String> for AccessKeyId {
    type Error = InvalidAccessKeyId;

    fn try_from(text: String) -> Result<Self, InvalidAccessKeyId> {
        text.parse()
    }
}

impl From<AccessKeyId> for String {
    fn from(id: AccessKeyId) -> Self {
        id.0
    }
}

impl fmt::Display for AccessKeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The secret half of an access key. Wiped when dropped, printed by nothing.
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct AccessSecret(Box<str>);

impl AccessSecret {
    /// Characters of a secret that this service makes: 200 bits.
    pub const LEN: usize = 40;

    /// Takes the text of a secret.
    #[must_use]
    pub fn new(text: &str) -> Self {
        // One allocation of the final size: nothing is left behind by growing.
        Self(Box::from(text))
    }

    /// Makes one from random bytes.
    #[must_use]
    pub fn from_random(bytes: &[u8; Self::LEN]) -> Self {
        let mut text = Zeroizing::new(String::with_capacity(Self::LEN));
        text.extend(bytes.iter().map(|byte| char::from(ALPHABET[usize::from(byte & 31)])));
        Self::new(&text)
    }

    /// The text that signatures are keyed by.
    #[must_use]
    pub const fn expose(&self) -> &str {
        &self.0
    }
}

/// What is stored of an access key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccessKeyRecord {
    /// Its id.
    pub id: AccessKeyId,
    /// Free text.
    pub description: String,
    /// Whether requests signed with it may do everything.
    pub is_admin: bool,
    /// Who made it.
    pub created_by: Principal,
    /// When.
    pub created_at: WallTime,
    /// The secret, sealed by [`SEALING_OBJECT`] as an envelope.
    #[serde(with = "hex_bytes")]
    pub sealed: Vec<u8>,
}

/// What an access key is made from, already checked.
#[derive(Clone, Debug)]
pub struct AccessKeySpec {
    /// Free text.
    pub description: String,
    /// Whether requests signed with it may do everything.
    pub is_admin: bool,
    /// Who makes it.
    pub created_by: Principal,
}

impl AccessKeySpec {
    /// Checks what a caller asks for.
    ///
    /// # Errors
    /// Unless the caller is an administrator and the description has its length.
    pub fn new(caller: &Caller, description: &str, is_admin: bool) -> Result<Self, Refusal> {
        permit(caller, "creating an access key")?;
        let len = description.chars().count();
        if len > MAX_DESCRIPTION {
            return Err(Refusal::DescriptionTooLong { len, max: MAX_DESCRIPTION });
        }
        Ok(Self { description: description.to_owned(), is_admin, created_by: caller.principal.clone() })
    }

    /// What the sealed secret is bound to: changing the record in the store, to make it an administrator's say, makes the
    /// secret unusable.
    #[must_use]
    pub fn context(&self, id: &AccessKeyId) -> EncryptionContext {
        let admin = if self.is_admin { "true" } else { "false" };
        let created_by = self.created_by.to_string();
        [("access-key", id.as_str()), ("admin", admin), ("created-by", &created_by)].into_iter().collect()
    }
}

impl AccessKeyRecord {
    /// See [`AccessKeySpec::context`].
    #[must_use]
    pub fn context(&self) -> EncryptionContext {
        let spec = AccessKeySpec {
            description: String::new(),
            is_admin: self.is_admin,
            created_by: self.created_by.clone(),
        };
        spec.context(&self.id)
    }
}

/// The header of a sealed secret's envelope.
#[must_use]
pub const fn sealing_header(mechanism: Mechanism) -> Header {
    Header {
        mechanism,
        purpose: Purpose::AccessSecret,
        key: SEALING_OBJECT.key,
        version: SEALING_OBJECT.version,
    }
}

/// Access keys are an administrator's business.
///
/// # Errors
/// Unless the caller is one.
pub const fn permit(caller: &Caller, action: &'static str) -> Result<(), Refusal> {
    if caller.is_admin { Ok(()) } else { Err(Refusal::NotAdministrator { action }) }
}

mod hex_bytes {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&hex::encode(bytes))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        hex::decode(String::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_made_is_valid() {
        let id = AccessKeyId::from_random([0xff; AccessKeyId::LEN]);
        assert_eq!(id.as_str().parse(), Ok(id.clone()));
        assert_eq!(
            AccessSecret::from_random(&[7; AccessSecret::LEN]).expose(),
            "H".repeat(AccessSecret::LEN)
        );
        for bad in ["", "AKID EXAMPLE", "AKIDEXAMPLE;X", "AKID\u{e4}", "A".repeat(129).as_str()] {
            assert_eq!(bad.parse::<AccessKeyId>(), Err(InvalidAccessKeyId), "{bad}");
        }
    }

    #[test]
    fn only_administrators_make_them() {
        let caller = Caller { principal: Principal::Uid(1000), is_admin: false };
        let refused = AccessKeySpec::new(&caller, "", false).unwrap_err();
        assert!(matches!(refused, Refusal::NotAdministrator { .. }));
        assert!(AccessKeySpec::new(&Caller::SYSTEM, &"x".repeat(256), false).is_err());
    }

    #[test]
    fn the_seal_is_bound_to_what_the_record_says() {
        let id: AccessKeyId = "AK1".parse().unwrap();
        let spec =
            |is_admin| AccessKeySpec { description: String::new(), is_admin, created_by: Principal::Uid(0) };
        assert_ne!(spec(false).context(&id), spec(true).context(&id));
        assert_ne!(spec(false).context(&id), spec(false).context(&"AK2".parse().unwrap()));
    }
}
