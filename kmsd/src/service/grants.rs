//! Grants: made, listed, given up, taken back (K7).

use super::{KeyView, Service, ServiceError, audit::Trail};
use crate::domain::{
    Caller, EncryptionContext, KeyId, KeyRef, Operation, Principal, Refusal,
    grant::{self, Grant, GrantId, GrantSpec},
    key::{Phase, SharedKey},
    policy,
    quota::Exceeded,
};

impl Service {
    /// Lets a principal use a key. A request that repeats a named one of the same caller's makes no second grant.
    ///
    /// # Errors
    /// If a rule forbids it, there are too many grants, or the store fails.
    pub async fn create_grant(
        &self,
        caller: &Caller,
        key: &KeyRef,
        spec: GrantSpec,
    ) -> Result<(KeyId, GrantId), ServiceError> {
        let mut random = [0; 32];
        getrandom::fill(&mut random)?;
        let id = GrantId::from_random(random);
        let (service, issuer, wanted) = (self.clone(), caller.clone(), spec.clone());
        let view = self
            .change(caller, key, Operation::CreateGrant, move |permit| {
                let now = service.observe_clock().wall();
                let next = grant::granted(permit, &issuer, &wanted.clone().checked()?, id, now)?;
                if next.grants.len() > permit.key().grants.len() {
                    service.admit_grant(&issuer, &permit.key().owner)?;
                }
                Ok(next)
            })
            .await?;
        let grants = &view.key.grants;
        let made = grants
            .iter()
            .find(|grant| grant.id == id)
            .or_else(|| grants.iter().find(|grant| grant.answers(&spec, &caller.principal)));
        Ok((view.key.id, made.map_or(id, |grant| grant.id)))
    }

    /// Many at once may go a few beyond the bound, which is there to bound memory.
    fn admit_grant(&self, caller: &Caller, owner: &Principal) -> Result<(), Refusal> {
        let count = self.inner.writer.registry().read().count_grants(owner);
        self.inner.limits.grants().admit(caller, count).map_err(|reached| match reached {
            Exceeded::All(limit) => Refusal::TooManyGrantsInAll { limit },
            Exceeded::Each(limit) => Refusal::TooManyGrantsOfOne { limit },
        })
    }

    /// A key with its grants.
    ///
    /// # Errors
    /// If a rule forbids it.
    pub async fn list_grants(&self, caller: &Caller, key: &KeyRef) -> Result<KeyView, ServiceError> {
        self.look(caller, key, Operation::ListGrants).await
    }

    /// Grants that name a principal as the one who may retire them. Nobody asks that for another but administrators.
    ///
    /// # Errors
    /// If it is asked for another principal.
    pub async fn list_retirable_grants(
        &self,
        caller: &Caller,
        principal: Option<&Principal>,
    ) -> Result<Vec<(KeyId, Grant)>, ServiceError> {
        let principal = principal.unwrap_or(&caller.principal);
        let trail = Trail::new(caller, "list-retirable-grants").target(principal);
        if *principal != caller.principal && !caller.is_admin {
            let action = "listing grants that another principal may retire";
            return self.record(trail, Err(Refusal::NotAdministrator { action }.into())).await;
        }
        let found = {
            let registry = self.inner.writer.registry().read();
            let of = |grant: &&Grant| grant.spec.retiring.as_ref() == Some(principal);
            registry
                .keys()
                .filter(|key| key.phase == Phase::Live)
                .flat_map(|key| key.grants.iter().filter(of).map(|grant| (key.id, grant.clone())))
                .collect()
        };
        self.record(trail, Ok(found)).await
    }

    /// Takes a grant back.
    ///
    /// # Errors
    /// If a rule forbids it, there is no such grant, or the store fails.
    pub async fn revoke_grant(
        &self,
        caller: &Caller,
        key: &KeyRef,
        id: GrantId,
    ) -> Result<KeyView, ServiceError> {
        self.change(caller, key, Operation::RevokeGrant, move |permit| grant::ungranted(permit, id)).await
    }

    /// Gives a grant up: for those whom it names, and who made it.
    ///
    /// # Errors
    /// If a rule forbids it, there is no such grant, or the store fails.
    pub async fn retire_grant(
        &self,
        caller: &Caller,
        key: &KeyRef,
        id: GrantId,
    ) -> Result<KeyView, ServiceError> {
        let (service, asker, named) = (self.clone(), caller.clone(), key.clone());
        let permit = move || {
            let registry = service.inner.writer.registry().read();
            policy::authorise_retirement(&registry, &asker, &named, id)
        };
        let decide = move |permit: &_| grant::ungranted(permit, id);
        self.change_permitted(caller, key, Operation::RetireGrant, permit, decide).await
    }

    /// Reads something of a key.
    pub(super) async fn look(
        &self,
        caller: &Caller,
        key: &KeyRef,
        operation: Operation,
    ) -> Result<KeyView, ServiceError> {
        let mut trail = Trail::of(caller, operation, key);
        let permit = self.authorise(caller, key, operation, &EncryptionContext::default());
        if let Ok(permit) = &permit {
            trail.key(permit.key().id, None);
        }
        let view = permit.map(|permit| self.view(SharedKey::clone(permit.key())));
        self.record(trail, view.map_err(Into::into)).await
    }
}
