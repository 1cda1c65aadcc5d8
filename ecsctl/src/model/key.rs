//! Keys as this program sees them, and whether one can open a disk.

use kmsd::domain::{EncryptionContext, grant::GrantSpec};
use serde::{Deserialize, Serialize};

/// The alias of the key that encrypts disks for which no key was named (K3).
pub(crate) const DEFAULT_DISK_KEY: &str = "evs/default";

/// The same for images.
pub(crate) const DEFAULT_IMAGE_KEY: &str = "ims/default";

/// The state of a CMK (K4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum KeyState {
    /// Usable.
    Enabled,
    /// Wraps and unwraps nothing until it is enabled.
    Disabled,
    /// Will be destroyed on its deletion date.
    PendingDeletion,
    /// Waits for its material.
    PendingImport,
}

impl KeyState {
    /// The word in JSON and tables.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Enabled => "enabled",
            Self::Disabled => "disabled",
            Self::PendingDeletion => "pending-deletion",
            Self::PendingImport => "pending-import",
        }
    }
}

/// A CMK, without its material, which nobody outside the token has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Key {
    /// The key's UUID.
    pub(crate) key_id: String,
    /// Its alias.
    pub(crate) alias: String,
    /// Its state.
    pub(crate) state: KeyState,
    /// Whether it is one of the system's default keys.
    pub(crate) default: bool,
    /// `kms` or `external`.
    pub(crate) origin: String,
    /// How many versions it has.
    pub(crate) versions: u64,
    /// Whether it is rotated by interval.
    pub(crate) rotation: bool,
    /// When it will be destroyed, RFC 3339.
    pub(crate) deletion_date: Option<String>,
    /// When it was made, RFC 3339.
    pub(crate) created_at: Option<String>,
    /// What its owner wrote about it.
    pub(crate) description: Option<String>,
}

/// A grant on a key: who may use it, for what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Grant {
    /// 64 hexadecimal digits.
    pub(crate) grant_id: String,
    /// The key.
    pub(crate) key_id: String,
    /// Who may.
    pub(crate) grantee: String,
    /// What.
    pub(crate) operations: Vec<String>,
    /// With exactly this encryption context.
    pub(crate) context_equals: Option<EncryptionContext>,
    /// With an encryption context that has at least this.
    pub(crate) context_includes: Option<EncryptionContext>,
    /// Who else may give it up.
    pub(crate) retiring: Option<String>,
    /// What it is for.
    pub(crate) name: Option<String>,
    /// Who made it.
    pub(crate) issuer: String,
    /// When, RFC 3339.
    pub(crate) created_at: String,
}

impl Grant {
    /// What a specification says, without issuer and date.
    pub(crate) fn new(grant_id: String, key_id: String, spec: &GrantSpec) -> Self {
        Self {
            grant_id,
            key_id,
            grantee: spec.grantee.to_string(),
            operations: spec.operations.iter().map(|operation| operation.name().to_owned()).collect(),
            context_equals: spec.constraints.equals.clone(),
            context_includes: spec.constraints.subset.clone(),
            retiring: spec.retiring.as_ref().map(ToString::to_string),
            name: spec.name.clone(),
            issuer: String::new(),
            created_at: String::new(),
        }
    }

    /// The constraints for people.
    pub(crate) fn context(&self) -> String {
        let pairs = |context: &EncryptionContext| {
            context.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(",")
        };
        let exactly = self.context_equals.as_ref().map(|context| format!("exactly {}", pairs(context)));
        let at_least = self.context_includes.as_ref().map(pairs);
        [exactly, at_least].into_iter().flatten().collect::<Vec<_>>().join("; ")
    }
}

/// Why a key cannot open or make a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum KeyTrouble {
    /// It exists, in a state that forbids use.
    State(KeyState),
    /// It was destroyed, or the caller may not know that it exists (K7).
    Unknown,
}

impl KeyTrouble {
    /// The state as a word in an error.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::State(state) => state.as_str(),
            Self::Unknown => "deleted, or not yours to use",
        }
    }

    /// The code of the error in JSON.
    pub(crate) fn code(self) -> &'static str {
        match self {
            Self::State(KeyState::Enabled) => "key-unusable",
            Self::State(KeyState::Disabled) => "key-disabled",
            Self::State(KeyState::PendingDeletion) => "key-pending-deletion",
            Self::State(KeyState::PendingImport) => "key-pending-import",
            Self::Unknown => "key-not-found",
        }
    }

    /// The command that makes the key usable again (D2).
    pub(crate) fn remedy(self, key: &str) -> String {
        match self {
            Self::State(KeyState::Enabled) => "try again".to_owned(),
            Self::State(KeyState::Disabled) => format!("ecsctl key enable {key}"),
            Self::State(KeyState::PendingDeletion) => {
                format!("ecsctl key cancel-deletion {key} && ecsctl key enable {key}")
            }
            Self::State(KeyState::PendingImport) => format!("ecsctl key import {key} --from-file FILE"),
            Self::Unknown => format!(
                "ask the owner of {key} for a grant; if the key was destroyed, restore a backup that another key protects"
            ),
        }
    }
}

/// Whether a key in this state can wrap and unwrap.
///
/// # Errors
/// The trouble that stands in the way.
pub(crate) fn usable(state: KeyState) -> Result<(), KeyTrouble> {
    match state {
        KeyState::Enabled => Ok(()),
        KeyState::Disabled | KeyState::PendingDeletion | KeyState::PendingImport => {
            Err(KeyTrouble::State(state))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn d2_each_state_but_enabled_forbids_use_and_names_a_remedy() {
        assert_eq!(usable(KeyState::Enabled), Ok(()));
        for (state, remedy) in [
            (KeyState::Disabled, "ecsctl key enable db-key"),
            (KeyState::PendingDeletion, "ecsctl key cancel-deletion db-key && ecsctl key enable db-key"),
            (KeyState::PendingImport, "ecsctl key import db-key --from-file FILE"),
        ] {
            let trouble = usable(state).unwrap_err();
            assert_eq!(trouble.remedy("db-key"), remedy);
            assert_eq!(trouble.as_str(), state.as_str());
        }
    }
}
