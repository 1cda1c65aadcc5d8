//! Key states, and which operation each of them allows (K4).

use std::fmt;

use serde::{Deserialize, Serialize};

/// What a key may be used for at the moment. Published numbers: 2, 3, 4 and 5.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum KeyState {
    /// In service.
    Enabled,
    /// Out of service until it is enabled.
    Disabled,
    /// To be destroyed when its day comes, unless that is cancelled.
    PendingDeletion,
    /// Of external origin, without key material.
    PendingImport,
}

impl KeyState {
    /// All states, in the order of their numbers.
    pub const ALL: [Self; 4] = [Self::Enabled, Self::Disabled, Self::PendingDeletion, Self::PendingImport];

    /// The number that the public API gives this state.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::Enabled => 2,
            Self::Disabled => 3,
            Self::PendingDeletion => 4,
            Self::PendingImport => 5,
        }
    }

    /// The state with a published number.
    #[must_use]
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.number() == number)
    }

    /// The word used in JSON and in messages.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Enabled => "enabled",
            Self::Disabled => "disabled",
            Self::PendingDeletion => "pending-deletion",
            Self::PendingImport => "pending-import",
        }
    }
}

impl fmt::Display for KeyState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Where a key's material was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// In the token.
    #[default]
    Kms,
    /// Elsewhere, and imported.
    External,
}

impl Origin {
    /// The published word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Kms => "kms",
            Self::External => "external",
        }
    }
}
