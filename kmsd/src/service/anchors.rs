//! Volume anchors (F3).

use uuid::Uuid;

use super::{Service, ServiceError, audit::Trail};
use crate::domain::{
    Caller, Principal, Refusal,
    anchor::{self, Advance, Anchor, AnchorRecord},
    lease::Ticket,
    quota::{Count, Exceeded, Quota},
    registry::Change,
};

/// A state that an anchor is to move to, by who has the volume's lease, or without one.
#[derive(Clone, Copy, Debug)]
pub struct Offer {
    /// The state.
    pub anchor: Anchor,
    /// The lease of who offers it.
    pub ticket: Option<Ticket>,
}

impl From<Anchor> for Offer {
    fn from(anchor: Anchor) -> Self {
        Self { anchor, ticket: None }
    }
}

impl Service {
    /// The volume's anchor, if it has one.
    ///
    /// # Errors
    /// If it is another caller's.
    pub async fn anchor(&self, caller: &Caller, volume: Uuid) -> Result<Option<Anchor>, ServiceError> {
        let found = {
            let registry = self.inner.writer.registry().read();
            let current = registry.anchor(&volume);
            anchor::permit(current, caller, volume).map(|()| current.and_then(|record| record.anchor))
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
    /// If the offered state is older than the anchor, somebody else has the volume's lease, there are too many anchors for a new one, or the store
    /// fails.
    pub async fn advance_anchor(
        &self,
        caller: &Caller,
        volume: Uuid,
        offer: impl Into<Offer>,
    ) -> Result<Anchor, ServiceError> {
        let Offer { anchor: offered, ticket } = offer.into();
        let (service, caller) = (self.clone(), caller.clone());
        self.to_the_end(async move {
            let trail =
                Trail::new(&caller, "advance-anchor").target(&volume).note(offered.generation.to_string());
            let decide = |service: &Self, current: Option<&AnchorRecord>| {
                anchor::permit(current, &caller, volume)?;
                service.check_writer(current, volume, ticket)?;
                if let Advance::Record(next) = anchor::advance(current, &caller, volume, offered)? {
                    service.put_anchor(&caller, current, next).map(Some)
                } else {
                    Ok(None)
                }
            };
            let advanced = service.change_anchor(volume, decide).await.map(|()| offered);
            service.record(trail, advanced).await
        })
        .await
    }

    /// Sets the volume's anchor to an older state, on an operator's word.
    ///
    /// # Errors
    /// If it is another caller's, somebody else has the volume's lease, there are too many anchors for a new one, or the store fails.
    pub async fn accept_rollback(
        &self,
        caller: &Caller,
        volume: Uuid,
        offer: impl Into<Offer>,
        reason: &str,
    ) -> Result<Anchor, ServiceError> {
        let Offer { anchor: accepted, ticket } = offer.into();
        let note = format!("generation {}: {reason}", accepted.generation);
        let trail = Trail::new(caller, "accept-rollback").target(&volume).note(note);
        let (service, caller) = (self.clone(), caller.clone());
        self.to_the_end(async move {
            service.intend(&trail).await?;
            let decide = |service: &Self, current: Option<&AnchorRecord>| {
                anchor::permit(current, &caller, volume)?;
                service.check_writer(current, volume, ticket)?;
                let next = anchor::accept_rollback(current, &caller, volume, accepted)?;
                service.put_anchor(&caller, current, next).map(Some)
            };
            let set = service.change_anchor(volume, decide).await.map(|()| accepted);
            service.record(trail, set).await
        })
        .await
    }

    /// Forgets the volume's anchor: the volume is gone, or whoever attaches it next begins anew. Its lease goes with it.
    ///
    /// # Errors
    /// If there is none, it is another caller's, somebody has the volume's lease, or the store fails.
    pub async fn forget_anchor(&self, caller: &Caller, volume: Uuid) -> Result<(), ServiceError> {
        let trail = Trail::new(caller, "forget-anchor").target(&volume);
        let (service, caller) = (self.clone(), caller.clone());
        self.to_the_end(async move {
            service.intend(&trail).await?;
            let decide = |service: &Self, current: Option<&AnchorRecord>| {
                let record = anchor::forgotten(current, &caller, volume)?;
                service.check_writer(current, volume, None)?;
                Ok(Some(Change::ForgetAnchor(volume, record.revision)))
            };
            let forgotten = service.change_anchor(volume, decide).await;
            service.record(trail, forgotten).await
        })
        .await
    }

    /// Gives the volume's anchor to another owner.
    ///
    /// # Errors
    /// Unless the caller is an administrator and there is one; or if the store fails.
    pub async fn hand_anchor_over(
        &self,
        caller: &Caller,
        volume: Uuid,
        owner: Principal,
    ) -> Result<(), ServiceError> {
        let trail = Trail::new(caller, "hand-anchor-over").target(&volume).note(format!("to {owner}"));
        let (service, caller) = (self.clone(), caller.clone());
        self.to_the_end(async move {
            service.intend(&trail).await?;
            let decide = |_: &Self, current: Option<&AnchorRecord>| {
                anchor::handed_over(current, &caller, volume, owner.clone())
                    .map(|next| Some(Change::PutAnchor(next)))
            };
            let handed = service.change_anchor(volume, decide).await;
            service.record(trail, handed).await
        })
        .await
    }

    /// A new anchor takes a place, a moved one has it.
    pub(super) fn put_anchor(
        &self,
        caller: &Caller,
        current: Option<&AnchorRecord>,
        next: AnchorRecord,
    ) -> Result<Change, Refusal> {
        if current.is_none() {
            let limits = &self.inner.limits;
            let quota = Quota { all: limits.max_anchors, each: limits.max_anchors_each };
            let registry = self.inner.writer.registry().read();
            let own = registry.anchors().filter(|anchor| anchor.owner == caller.principal).count();
            quota.admit(caller, Count { all: registry.anchors().count(), own }).map_err(|reached| {
                match reached {
                    Exceeded::All(limit) => Refusal::TooManyAnchors { limit },
                    Exceeded::Each(limit) => Refusal::TooManyAnchorsOfOne { limit },
                }
            })?;
        }
        Ok(Change::PutAnchor(next))
    }

    /// Decides on the anchor as it stands, records the decision, and decides again if it stood no longer.
    pub(super) async fn change_anchor(
        &self,
        volume: Uuid,
        decide: impl Fn(&Self, Option<&AnchorRecord>) -> Result<Option<Change>, Refusal>,
    ) -> Result<(), ServiceError> {
        let mut attempts = self.inner.writer.attempts();
        loop {
            let current = self.inner.writer.registry().read().anchor(&volume).cloned();
            let Some(change) = decide(self, current.as_ref())? else { return Ok(()) };
            if attempts.commit(change).await? {
                return Ok(());
            }
        }
    }
}
