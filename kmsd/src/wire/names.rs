//! Bodies about names, tags and policies of keys.

use serde::{Deserialize, Serialize};

/// `POST kms/aliases`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CreateAliasRequest {
    /// Id, `alias/<name>`, URN or name.
    pub key_id: String,
    /// With `alias/` before it, or without.
    pub alias: String,
}

/// `POST kms/alias/associate`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AssociateAliasRequest {
    /// With `alias/` before it, or without.
    pub alias: String,
    /// The key that it is to stand for.
    pub target_key_id: String,
}

/// `DELETE kms/aliases`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeleteAliasRequest {
    /// The key that they stand for, if the caller wants that checked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_id: Option<String>,
    /// The aliases.
    #[serde(default)]
    pub aliases: Vec<String>,
}

/// An alias.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AliasDetails {
    /// The owner's domain.
    pub domain_id: String,
    /// The key that it stands for.
    pub key_id: String,
    /// With `alias/` before it.
    pub alias: String,
    /// `kms:<region>:<domain>:alias:<name>`
    pub alias_urn: String,
    /// When it was made, in milliseconds since 1970.
    pub create_time: String,
    /// When it was made to stand for this key, in milliseconds since 1970.
    pub update_time: String,
}

/// Answer of `GET kms/aliases`: a list of one of these.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AliasPage {
    /// Sorted by name.
    pub aliases: Vec<AliasDetails>,
    /// Where the page stands.
    pub page_info: PageInfo,
}

/// Where a page stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PageInfo {
    /// Where the next page begins; absent on the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_marker: Option<String>,
    /// Entries on this one.
    pub current_count: usize,
}

/// `update-key-alias`, and the inside of its answer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyAlias {
    /// Id, `alias/<name>`, URN or name.
    pub key_id: String,
    /// The key's own name from now on.
    pub key_alias: String,
}

/// Answer of `update-key-alias`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyAliasReply {
    /// As it is now.
    pub key_info: KeyAlias,
}

/// A tag.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tag {
    /// 1 to 128 characters.
    pub key: String,
    /// Up to 256 characters.
    #[serde(default)]
    pub value: String,
}

/// `POST kms/{key_id}/tags/action`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TagsAction {
    /// `create` or `delete`.
    pub action: String,
    /// The tags; values do not matter for `delete`.
    pub tags: Vec<Tag>,
}

/// Answer of `GET kms/{key_id}/tags`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyTags {
    /// Sorted by name.
    pub tags: Vec<Tag>,
    /// How many.
    #[serde(rename = "existTagsNum")]
    pub exist_tags_num: usize,
}

/// `GET` and `PUT /kmsd/v1/keys/{key}/policy`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyBody {
    /// The document, as text.
    pub policy: String,
}
