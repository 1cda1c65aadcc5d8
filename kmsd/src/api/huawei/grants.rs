//! `create-grant`, `list-grants`, `list-retirable-grants`, `revoke-grant`, `retire-grant` (K7).

use super::{key, page::Page};
use crate::{
    api::{
        answer::{self, Reply},
        dispatch::parse,
    },
    domain::{
        Caller, KeyId, Operation, Principal, Refusal,
        grant::{Grant, GrantId, GrantSpec, MAX_GRANTS},
    },
    service::{Service, ServiceError},
    wire::{
        grants::{
            CreateGrantReply, CreateGrantRequest, GrantDetails, GrantRequest, ListGrantsReply,
            ListGrantsRequest,
        },
        rotation::Done,
    },
};

/// Answers the verb if it is one of these.
pub(super) async fn answer(
    service: &Service,
    caller: &Caller,
    verb: &str,
    body: &[u8],
) -> Option<Result<Reply, ServiceError>> {
    Some(match verb {
        "create-grant" => create(service, caller, body).await,
        "list-grants" => list(service, caller, body).await,
        "list-retirable-grants" => list_retirable(service, caller, body).await,
        "revoke-grant" => revoke(service, caller, body).await,
        "retire-grant" => retire(service, caller, body).await,
        _ => return None,
    })
}

async fn create(service: &Service, caller: &Caller, body: &[u8]) -> Result<Reply, ServiceError> {
    let request: CreateGrantRequest = parse(body)?;
    super::only(request.grantee_principal_type.as_deref(), "user", "grantee_principal_type", "user")?;
    let key = key(&request.key_id)?;
    let somebody = |text: &str| Principal::named(text).map_err(|_| Refusal::GranteeInvalid);
    let retiring = request.retiring_principal.as_deref().filter(|text| !text.is_empty());
    let operation = |name: &String| {
        let expected = "operations that can be granted";
        Operation::from_name(name).ok_or(Refusal::ParameterInvalid { name: "operations", expected })
    };
    let spec = GrantSpec {
        name: request.name.filter(|name| !name.is_empty()),
        grantee: somebody(&request.grantee_principal)?,
        retiring: retiring.map(somebody).transpose()?,
        operations: request.operations.iter().map(operation).collect::<Result<_, _>>()?,
        constraints: request.constraints,
    };
    let (_, id) = service.create_grant(caller, &key, spec).await?;
    Ok(answer::ok(&CreateGrantReply { grant_id: id.to_string() }))
}

async fn list(service: &Service, caller: &Caller, body: &[u8]) -> Result<Reply, ServiceError> {
    let request: ListGrantsRequest = parse(body)?;
    let view = service.list_grants(caller, &key(&request.key_id)?).await?;
    let all: Vec<_> = view.key.grants.iter().map(|grant| details(view.key.id, grant)).collect();
    print(&request, &all)
}

async fn list_retirable(service: &Service, caller: &Caller, body: &[u8]) -> Result<Reply, ServiceError> {
    let request: ListGrantsRequest = parse(body)?;
    let found = service.list_retirable_grants(caller, None).await?;
    let all: Vec<_> = found.iter().map(|(key, grant)| details(*key, grant)).collect();
    print(&request, &all)
}

async fn revoke(service: &Service, caller: &Caller, body: &[u8]) -> Result<Reply, ServiceError> {
    let request: GrantRequest = parse(body)?;
    service.revoke_grant(caller, &key(&request.key_id)?, id(&request)?).await?;
    Ok(answer::ok(&Done {}))
}

async fn retire(service: &Service, caller: &Caller, body: &[u8]) -> Result<Reply, ServiceError> {
    let request: GrantRequest = parse(body)?;
    service.retire_grant(caller, &key(&request.key_id)?, id(&request)?).await?;
    Ok(answer::ok(&Done {}))
}

fn id(request: &GrantRequest) -> Result<GrantId, Refusal> {
    Ok(request.grant_id.parse()?)
}

fn print(request: &ListGrantsRequest, all: &[GrantDetails]) -> Result<Reply, ServiceError> {
    let (limit, marker) = (request.limit.as_deref(), request.marker.as_deref());
    let (page, next) = Page::parse(limit, marker, MAX_GRANTS, "1 to 100")?.of(all);
    Ok(answer::ok(&ListGrantsReply {
        grants: page.to_vec(),
        truncated: next.is_some().to_string(),
        next_marker: next.unwrap_or_default(),
        total: all.len(),
    }))
}

fn details(key: KeyId, grant: &Grant) -> GrantDetails {
    let spec = &grant.spec;
    GrantDetails {
        key_id: key.to_string(),
        grant_id: grant.id.to_string(),
        grantee_principal: spec.grantee.to_string(),
        grantee_principal_type: "user".to_owned(),
        operations: spec.operations.iter().map(|operation| operation.name().to_owned()).collect(),
        issuing_principal: grant.issuer.to_string(),
        creation_date: grant.created_at.0.to_string(),
        name: spec.name.clone().unwrap_or_default(),
        retiring_principal: spec.retiring.as_ref().map(ToString::to_string).unwrap_or_default(),
        constraints: spec.constraints.clone(),
    }
}
