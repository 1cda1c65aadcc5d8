//! What the public API has no words for (`/kmsd/v1/...`): health, key policies, access keys, the audit log, volume anchors.

use hyper::Method;
use uuid::Uuid;

use super::{
    answer::{self, Reply},
    dispatch::parse,
};
use crate::{
    domain::{Caller, KeyId, KeyRef, Principal, Refusal, access_key::AccessKeyRecord, anchor::Anchor},
    service::{Offer, Service, ServiceError},
    wire::control::{
        AcceptRollbackRequest, AccessKey, AccessKeyList, AdvanceRequest, AnchorBody, AnchorReply, AuditReply,
        AuditRequest, AuditVerdict, CreateAccessKeyRequest, DeletedAccessKey, HandOverRequest, LeaseReply,
        NewAccessKey, ReleaseLeaseRequest, ReleaseRequest, RenewLeaseRequest, TakeLeaseRequest,
    },
    wire::names::PolicyBody,
    wire::rotation::Done,
};

/// Most audit records in one answer.
const MAX_RECORDS: usize = 1000;

/// Answers a path below `/kmsd/v1/`.
pub(super) async fn answer(
    service: &Service,
    caller: &Caller,
    method: &Method,
    path: &[&str],
    body: &[u8],
) -> Result<Reply, ServiceError> {
    match (method, path) {
        (&Method::GET, ["health"]) => {
            let mut health = service.health();
            if !caller.is_admin {
                // The reason may name paths.
                health.token.reason = health.token.reason.map(|_| "see kmsd's log".to_owned());
            }
            Ok(answer::ok(&health))
        }
        (&Method::GET, ["metrics"]) => match caller.principal {
            // They say how much is going on: of this host's users and of administrators only.
            Principal::Uid(_) => Ok(answer::metrics(service.metrics())),
            _ if caller.is_admin => Ok(answer::metrics(service.metrics())),
            _ => Err(Refusal::NotAdministrator { action: "reading the metrics" }.into()),
        },
        (&Method::POST, ["access-keys"]) => {
            let request: CreateAccessKeyRequest = parse(body)?;
            let made = service.create_access_key(caller, &request.description, request.admin).await?;
            Ok(answer::ok(&NewAccessKey {
                access_key_id: made.record.id.to_string(),
                secret_access_key: made.secret.expose().to_owned(),
            }))
        }
        (&Method::GET, ["access-keys"]) => {
            let access_keys = service.list_access_keys(caller).await?.into_iter().map(access_key).collect();
            Ok(answer::ok(&AccessKeyList { access_keys }))
        }
        (&Method::DELETE, ["access-keys", id]) => {
            let id = id.parse().map_err(|_| Refusal::ParameterInvalid {
                name: "access_key_id",
                expected: "letters and digits",
            })?;
            service.delete_access_key(caller, &id).await?;
            Ok(answer::ok(&DeletedAccessKey { access_key_id: id.to_string() }))
        }
        (&Method::GET, ["audit"]) => {
            let records = service.audit_tail(caller, u64::MAX, MAX_RECORDS).await?;
            Ok(answer::ok(&AuditReply { records }))
        }
        (&Method::POST, ["audit", "list"]) => {
            let AuditRequest { before, limit } = parse(body)?;
            if !(1..=MAX_RECORDS).contains(&limit) {
                return Err(Refusal::ParameterInvalid { name: "limit", expected: "1 to 1000" }.into());
            }
            let records = service.audit_tail(caller, before.unwrap_or(u64::MAX), limit).await?;
            Ok(answer::ok(&AuditReply { records }))
        }
        (&Method::POST, ["audit", "keys"]) => Ok(answer::secret(service.audit_keys(caller).await?.to_json())),
        (&Method::POST, ["audit", "verify"]) => {
            let verdict = service.audit_verify(caller).await?;
            let fault = verdict.fault.map(|fault| fault.to_string());
            let end = verdict.head.to_string();
            let archived = (verdict.archived.seq > 0).then(|| verdict.archived.to_string());
            let (intact, records) = (fault.is_none(), verdict.records);
            Ok(answer::ok(&AuditVerdict { intact, records, end, archived, fault }))
        }
        (&Method::GET, ["keys", id, "policy"]) => {
            let policy = service.key_policy(caller, &key(id)?).await?;
            Ok(answer::ok(&PolicyBody { policy }))
        }
        (&Method::PUT, ["keys", id, "policy"]) => {
            let PolicyBody { policy } = parse(body)?;
            service.set_key_policy(caller, &key(id)?, Some(&policy)).await?;
            Ok(answer::ok(&Done {}))
        }
        (&Method::DELETE, ["keys", id, "policy"]) => {
            service.set_key_policy(caller, &key(id)?, None).await?;
            Ok(answer::ok(&Done {}))
        }
        (&Method::POST, ["keys", id, "release-plaintext"]) => {
            let ReleaseRequest { volume, encryption_context, to } = parse(body)?;
            service.release_plaintext(caller, &key(id)?, volume, &encryption_context, &to).await?;
            Ok(answer::ok(&Done {}))
        }
        (&Method::GET, ["anchors", volume]) => {
            let anchor = service.anchor(caller, uuid(volume)?).await?;
            Ok(answer::ok(&AnchorReply { anchor: anchor.map(print) }))
        }
        (&Method::POST, ["anchors", volume]) => {
            let AdvanceRequest { anchor, lease } = parse(body)?;
            let offer = Offer { anchor: read(&anchor)?, ticket: lease };
            let anchor = service.advance_anchor(caller, uuid(volume)?, offer).await?;
            Ok(answer::ok(&print(anchor)))
        }
        (&Method::POST, ["anchors", volume, "lease"]) => {
            let TakeLeaseRequest { session, holder } = parse(body)?;
            let taken = service.take_lease(caller, uuid(volume)?, session, holder).await?;
            let anchor = taken.anchor.map(print);
            Ok(answer::ok(&LeaseReply { lease: taken.ticket, seconds: taken.seconds, anchor }))
        }
        (&Method::POST, ["anchors", volume, "lease", "renew"]) => {
            let RenewLeaseRequest { lease, holder } = parse(body)?;
            service.renew_lease(caller, uuid(volume)?, lease, holder).await?;
            Ok(answer::ok(&Done {}))
        }
        (&Method::POST, ["anchors", volume, "lease", "release"]) => {
            let ReleaseLeaseRequest { lease } = parse(body)?;
            service.release_lease(caller, uuid(volume)?, lease).await?;
            Ok(answer::ok(&Done {}))
        }
        (&Method::POST, ["anchors", volume, "read-rollback"]) => {
            let request: AcceptRollbackRequest = parse(body)?;
            let found = read(&request.anchor)?;
            service.read_rollback(caller, uuid(volume)?, found, &request.reason).await?;
            Ok(answer::ok(&Done {}))
        }
        (&Method::POST, ["anchors", volume, "accept-rollback"]) => {
            let request: AcceptRollbackRequest = parse(body)?;
            let accepted = Offer { anchor: read(&request.anchor)?, ticket: request.lease };
            let anchor = service.accept_rollback(caller, uuid(volume)?, accepted, &request.reason).await?;
            Ok(answer::ok(&print(anchor)))
        }
        (&Method::DELETE, ["anchors", volume]) => {
            service.forget_anchor(caller, uuid(volume)?).await?;
            Ok(answer::ok(&Done {}))
        }
        (&Method::PUT, ["anchors", volume, "owner"]) => {
            let HandOverRequest { owner } = parse(body)?;
            let expected = "uid:<number>, cert:<SHA-256 of the public key info> or key:<access key id>";
            let owner = Principal::named(&owner)
                .map_err(|_| Refusal::ParameterInvalid { name: "owner", expected })?;
            service.hand_anchor_over(caller, uuid(volume)?, owner).await?;
            Ok(answer::ok(&Done {}))
        }
        _ => Err(Refusal::NoSuchVerb.into()),
    }
}

