//! Refusals: what is not done, why, and what to do about it. Each has its published code.

use super::{
    access_key::AccessKeyId,
    context::ContextTooLong,
    envelope::EnvelopeFault,
    grant::{GrantId, InvalidGrantId},
    id::{Alias, InvalidAlias, KeyId, KeyVersion},
    key_policy::PolicyFault,
    lease::{Holder, moment},
    operation::{Operation, StateFault},
    state::KeyState,
    time::WallTime,
};

/// A key as messages name it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyName {
    /// Its alias.
    pub alias: Alias,
    /// Its id.
    pub id: KeyId,
}

impl std::fmt::Display for KeyName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.alias.is_generated() {
            return self.id.fmt(f);
        }
        write!(f, "{} ({})", self.alias, self.id)
    }
}

/// Why a request is not carried out, as far as rules decide it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// There is none, or the caller is not told of it: one answer for both (K7).
    #[error("the key {key:?} does not exist, or you may not use it")]
    NoSuchKey {
        /// As the caller named it.
        key: String,
    },
    /// It existed; its material is gone for good (K4).
    #[error("the key {key} was destroyed when its scheduled deletion came due")]
    Destroyed {
        /// The key.
        key: KeyName,
    },
    /// The key's state does not allow it (K4).
    #[error("{operation} is refused: the key {key} is {state}{}", fault.detail())]
    State {
        /// The key.
        key: KeyName,
        /// Its state.
        state: KeyState,
        /// What was asked for.
        operation: Operation,
        /// Why the state does not allow it.
        fault: StateFault,
    },
    /// A default key allows only use and view (K3).
    #[error("{operation} is refused: the key {key} is a default key, which only the system manages")]
    DefaultKey {
        /// The key.
        key: KeyName,
        /// What was asked for.
        operation: Operation,
    },
    /// The caller may see the key, but not do this with it (K7).
    #[error("{operation} on the key {key} is refused: only its owner or an administrator may do that")]
    NotPermitted {
        /// The key.
        key: KeyName,
        /// What was asked for.
        operation: Operation,
    },
    /// Only an administrator may.
    #[error("{action} is refused: only an administrator may do that")]
    NotAdministrator {
        /// What was asked for.
        action: &'static str,
    },
    /// Two keys cannot have one name.
    #[error("a key with the alias {alias} exists already")]
    AliasTaken {
        /// The name.
        alias: Alias,
    },
    /// Names that end in `/default` are the system's (K3).
    #[error("the alias {alias} ends in {}, which is reserved for default keys", Alias::RESERVED_SUFFIX)]
    AliasReserved {
        /// The name.
        alias: Alias,
    },
    /// Not a name.
    #[error("the alias is not valid: {0}")]
    AliasInvalid(#[from] InvalidAlias),
    /// Longer than the publication allows.
    #[error("a description has at most {max} characters, this one has {len}")]
    DescriptionTooLong {
        /// Characters given.
        len: usize,
        /// Most characters.
        max: usize,
    },
    /// Deletion is scheduled 7 to 1096 days ahead (K4).
    #[error("a deletion is scheduled 7 to 1096 days ahead, not {days:?}")]
    DeletionPeriod {
        /// As given.
        days: String,
    },
    /// Too long.
    #[error("{0}")]
    ContextTooLong(#[from] ContextTooLong),
    /// The ciphertext is not one of this service's.
    #[error("the wrapped form is not valid: {0}")]
    Envelope(#[from] EnvelopeFault),
    /// The ciphertext does not open: it was changed, or made with another key or context (K2). One answer for
    /// all of these.
    #[error(
        "the wrapped form does not open under the key {key}: it was changed, or its encryption context is another one"
    )]
    DoesNotOpen {
        /// The key.
        key: KeyName,
    },
    /// The ciphertext names another key than the request.
    #[error("the wrapped form was made with another key than {key}")]
    OtherKey {
        /// The key that the request names.
        key: KeyName,
    },
    /// The version that wraps it exists no more.
    #[error("the wrapped form was made with version {version} of the key {key}, which has been destroyed")]
    VersionGone {
        /// The key.
        key: KeyName,
        /// The version.
        version: KeyVersion,
    },
    /// The row says that it is there, the token that it is not.
    #[error("version {version} of the key {key} is not in the token")]
    MaterialMissing {
        /// The key.
        key: KeyName,
        /// The version.
        version: KeyVersion,
    },
    /// A parameter is missing.
    #[error("the parameter {name} is missing")]
    ParameterMissing {
        /// Its name.
        name: &'static str,
    },
    /// A parameter has a value that is not allowed.
    #[error("the parameter {name} is not valid: {expected}")]
    ParameterInvalid {
        /// Its name.
        name: &'static str,
        /// What it should be.
        expected: &'static str,
    },
    /// Length of a data key outside the published range.
    #[error("a data key has 8 to 8192 bits, a multiple of 8")]
    DatakeyLength,
    /// As many keys as the configuration allows.
    #[error("there are {limit} keys already, as many as [limits] max_keys allows")]
    TooManyKeys {
        /// The bound.
        limit: usize,
    },
    /// As many as one principal may have.
    #[error("you have {limit} keys already, as many as [limits] max_keys_each allows")]
    TooManyKeysOfOne {
        /// The bound.
        limit: usize,
    },
    /// The key has no such grant.
    #[error("the key {key} has no grant {id}")]
    NoSuchGrant {
        /// The key.
        key: KeyName,
        /// As the caller named it.
        id: GrantId,
    },
    /// Not the form of a grant's id.
    #[error("{0}")]
    GrantIdInvalid(#[from] InvalidGrantId),
    /// A grant has to let somebody do something.
    #[error("a grant names at least one operation other than create-grant")]
    GrantEmpty,
    /// Nobody whom a request can name.
    #[error("a grant is for uid:<number>, cert:<SHA-256 of the public key info> or key:<access key id>")]
    GranteeInvalid,
    /// Nobody passes on more than they have (K7).
    #[error(
        "create-grant on the key {key} is refused: it would give more than your own right to the key does"
    )]
    GrantTooWide {
        /// The key.
        key: KeyName,
    },
    /// As many grants as a key may have.
    #[error("the key {key} has {limit} grants already, as many as a key may have")]
    TooManyGrants {
        /// The key.
        key: KeyName,
        /// The bound.
        limit: usize,
    },
    /// As many as there may be.
    #[error("there are {limit} grants already, as many as [limits] max_grants allows")]
    TooManyGrantsInAll {
        /// The bound.
        limit: usize,
    },
    /// As many as there may be on the keys of one principal.
    #[error(
        "the keys of the owner of this one have {limit} grants already, as many as [limits] max_grants_each allows"
    )]
    TooManyGrantsOfOne {
        /// The bound.
        limit: usize,
    },
    /// A policy that is not understood in full is not taken.
    #[error("the key policy is refused: {0}")]
    Policy(#[from] PolicyFault),
    /// There is none, or it is of a key that the caller is not told of.
    #[error("there is no alias {alias}")]
    NoSuchAlias {
        /// As the caller named it.
        alias: Alias,
    },
    /// It is the key's own name.
    #[error("the alias {alias} is the own name of the key {key}")]
    AliasIsName {
        /// The name.
        alias: Alias,
        /// The key.
        key: KeyName,
    },
    /// As many aliases as a key may have.
    #[error("the key {key} has {limit} aliases already, as many as a key may have")]
    TooManyAliases {
        /// The key.
        key: KeyName,
        /// The bound.
        limit: usize,
    },
    /// Rotation by interval is on already.
    #[error("the key {key} is rotated by interval already")]
    RotationEnabled {
        /// The key.
        key: KeyName,
    },
    /// Rotation by interval is off.
    #[error("the key {key} is not rotated by interval")]
    RotationNotEnabled {
        /// The key.
        key: KeyName,
    },
    /// Outside what may be.
    #[error("a key is rotated every 30 to 2560 days, not every {days}")]
    RotationInterval {
        /// As given.
        days: u16,
    },
    /// One at a time.
    #[error("the key {key} is being rotated at this moment")]
    RotationUnderWay {
        /// The key.
        key: KeyName,
    },
    /// The service is at work on the key of its own accord.
    #[error("what was begun with the key {key} earlier is still being finished, or cleared away")]
    Unfinished {
        /// The key.
        key: KeyName,
    },
    /// A restored store says that something was being made, and what the token has of it does not work.
    #[error(
        "the key {key} was being changed when this store was copied, and what was being made does not work: it is left alone until kmsd is restarted"
    )]
    HalfMade {
        /// The key.
        key: KeyName,
    },
    /// As often as a key may be rotated.
    #[error(
        "the key {key} cannot be rotated again: a key has at most {} rotations on demand and {} versions",
        super::rotation::MAX_ON_DEMAND,
        super::rotation::MAX_VERSIONS
    )]
    TooManyRotations {
        /// The key.
        key: KeyName,
    },
    /// A tag's name or value.
    #[error("a tag has a name of 1 to 128 characters and a value of up to 256, without control characters")]
    TagInvalid,
    /// As many tags as a key may have.
    #[error("a key has at most {limit} tags")]
    TooManyTags {
        /// The bound.
        limit: usize,
    },
    /// The import token is not the one that was given out last for this key, or it was used (K6).
    #[error("the import token is not the newest one of the key {key}, or was used already")]
    ImportTokenInvalid {
        /// The key.
        key: KeyName,
    },
    /// It came too late.
    #[error("the import token of the key {key} has expired")]
    ImportTokenExpired {
        /// The key.
        key: KeyName,
    },
    /// It does not unwrap, or to another length.
    #[error(
        "the key material for {key} does not unwrap to 32 bytes: it was wrapped with another public key or algorithm, or is not 256 bits long"
    )]
    MaterialInvalid {
        /// The key.
        key: KeyName,
    },
    /// It is other material than that which was imported first.
    #[error(
        "the key {key} takes only the material that was imported into it first, and this is other material"
    )]
    OtherMaterial {
        /// The key.
        key: KeyName,
    },
    /// Another caller imports into the same key, or deletes its material.
    #[error("material for the key {key} is being imported or deleted already")]
    ImportUnderWay {
        /// The key.
        key: KeyName,
    },
    /// The material was made in the token: there is no copy of it to import again.
    #[error("the material of the key {key} was made in the token; only imported material can be removed")]
    NotExternal {
        /// The key.
        key: KeyName,
    },
    /// There is none with this id.
    #[error("there is no access key {id}")]
    NoSuchAccessKey {
        /// As the caller named it.
        id: AccessKeyId,
    },
    /// The record was changed behind the service's back, or sealed by another token.
    #[error(
        "the secret of the access key {id} does not open: its record was changed, or the token is another one"
    )]
    AccessKeyDamaged {
        /// The access key.
        id: AccessKeyId,
    },
    /// As many access keys as there may be.
    #[error("there are {limit} access keys already, as many as there may be")]
    TooManyAccessKeys {
        /// The bound.
        limit: usize,
    },
    /// A volume's state is older than the newest one that the service was told of (F3).
    #[error(
        "the anchor of volume {volume} stands at generation {newest}, so generation {offered} is refused: it is an older state of the volume, or another one"
    )]
    AnchorBehind {
        /// The volume.
        volume: uuid::Uuid,
        /// Where the anchor stands.
        newest: u64,
        /// What was offered.
        offered: u64,
    },
    /// Another writer holds the volume's lease (F12).
    #[error(
        "volume {volume} is attached for writing by {holder}; its lease lasts until {}, and longer if it is renewed", moment(*.until)
    )]
    LeaseHeld {
        /// The volume.
        volume: uuid::Uuid,
        /// Who holds it.
        holder: Box<Holder>,
        /// When it ends by itself.
        until: WallTime,
    },
    /// The same of a writer that may have gone with an earlier boot of the caller's own host.
    #[error(
        "volume {volume} was attached for writing by {holder} before that host was started anew, or is by another host of the same machine id; the lease lasts until {}, and longer if it is renewed", moment(*.until)
    )]
    LeaseOfEarlierBoot {
        /// The volume.
        volume: uuid::Uuid,
        /// Who holds it.
        holder: Box<Holder>,
        /// When it ends by itself.
        until: WallTime,
    },
    /// The store was put back, and whoever it does not know has time to come back (F12).
    #[error(
        "the store of the key service was put back: a writer of volume {volume} that it does not know may come back until {}", moment(*.until)
    )]
    LeasesForgotten {
        /// The volume.
        volume: uuid::Uuid,
        /// When others get its lease.
        until: WallTime,
    },
    /// Another writer took the volume's lease later (F12).
    #[error("volume {volume} was attached for writing by {holder} since: that one's is the lease now")]
    LeaseLost {
        /// The volume.
        volume: uuid::Uuid,
        /// Who took it.
        holder: Box<Holder>,
    },
    /// The anchor is another caller's (K7).
    #[error("the anchor of volume {volume} belongs to another user")]
    AnchorNotPermitted {
        /// The volume.
        volume: uuid::Uuid,
    },
    /// The volume has none.
    #[error("volume {volume} has no anchor")]
    NoSuchAnchor {
        /// The volume.
        volume: uuid::Uuid,
    },
    /// As many anchors as the configuration allows.
    #[error("there are {limit} volume anchors already, as many as [limits] max_anchors allows")]
    TooManyAnchors {
        /// The bound.
        limit: usize,
    },
    /// As many as one principal may have.
    #[error("you have {limit} volume anchors already, as many as [limits] max_anchors_each allows")]
    TooManyAnchorsOfOne {
        /// The bound.
        limit: usize,
    },
    /// The request's body does not parse.
    #[error("the request is not valid JSON of this verb ({category} at line {line}, column {column})")]
    BodyInvalid {
        /// Kind of the mistake.
        category: &'static str,
        /// Where.
        line: usize,
        /// Where.
        column: usize,
    },
    /// The body is too long.
    #[error("the request has more than {limit} bytes")]
    BodyTooLong {
        /// The bound.
        limit: usize,
    },
    /// No such verb or path.
    #[error("there is no such operation")]
    NoSuchVerb,
}

