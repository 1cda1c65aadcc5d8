//! Key policies: read, set, removed (K7).

use super::{KeyView, Service, ServiceError};
use crate::domain::{Caller, KeyRef, Operation, Refusal, key, key_policy::KeyPolicy};

impl Service {
    /// The text of a key's policy; one that says what holds without one, if it has none.
    ///
    /// # Errors
    /// If a rule forbids it.
    pub async fn key_policy(&self, caller: &Caller, key: &KeyRef) -> Result<String, ServiceError> {
        let KeyView { key, .. } = self.look(caller, key, Operation::ReadPolicy).await?;
        Ok(key
            .policy
            .as_ref()
            .map_or_else(|| KeyPolicy::of_owner(&key.owner), |policy| policy.text().to_owned()))
    }

    /// Sets a key's policy, or removes it.
    ///
    /// # Errors
    /// If a rule forbids it, it is not understood in full, or the store fails.
    pub async fn set_key_policy(
        &self,
        caller: &Caller,
        key: &KeyRef,
        text: Option<&str>,
    ) -> Result<KeyView, ServiceError> {
        let policy = text.map(KeyPolicy::parse).transpose();
        self.change(caller, key, Operation::WritePolicy, move |permit| {
            Ok(key::with_policy(permit, policy.clone().map_err(Refusal::from)?))
        })
        .await
    }
}