fn access_key(record: AccessKeyRecord) -> AccessKey {
    AccessKey {
        access_key_id: record.id.to_string(),
        description: record.description,
        admin: record.is_admin,
        created_by: record.created_by.to_string(),
        created_at: record.created_at.0,
    }
}

/// A key by its id: a name may have a slash in it.
fn key(text: &str) -> Result<KeyRef, Refusal> {
    let id =
        text.parse::<KeyId>().map_err(|_| Refusal::NoSuchKey { key: text.chars().take(64).collect() })?;
    Ok(id.into())
}

fn uuid(text: &str) -> Result<Uuid, Refusal> {
    Uuid::try_parse(text).map_err(|_| Refusal::ParameterInvalid { name: "volume", expected: "a UUID" })
}

fn read(body: &AnchorBody) -> Result<Anchor, Refusal> {
    let mut chain_mac = [0; 32];
    hex::decode_to_slice(&body.chain_mac, &mut chain_mac)
        .map_err(|_| Refusal::ParameterInvalid { name: "chain_mac", expected: "64 hexadecimal digits" })?;
    Ok(Anchor { generation: body.generation, chain_mac })
}

fn print(anchor: Anchor) -> AnchorBody {
    AnchorBody { generation: anchor.generation, chain_mac: hex::encode(anchor.chain_mac) }
}
