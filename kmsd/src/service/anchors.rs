//! Volume anchors (F3).

use uuid::Uuid;

use super::{Service, ServiceError, audit::Trail};
use crate::{
    domain::{
        Caller,
        anchor::{self, Advance, Anchor},
        registry::{Change, Conflict},
    },
    store::CommitError,
};

/// How often a decision is made anew when the record changes under it.
const ATTEMPTS: usize = 16;

impl Service {
    /// The volume's anchor, if it has one.
    ///
    /// # Errors
    /// If it is another caller's.
    pub async fn anchor(&self, caller: &Caller, volume: Uuid) -> Result<Option<Anchor>, ServiceError> {
        let found = {
            let registry = self.inner.writer.registry().read();
            let current = registry.anchor(&volume);
            anchor::permit(current, caller, volume).map(|()| current.map(|record| record.anchor))
        };
        self.record(Trail::new(caller, "anchor").target(&volume), found.map_err(Into::into)).await
    }

    /// Records that an older state of the volume is looked at, on an operator's word. The anchor stays where it is.
    ///
    /// # Errors
    /// If it is another caller's.
    pub async fn read_rollback(
        &self,
        caller: &Caller,
        volume: Uuid,
        found: Anchor,
        reason: &str,
    ) -> Result<(), ServiceError> {
        let note = format!("generation {}: {reason}", found.generation);
        let trail = Trail::new(caller, "read-rollback").target(&volume).note(note);
        let permitted = {
            let registry = self.inner.writer.registry().read();
            anchor::permit(registry.anchor(&volume), caller, volume)
        };
        self.record(trail, permitted.map_err(Into::into)).await
    }

    /// Moves the volume's anchor forward.
    ///
    /// # Errors
    /// If the offered state is older than the anchor, or the store fails.
    pub async fn advance_anchor(
        &self,
        caller: &Caller,
        volume: Uuid,
        offered: Anchor,
    ) -> Result<Anchor, ServiceError> {
        let trail = Trail::new(caller, "advance-anchor").target(&volume).note(offered.generation.to_string());
        let advanced = self.advance(caller, volume, offered).await;
        self.record(trail, advanced).await
    }

    async fn advance(&self, caller: &Caller, volume: Uuid, offered: Anchor) -> Result<Anchor, ServiceError> {
        for _ in 0..ATTEMPTS {
            let decision = {
                let registry = self.inner.writer.registry().read();
                anchor::advance(registry.anchor(&volume), caller, volume, offered)?
            };
            let Advance::Record(next) = decision else { return Ok(offered) };
            match self.inner.writer.commit(Change::PutAnchor(next)).await {
                Ok(()) => return Ok(offered),
                Err(CommitError::Conflict(Conflict::Stale)) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(CommitError::Conflict(Conflict::Stale).into())
    }

    /// Sets the volume's anchor to an older state, on an operator's word.
    ///
    /// # Errors
    /// If it is another caller's, or the store fails.
    pub async fn accept_rollback(
        &self,
        caller: &Caller,
        volume: Uuid,
        accepted: Anchor,
        reason: &str,
    ) -> Result<Anchor, ServiceError> {
        let note = format!("generation {}: {reason}", accepted.generation);
        let trail = Trail::new(caller, "accept-rollback").target(&volume).note(note);
        self.intend(&trail).await?;
        let set = self.set_back(caller, volume, accepted).await;
        self.record(trail, set).await
    }

    async fn set_back(
        &self,
        caller: &Caller,
        volume: Uuid,
        accepted: Anchor,
    ) -> Result<Anchor, ServiceError> {
        for _ in 0..ATTEMPTS {
            let next = {
                let registry = self.inner.writer.registry().read();
                anchor::accept_rollback(registry.anchor(&volume), caller, volume, accepted)?
            };
            match self.inner.writer.commit(Change::PutAnchor(next)).await {
                Ok(()) => return Ok(accepted),
                Err(CommitError::Conflict(Conflict::Stale)) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(CommitError::Conflict(Conflict::Stale).into())
    }
}
