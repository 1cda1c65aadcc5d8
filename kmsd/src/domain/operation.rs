//! Which operation is allowed in which state: the one table (K4). `docs/key-states.md` is held against it.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

use super::state::KeyState;

/// What a caller may ask of one key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Operation {
    /// Read what the key is.
    DescribeKey,
    /// Make a data key.
    CreateDatakey,
    /// Make a data key that the caller does not see.
    CreateDatakeyWithoutPlaintext,
    /// Wrap a data key of the caller's.
    EncryptDatakey,
    /// Open a wrapped data key.
    DecryptDatakey,
    /// Encrypt a few bytes.
    EncryptData,
    /// Decrypt them.
    DecryptData,
    /// Open under this key, to wrap under another one.
    ReEncryptFrom,
    /// Wrap under this key what was opened under another one.
    ReEncryptTo,
    /// Put into service.
    EnableKey,
    /// Take out of service.
    DisableKey,
    /// Have it destroyed later.
    ScheduleDeletion,
    /// Take that back.
    CancelDeletion,
    /// Change the key's own name or its description.
    UpdateKey,
    /// Add or remove a tag.
    TagKey,
    /// Make a new version now.
    RotateKey,
    /// Turn rotation by interval on or off, or set the interval.
    ConfigureRotation,
    /// Let another principal use the key.
    CreateGrant,
    /// Read the grants.
    ListGrants,
    /// Take a grant back, as the key's owner.
    RevokeGrant,
    /// Give a grant up, as the one who holds it.
    RetireGrant,
    /// Get what is needed to import material, or import it.
    ImportMaterial,
    /// Remove imported material.
    DeleteMaterial,
    /// Give the key another name besides its own.
    CreateAlias,
    /// Take such a name away.
    DeleteAlias,
    /// Read what the key's policy says.
    ReadPolicy,
    /// Set or remove the key's policy.
    WritePolicy,
}

/// Why a state does not allow an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StateFault {
    /// KMS.0209
    Disabled,
    /// KMS.0210
    PendingDeletion,
    /// The key waits for its material.
    NoMaterial,
    /// KMS.1201: only a disabled key can be enabled.
    NotDisabled,
    /// KMS.1301: only an enabled key can be disabled.
    NotEnabled,
    /// KMS.1402
    AlreadyPendingDeletion,
    /// KMS.1501
    NotPendingDeletion,
    /// KMS.0310
    NotPendingImport,
    /// KMS.0312: imported material is not rotated.
    Imported,
    /// KMS.2701: only material of an enabled or disabled key can be removed.
    MaterialInUse,
}

/// One line of the table.
pub struct Rule {
    /// The operation.
    pub operation: Operation,
    /// Its name: that of the public verb where there is one.
    pub name: &'static str,
    /// For each of [`KeyState::ALL`]: allowed, or why not.
    pub states: [Option<StateFault>; 4],
    /// Whether default keys allow it (K3).
    pub default_keys: bool,
    /// Whether a grant can name it; the rest needs the owner or an administrator.
    pub grantable: bool,
}

use Operation as O;
use StateFault as F;

const OK: Option<StateFault> = None;
const ANY: [Option<StateFault>; 4] = [OK; 4];
const USE: [Option<StateFault>; 4] = [OK, Some(F::Disabled), Some(F::PendingDeletion), Some(F::NoMaterial)];
const ROTATE: [Option<StateFault>; 4] = [OK, Some(F::Disabled), Some(F::PendingDeletion), Some(F::Imported)];
const EDIT: [Option<StateFault>; 4] = [OK, OK, Some(F::PendingDeletion), OK];

const fn rule(
    operation: Operation,
    name: &'static str,
    states: [Option<StateFault>; 4],
    default_keys: bool,
    grantable: bool,
) -> Rule {
    Rule { operation, name, states, default_keys, grantable }
}

