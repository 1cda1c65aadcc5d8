//! Names and tags of keys.

use super::{Client, ClientError, Replay};
use crate::{
    domain::{Alias, KeyId},
    wire::names::{
        AliasDetails, AliasPage, CreateAliasRequest, DeleteAliasRequest, KeyAlias, KeyAliasReply, KeyTags,
        Tag, TagsAction,
    },
};

const ALIASES: &str = "/v1.0/default/kms/aliases";

impl Client {
    /// Changes a key's own name.
    ///
    /// # Errors
    /// Also if the name is taken or not allowed.
    pub fn rename_key(&self, key: &str, alias: &str) -> Result<(), ClientError> {
        let request = KeyAlias { key_id: key.to_owned(), key_alias: alias.to_owned() };
        self.verb("update-key-alias", &request, Replay::Unsafe).map(|_: KeyAliasReply| ())
    }

    /// Gives a key another name besides its own.
    ///
    /// # Errors
    /// Also if the name is taken or not allowed, or the key has too many.
    pub fn create_alias(&self, key: &str, alias: &str) -> Result<(), ClientError> {
        let request = CreateAliasRequest { key_id: key.to_owned(), alias: alias.to_owned() };
        self.send(ALIASES, &request, Replay::Unsafe).map(|_: AliasDetails| ())
    }

    /// Takes such a name away.
    ///
    /// # Errors
    /// Also if it is none of the key's.
    pub fn delete_alias(&self, key: &str, alias: &str) -> Result<(), ClientError> {
        let request = DeleteAliasRequest { key_id: Some(key.to_owned()), aliases: vec![alias.to_owned()] };
        self.silent("DELETE", ALIASES, &request, Replay::Unsafe)
    }

    /// All names of a key, its own among them, sorted.
    ///
    /// # Errors
    /// Also if there is no such key.
    pub fn list_aliases(&self, key: &KeyId) -> Result<Vec<Alias>, ClientError> {
        // One page holds as many as a key may have.
        let pages: Vec<AliasPage> =
            self.call("GET", &format!("{ALIASES}?key_id={key}"), &[], Replay::Safe)?;
        let names = pages.iter().flat_map(|page| &page.aliases);
        names.map(|named| named.alias.parse().map_err(|_| self.wrong("alias"))).collect()
    }

    /// A key's tags, sorted by name.
    ///
    /// # Errors
    /// Also if there is no such key.
    pub fn list_tags(&self, key: &KeyId) -> Result<Vec<(String, String)>, ClientError> {
        let path = format!("/v1.0/default/kms/{key}/tags");
        let reply: KeyTags = self.call("GET", &path, &[], Replay::Safe)?;
        Ok(reply.tags.into_iter().map(|tag| (tag.key, tag.value)).collect())
    }

    /// Adds tags to a key; one that is there gets the new value.
    ///
    /// # Errors
    /// Also if one of them is not a tag, or there would be too many.
    pub fn add_tags(&self, key: &KeyId, tags: &[(String, String)]) -> Result<(), ClientError> {
        let tag = |(key, value): &(String, String)| Tag { key: key.clone(), value: value.clone() };
        self.tags(key, "create", tags.iter().map(tag).collect())
    }

    /// Removes tags from a key; one that is not there is no error.
    ///
    /// # Errors
    /// As every request.
    pub fn remove_tags(&self, key: &KeyId, names: &[String]) -> Result<(), ClientError> {
        let tag = |name: &String| Tag { key: name.clone(), value: String::new() };
        self.tags(key, "delete", names.iter().map(tag).collect())
    }

    fn tags(&self, key: &KeyId, action: &str, tags: Vec<Tag>) -> Result<(), ClientError> {
        let request = TagsAction { action: action.to_owned(), tags };
        let path = format!("/v1.0/default/kms/{key}/tags/action");
        self.silent("POST", &path, &request, Replay::Safe)
    }
}
