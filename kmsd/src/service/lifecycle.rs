//! Making keys, looking at them, and changing their state (K3, K4).

use super::{
    Service, ServiceError,
    audit::Trail,
    flight::{Flight, Work},
};
use crate::{
    domain::{
        Alias, Caller, EncryptionContext, KeyId, KeyRef, Operation, Permit, Refusal,
        key::{self, KeyRecord, KeySpec, Phase, SharedKey},
        key_policy::KeyPolicy,
        policy,
        quota::Exceeded,
        reconcile::ObjectId,
        registry::{Change, Conflict},
        state::{KeyState, Origin},
        time::{TrustedClock, WallTime},
    },
    store::CommitError,
};

/// A key, with its dates as the wall clock shows them.
#[derive(Clone, Debug)]
pub struct KeyView {
    /// The record.
    pub key: SharedKey,
    /// When it will be destroyed.
    pub deletion_date: Option<WallTime>,
    /// When its imported material will be destroyed.
    pub material_expires: Option<WallTime>,
    /// When it will be rotated next.
    pub next_rotation: Option<WallTime>,
}

impl KeyView {
    fn new(key: SharedKey, clock: &TrustedClock) -> Self {
        let deletion_date = key.deletion_due.map(|due| clock.wall_of(due));
        let next_rotation = key.next_rotation().map(|due| clock.wall_of(due));
        let material_expires = key.import.expires.map(|due| clock.wall_of(due));
        Self { key, deletion_date, material_expires, next_rotation }
    }
}

/// What a key is made with.
#[derive(Clone, Copy, Debug)]
pub struct NewKey<'a> {
    /// Its name. `None`: the service makes one up.
    pub alias: Option<&'a str>,
    /// Free text.
    pub description: &'a str,
    /// Where its material comes from.
    pub origin: Origin,
    /// What people sort it by.
    pub tags: &'a [(String, String)],
    /// What its owner lets others do, and forbids, as JSON.
    pub policy: Option<&'a str>,
}

impl<'a> NewKey<'a> {
    /// Made in the token, with a name and nothing else.
    #[must_use]
    pub const fn named(alias: &'a str) -> Self {
        Self { alias: Some(alias), description: "", origin: Origin::Kms, tags: &[], policy: None }
    }

    fn spec(self, caller: &Caller, random: [u8; 16]) -> Result<KeySpec, Refusal> {
        let owner = caller.principal.clone();
        let spec = match self.alias {
            Some(alias) => KeySpec::new(alias, self.description, owner),
            None => KeySpec::unnamed(random, self.description, owner),
        };
        let policy = self.policy.map(KeyPolicy::parse).transpose()?;
        let spec = spec?.with_tags(self.tags)?.with_policy(policy);
        Ok(match self.origin {
            Origin::Kms => spec,
            Origin::External => spec.external(),
        })
    }
}

/// Name of the operation that makes a key.
const CREATE: &str = "create-key";

impl Service {
    /// Makes a key (K1), or one that waits for its material (K6).
    ///
    /// # Errors
    /// If the name is taken or not allowed, a tag or the policy is not one, there are too many keys, or the token or the store fails.
    pub async fn create_key(&self, caller: &Caller, new: NewKey<'_>) -> Result<KeyView, ServiceError> {
        let mut trail = Trail::new(caller, CREATE);
        if let Some(alias) = new.alias {
            trail = trail.target(&alias);
        }
        let mut random = [0; 16];
        getrandom::fill(&mut random)?;
        let (service, caller, spec) = (self.clone(), caller.clone(), new.spec(caller, random));
        self.to_the_end(async move {
            match spec {
                Ok(spec) => service.make_recorded(trail, &caller, spec).await.map(|key| service.view(key)),
                Err(refusal) => service.record(trail, Err(refusal.into())).await,
            }
        })
        .await
    }

    /// Describes a key.
    ///
    /// # Errors
    /// If there is none, or the caller is not told of it.
    pub async fn describe_key(&self, caller: &Caller, key: &KeyRef) -> Result<KeyView, ServiceError> {
        self.look(caller, key, Operation::DescribeKey).await
    }

    /// Keys that the caller is told of, oldest first, in a state or in any.
    ///
    /// # Errors
    /// If it cannot be recorded.
    pub async fn list_keys(
        &self,
        caller: &Caller,
        state: Option<KeyState>,
    ) -> Result<Vec<KeyView>, ServiceError> {
        let clock = self.observe_clock();
        let views = {
            let registry = self.inner.writer.registry().read();
            policy::visible(&registry, caller)
                .filter(|key| state.is_none_or(|state| key.state == state))
                .map(|key| KeyView::new(SharedKey::clone(key), &clock))
                .collect()
        };
        self.record(Trail::new(caller, "list-keys"), Ok(views)).await
    }

