//! Bodies under `/kmsd/v1/`: what the public API has no words for.

use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::domain::lease::{Holder, Ticket};

/// Answer of `GET /kmsd/v1/health`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// `ok` when everything is, else `degraded`.
    pub status: String,
    /// The daemon's version.
    pub version: String,
    /// The PKCS#11 token.
    pub token: TokenHealth,
    /// The store.
    pub store: StoreHealth,
    /// The audit log.
    #[serde(default)]
    pub audit: AuditHealth,
    /// What destroys keys when their day comes.
    pub scheduler: SchedulerHealth,
}

/// The token's part of [`Health`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenHealth {
    /// Whether the token answers.
    pub available: bool,
    /// The token's label.
    pub label: String,
    /// The token's serial number.
    pub serial: String,
    /// Why it is away, if it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// The store's part of [`Health`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreHealth {
    /// Whether changes can be recorded.
    pub available: bool,
    /// Keys that are not destroyed.
    pub keys: u64,
}

/// The audit log's part of [`Health`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditHealth {
    /// Whether records can be written; if not, every operation is refused.
    pub writable: bool,
    /// Number of the last record.
    pub records: u64,
}

/// The scheduler's part of [`Health`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SchedulerHealth {
    /// Keys that wait for their day.
    pub pending_deletions: u64,
    /// The wall clock is ahead of the time that has gone by, and is not believed: it brings no deletion nearer.
    pub clock_distrusted: bool,
}

/// Request of `POST /kmsd/v1/access-keys`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CreateAccessKeyRequest {
    /// Up to 255 characters.
    pub description: String,
    /// Whether requests signed with it may do everything.
    pub admin: bool,
}

/// Answer of `POST /kmsd/v1/access-keys`: the only time that the secret is shown.
#[derive(Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
pub struct NewAccessKey {
    /// The public half.
    pub access_key_id: String,
    /// The secret half.
    pub secret_access_key: String,
}

/// An access key in the answer of `GET /kmsd/v1/access-keys`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccessKey {
    /// The public half.
    pub access_key_id: String,
    /// Free text.
    pub description: String,
    /// Whether requests signed with it may do everything.
    pub admin: bool,
    /// Who made it, such as `uid:0`.
    pub created_by: String,
    /// When, in milliseconds since 1970.
    pub created_at: i64,
}

/// Answer of `GET /kmsd/v1/access-keys`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccessKeyList {
    /// Oldest first.
    pub access_keys: Vec<AccessKey>,
}

/// Answer of `DELETE /kmsd/v1/access-keys/{id}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeletedAccessKey {
    /// The one that is gone.
    pub access_key_id: String,
}

/// A volume's freshness anchor (F3): the newest state that the service was told of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AnchorBody {
    /// Generation of the volume's newest commit.
    pub generation: u64,
    /// MAC of its log chain: 64 hexadecimal digits.
    pub chain_mac: String,
}

/// Request of `POST /kmsd/v1/anchors/{volume}`: the volume has come so far.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdvanceRequest {
    /// How far.
    #[serde(flatten)]
    pub anchor: AnchorBody,
    /// The lease of who says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease: Option<Ticket>,
}

/// Request of `POST /kmsd/v1/anchors/{volume}/lease`: a writer attaches the volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TakeLeaseRequest {
    /// Drawn for this attach.
    pub session: uuid::Uuid,
    /// Who it is.
    pub holder: Holder,
}

/// Answer of `POST /kmsd/v1/anchors/{volume}/lease`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseReply {
    /// To be shown with what the lease is for.
    pub lease: Ticket,
    /// How long it lasts without a renewal.
    pub seconds: u64,
    /// Where the volume's anchor stands; absent if it has none yet.
    pub anchor: Option<AnchorBody>,
}

/// Request of `POST /kmsd/v1/anchors/{volume}/lease/renew`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RenewLeaseRequest {
    /// The lease.
    pub lease: Ticket,
    /// Whose it is.
    pub holder: Holder,
}

/// Request of `POST /kmsd/v1/anchors/{volume}/lease/release`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReleaseLeaseRequest {
    /// The lease.
    pub lease: Ticket,
}

/// Answer of `GET /kmsd/v1/anchors/{volume}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AnchorReply {
    /// The anchor; absent if the volume has none yet.
    pub anchor: Option<AnchorBody>,
}

/// Request of `POST /kmsd/v1/anchors/{volume}/accept-rollback`: an operator opens an older state on purpose. Also of `.../read-rollback`: he
/// looks at it only, and the anchor stays.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AcceptRollbackRequest {
    /// The state that is accepted from now on, or looked at.
    #[serde(flatten)]
    pub anchor: AnchorBody,
    /// Why, for the audit log.
    #[serde(default)]
    pub reason: String,
    /// The lease of who goes on with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease: Option<Ticket>,
}

/// Request of `PUT /kmsd/v1/anchors/{volume}/owner`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HandOverRequest {
    /// Whose the anchor is from now on: `uid:1000`, `cert:<digest>`, `key:<access key id>`.
    pub owner: String,
}

/// Request of `POST /kmsd/v1/keys/{id}/release-plaintext`: what a volume holds is about to be written in the open.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReleaseRequest {
    /// The volume that holds it.
    pub volume: uuid::Uuid,
    /// The context of its data key.
    #[serde(default)]
    pub encryption_context: crate::domain::EncryptionContext,
    /// Where it goes, for the audit log.
    pub to: String,
}

/// Request of `POST /kmsd/v1/audit/list`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditRequest {
    /// Only records with smaller numbers than this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<u64>,
    /// At most so many, 1 to 1000: the latest of them.
    pub limit: usize,
}

/// Answer of `GET /kmsd/v1/audit` and `POST /kmsd/v1/audit/list`: oldest first.
#[cfg(feature = "audit")]
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AuditReply {
    /// The records, as they stand in the log.
    pub records: Vec<crate::domain::audit::Record>,
}

/// Answer of `POST /kmsd/v1/audit/verify`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditVerdict {
    /// Whether every record is as it was written, and none is missing.
    pub intact: bool,
    /// Records that are as they were written.
    pub records: u64,
    /// The last of them: number, colon, MAC. Noted elsewhere, it shows later whether a copy holds it.
    #[serde(default)]
    pub end: String,
    /// The last record before them, in the same form, if earlier ones were archived.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub archived: Option<String>,
    /// The first thing that is wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<String>,
}
