//! Names of keys: `kms/aliases`, `kms/alias/associate`, `update-key-alias`.

use hyper::{Response, StatusCode};

use super::{DOMAIN, REALM, key, page::Page};
use crate::{
    api::{
        answer::{self, Reply},
        auth::decode,
        dispatch::parse,
    },
    domain::{Alias, Caller, KeyRef, Refusal},
    service::{NamedKey, Service, ServiceError},
    wire::names::{
        AliasDetails, AliasPage, AssociateAliasRequest, CreateAliasRequest, DeleteAliasRequest, KeyAlias,
        KeyAliasReply, PageInfo,
    },
};

/// Most aliases on a page.
const MAX_PAGE: usize = 1000;

/// `POST kms/aliases`
pub(super) async fn create(service: &Service, caller: &Caller, body: &[u8]) -> Result<Reply, ServiceError> {
    let CreateAliasRequest { key_id, alias } = parse(body)?;
    let made = service.create_alias(caller, &key(&key_id)?, name(&alias)?).await?;
    Ok(answer::ok(&details(&made)))
}

/// `POST kms/alias/associate`
pub(super) async fn associate(
    service: &Service,
    caller: &Caller,
    body: &[u8],
) -> Result<Reply, ServiceError> {
    let AssociateAliasRequest { alias, target_key_id } = parse(body)?;
    let moved = service.associate_alias(caller, &name(&alias)?, &key(&target_key_id)?).await?;
    Ok(answer::ok(&details(&moved)))
}

/// `GET kms/aliases?key_id=...&limit=...&marker=...`
pub(super) async fn list(service: &Service, caller: &Caller, query: &str) -> Result<Reply, ServiceError> {
    let value = |name: &str| {
        let pair = query.split('&').filter_map(|pair| pair.split_once('=')).find(|(n, _)| *n == name);
        pair.map(|(_, value)| String::from_utf8_lossy(&decode(value)).into_owned())
            .filter(|value| !value.is_empty())
    };
    let (limit, marker) = (value("limit"), value("marker"));
    let page = Page::parse(limit.as_deref(), marker.as_deref(), MAX_PAGE, "1 to 1000")?;
    let of = value("key_id").map(|id| key(&id)).transpose()?;
    let all = service.list_aliases(caller, of.as_ref()).await?;
    let (part, next_marker) = page.of(&all);
    let page_info = PageInfo { next_marker, current_count: part.len() };
    Ok(answer::ok(&[AliasPage { aliases: part.iter().map(details).collect(), page_info }]))
}

/// `DELETE kms/aliases`: the named ones, or all that the key has besides its own name.
pub(super) async fn delete(service: &Service, caller: &Caller, body: &[u8]) -> Result<Reply, ServiceError> {
    let DeleteAliasRequest { key_id, aliases } = parse(body)?;
    let of = key_id.as_deref().map(key).transpose()?;
    let all = match &of {
        Some(of) => Some(service.list_aliases(caller, Some(of)).await?),
        None if aliases.is_empty() => return Err(Refusal::ParameterMissing { name: "aliases" }.into()),
        None => None,
    };
    let mut wanted: Vec<Alias> = aliases.iter().map(|alias| name(alias)).collect::<Result<_, _>>()?;
    if let (true, Some(all), Some(of)) = (wanted.is_empty(), &all, &of) {
        let own = service.describe_key(caller, of).await?.key.alias.clone();
        wanted = all.iter().map(|named| named.alias.clone()).filter(|alias| *alias != own).collect();
    }
    // All are looked at before the first is taken away.
    if let Some(all) = &all
        && let Some(alias) = wanted.iter().find(|alias| all.iter().all(|named| named.alias != **alias))
    {
        return Err(Refusal::NoSuchAlias { alias: alias.clone() }.into());
    }
    for alias in &wanted {
        service.delete_alias(caller, alias).await?;
    }
    let mut reply = Response::new(http_body_util::Full::default());
    *reply.status_mut() = StatusCode::NO_CONTENT;
    Ok(reply)
}

/// `update-key-alias`
pub(super) async fn rename(service: &Service, caller: &Caller, body: &[u8]) -> Result<Reply, ServiceError> {
    let KeyAlias { key_id, key_alias } = parse(body)?;
    let view = service.rename_key(caller, &key(&key_id)?, &key_alias).await?;
    let key_info = KeyAlias { key_id: view.key.id.to_string(), key_alias: view.key.alias.to_string() };
    Ok(answer::ok(&KeyAliasReply { key_info }))
}

fn name(text: &str) -> Result<Alias, Refusal> {
    match text.parse::<KeyRef>() {
        Ok(KeyRef::Alias(alias)) => Ok(alias),
        _ => Ok(text.parse::<Alias>()?),
    }
}

fn details(named: &NamedKey) -> AliasDetails {
    AliasDetails {
        domain_id: DOMAIN.to_owned(),
        key_id: named.key.to_string(),
        alias: format!("alias/{}", named.alias),
        alias_urn: format!("kms:{REALM}:{DOMAIN}:alias:{}", named.alias),
        create_time: named.created_at.0.to_string(),
        update_time: named.updated_at.0.to_string(),
    }
}