    /// Enables a disabled key.
    ///
    /// # Errors
    /// If a rule forbids it, or the store fails.
    pub async fn enable_key(&self, caller: &Caller, key: &KeyRef) -> Result<KeyView, ServiceError> {
        self.change(caller, key, Operation::EnableKey, |permit| Ok(key::enabled(permit))).await
    }

    /// Disables an enabled key.
    ///
    /// # Errors
    /// If a rule forbids it, or the store fails.
    pub async fn disable_key(&self, caller: &Caller, key: &KeyRef) -> Result<KeyView, ServiceError> {
        self.change(caller, key, Operation::DisableKey, |permit| Ok(key::disabled(permit))).await
    }

    /// Has a key destroyed in some days.
    ///
    /// # Errors
    /// If a rule forbids it, or the store fails.
    pub async fn schedule_deletion(
        &self,
        caller: &Caller,
        key: &KeyRef,
        days: &str,
    ) -> Result<KeyView, ServiceError> {
        let (service, days) = (self.clone(), days.to_owned());
        self.change(caller, key, Operation::ScheduleDeletion, move |permit| {
            key::scheduled(permit, &days, service.trusted_now())
        })
        .await
    }

    /// Takes that back.
    ///
    /// # Errors
    /// If a rule forbids it, or the store fails.
    pub async fn cancel_deletion(&self, caller: &Caller, key: &KeyRef) -> Result<KeyView, ServiceError> {
        self.change(caller, key, Operation::CancelDeletion, |permit| Ok(key::cancelled(permit))).await
    }

    /// Makes the default key of that name unless it is there (K3). However many ask at once, there is one.
    pub(super) async fn ensure_default(&self, alias: &Alias) -> Result<(), ServiceError> {
        let there = |service: &Self| {
            let registry = service.inner.writer.registry().read();
            registry.find(&KeyRef::Alias(alias.clone())).cloned()
        };
        if there(self).is_some_and(|key| key.phase == Phase::Live) {
            return Ok(());
        }
        let (service, alias) = (self.clone(), alias.clone());
        self.to_the_end(async move {
            let _turn = service.inner.default_keys.lock().await;
            let registry = service.inner.writer.registry();
            let found = registry.read().find(&KeyRef::Alias(alias.clone())).cloned();
            match found {
                Some(key) if key.phase == Phase::Live => Ok(()),
                // An earlier attempt got stuck half-way: go on with it, rather than make a second one.
                Some(key) if key.phase == Phase::Creating => {
                    service.finish(KeyRecord::clone(&key), false).await.map(drop)
                }
                _ => {
                    let trail = Trail::new(&Caller::SYSTEM, CREATE).target(&alias);
                    let spec = KeySpec::default_key(alias);
                    service.make_recorded(trail, &Caller::SYSTEM, spec).await.map(drop)
                }
            }
        })
        .await
    }

    pub(super) fn authorise(
        &self,
        caller: &Caller,
        key: &KeyRef,
        operation: Operation,
        context: &EncryptionContext,
    ) -> Result<Permit, Refusal> {
        policy::authorise(&self.inner.writer.registry().read(), caller, key, operation, context)
    }

    pub(super) fn view(&self, key: SharedKey) -> KeyView {
        KeyView::new(key, &self.observe_clock())
    }

    /// Decides on the record as it stands, records the decision, and decides again if it stood no longer.
    pub(super) async fn change(
        &self,
        caller: &Caller,
        key: &KeyRef,
        operation: Operation,
        decide: impl Fn(&Permit) -> Result<KeyRecord, Refusal> + Send + 'static,
    ) -> Result<KeyView, ServiceError> {
        let permit = self.asking(caller, key, operation);
        self.change_permitted(caller, key, operation, permit, decide).await
    }

    /// The same with a right of another kind.
    pub(super) async fn change_permitted(
        &self,
        caller: &Caller,
        key: &KeyRef,
        operation: Operation,
        permit: impl Fn() -> Result<Permit, Refusal> + Send + 'static,
        decide: impl Fn(&Permit) -> Result<KeyRecord, Refusal> + Send + 'static,
    ) -> Result<KeyView, ServiceError> {
        let (service, mut trail) = (self.clone(), Trail::of(caller, operation, key));
        self.to_the_end(async move {
            let changed = service.decide_and_commit(&mut trail, permit, decide).await;
            let view = changed.map(|key| service.view(key));
            let view = service.record(trail, view).await;
            service.note_soon();
            view
        })
        .await
    }

    /// Asks for the right to an operation that takes no context.
    pub(super) fn asking(
        &self,
        caller: &Caller,
        key: &KeyRef,
        operation: Operation,
    ) -> impl Fn() -> Result<Permit, Refusal> + Send + use<> {
        let (service, caller, key) = (self.clone(), caller.clone(), key.clone());
        move || service.authorise(&caller, &key, operation, &EncryptionContext::default())
    }