/// The table. Columns of the states: enabled, disabled, pending deletion, pending import.
pub const RULES: [Rule; 27] = [
    rule(O::DescribeKey, "describe-key", ANY, true, true),
    rule(O::CreateDatakey, "create-datakey", USE, true, true),
    rule(O::CreateDatakeyWithoutPlaintext, "create-datakey-without-plaintext", USE, true, true),
    rule(O::EncryptDatakey, "encrypt-datakey", USE, true, true),
    rule(O::DecryptDatakey, "decrypt-datakey", USE, true, true),
    rule(O::EncryptData, "encrypt-data", USE, true, true),
    rule(O::DecryptData, "decrypt-data", USE, true, true),
    rule(O::ReEncryptFrom, "re-encrypt-from", USE, true, true),
    rule(O::ReEncryptTo, "re-encrypt-to", USE, true, true),
    rule(
        O::EnableKey,
        "enable-key",
        [Some(F::NotDisabled), OK, Some(F::PendingDeletion), Some(F::NoMaterial)],
        false,
        false,
    ),
    rule(
        O::DisableKey,
        "disable-key",
        [OK, Some(F::NotEnabled), Some(F::PendingDeletion), Some(F::NoMaterial)],
        false,
        false,
    ),
    rule(
        O::ScheduleDeletion,
        "schedule-key-deletion",
        [OK, OK, Some(F::AlreadyPendingDeletion), OK],
        false,
        false,
    ),
    rule(
        O::CancelDeletion,
        "cancel-key-deletion",
        [Some(F::NotPendingDeletion), Some(F::NotPendingDeletion), OK, Some(F::NotPendingDeletion)],
        false,
        false,
    ),
    rule(O::UpdateKey, "update-key", EDIT, false, false),
    rule(O::TagKey, "tag-key", EDIT, false, false),
    rule(O::RotateKey, "rotate-key", ROTATE, false, false),
    rule(O::ConfigureRotation, "configure-rotation", ROTATE, false, false),
    rule(O::CreateGrant, "create-grant", USE, false, true),
    rule(O::ListGrants, "list-grants", ANY, true, false),
    rule(O::RevokeGrant, "revoke-grant", ANY, false, false),
    rule(O::RetireGrant, "retire-grant", ANY, false, true),
    rule(
        O::ImportMaterial,
        "import-key-material",
        [Some(F::NotPendingImport), Some(F::NotPendingImport), Some(F::PendingDeletion), OK],
        false,
        false,
    ),
    rule(
        O::DeleteMaterial,
        "delete-imported-key-material",
        [OK, OK, Some(F::MaterialInUse), Some(F::MaterialInUse)],
        false,
        false,
    ),
    rule(O::CreateAlias, "create-alias", EDIT, false, false),
    rule(O::DeleteAlias, "delete-alias", ANY, false, false),
    rule(O::ReadPolicy, "get-key-policy", ANY, true, false),
    rule(O::WritePolicy, "put-key-policy", ANY, false, false),
];

impl Operation {
    /// The operation's line.
    #[must_use]
    pub fn rule(self) -> &'static Rule {
        // The table is in the order of the enumeration; a test holds that.
        &RULES[self as usize]
    }

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.rule().name
    }

    /// The operation with a name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        RULES.iter().find(|rule| rule.name == name).map(|rule| rule.operation)
    }

    /// Whether it is one that binds something to a context, or opens it with one.
    #[must_use]
    pub const fn takes_context(self) -> bool {
        matches!(
            self,
            Self::CreateDatakey
                | Self::CreateDatakeyWithoutPlaintext
                | Self::EncryptDatakey
                | Self::DecryptDatakey
                | Self::EncryptData
                | Self::DecryptData
                | Self::ReEncryptFrom
                | Self::ReEncryptTo
        )
    }

    /// Whether a key in `state` allows it.
    ///
    /// # Errors
    /// Why not.
    pub fn check(self, state: KeyState) -> Result<(), StateFault> {
        let column = KeyState::ALL.iter().position(|s| *s == state).expect("every state is in the list");
        self.rule().states[column].map_or(Ok(()), Err)
    }
}

impl Serialize for Operation {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

impl<'de> Deserialize<'de> for Operation {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        Self::from_name(&name).ok_or_else(|| D::Error::custom("not the name of an operation"))
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_in_the_order_of_the_operations() {
        for (index, rule) in RULES.iter().enumerate() {
            assert_eq!(rule.operation as usize, index, "{}", rule.name);
            assert_eq!(Operation::from_name(rule.name), Some(rule.operation));
        }
    }

    /// K4: the page shows the table that the code obeys.
    #[test]
    fn k4_the_page_is_the_table() {
        let page = include_str!("../../../docs/key-states.md");
        let code = |fault: Option<StateFault>| fault.map_or("yes", |f| f.code());
        let lines: Vec<String> = RULES
            .iter()
            .map(|r| {
                let [enabled, disabled, deletion, import] = r.states.map(code);
                format!(
                    "| `{}` | {enabled} | {disabled} | {deletion} | {import} | {} | {} |",
                    r.name,
                    if r.default_keys { "yes" } else { "KMS.0211" },
                    if r.grantable { "yes" } else { "no" },
                )
            })
            .collect();
        for line in &lines {
            assert!(
                page.contains(line.as_str()),
                "docs/key-states.md lacks this line:\n{line}\nall:\n{}",
                lines.join("\n")
            );
        }
        assert_eq!(page.matches("\n| `").count(), RULES.len());
    }

    /// K4: nothing but reading, cancelling and taking grants back works on a key that waits for its deletion.
    #[test]
    fn k4_a_key_pending_deletion_cannot_be_used() {
        let allowed: Vec<_> = RULES
            .iter()
            .filter(|r| r.operation.check(KeyState::PendingDeletion).is_ok())
            .map(|r| r.name)
            .collect();
        assert_eq!(
            allowed,
            [
                "describe-key",
                "cancel-key-deletion",
                "list-grants",
                "revoke-grant",
                "retire-grant",
                "delete-alias",
                "get-key-policy",
                "put-key-policy"
            ]
        );
    }

    /// K3: default keys are used and viewed, and nothing else.
    #[test]
    fn k3_default_keys_are_only_used_and_viewed() {
        for rule in &RULES {
            let harmless = rule.states == USE && rule.grantable && rule.operation != O::CreateGrant;
            let viewing = matches!(rule.operation, O::DescribeKey | O::ListGrants | O::ReadPolicy);
            assert_eq!(rule.default_keys, harmless || viewing, "{}", rule.name);
        }
    }
}
