//! What there is of the API: its versions, and quotas.

use serde::Serialize;

use crate::{
    api::answer::{self, Reply},
    domain::{Caller, grant::MAX_GRANTS},
    service::{Service, ServiceError},
};

#[derive(Serialize)]
struct Versions {
    versions: [Version; 1],
}

#[derive(Serialize)]
struct OneVersion {
    version: Version,
}

#[derive(Serialize)]
struct Version {
    id: &'static str,
    links: [Link; 1],
    /// There are no minor versions.
    version: &'static str,
    min_version: &'static str,
    status: &'static str,
    /// When the publication came out.
    updated: &'static str,
}

#[derive(Serialize)]
struct Link {
    href: &'static str,
    rel: &'static str,
}

#[derive(Serialize)]
struct QuotasReply {
    quotas: Quotas,
}

#[derive(Serialize)]
struct Quotas {
    resources: [Quota; 2],
}

#[derive(Serialize)]
struct Quota {
    #[serde(rename = "type")]
    kind: &'static str,
    used: usize,
    quota: usize,
}

const V1: Version = Version {
    id: "v1.0",
    links: [Link { href: "/v1.0/", rel: "self" }],
    version: "",
    min_version: "",
    status: "CURRENT",
    updated: "2018-09-05T08:18:05Z",
};

/// `GET /`
pub(in crate::api) fn all() -> Reply {
    answer::ok(&Versions { versions: [V1] })
}

/// `GET /v1.0`
pub(in crate::api) fn one() -> Reply {
    answer::ok(&OneVersion { version: V1 })
}

/// `GET kms/user-quotas`: of keys, the caller's own, of an administrator all; of grants, as many as the key has that has most.
pub(super) async fn quotas(service: &Service, caller: &Caller) -> Result<Reply, ServiceError> {
    let all = service.list_keys(caller, None).await?;
    let (used, quota) = service.key_quota(caller);
    let keys = Quota { kind: "CMK", used, quota };
    let most =
        all.iter().filter(|view| !view.key.is_default).map(|view| view.key.grants.len()).max().unwrap_or(0);
    let grants = Quota { kind: "grant_per_CMK", used: most, quota: MAX_GRANTS };
    Ok(answer::ok(&QuotasReply { quotas: Quotas { resources: [keys, grants] } }))
}
