//! Volume anchors (F3).

use uuid::Uuid;

use super::{Service, ServiceError};
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
    pub fn anchor(&self, caller: &Caller, volume: Uuid) -> Result<Option<Anchor>, ServiceError> {
        let registry = self.inner.writer.registry().read();
        let current = registry.anchor(&volume);
        anchor::permit(current, caller, volume)?;
        Ok(current.map(|record| record.anchor))
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
        for _ in 0..ATTEMPTS {
            let next = {
                let registry = self.inner.writer.registry().read();
                anchor::accept_rollback(registry.anchor(&volume), caller, volume, accepted)?
            };
            match self.inner.writer.commit(Change::PutAnchor(next)).await {
                Ok(()) => {
                    tracing::warn!(%volume, generation = accepted.generation, principal = %caller.principal, reason, "rollback accepted");
                    return Ok(accepted);
                }
                Err(CommitError::Conflict(Conflict::Stale)) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(CommitError::Conflict(Conflict::Stale).into())
    }
}
