//! Aliases.

use serde::{Deserialize, Serialize};

use super::{
    Call, Fault,
    keys::{page, paginate_sorted, seconds},
};
use crate::domain::{Alias, Refusal};

/// Aliases on a page if the request does not say.
const DEFAULT_PAGE: usize = 50;
const MAX_PAGE: usize = 100;
const PREFIX: &str = "alias/";

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct AliasOf {
    alias_name: String,
    target_key_id: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct DeleteAlias {
    alias_name: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct ListAliases {
    key_id: Option<String>,
    limit: Option<usize>,
    marker: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct ListedAliases {
    aliases: Vec<ListedAlias>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_marker: Option<String>,
    truncated: bool,
}

#[derive(Clone, Serialize)]
#[serde(rename_all = "PascalCase")]
struct ListedAlias {
    alias_name: String,
    alias_arn: String,
    target_key_id: String,
    creation_date: f64,
    last_updated_date: f64,
}

pub(super) async fn create(call: &Call<'_>, request: &AliasOf) -> Result<(), Fault> {
    let alias = name(&request.alias_name)?;
    let key = call.key_id(&request.target_key_id)?;
    call.service.create_alias(call.caller, &key, alias).await?;
    Ok(())
}

pub(super) async fn update(call: &Call<'_>, request: &AliasOf) -> Result<(), Fault> {
    let alias = name(&request.alias_name)?;
    let key = call.key_id(&request.target_key_id)?;
    call.service.associate_alias(call.caller, &alias, &key).await?;
    Ok(())
}

pub(super) async fn delete(call: &Call<'_>, request: &DeleteAlias) -> Result<(), Fault> {
    Ok(call.service.delete_alias(call.caller, &name(&request.alias_name)?).await?)
}

pub(super) async fn list(call: &Call<'_>, request: ListAliases) -> Result<ListedAliases, Fault> {
    let limit = page(request.limit, DEFAULT_PAGE, MAX_PAGE)?;
    let of = request.key_id.as_deref().map(|key| call.key_id(key)).transpose()?;
    let all: Vec<ListedAlias> = call
        .service
        .list_aliases(call.caller, of.as_ref())
        .await?
        .into_iter()
        .map(|named| ListedAlias {
            alias_name: format!("{PREFIX}{}", named.alias),
            alias_arn: call.names.alias(&named.alias),
            target_key_id: named.key.to_string(),
            creation_date: seconds(named.created_at),
            last_updated_date: seconds(named.updated_at),
        })
        .collect();
    let marker = request.marker.as_deref();
    if marker.is_some_and(|marker| !marker.starts_with(PREFIX)) {
        return Err(Fault::InvalidMarker);
    }
    let (aliases, next_marker) = paginate_sorted(&all, marker, limit, |alias| alias.alias_name.clone());
    Ok(ListedAliases { aliases: aliases.to_vec(), truncated: next_marker.is_some(), next_marker })
}

/// In this protocol a name is written with its prefix.
fn name(text: &str) -> Result<Alias, Fault> {
    if !text.starts_with(PREFIX) {
        return Err(Fault::Validation { name: "AliasName", expected: "alias/ and a name" });
    }
    Ok(text.parse::<Alias>().map_err(Refusal::from)?)
}
