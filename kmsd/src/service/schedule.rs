//! What is done unasked: keys whose day has come are destroyed or rotated, and what failed half-way is cleared away (K4, K5).

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use super::{
    Service, ServiceError,
    audit::Trail,
    flight::{Flight, Work},
};
use crate::{
    domain::{
        Caller, KeyId, KeyRef, Refusal,
        audit::DESTROY,
        import,
        key::{KeyRecord, Phase, SharedKey},
        reconcile::ObjectId,
        registry::Change,
        rotation::Cause,
        state::Origin,
        time::TrustedTime,
    },
    hsm::{Session, TokenStatus},
};

/// How long a tick may take: well below the watchdog's time, whatever is due at once.
const TICK: Duration = Duration::from_secs(5);

/// How long after a first failure what is due is tried again; twice as long after each further one.
const AGAIN_FIRST_MS: i64 = 1000;
/// The longest of these times, and that after a failed rotation by interval.
const AGAIN_MS: i64 = 10 * 60 * 1000;

/// When something that failed is tried again.
pub(super) struct Again {
    due: Due,
    at: TrustedTime,
    after: i64,
}

/// What is to be done with a key.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Due {
    Destruction,
    /// A key that could not be made.
    Undoing,
    /// A version that could not be made.
    UndoingRotation,
    Rotation,
    /// Material from elsewhere that is due, or on its way.
    Material,
}

impl Due {
    /// What is due of a key that nobody is at work on.
    fn of(key: &KeyRecord, now: TrustedTime) -> Option<Self> {
        match key.phase {
            Phase::Destroying => Some(Self::Destruction),
            // A default key in creation is finished by the next who asks for it.
            Phase::Creating => (!key.is_default).then_some(Self::Undoing),
            Phase::Live if key.is_due(now) => Some(Self::Destruction),
            Phase::Live if key.is_unsettled() || key.is_material_due(now) || key.is_ticket_due(now) => {
                Some(Self::Material)
            }
            Phase::Live if key.intended().is_some() => Some(Self::UndoingRotation),
            Phase::Live => key.is_rotation_due(now).then_some(Self::Rotation),
            Phase::Destroyed => None,
        }
    }
}

impl Service {
    /// Does what is due, or some seconds' worth of it. Cheap when nothing is.
    pub async fn tick(&self) {
        self.tick_within(TICK).await;
    }

    /// Stops after the first key that is done after so long.
    pub(super) async fn tick_within(&self, within: Duration) {
        self.record_due_strangers().await;
        if !matches!(self.inner.pool.status(), TokenStatus::Present) {
            // All that follows needs the token.
            return;
        }
        let began = Instant::now();
        for (due, key) in self.due() {
            self.attend(due, &key).await;
            if began.elapsed() >= within {
                // Whoever waits for a sign of life hears of it; the rest is due still.
                break;
            }
        }
    }

    pub(super) async fn attend(&self, due: Due, key: &SharedKey) {
        self.attempt(due, key).await;
        if due != Due::Rotation {
            self.look_again(due, key.id);
        }
    }

    /// What is due still after an attempt has failed: each try costs a commit or two records, so they become rarer.
    fn look_again(&self, due: Due, id: KeyId) {
        let now = self.trusted_now();
        let is_due = self.record_of(id).is_some_and(|key| Due::of(&key, now) == Some(due));
        let mut again = self.inner.again.lock();
        if !is_due {
            again.remove(&id);
            return;
        }
        let before = again.get(&id).filter(|before| before.due == due);
        let after = before.map_or(AGAIN_FIRST_MS, |before| AGAIN_MS.min(before.after * 2));
        again.insert(id, Again { due, at: TrustedTime(now.0.saturating_add(after)), after });
    }

    async fn attempt(&self, due: Due, key: &SharedKey) {
        match due {
            Due::Destruction => {
                if let Err(error) = self.destroy(key).await {
                    tracing::warn!(key = %key.id, %error, "a key whose deletion is due cannot be destroyed yet");
                }
            }
            Due::Rotation => self.rotate_due(key).await,
            Due::Undoing | Due::UndoingRotation | Due::Material => self.clear_away(due, key.id).await,
        }
    }

    /// Does what destroys objects of a key that goes on, or may. The list of what is due was made a while ago: somebody may have taken up since what
    /// had been left half-way, and may be using it.
    async fn clear_away(&self, due: Due, id: KeyId) {
        let Ok(_flight) = Flight::alone(self, id, Work::ClearingUp) else { return };
        let now = self.trusted_now();
        let Some(key) = self.record_of(id).filter(|key| Due::of(key, now) == Some(due)) else { return };
        match due {
            Due::Undoing => self.undo(&key).await,
            Due::UndoingRotation => self.undo_rotation(id).await,
            Due::Material => {
                if let Err(error) = self.tend_material(&key).await {
                    tracing::warn!(key = %id, %error, "imported material cannot be seen to yet");
                }
            }
            Due::Destruction | Due::Rotation => {}
        }
    }

