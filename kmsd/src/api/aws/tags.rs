//! Descriptions and tags.

use serde::{Deserialize, Serialize};

use super::{
    Call, Fault,
    keys::{page, paginate},
};

/// Tags on a page if the request does not say.
const DEFAULT_PAGE: usize = 50;
const MAX_PAGE: usize = 100;

#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Tag {
    tag_key: String,
    tag_value: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct UpdateKeyDescription {
    key_id: String,
    description: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct TagResource {
    key_id: String,
    tags: Vec<Tag>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct UntagResource {
    key_id: String,
    tag_keys: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct ListResourceTags {
    key_id: String,
    limit: Option<usize>,
    marker: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct ListedTags {
    tags: Vec<Tag>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_marker: Option<String>,
    truncated: bool,
}

pub(super) async fn describe(call: &Call<'_>, request: UpdateKeyDescription) -> Result<(), Fault> {
    let key = call.key_id(&request.key_id)?;
    call.service.update_description(call.caller, &key, &request.description).await?;
    Ok(())
}

pub(super) async fn tag(call: &Call<'_>, request: TagResource) -> Result<(), Fault> {
    let key = call.key_id(&request.key_id)?;
    call.service.tag_key(call.caller, &key, pairs(request.tags)).await?;
    Ok(())
}

pub(super) async fn untag(call: &Call<'_>, request: UntagResource) -> Result<(), Fault> {
    let key = call.key_id(&request.key_id)?;
    call.service.untag_key(call.caller, &key, request.tag_keys).await?;
    Ok(())
}

pub(super) async fn list(call: &Call<'_>, request: ListResourceTags) -> Result<ListedTags, Fault> {
    let limit = page(request.limit, DEFAULT_PAGE, MAX_PAGE)?;
    let view = call.service.describe_key(call.caller, &call.key_id(&request.key_id)?).await?;
    let all: Vec<Tag> = view
        .key
        .tags
        .iter()
        .map(|(key, value)| Tag { tag_key: key.to_owned(), tag_value: value.to_owned() })
        .collect();
    let (tags, next_marker) = paginate(&all, request.marker.as_deref(), limit, |tag| tag.tag_key.clone())?;
    Ok(ListedTags { tags: tags.to_vec(), truncated: next_marker.is_some(), next_marker })
}

pub(super) fn pairs(tags: Vec<Tag>) -> Vec<(String, String)> {
    tags.into_iter().map(|tag| (tag.tag_key, tag.tag_value)).collect()
}
