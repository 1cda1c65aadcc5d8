//! Grants (K7).

use std::collections::BTreeSet;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD as BASE64};
use serde::{Deserialize, Serialize};

use super::{
    Call, Fault,
    keys::{page, paginate, seconds},
    names::ACCOUNT,
};
use crate::domain::{
    EncryptionContext, KeyId, Operation, Principal, Refusal,
    grant::{Constraints, Grant, GrantId, GrantSpec},
    key_policy::ACTIONS,
};

/// Grants on a page if the request does not say.
const DEFAULT_PAGE: usize = 50;
const MAX_PAGE: usize = 100;

/// A member that is not known is refused: a misspelt constraint would be none.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub(super) struct CreateGrant {
    key_id: String,
    grantee_principal: Option<String>,
    retiring_principal: Option<String>,
    grantee_service_principal: Option<serde::de::IgnoredAny>,
    retiring_service_principal: Option<serde::de::IgnoredAny>,
    operations: Vec<String>,
    constraints: Option<GrantConstraints>,
    name: Option<String>,
    /// Not needed: a grant counts as soon as it is made.
    #[serde(rename = "GrantTokens")]
    _grant_tokens: Option<serde::de::IgnoredAny>,
    #[serde(default)]
    dry_run: bool,
}

#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct GrantConstraints {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    encryption_context_subset: Option<EncryptionContext>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    encryption_context_equals: Option<EncryptionContext>,
    #[serde(default, skip_serializing)]
    source_arn: Option<serde::de::IgnoredAny>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Created {
    grant_token: String,
    grant_id: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct ListGrants {
    key_id: String,
    grant_id: Option<String>,
    grantee_principal: Option<String>,
    limit: Option<usize>,
    marker: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct ListRetirableGrants {
    retiring_principal: Option<String>,
    limit: Option<usize>,
    marker: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct ListedGrants {
    grants: Vec<ListedGrant>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_marker: Option<String>,
    truncated: bool,
}

#[derive(Clone, Serialize)]
#[serde(rename_all = "PascalCase")]
struct ListedGrant {
    key_id: String,
    grant_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    creation_date: f64,
    grantee_principal: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    retiring_principal: Option<String>,
    issuing_account: String,
    operations: Vec<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    constraints: Option<GrantConstraints>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct RevokeGrant {
    key_id: String,
    grant_id: String,
    #[serde(default)]
    dry_run: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct RetireGrant {
    grant_token: Option<String>,
    key_id: Option<String>,
    grant_id: Option<String>,
    #[serde(default)]
    dry_run: bool,
}

pub(super) async fn create(call: &Call<'_>, request: CreateGrant) -> Result<Created, Fault> {
    no_dry_run(request.dry_run)?;
    if request.grantee_service_principal.is_some() || request.retiring_service_principal.is_some() {
        return Err(Fault::Unsupported { what: "a service principal" });
    }
    let constraints = request.constraints.unwrap_or_default();
    if constraints.source_arn.is_some() {
        return Err(Fault::Unsupported { what: "a constraint on SourceArn" });
    }
    let grantee = request.grantee_principal.as_deref().ok_or(Refusal::GranteeInvalid)?;
    let mut operations = BTreeSet::new();
    for name in &request.operations {
        let known = ACTIONS.iter().find(|(action, _)| action == name);
        let (_, meant) = known.ok_or(Fault::Validation {
            name: "Operations",
            expected: "operations of symmetric keys that can be granted",
        })?;
        operations.extend(meant.iter().copied());
    }
    let spec = GrantSpec {
        name: request.name,
        grantee: principal(grantee)?,
        retiring: request.retiring_principal.as_deref().map(principal).transpose()?,
        operations,
        constraints: Constraints {
            equals: constraints.encryption_context_equals,
            subset: constraints.encryption_context_subset,
        },
    };
    let (key, id) = call.service.create_grant(call.caller, &call.key_id(&request.key_id)?, spec).await?;
    Ok(Created { grant_token: token(key, id), grant_id: id.to_string() })
}

pub(super) async fn list(call: &Call<'_>, request: ListGrants) -> Result<ListedGrants, Fault> {
    let of = request.grantee_principal.as_deref().map(principal).transpose()?;
    let id: Option<GrantId> =
        request.grant_id.as_deref().map(str::parse).transpose().map_err(Refusal::GrantIdInvalid)?;
    let view = call.service.list_grants(call.caller, &call.key_id(&request.key_id)?).await?;
    let all: Vec<ListedGrant> = view
        .key
        .grants
        .iter()
        .filter(|grant| of.as_ref().is_none_or(|of| grant.spec.grantee == *of))
        .filter(|grant| id.is_none_or(|id| grant.id == id))
        .map(|grant| listed(call, view.key.id, grant))
        .collect();
    part(&all, request.limit, request.marker.as_deref())
}

pub(super) async fn list_retirable(
    call: &Call<'_>,
    request: ListRetirableGrants,
) -> Result<ListedGrants, Fault> {
    let of = request.retiring_principal.as_deref().map(principal).transpose()?;
    let found = call.service.list_retirable_grants(call.caller, of.as_ref()).await?;
    let all: Vec<ListedGrant> = found.iter().map(|(key, grant)| listed(call, *key, grant)).collect();
    part(&all, request.limit, request.marker.as_deref())
}

pub(super) async fn revoke(call: &Call<'_>, request: RevokeGrant) -> Result<(), Fault> {
    no_dry_run(request.dry_run)?;
    let id: GrantId = request.grant_id.parse().map_err(Refusal::GrantIdInvalid)?;
    call.service.revoke_grant(call.caller, &call.key_id(&request.key_id)?, id).await?;
    Ok(())
}

/// Named by its token, or by key and id.
pub(super) async fn retire(call: &Call<'_>, request: RetireGrant) -> Result<(), Fault> {
    no_dry_run(request.dry_run)?;
    let (key, id) = match (request.grant_token, request.key_id, request.grant_id) {
        (Some(token), None, None) => read_token(&token).ok_or(Fault::InvalidGrantToken)?,
        (None, Some(key), Some(id)) => (call.key_id(&key)?, id.parse().map_err(Refusal::GrantIdInvalid)?),
        _ => {
            return Err(Fault::Validation {
                name: "GrantToken",
                expected: "either GrantToken, or KeyId and GrantId",
            });
        }
    };
    call.service.retire_grant(call.caller, &key, id).await?;
    Ok(())
}

fn principal(text: &str) -> Result<Principal, Refusal> {
    Principal::named(text).map_err(|_| Refusal::GranteeInvalid)
}

const fn no_dry_run(dry_run: bool) -> Result<(), Fault> {
    if dry_run { Err(Fault::Unsupported { what: "DryRun" }) } else { Ok(()) }
}

/// Names a grant; it gives no right by itself, and is not secret.
fn token(key: KeyId, id: GrantId) -> String {
    BASE64.encode(format!("{key} {id}"))
}

fn read_token(token: &str) -> Option<(crate::domain::KeyRef, GrantId)> {
    let text = String::from_utf8(BASE64.decode(token).ok()?).ok()?;
    let (key, id) = text.split_once(' ')?;
    let key: KeyId = key.parse().ok()?;
    Some((key.into(), id.parse().ok()?))
}

fn part(all: &[ListedGrant], limit: Option<usize>, marker: Option<&str>) -> Result<ListedGrants, Fault> {
    let limit = page(limit, DEFAULT_PAGE, MAX_PAGE)?;
    let (grants, next_marker) = paginate(all, marker, limit, |grant| grant.grant_id.clone())?;
    Ok(ListedGrants { grants: grants.to_vec(), truncated: next_marker.is_some(), next_marker })
}

fn listed(call: &Call<'_>, key: KeyId, grant: &Grant) -> ListedGrant {
    let spec = &grant.spec;
    let has = |operations: &[Operation]| operations.iter().any(|op| spec.operations.contains(op));
    // One name for each operation: those that the publication has for grants come first in the table.
    let is_for_grants = |operations: &[Operation]| operations.iter().all(|op| op.rule().grantable);
    let mut operations: Vec<&'static str> = Vec::new();
    let mut named: BTreeSet<Operation> = BTreeSet::new();
    for (name, meant) in ACTIONS {
        if is_for_grants(meant) && has(meant) && !meant.iter().all(|op| named.contains(op)) {
            operations.push(name);
            named.extend(meant.iter().copied());
        }
    }
    let constraints = (!spec.constraints.is_empty()).then(|| GrantConstraints {
        encryption_context_subset: spec.constraints.subset.clone(),
        encryption_context_equals: spec.constraints.equals.clone(),
        source_arn: None,
    });
    ListedGrant {
        key_id: call.names.key(key),
        grant_id: grant.id.to_string(),
        name: spec.name.clone(),
        creation_date: seconds(grant.created_at),
        grantee_principal: spec.grantee.to_string(),
        retiring_principal: spec.retiring.as_ref().map(ToString::to_string),
        issuing_account: ACCOUNT.to_owned(),
        operations,
        constraints,
    }
}