    pub(super) fn due(&self) -> Vec<(Due, SharedKey)> {
        let now = self.trusted_now();
        let registry = self.inner.writer.registry().read();
        let in_flight = self.inner.in_flight.lock();
        let again = self.inner.again.lock();
        let due = |key: &SharedKey| {
            let due = Due::of(key, now)?;
            let waits = match due {
                Due::Destruction => key.phase != Phase::Destroying && in_flight.contains_key(&key.id),
                Due::Rotation | Due::Undoing | Due::UndoingRotation | Due::Material => {
                    in_flight.contains_key(&key.id)
                }
            };
            let failed = again.get(&key.id).is_some_and(|again| again.due == due && now < again.at);
            (!waits && !failed).then_some(due)
        };
        registry.keys().filter_map(|key| due(key).map(|due| (due, SharedKey::clone(key)))).collect()
    }

    async fn rotate_due(&self, key: &SharedKey) {
        let rotated = self.rotate_recorded(&Caller::SYSTEM, &KeyRef::Id(key.id), Cause::Interval).await;
        let at = match rotated {
            Ok(_) => {
                tracing::info!(key = %key.id, alias = %key.alias, "rotated: its interval has gone by");
                self.inner.again.lock().remove(&key.id);
                return;
            }
            Err(ServiceError::Refused(refusal @ Refusal::TooManyRotations { .. })) => {
                tracing::warn!(key = %key.id, %refusal, "it is not rotated any more");
                TrustedTime(i64::MAX)
            }
            Err(error) => {
                tracing::warn!(key = %key.id, %error, "a key whose rotation is due cannot be rotated yet");
                TrustedTime(self.trusted_now().0.saturating_add(AGAIN_MS))
            }
        };
        self.inner.again.lock().insert(key.id, Again { due: Due::Rotation, at, after: AGAIN_MS });
    }

    /// Stores where the trusted clock stands, so that it goes on from there.
    ///
    /// # Errors
    /// If the store fails.
    pub async fn save_clock(&self) -> Result<(), ServiceError> {
        Ok(self.inner.writer.put_clock(self.observe_clock()).await?)
    }

    /// Destroys a key and every version of it: the record says so first, so that a crash is finished, not forgotten. That it is done is in the audit log
    /// before the record says so: a store that is put back later knows nothing of it, and the log must (K4). Until both are written it is done again.
    pub(super) async fn destroy(&self, key: &KeyRecord) -> Result<(), ServiceError> {
        let mut trail = Trail::new(&Caller::SYSTEM, DESTROY).target(&key.alias);
        trail.key(key.id, None);
        self.intend(&trail).await?;
        let destroyed = self.destroy_in_token(key).await;
        let gone = self.record(trail, destroyed).await?;
        // Aliases first: while the key is not destroyed, what fails here is tried again.
        self.clear_aliases().await?;
        self.inner.writer.commit(Change::PutKey(gone)).await?;
        self.note_soon();
        tracing::info!(key = %key.id, alias = %key.alias, "destroyed: its scheduled deletion came due");
        Ok(())
    }

    /// Gives the record that is to be written.
    async fn destroy_in_token(&self, key: &KeyRecord) -> Result<KeyRecord, ServiceError> {
        let destroying = if key.phase == Phase::Destroying {
            key.clone()
        } else {
            let next = key.destroying();
            // Fails if the deletion was cancelled in this moment: then the key lives on.
            self.inner.writer.commit(Change::PutKey(next.clone())).await?;
            next
        };
        // Material that a restored store knows nothing of has the number that all material has.
        let imported = (destroying.origin == Origin::External).then_some(import::VERSION);
        let versions: BTreeSet<_> = destroying.versions.iter().map(|v| v.version).chain(imported).collect();
        let objects: Vec<_> = versions.into_iter().map(|version| ObjectId { key: key.id, version }).collect();
        let pair = destroying.import.ticket.as_ref().map(|ticket| ticket.pair);
        self.inner
            .pool
            .change(move |session| {
                objects.iter().try_for_each(|object| session.destroy(*object))?;
                pair.map_or(Ok(()), |pair| session.drop_pair(pair))
            })
            .await?;
        Ok(destroying.destroyed())
    }

    /// Destroys what the token has again of a key that was destroyed: the token, or a part of it, was put back.
    pub(super) async fn destroy_revived(
        &self,
        id: KeyId,
        objects: Vec<ObjectId>,
    ) -> Result<(), ServiceError> {
        tracing::warn!(key = %id, versions = objects.len(), "the token has a key again that was destroyed: destroyed again");
        let mut trail = Trail::new(&Caller::SYSTEM, DESTROY).target(&id).note("the token had it again");
        trail.key(id, None);
        self.intend(&trail).await?;
        let destroy =
            move |session: &mut dyn Session| objects.iter().try_for_each(|object| session.destroy(*object));
        let destroyed = self.inner.pool.change(destroy).await.map_err(ServiceError::from);
        self.record(trail, destroyed).await
    }
}