impl StateFault {
    /// The published code.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::Disabled => "KMS.0209",
            Self::PendingDeletion => "KMS.0210",
            // The publication names none; its text for parameters that do not fit is the nearest.
            Self::NoMaterial => "KMS.0308",
            Self::NotDisabled => "KMS.1201",
            Self::NotEnabled => "KMS.1301",
            Self::AlreadyPendingDeletion => "KMS.1402",
            Self::NotPendingDeletion => "KMS.1501",
            Self::NotPendingImport => "KMS.0310",
            Self::Imported => "KMS.0312",
            Self::MaterialInUse => "KMS.2701",
        }
    }

    const fn detail(self) -> &'static str {
        match self {
            Self::NoMaterial => ", it has no key material yet",
            Self::Disabled | Self::PendingDeletion | Self::AlreadyPendingDeletion => "",
            Self::NotDisabled => ", only a disabled key can be enabled",
            Self::NotEnabled => ", only an enabled key can be disabled",
            Self::NotPendingDeletion => ", there is no deletion to cancel",
            Self::NotPendingImport => ", only a key that waits for its material takes it",
            Self::Imported => ", its material is imported, and not rotated here",
            Self::MaterialInUse => ", only material of an enabled or disabled key can be removed",
        }
    }
}

impl Refusal {
    /// The published code.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::NoSuchKey { .. } | Self::Destroyed { .. } => "KMS.0207",
            Self::State { fault, .. } => fault.code(),
            Self::DefaultKey { .. } => "KMS.0211",
            Self::NotPermitted { .. } | Self::AnchorNotPermitted { .. } => "KMS.0307",
            Self::NotAdministrator { .. } => "KMS.0330",
            Self::AliasTaken { .. } => "KMS.1104",
            Self::AliasReserved { .. } | Self::AliasInvalid(_) => "KMS.1101",
            Self::DescriptionTooLong { .. } => "KMS.1103",
            Self::DeletionPeriod { .. } => "KMS.1401",
            Self::ContextTooLong(_) => "KMS.0208",
            Self::Envelope(_)
            | Self::DoesNotOpen { .. }
            | Self::OtherKey { .. }
            | Self::VersionGone { .. } => "KMS.2201",
            Self::MaterialMissing { .. } => "KMS.0103",
            Self::ParameterMissing { .. } => "KMS.0204",
            Self::ParameterInvalid { .. } => "KMS.0308",
            Self::DatakeyLength => "KMS.1901",
            Self::TooManyKeys { .. } | Self::TooManyKeysOfOne { .. } => "KMS.1105",
            Self::NoSuchGrant { .. } => "KMS.2502",
            Self::GrantIdInvalid(_) => "KMS.2501",
            Self::GrantEmpty => "KMS.2401",
            Self::GranteeInvalid => "KMS.2402",
            Self::GrantTooWide { .. } => "KMS.0307",
            Self::TooManyGrants { .. }
            | Self::TooManyGrantsInAll { .. }
            | Self::TooManyGrantsOfOne { .. } => "KMS.2404",
            Self::Policy(_) => "KMSD.0007",
            Self::NoSuchAlias { .. } => "KMSD.0008",
            Self::AliasIsName { .. } => "KMSD.0009",
            Self::TooManyAliases { .. } => "KMSD.0010",
            Self::RotationEnabled { .. } => "KMS.2901",
            Self::RotationNotEnabled { .. } => "KMS.0313",
            Self::RotationInterval { .. } => "KMS.3001",
            Self::RotationUnderWay { .. } | Self::Unfinished { .. } | Self::HalfMade { .. } => "KMSD.0005",
            Self::TooManyRotations { .. } => "KMSD.0006",
            Self::TagInvalid => "KMS.0308",
            Self::TooManyTags { .. } => "KMS.0312",
            Self::ImportTokenInvalid { .. }
            | Self::ImportTokenExpired { .. }
            | Self::MaterialInvalid { .. }
            | Self::OtherMaterial { .. } => "KMS.0308",
            Self::ImportUnderWay { .. } => "KMS.0310",
            Self::NotExternal { .. } => "KMS.0309",
            Self::NoSuchAccessKey { .. } => "KMSD.0002",
            Self::AccessKeyDamaged { .. } => "KMSD.0003",
            Self::TooManyAccessKeys { .. } => "KMSD.0004",
            Self::AnchorBehind { .. } => "KMSD.0001",
            Self::NoSuchAnchor { .. } => "KMSD.0011",
            Self::LeaseHeld { .. } => "KMSD.0013",
            Self::LeaseLost { .. } => "KMSD.0014",
            Self::LeaseOfEarlierBoot { .. } => "KMSD.0015",
            Self::LeasesForgotten { .. } => "KMSD.0016",
            Self::TooManyAnchors { .. } | Self::TooManyAnchorsOfOne { .. } => "KMSD.0012",
            Self::BodyInvalid { .. } => "KMS.0202",
            Self::BodyTooLong { .. } => "KMS.0203",
            Self::NoSuchVerb => "KMS.0201",
        }
    }

    /// Whether it may be what stops a writer that is one no longer (F12): it permits nothing, and is told also while nothing can be recorded.
    #[must_use]
    pub const fn stops_a_writer(&self) -> bool {
        matches!(
            self,
            Self::AnchorBehind { .. }
                | Self::AnchorNotPermitted { .. }
                | Self::LeaseHeld { .. }
                | Self::LeaseOfEarlierBoot { .. }
                | Self::LeaseLost { .. }
        )
    }

    /// What to do about it, where there is something to do.
    #[must_use]
    pub const fn hint(&self) -> Option<&'static str> {
        Some(match self {
            Self::State { fault, .. } => match fault {
                StateFault::Disabled => "enable the key (`ecsctl key enable`)",
                StateFault::PendingDeletion | StateFault::AlreadyPendingDeletion => {
                    "cancel the deletion (`ecsctl key cancel-deletion`), then enable the key"
                }
                StateFault::NoMaterial => "import key material first (`ecsctl key import`)",
                StateFault::NotPendingImport => {
                    "make a key for imported material (`ecsctl key create --origin external`)"
                }
                StateFault::Imported => "make another key and re-encrypt under it",
                StateFault::NotDisabled
                | StateFault::NotEnabled
                | StateFault::NotPendingDeletion
                | StateFault::MaterialInUse => return None,
            },
            Self::NoSuchKey { .. } => "look at `ecsctl key list`, or ask the key's owner for a grant",
            Self::Destroyed { .. } => "what it protected can be had only from a backup under another key",
            Self::DefaultKey { .. } => "use a key of your own (`ecsctl key create`)",
            Self::NotPermitted { .. } => "ask the key's owner for a grant",
            Self::AliasTaken { .. } | Self::AliasReserved { .. } => "choose another alias",
            Self::DeletionPeriod { .. } => "say 7 days or more: there must be time to notice a mistake",
            Self::DoesNotOpen { .. } => "give the encryption context that it was made with",
            Self::VersionGone { .. } => "data under it is lost; restore a backup that has its own key",
            Self::MaterialMissing { .. } => "look at `kmsd doctor`; restore the token from its backup",
            Self::ImportTokenInvalid { .. } | Self::ImportTokenExpired { .. } => {
                "get new parameters for the import, and wrap the material with their public key"
            }
            Self::OtherMaterial { .. } => {
                "import the same material again, or make another key for this material"
            }
            Self::ImportUnderWay { .. } => "look at the key's state in a moment",
            Self::NotExternal { .. } => "disable the key, or schedule its deletion",
            Self::NoSuchAccessKey { .. } => "look at `ecsctl access-key list`",
            Self::AccessKeyDamaged { .. } => "delete this access key and make another",
            Self::TooManyAccessKeys { .. } => "delete access keys that are not needed",
            Self::TooManyKeys { .. } | Self::TooManyKeysOfOne { .. } => {
                "delete keys that are not needed, or have the limit raised"
            }
            Self::NoSuchGrant { .. } => "look at `ecsctl key grant KEY`",
            Self::GrantTooWide { .. } => "ask the key's owner for the grant",
            Self::TooManyGrants { .. }
            | Self::TooManyGrantsInAll { .. }
            | Self::TooManyGrantsOfOne { .. } => "revoke grants that are not needed (`ecsctl key revoke`)",
            Self::AliasIsName { .. } => "rename that key first (`ecsctl key alias KEY --rename NAME`)",
            Self::TooManyAliases { .. } => {
                "remove aliases that are not needed (`ecsctl key alias KEY --remove NAME`)"
            }
            Self::RotationNotEnabled { .. } => "turn it on (`ecsctl key rotate --every DAYS`)",
            Self::RotationUnderWay { .. } | Self::Unfinished { .. } => "try again in a moment",
            Self::HalfMade { .. } => "restart kmsd, which gives up what does not work; then try again",
            Self::TooManyRotations { .. } => "make another key and re-encrypt under it",
            Self::AnchorNotPermitted { .. } => {
                "an administrator can hand it over (`PUT /kmsd/v1/anchors/VOLUME/owner`) or remove it"
            }
            Self::TooManyAnchors { .. } | Self::TooManyAnchorsOfOne { .. } => {
                "remove the anchors of volumes that are gone (`DELETE /kmsd/v1/anchors/VOLUME`), or raise the limit"
            }
            Self::LeaseHeld { .. } => {
                "detach it there; if that process or its host is gone for good, try again when the lease has ended"
            }
            Self::LeaseOfEarlierBoot { .. } => {
                "try again when the lease has ended; if it is renewed, give each host a machine id of its own, and detach the volume there"
            }
            Self::LeasesForgotten { .. } => "try again then",
            Self::LeaseLost { .. } => {
                "detach it on this side, make sure that one host only has it attached, and check it (`evsfs check`)"
            }
            Self::AnchorBehind { .. } => {
                "if an older backup was restored on purpose, attach it with --accept-rollback"
            }
            _ => return None,
        })
    }
}
