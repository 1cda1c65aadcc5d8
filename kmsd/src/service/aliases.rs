//! Names of keys: their own, and aliases besides.

use super::{KeyView, Service, ServiceError, audit::Trail, lifecycle::naming};
use crate::{
    domain::{
        Alias, Caller, EncryptionContext, KeyId, KeyRef, Operation, Refusal,
        alias::{AliasRecord, MAX_ALIASES},
        key::{self, Phase, SharedKey},
        policy,
        registry::{Change, Conflict},
        time::WallTime,
    },
    store::CommitError,
};

/// A name and the key that it stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedKey {
    /// The name.
    pub alias: Alias,
    /// The key.
    pub key: KeyId,
    /// When the name was given.
    pub created_at: WallTime,
    /// When it was given to this key.
    pub updated_at: WallTime,
}

impl From<AliasRecord> for NamedKey {
    fn from(record: AliasRecord) -> Self {
        let AliasRecord { alias, key, created_at, updated_at, .. } = record;
        Self { alias, key, created_at, updated_at }
    }
}

impl Service {
    /// Changes a key's own name.
    ///
    /// # Errors
    /// If a rule forbids it, the name is taken or not allowed (K3), or the store fails.
    pub async fn rename_key(
        &self,
        caller: &Caller,
        key: &KeyRef,
        alias: &str,
    ) -> Result<KeyView, ServiceError> {
        let alias = alias.to_owned();
        self.change(caller, key, Operation::UpdateKey, move |permit| key::renamed(permit, &alias)).await
    }

    /// Gives a key another name besides its own.
    ///
    /// # Errors
    /// If a rule forbids it, the name is taken or not allowed (K3), there are too many, or the store fails.
    pub async fn create_alias(
        &self,
        caller: &Caller,
        key: &KeyRef,
        alias: Alias,
    ) -> Result<NamedKey, ServiceError> {
        let (service, caller, key) = (self.clone(), caller.clone(), key.clone());
        self.to_the_end(async move {
            let mut trail = Trail::of(&caller, Operation::CreateAlias, &key);
            let made = service.put_new_alias(&mut trail, &caller, &key, alias).await;
            service.recorded_alias(trail, made).await
        })
        .await
    }

    async fn put_new_alias(
        &self,
        trail: &mut Trail,
        caller: &Caller,
        key: &KeyRef,
        alias: Alias,
    ) -> Result<NamedKey, ServiceError> {
        trail.add_note(alias.to_string());
        let permit = self.authorise(caller, key, Operation::CreateAlias, &EncryptionContext::default())?;
        trail.key(permit.key().id, None);
        let record = AliasRecord::new(&permit, alias, self.observe_clock().wall())?;
        self.intend(trail).await?;
        let put = self.inner.writer.commit(Change::PutAlias(record.clone())).await;
        put.map_err(|error| alias_refused(error, permit.key(), &record.alias))?;
        Ok(record.into())
    }

    /// Makes an alias stand for another key. The caller needs the right to both.
    ///
    /// # Errors
    /// If a rule forbids it, there is no such alias, or the store fails.
    pub async fn associate_alias(
        &self,
        caller: &Caller,
        alias: &Alias,
        target: &KeyRef,
    ) -> Result<NamedKey, ServiceError> {
        let (service, caller, alias, target) = (self.clone(), caller.clone(), alias.clone(), target.clone());
        self.to_the_end(async move {
            let mut trail = Trail::of(&caller, Operation::CreateAlias, &target).note(alias.to_string());
            let moved = service.move_alias(&mut trail, &caller, &alias, &target).await;
            service.recorded_alias(trail, moved).await
        })
        .await
    }

