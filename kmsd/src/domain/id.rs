//! Names of keys: parsed once, valid ever after.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// A key's identifier: a UUID, for the life of the key and after.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct KeyId(Uuid);

impl KeyId {
    /// From random or stored bytes. Random bytes become a version 4 UUID.
    #[must_use]
    pub fn from_random(bytes: [u8; 16]) -> Self {
        Self(uuid::Builder::from_random_bytes(bytes).into_uuid())
    }

    /// From stored bytes, as they are.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(Uuid::from_bytes(bytes))
    }

    /// The 16 bytes, in RFC 9562 order.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 16] {
        self.0.as_bytes()
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.hyphenated().fmt(f)
    }
}

impl FromStr for KeyId {
    type Err = InvalidKeyId;

    fn from_str(text: &str) -> Result<Self, InvalidKeyId> {
        // Only the hyphenated form: a name like 32 hex digits stays available as an alias.
        if text.len() == 36
            && let Ok(uuid) = Uuid::try_parse(text)
        {
            return Ok(Self(uuid));
        }
        Err(InvalidKeyId)
    }
}

/// Not a key identifier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a key id is a UUID of 36 characters, such as 0d0466b0-e727-4d9c-b35d-f84bb474a37f")]
pub struct InvalidKeyId;

/// Number of a key's material: 1 at creation, one more at each rotation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct KeyVersion(u32);

impl KeyVersion {
    /// The version that a key is created with.
    pub const FIRST: Self = Self(1);

    /// From a stored number; `None` for 0, which no version has.
    #[must_use]
    pub const fn new(number: u32) -> Option<Self> {
        if number == 0 { None } else { Some(Self(number)) }
    }

    /// The version after this one, `None` at the end of the numbers.
    #[must_use]
    pub const fn next(self) -> Option<Self> {
        match self.0.checked_add(1) {
            Some(n) => Some(Self(n)),
            None => None,
        }
    }

    /// The number.
    #[must_use]
    pub const fn number(self) -> u32 {
        self.0
    }
}

impl fmt::Display for KeyVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A name of a key, unique in the store: 1 to 255 of letters, digits, `:`, `/`, `_` and `-`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct Alias(String);

impl Alias {
    /// Longest alias, in characters.
    pub const MAX_LEN: usize = 255;
    /// What names begin with that the service made up for keys without one.
    pub const GENERATED_PREFIX: &'static str = "unnamed/";
    /// What only names of default keys end in (K3).
    pub const RESERVED_SUFFIX: &'static str = "/default";
    /// What clouds write before a name that stands for a key. No part of the name.
    pub const PREFIX: &'static str = "alias/";

    /// The name as it stands in a record, with nothing taken off it.
    ///
    /// # Errors
    /// If it is not one.
    pub fn stored(name: &str) -> Result<Self, InvalidAlias> {
        if name.is_empty() {
            return Err(InvalidAlias::Empty);
        }
        if name.len() > Self::MAX_LEN {
            return Err(InvalidAlias::TooLong { len: name.len() });
        }
        if let Some(character) = name.chars().find(|c| !(c.is_ascii_alphanumeric() || ":/_-".contains(*c))) {
            return Err(InvalidAlias::Character { character });
        }
        if name.parse::<KeyId>().is_ok() {
            return Err(InvalidAlias::LooksLikeId);
        }
        Ok(Self(name.to_owned()))
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// A name that nobody would choose.
    #[must_use]
    pub fn generated(random: [u8; 16]) -> Self {
        Self(format!("{}{}", Self::GENERATED_PREFIX, hex::encode(random)))
    }

    /// Whether only the system may give this name to a key.
    #[must_use]
    pub fn is_reserved(&self) -> bool {
        self.0.ends_with(Self::RESERVED_SUFFIX)
    }

    /// Whether the service made this name up: protocols in which keys have no name of their own do not show it.
    #[must_use]
    pub fn is_generated(&self) -> bool {
        self.0.starts_with(Self::GENERATED_PREFIX)
    }

    /// Whether it reads as another name: it begins with the prefix, or has the form of a URN. Records of versions up to 0.1 may hold such names; nobody can
    /// ask for them.
    #[must_use]
    pub fn reads_as_another(&self) -> bool {
        self.0.starts_with(Self::PREFIX) || named_by_urn(&self.0).is_some()
    }

    /// Whether this names a default key that the system makes on first use (K3).
    #[must_use]
    pub fn is_default_key(&self) -> bool {
        DEFAULT_KEYS.contains(&self.0.as_str())
    }
}

/// Names of the default keys: for disks and for images (K3).
pub const DEFAULT_KEYS: [&str; 2] = ["evs/default", "ims/default"];

impl fmt::Display for Alias {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Alias {
    type Err = InvalidAlias;

