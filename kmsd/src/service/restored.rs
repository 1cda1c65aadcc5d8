//! After a restore, and when the store's integrity key is replaced.

use std::{
    collections::{BTreeMap, HashSet},
    sync::atomic::Ordering,
};

use super::{
    Service, ServiceError,
    audit::Trail,
    start::{audit_key, store_key},
};
use crate::{
    audit::{self, Extent},
    domain::{
        Caller, KeyId, KeyVersion,
        audit::ChainKey,
        import,
        key::{Phase, SharedKey},
        reconcile::ObjectId,
        registry::Change,
        state::Origin,
    },
};

impl Service {
    /// Destroys what the audit log says was destroyed already: a store from before that does not know, and a token that was
    /// restored with it has the key again (K4).
    pub(super) async fn destroy_again(&self) -> Result<(), ServiceError> {
        let directory = self.inner.audit.directory().to_owned();
        let (end, pool) = (self.inner.audit.head(), self.inner.pool.clone());
        let runtime = tokio::runtime::Handle::current();
        let read = tokio::task::spawn_blocking(move || {
            let mut destroyed = HashSet::<KeyId>::new();
            let verdict = audit::read::<ServiceError>(
                &[&directory],
                Extent::UpTo(end),
                |number| Ok(ChainKey::new(*runtime.block_on(audit_key(&pool, number))?)),
                |record| destroyed.extend(record.event.destroyed()),
            );
            verdict.map(|verdict| (verdict, destroyed))
        });
        let (verdict, destroyed) = read.await.map_err(|_| ServiceError::Interrupted)??;
        if let Some(fault) = verdict.fault {
            // Only records before the fault are believed.
            tracing::error!(%fault, "the audit log is not intact: it may not name every key that was destroyed");
        }
        let back: Vec<SharedKey> = {
            let registry = self.inner.writer.registry().read();
            let is_back = |key: &&SharedKey| {
                destroyed.contains(&key.id) && matches!(key.phase, Phase::Live | Phase::Destroying)
            };
            registry.keys().filter(is_back).cloned().collect()
        };
        for key in back {
            tracing::warn!(key = %key.id, alias = %key.alias, "was destroyed after this store was copied: destroyed again");
            self.destroy(&key).await?;
        }
        Ok(())
    }

    /// Puts newer versions into service that the token has of a key and the store does not know: it is a copy from before a rotation. What was wrapped since
    /// opens again, and whoever deletes the key deletes them too. Imported material that the store does not know is recognised. Gives back what it leaves
    /// alone: objects of no living key, older numbers, what does not work.
    pub(super) async fn take_on(&self, orphans: Vec<ObjectId>) -> Result<Vec<ObjectId>, ServiceError> {
        let (mut found, mut left) = (BTreeMap::<KeyId, Vec<KeyVersion>>::new(), Vec::new());
        for object in orphans {
            let is_newer = self.record_of(object.key).is_some_and(|key| {
                key.phase == Phase::Live
                    && key.origin == Origin::Kms
                    // What is being made is finished or given up first.
                    && key.intended().is_none()
                    && object.version > key.newest()
            });
            if is_newer && self.inner.pool.call(move |session| session.works(object)).await? {
                found.entry(object.key).or_default().push(object.version);
            } else if self.recognise(object).await? {
                tracing::warn!(key = %object.key, "the token has material of this key that the store does not know of: import the same material again");
            } else {
                left.push(object);
            }
        }
        for (id, versions) in found {
            let Some(key) = self.record_of(id) else { continue };
            let next = key.with_found(versions, self.observe_clock().wall());
            let mut trail = Trail::new(&Caller::SYSTEM, "take-on-versions").target(&key.alias);
            trail.key(id, next.current());
            self.intend(&trail).await?;
            tracing::warn!(key = %id, alias = %key.alias, newest = %next.newest(), "the token has newer versions of this key than the store knew of: they are in service");
            let taken = self.inner.writer.commit(Change::PutKey(next)).await.map_err(ServiceError::from);
            self.record(trail, taken).await?;
        }
        Ok(left)
    }

    /// Notes what material the token has of a key whose first import the store does not know of: it is a copy from before it. Then the key takes the same material only,
    /// and what the token has beside it stays, without which nothing would open that was wrapped since (K6).
    async fn recognise(&self, object: ObjectId) -> Result<bool, ServiceError> {
        let key = self.record_of(object.key).filter(|key| key.awaits_first_material());
        let Some(key) = key.filter(|_| object.version == import::VERSION) else { return Ok(false) };
        if !self.inner.pool.call(move |session| session.works(object)).await? {
            return Ok(false);
        }
        let check = self.inner.pool.call(move |session| session.check_value(object)).await?;
        let mut trail = Trail::new(&Caller::SYSTEM, "recognise-material").target(&key.alias);
        trail.key(key.id, None);
        self.intend(&trail).await?;
        let noted = self.inner.writer.commit(Change::PutKey(key.recognised(check))).await;
        self.record(trail, noted.map_err(ServiceError::from)).await?;
        Ok(true)
    }

    /// Replaces the store's integrity key and makes every MAC anew.
    ///
    /// # Errors
    /// If the token, the store or the audit log fails; then the old key goes on.
    pub async fn rekey_store(&self) -> Result<u64, ServiceError> {
        self.rekey_store_above(self.inner.store_key.load(Ordering::Acquire)).await
    }

    pub(super) async fn rekey_store_above(&self, number: u64) -> Result<u64, ServiceError> {
        let next = number + 1;
        let trail = Trail::new(&Caller::SYSTEM, "rekey-store").note(format!("integrity key {next}"));
        self.intend(&trail).await?;
        let replaced = async {
            let key = store_key(&self.inner.pool, next).await?;
            self.inner.writer.rekey(next, key).await?;
            self.inner.store_key.store(next, Ordering::Release);
            // From now on the token knows that the key before is no good any more.
            self.save_note().await
        };
        let replaced = replaced.await;
        self.record(trail, replaced).await?;
        Ok(next)
    }
}