    pub(super) async fn decide_and_commit(
        &self,
        trail: &mut Trail,
        permit: impl Fn() -> Result<Permit, Refusal>,
        decide: impl Fn(&Permit) -> Result<KeyRecord, Refusal>,
    ) -> Result<SharedKey, ServiceError> {
        let mut attempts = self.inner.writer.attempts();
        loop {
            let permit = permit()?;
            trail.key(permit.key().id, None);
            let next = decide(&permit)?;
            if attempts.is_first() {
                self.intend(trail).await?;
                if next.has_new_dates(permit.key()) {
                    // They mean nothing without the axis that they are on, so that is recorded before them.
                    self.save_clock().await?;
                }
            }
            let committed = attempts.commit(Change::PutKey(next.clone())).await;
            if committed.map_err(|error| naming(error, &next.alias))? {
                return Ok(next.into());
            }
        }
    }

    async fn make_recorded(
        &self,
        mut trail: Trail,
        caller: &Caller,
        spec: KeySpec,
    ) -> Result<SharedKey, ServiceError> {
        self.intend(&trail).await?;
        let made = self.make(caller, spec).await;
        if let Ok(key) = &made {
            trail.key(key.id, key.current());
        }
        let made = self.record(trail, made).await;
        self.note_soon();
        made
    }

    async fn make(&self, caller: &Caller, spec: KeySpec) -> Result<SharedKey, ServiceError> {
        // One caller at a time from the count to the record: however many ask at once, there are no more than may be.
        let turn = self.inner.new_keys.lock().await;
        // Default keys are outside the bounds, as they are outside the cloud's quota.
        if !spec.is_default {
            let count = self.inner.writer.registry().read().count(&caller.principal);
            self.inner.limits.keys().admit(caller, count).map_err(|reached| match reached {
                Exceeded::All(limit) => Refusal::TooManyKeys { limit },
                Exceeded::Each(limit) => Refusal::TooManyKeysOfOne { limit },
            })?;
        }
        let mut random = [0; 16];
        getrandom::fill(&mut random)?;
        let now = self.observe_clock().wall();
        let record = KeyRecord::creating(spec, KeyId::from_random(random), now);
        // An id that was made up just now is nobody else's.
        let flight = Flight::alone(self, record.id, Work::Making);
        let committed = self.inner.writer.commit(Change::PutKey(record.clone())).await;
        drop(turn);
        committed.map_err(|error| naming(error, &record.alias))?;
        let made = self.finish(record.clone(), true).await;
        if made.is_err() {
            self.undo(&record).await;
        }
        drop(flight);
        made
    }

    /// From a recorded intent to a key in service. Fresh is one whose id was made up just now, so that no token has anything of it.
    async fn finish(&self, record: KeyRecord, fresh: bool) -> Result<SharedKey, ServiceError> {
        if record.phase == Phase::Live {
            // It waits for its material.
            return Ok(record.into());
        }
        let next = record.confirmed();
        let intended: Vec<_> =
            record.versions.iter().filter(|v| v.phase == Phase::Creating).map(|v| v.version).collect();
        for version in intended {
            let object = ObjectId { key: record.id, version };
            // When a try has gone wrong, look before making another.
            let mut first = fresh;
            self.inner
                .pool
                .change(move |session| {
                    if std::mem::take(&mut first) { session.generate(object) } else { session.ensure(object) }
                })
                .await?;
        }
        self.inner.writer.commit(Change::PutKey(next.clone())).await?;
        Ok(next.into())
    }

    /// Gives a recorded intent up. What fails here is tried again by the scheduler.
    pub(super) async fn undo(&self, record: &KeyRecord) {
        // A commit that failed may be in the store all the same. One that succeeds now shows that the intent still stands there.
        let current = self.record_of(record.id).filter(|key| key.phase == Phase::Creating);
        let Some(current) = current else { return };
        if let Err(error) = self.inner.writer.commit(Change::PutKey(current.changed(|_| ()))).await {
            tracing::warn!(key = %record.id, %error, "a key that could not be made cannot be cleared away yet");
            return;
        }
        let objects: Vec<_> =
            record.versions.iter().map(|v| ObjectId { key: record.id, version: v.version }).collect();
        let destroyed = self
            .inner
            .pool
            .change(move |session| objects.iter().try_for_each(|object| session.destroy(*object)))
            .await;
        if let Err(error) = destroyed {
            tracing::warn!(key = %record.id, %error, "a key that could not be made cannot be cleared away yet");
            return;
        }
        if let Err(error) = self.inner.writer.commit(Change::ForgetKey(record.id)).await {
            tracing::warn!(key = %record.id, %error, "the record of a key that could not be made cannot be cleared away yet");
        }
    }
}

/// A name that is taken is told by name.
pub(super) fn naming(error: CommitError, alias: &Alias) -> ServiceError {
    match error {
        CommitError::Conflict(Conflict::AliasTaken) => Refusal::AliasTaken { alias: alias.clone() }.into(),
        error => error.into(),
    }
}