    async fn move_alias(
        &self,
        trail: &mut Trail,
        caller: &Caller,
        alias: &Alias,
        target: &KeyRef,
    ) -> Result<NamedKey, ServiceError> {
        let mut attempts = self.inner.writer.attempts();
        loop {
            let (record, permit) = {
                let registry = self.inner.writer.registry().read();
                let none = EncryptionContext::default();
                let from = KeyRef::Alias(alias.clone());
                let left = policy::authorise(&registry, caller, &from, Operation::DeleteAlias, &none)
                    .map_err(|refusal| unknown_alias(refusal, alias))?;
                let permit = policy::authorise(&registry, caller, target, Operation::CreateAlias, &none)?;
                let Some(record) = registry.alias(alias).cloned() else {
                    let key = left.key().name();
                    return Err(Refusal::AliasIsName { alias: alias.clone(), key }.into());
                };
                (record, permit)
            };
            trail.key(permit.key().id, None);
            let next = record.of(&permit, self.observe_clock().wall());
            if attempts.is_first() {
                self.intend(trail).await?;
            }
            let put = attempts.commit(Change::PutAlias(next.clone())).await;
            if put.map_err(|error| alias_refused(error, permit.key(), alias))? {
                return Ok(next.into());
            }
        }
    }

    /// Takes a name away. A key's own name is replaced by one that the service makes up.
    ///
    /// # Errors
    /// If a rule forbids it, there is no such name, or the store fails.
    pub async fn delete_alias(&self, caller: &Caller, alias: &Alias) -> Result<(), ServiceError> {
        let (service, caller, alias) = (self.clone(), caller.clone(), alias.clone());
        self.to_the_end(async move {
            let mut trail = Trail::of(&caller, Operation::DeleteAlias, &alias);
            let gone = service.remove_alias(&mut trail, &caller, &alias).await;
            let gone = service.record(trail, gone).await;
            service.note_soon();
            gone
        })
        .await
    }

    async fn remove_alias(
        &self,
        trail: &mut Trail,
        caller: &Caller,
        alias: &Alias,
    ) -> Result<(), ServiceError> {
        let mut random = [0; 16];
        getrandom::fill(&mut random)?;
        let mut attempts = self.inner.writer.attempts();
        loop {
            let change = {
                let registry = self.inner.writer.registry().read();
                let named = KeyRef::Alias(alias.clone());
                let none = EncryptionContext::default();
                let permit = policy::authorise(&registry, caller, &named, Operation::DeleteAlias, &none)
                    .map_err(|refusal| unknown_alias(refusal, alias))?;
                trail.key(permit.key().id, None);
                match registry.alias(alias) {
                    Some(record) => Change::ForgetAlias(alias.clone(), record.revision),
                    None => Change::PutKey(key::unnamed(&permit, random)),
                }
            };
            if attempts.is_first() {
                self.intend(trail).await?;
            }
            if attempts.commit(change).await? {
                return Ok(());
            }
        }
    }

    /// Names of one key, or of all that the caller may describe, sorted. Names that the service made up are left out.
    ///
    /// # Errors
    /// If a rule forbids it.
    pub async fn list_aliases(
        &self,
        caller: &Caller,
        key: Option<&KeyRef>,
    ) -> Result<Vec<NamedKey>, ServiceError> {
        let mut trail = Trail::new(caller, "list-aliases");
        if let Some(key) = key {
            trail = trail.target(key);
        }
        let names: Result<Vec<NamedKey>, Refusal> = {
            let registry = self.inner.writer.registry().read();
            let keys: Result<Vec<SharedKey>, Refusal> = match key {
                Some(key) => {
                    let none = EncryptionContext::default();
                    policy::authorise(&registry, caller, key, Operation::DescribeKey, &none)
                        .map(|permit| vec![SharedKey::clone(permit.key())])
                }
                None => Ok(policy::visible(&registry, caller).cloned().collect()),
            };
            keys.map(|keys| {
                let mut names: Vec<NamedKey> = Vec::new();
                for key in keys {
                    if !key.alias.is_generated() {
                        let (created_at, updated_at) = (key.created_at, key.created_at);
                        names.push(NamedKey {
                            alias: key.alias.clone(),
                            key: key.id,
                            created_at,
                            updated_at,
                        });
                    }
                    names.extend(registry.aliases_of(key.id).cloned().map(NamedKey::from));
                }
                names.sort_by(|a, b| a.alias.cmp(&b.alias));
                names
            })
        };
        self.record(trail, names.map_err(Into::into)).await
    }

