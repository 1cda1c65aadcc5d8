//! What people write on a key: its description and its tags.

use super::{KeyView, Service, ServiceError};
use crate::domain::{
    Caller, KeyRef, Operation, Permit, Refusal,
    key::{self, KeyRecord},
};

impl Service {
    /// Changes a key's description.
    ///
    /// # Errors
    /// If a rule forbids it, it is too long, or the store fails.
    pub async fn update_description(
        &self,
        caller: &Caller,
        key: &KeyRef,
        description: &str,
    ) -> Result<KeyView, ServiceError> {
        let description = description.to_owned();
        self.change(caller, key, Operation::UpdateKey, move |permit| key::described(permit, &description))
            .await
    }

    /// Adds tags to a key; a tag that is there gets the new value.
    ///
    /// # Errors
    /// If a rule forbids it, one of them is not a tag, there would be too many, or the store fails.
    pub async fn tag_key(
        &self,
        caller: &Caller,
        key: &KeyRef,
        tags: Vec<(String, String)>,
    ) -> Result<KeyView, ServiceError> {
        let decide = move |permit: &_| tags_with(permit, &tags);
        self.change(caller, key, Operation::TagKey, decide).await
    }

    /// Removes tags from a key; a tag that is not there is no error.
    ///
    /// # Errors
    /// If a rule forbids it, or the store fails.
    pub async fn untag_key(
        &self,
        caller: &Caller,
        key: &KeyRef,
        names: Vec<String>,
    ) -> Result<KeyView, ServiceError> {
        let decide = move |permit: &Permit| Ok(key::tagged(permit, permit.key().tags.without(&names)));
        self.change(caller, key, Operation::TagKey, decide).await
    }
}

fn tags_with(permit: &Permit, tags: &[(String, String)]) -> Result<KeyRecord, Refusal> {
    Ok(key::tagged(permit, permit.key().tags.with(tags)?))
}
