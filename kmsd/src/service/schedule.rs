//! What is done unasked: keys whose day has come are destroyed, and what failed half-way is cleared away (K4).

use super::{Service, ServiceError, audit::Trail};
use crate::domain::{
    Caller,
    key::{KeyRecord, Phase, SharedKey},
    reconcile::ObjectId,
    registry::Change,
};

impl Service {
    /// Does what is due. Cheap when nothing is.
    pub async fn tick(&self) {
        let now = self.trusted_now();
        let todo: Vec<SharedKey> = {
            let registry = self.inner.writer.registry().read();
            let in_flight = self.inner.in_flight.lock();
            let wants = |key: &&SharedKey| match key.phase {
                Phase::Live => key.is_due(now),
                Phase::Destroying => true,
                // A default key in creation is finished by the next who asks for it.
                Phase::Creating => !key.is_default && !in_flight.contains(&key.id),
                Phase::Destroyed => false,
            };
            registry.keys().filter(wants).cloned().collect()
        };
        for key in todo {
            if key.phase == Phase::Creating {
                self.undo(&key).await;
            } else if let Err(error) = self.destroy(&key).await {
                tracing::warn!(key = %key.id, %error, "a key whose deletion is due cannot be destroyed yet");
            }
        }
    }

    /// Stores where the trusted clock stands, so that it goes on from there.
    ///
    /// # Errors
    /// If the store fails.
    pub async fn save_clock(&self) -> Result<(), ServiceError> {
        Ok(self.inner.writer.put_clock(self.observe_clock()).await?)
    }

    /// Destroys a key and every version of it: the record says so first, so that a crash is finished, not forgotten.
    pub(super) async fn destroy(&self, key: &KeyRecord) -> Result<(), ServiceError> {
        let mut trail = Trail::new(&Caller::SYSTEM, "destroy-key").target(&key.alias);
        trail.key(key.id, None);
        self.intend(&trail).await?;
        let destroyed = self.destroy_now(key).await;
        let destroyed = self.record(trail, destroyed).await;
        self.note_soon();
        destroyed
    }

    async fn destroy_now(&self, key: &KeyRecord) -> Result<(), ServiceError> {
        let destroying = if key.phase == Phase::Destroying {
            key.clone()
        } else {
            let next = key.destroying();
            // Fails if the deletion was cancelled in this moment: then the key lives on.
            self.inner.writer.commit(Change::PutKey(next.clone())).await?;
            next
        };
        let objects: Vec<_> =
            destroying.versions.iter().map(|v| ObjectId { key: key.id, version: v.version }).collect();
        self.inner
            .pool
            .call(move |session| objects.iter().try_for_each(|object| session.destroy(*object)))
            .await?;
        self.inner.writer.commit(Change::PutKey(destroying.destroyed())).await?;
        tracing::info!(key = %key.id, alias = %key.alias, "destroyed: its scheduled deletion came due");
        Ok(())
    }
}