    /// Aliases of keys that are gone, which a crash may leave.
    pub(super) async fn clear_aliases(&self) -> Result<(), ServiceError> {
        let stale: Vec<Change> = {
            let registry = self.inner.writer.registry().read();
            let is_gone = |record: &&AliasRecord| {
                registry
                    .find(&KeyRef::Id(record.key))
                    .is_none_or(|key| matches!(key.phase, Phase::Destroying | Phase::Destroyed))
            };
            let gone = registry.aliases().filter(is_gone);
            gone.map(|record| Change::ForgetAlias(record.alias.clone(), record.revision)).collect()
        };
        for change in stale {
            match self.inner.writer.commit(change).await {
                // Somebody else took it away.
                Ok(()) | Err(CommitError::Conflict(Conflict::Stale)) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Names that nobody can ask for, since they read as other ones (by the prefix of aliases, or as a URN); versions up to 0.1 took them. As an
    /// alias such a name goes, as a key's own name it is replaced by one that the service makes up. The key itself stays as it is.
    pub(super) async fn clear_misleading_names(&self) -> Result<(), ServiceError> {
        let (aliases, keys) = {
            let registry = self.inner.writer.registry().read();
            let aliases: Vec<AliasRecord> =
                registry.aliases().filter(|a| a.alias.reads_as_another()).cloned().collect();
            let is_named = |key: &&SharedKey| key.phase == Phase::Live && key.alias.reads_as_another();
            let keys: Vec<SharedKey> = registry.keys().filter(is_named).cloned().collect();
            (aliases, keys)
        };
        for record in aliases {
            let change = Change::ForgetAlias(record.alias.clone(), record.revision);
            self.clear_name(&record.alias, record.key, change).await?;
        }
        for key in keys {
            let mut random = [0; 16];
            getrandom::fill(&mut random)?;
            let change = Change::PutKey(key.changed(|next| next.alias = Alias::generated(random)));
            self.clear_name(&key.alias, key.id, change).await?;
        }
        Ok(())
    }

    async fn clear_name(&self, name: &Alias, key: KeyId, change: Change) -> Result<(), ServiceError> {
        let note = "it reads as another name, so nobody could ask for it";
        let mut trail = Trail::of(&Caller::SYSTEM, Operation::DeleteAlias, name).note(note);
        trail.key(key, None);
        self.intend(&trail).await?;
        tracing::warn!(%key, %name, "a name that nobody can ask for is taken away; the key goes by its id");
        let gone = self.inner.writer.commit(change).await.map_err(ServiceError::from);
        self.record(trail, gone).await
    }

    async fn recorded_alias(
        &self,
        trail: Trail,
        outcome: Result<NamedKey, ServiceError>,
    ) -> Result<NamedKey, ServiceError> {
        let outcome = self.record(trail, outcome).await;
        self.note_soon();
        outcome
    }
}

fn alias_refused(error: CommitError, key: &SharedKey, alias: &Alias) -> ServiceError {
    match error {
        CommitError::Conflict(Conflict::TooManyAliases) => {
            Refusal::TooManyAliases { key: key.name(), limit: MAX_ALIASES }.into()
        }
        error => naming(error, alias),
    }
}

/// A name that stands for no key is named as what was asked for.
fn unknown_alias(refusal: Refusal, alias: &Alias) -> Refusal {
    match refusal {
        Refusal::NoSuchKey { .. } => Refusal::NoSuchAlias { alias: alias.clone() },
        other => other,
    }
}