    fn from_str(text: &str) -> Result<Self, InvalidAlias> {
        // Clouds write aliases with this prefix when they stand for a key; the name itself is without it.
        let name = Self::stored(text.strip_prefix(Self::PREFIX).unwrap_or(text))?;
        // Else the name would be another one each time that it is read, or another key's.
        if name.0.starts_with(Self::PREFIX) {
            return Err(InvalidAlias::Prefix);
        }
        if named_by_urn(&name.0).is_some() { Err(InvalidAlias::Urn) } else { Ok(name) }
    }
}

impl<'de> Deserialize<'de> for Alias {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // What is stored is the name itself: read back, it is the same one.
        Self::stored(&String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

/// Why a text is not an alias.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidAlias {
    /// Nothing, or only the prefix.
    #[error("an alias cannot be empty")]
    Empty,
    /// More than 255 characters.
    #[error("an alias has at most 255 characters, this one has {len}")]
    TooLong {
        /// Bytes given.
        len: usize,
    },
    /// A character outside the set.
    #[error("an alias holds letters, digits, ':', '/', '_' and '-' only, not {character:?}")]
    Character {
        /// The first one that does not belong.
        character: char,
    },
    /// The form of a key id.
    #[error("an alias cannot have the form of a key id")]
    LooksLikeId,
    /// The prefix twice.
    #[error("the name of an alias cannot begin with alias/ itself")]
    Prefix,
    /// The form of a URN.
    #[error("the name of an alias cannot have the form of a URN (kms:...:alias:NAME)")]
    Urn,
}

/// The name in a URN of an alias.
fn named_by_urn(text: &str) -> Option<&str> {
    Some(text.strip_prefix("kms:").and(text.split_once(":alias:"))?.1)
}

/// How a request names a key: by its id, or by an alias (`db-key`, `alias/db-key`, or a URN that ends in
/// `:alias:db-key`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyRef {
    /// By id.
    Id(KeyId),
    /// By alias.
    Alias(Alias),
}

impl fmt::Display for KeyRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Id(id) => id.fmt(f),
            Self::Alias(alias) => alias.fmt(f),
        }
    }
}

impl FromStr for KeyRef {
    type Err = InvalidAlias;

    fn from_str(text: &str) -> Result<Self, InvalidAlias> {
        if let Ok(id) = text.parse() {
            return Ok(Self::Id(id));
        }
        named_by_urn(text).unwrap_or(text).parse().map(Self::Alias)
    }
}

impl From<KeyId> for KeyRef {
    fn from(id: KeyId) -> Self {
        Self::Id(id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aliases_are_checked() {
        assert_eq!("alias/db-key".parse::<Alias>().unwrap().as_str(), "db-key");
        assert_eq!("".parse::<Alias>(), Err(InvalidAlias::Empty));
        assert_eq!("alias/".parse::<Alias>(), Err(InvalidAlias::Empty));
        assert_eq!("a\nb".parse::<Alias>(), Err(InvalidAlias::Character { character: '\n' }));
        assert_eq!("x".repeat(256).parse::<Alias>(), Err(InvalidAlias::TooLong { len: 256 }));
        let id = "0d0466b0-e727-4d9c-b35d-f84bb474a37f";
        assert_eq!(id.parse::<Alias>(), Err(InvalidAlias::LooksLikeId));
        assert_eq!("alias/alias/x".parse::<Alias>(), Err(InvalidAlias::Prefix));
        assert_eq!("alias/alias/".parse::<Alias>(), Err(InvalidAlias::Prefix));
        assert_eq!("aliases/x".parse::<Alias>().unwrap().as_str(), "aliases/x");
        for text in ["kms:r:d:alias:b", "alias/kms:r:d:alias:b", "kms::alias:kms:r:alias:b"] {
            assert_eq!(text.parse::<Alias>(), Err(InvalidAlias::Urn), "{text}");
        }
        assert_eq!("kms:r:aliases:b".parse::<Alias>().unwrap().as_str(), "kms:r:aliases:b");
    }

    proptest::proptest! {
        /// Whatever is taken as the name of a key names that key, and no other.
        #[test]
        fn a_name_is_a_reference_to_itself(text in "(kms:|:alias:|alias/|[a-z0-9]|[:/_-]){1,8}") {
            if let Ok(alias) = text.parse::<Alias>() {
                proptest::prop_assert_eq!(alias.as_str().parse::<KeyRef>(), Ok(KeyRef::Alias(alias.clone())));
                proptest::prop_assert!(!alias.reads_as_another());
            }
        }
    }

    /// What is stored is read back as it was, whatever it is; and what was parsed parses to itself.
    #[test]
    fn an_alias_is_read_back_as_it_was() {
        for name in ["db-key", "alias/db-key", "alias/alias/x", "evs/default"] {
            let json = serde_json::to_string(name).unwrap();
            let read: Alias = serde_json::from_str(&json).unwrap();
            assert_eq!(read.as_str(), name);
            assert_eq!(serde_json::to_string(&read).unwrap(), json);
        }
        for text in ["db-key", "alias/db-key", "alias/evs/default", "a/alias/b"] {
            let once: Alias = text.parse().unwrap();
            assert_eq!(once.as_str().parse::<Alias>().unwrap(), once);
        }
        assert!(serde_json::from_str::<Alias>("\"a b\"").is_err());
    }

    /// K3: names of default keys are the system's.
    #[test]
    fn k3_default_names_are_reserved() {
        for name in DEFAULT_KEYS {
            assert!(name.parse::<Alias>().unwrap().is_default_key());
        }
        let other: Alias = "mine/default".parse().unwrap();
        assert!(other.is_reserved() && !other.is_default_key());
        assert!(!"default".parse::<Alias>().unwrap().is_reserved());
    }

    #[test]
    fn keys_are_named_by_id_alias_or_urn() {
        let id = "0d0466b0-e727-4d9c-b35d-f84bb474a37f";
        assert_eq!(id.parse::<KeyRef>().unwrap(), KeyRef::Id(id.parse().unwrap()));
        for text in ["evs/default", "alias/evs/default", "kms:r:d:alias:evs/default"] {
            assert_eq!(text.parse::<KeyRef>().unwrap(), KeyRef::Alias("evs/default".parse().unwrap()));
        }
    }
}
