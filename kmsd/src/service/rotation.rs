//! Rotation: the intent recorded, a version generated in the token, the record confirmed (K5).
//!
//! One rotation of a key at a time. What fails half-way is given up; what a crash cut short, the next start finishes.

use super::{
    KeyView, Service, ServiceError,
    audit::Trail,
    flight::{Flight, TURN, Work},
};
use crate::domain::{
    Caller, KeyId, KeyRef, KeyVersion, Operation,
    key::{KeyRecord, Phase, SharedKey},
    reconcile::ObjectId,
    registry::Change,
    rotation::{self, Cause},
};

impl Service {
    /// Makes a newer version of a key now. What was wrapped before still opens.
    ///
    /// # Errors
    /// If a rule forbids it, the key is being rotated, or the token or the store fails.
    pub async fn rotate_key(&self, caller: &Caller, key: &KeyRef) -> Result<KeyView, ServiceError> {
        self.rotate_recorded(caller, key, Cause::Demand).await
    }

    /// Turns rotation by interval on.
    ///
    /// # Errors
    /// If a rule forbids it, it is on already, or the store fails.
    pub async fn enable_rotation(
        &self,
        caller: &Caller,
        key: &KeyRef,
        interval_days: u16,
    ) -> Result<KeyView, ServiceError> {
        let service = self.clone();
        self.change(caller, key, Operation::ConfigureRotation, move |permit| {
            rotation::turned_on(permit, interval_days, service.trusted_now())
        })
        .await
    }

    /// Sets another interval.
    ///
    /// # Errors
    /// If a rule forbids it, rotation is off, or the store fails.
    pub async fn set_rotation_interval(
        &self,
        caller: &Caller,
        key: &KeyRef,
        interval_days: u16,
    ) -> Result<KeyView, ServiceError> {
        let decide = move |permit: &_| rotation::every(permit, interval_days);
        self.change(caller, key, Operation::ConfigureRotation, decide).await
    }

    /// Turns rotation by interval off.
    ///
    /// # Errors
    /// If a rule forbids it, it is off, or the store fails.
    pub async fn disable_rotation(&self, caller: &Caller, key: &KeyRef) -> Result<KeyView, ServiceError> {
        self.change(caller, key, Operation::ConfigureRotation, rotation::turned_off).await
    }

    pub(super) async fn rotate_recorded(
        &self,
        caller: &Caller,
        key: &KeyRef,
        cause: Cause,
    ) -> Result<KeyView, ServiceError> {
        let (service, caller, key) = (self.clone(), caller.clone(), key.clone());
        self.to_the_end(async move {
            let mut trail = Trail::of(&caller, Operation::RotateKey, &key);
            let rotated = service.rotate(&mut trail, &caller, &key, cause).await;
            let view = rotated.map(|key| service.view(key));
            let view = service.record(trail, view).await;
            service.note_soon();
            view
        })
        .await
    }

    async fn rotate(
        &self,
        trail: &mut Trail,
        caller: &Caller,
        key: &KeyRef,
        cause: Cause,
    ) -> Result<SharedKey, ServiceError> {
        let permit = self.asking(caller, key, Operation::RotateKey)()?;
        let (id, name) = (permit.key().id, permit.key().name());
        let flight = Flight::turn(self, id, Work::Rotation, TURN).await;
        let _flight = flight.map_err(|other| other.refusal(name))?;
        // In the token there may be something of an attempt that was left half-way. A version that the record does not even intend is none of this rotation's:
        // its number is left alone, or undoing this rotation would undo that version.
        let before = self.record_of(id);
        let fresh = before.as_ref().is_some_and(|key| key.intended().is_none());
        let taken = match before.filter(|_| fresh) {
            Some(key) => self.taken_up_to(id, key.newest()).await?,
            None => KeyVersion::FIRST,
        };
        let service = self.clone();
        let decide = move |permit: &_| {
            let clock = service.observe_clock();
            rotation::rotating(permit, taken, cause, clock.wall(), clock.now())
        };
        let permit = self.asking(caller, &KeyRef::Id(id), Operation::RotateKey);
        let next = self.decide_and_commit(trail, permit, decide).await?;
        let version = next.intended().unwrap_or(KeyVersion::FIRST);
        trail.key(id, Some(version));
        let made = self.make_version(ObjectId { key: id, version }, fresh).await;
        if made.is_err() {
            self.undo_rotation(id).await;
        }
        made
    }

    /// The newest version from `newest` on that the token has an object of, without a gap. A restored store may not know of all.
    async fn taken_up_to(&self, id: KeyId, newest: KeyVersion) -> Result<KeyVersion, ServiceError> {
        let taken = self.inner.pool.call(move |session| {
            let mut taken = newest;
            while let Some(version) = taken.next()
                && session.exists(ObjectId { key: id, version })?
            {
                taken = version;
            }
            Ok(taken)
        });
        Ok(taken.await?)
    }

    /// From a recorded intent to a version in service.
    async fn make_version(&self, object: ObjectId, fresh: bool) -> Result<SharedKey, ServiceError> {
        let mut first = fresh;
        self.inner
            .pool
            .change(move |session| {
                if std::mem::take(&mut first) { session.generate(object) } else { session.ensure(object) }
            })
            .await?;
        self.change_intended(object.key, |key| key.confirmed()).await
    }

    /// Gives an intended version up. What fails here is tried again by the scheduler.
    pub(super) async fn undo_rotation(&self, id: KeyId) {
        // A commit that failed may be in the store all the same. One that succeeds now shows that the intent still stands there.
        let undone = async {
            let key = self.change_intended(id, |key| key.changed(|_| ())).await?;
            if let Some(version) = key.intended() {
                let object = ObjectId { key: id, version };
                self.inner.pool.change(move |session| session.destroy(object)).await?;
            }
            self.change_intended(id, KeyRecord::without_intended).await.map(drop)
        };
        if let Err(error) = undone.await {
            tracing::warn!(key = %id, %error, "a version that could not be made cannot be cleared away yet");
        }
    }

    /// Changes the record of a key that has an intended version, whatever else happens to the key meanwhile.
    async fn change_intended(
        &self,
        id: KeyId,
        change: impl Fn(&KeyRecord) -> KeyRecord,
    ) -> Result<SharedKey, ServiceError> {
        let mut attempts = self.inner.writer.attempts();
        loop {
            let current = self.record_of(id);
            let Some(key) = current.filter(|key| key.phase == Phase::Live && key.intended().is_some()) else {
                return Err(ServiceError::Interrupted);
            };
            let next = change(&key);
            if attempts.commit(Change::PutKey(next.clone())).await? {
                return Ok(next.into());
            }
        }
    }

    pub(super) fn record_of(&self, id: KeyId) -> Option<SharedKey> {
        self.inner.writer.registry().read().find(&KeyRef::Id(id)).cloned()
    }
}
