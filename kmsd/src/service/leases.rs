//! Leases of volumes (F12).
//!
//! Who holds one is in the store; when it was renewed last is not, or each attached disk would cost a commit every few seconds. After a start
//! nothing was heard of any holder, so each has one lease time from then on to come back: no lease is lost by a restart, and none is granted a
//! second time. Times are those since the host's boot, which no wall clock moves.

use std::{
    collections::{HashMap, HashSet},
    sync::atomic::{AtomicBool, Ordering},
    time::Instant,
};

use parking_lot::Mutex;
use uuid::Uuid;

use super::{Service, ServiceError, audit::Trail};
use crate::domain::{
    Caller, Refusal,
    anchor::{Advance, Anchor, AnchorRecord},
    lease::{self, Holder, Ticket},
    registry::Change,
    time::{Reading, WallTime},
};

/// Sessions that are remembered besides two for each volume.
const SLACK: usize = 64;

/// When each session was heard of.
pub(super) struct Heard {
    /// The service's start, in milliseconds since boot.
    started: i64,
    /// The same, by session.
    pub(super) sessions: Mutex<HashMap<Uuid, i64>>,
}

impl Heard {
    pub(super) fn nothing(now: &Reading) -> Self {
        Self { started: now.since_boot, sessions: Mutex::default() }
    }
}

/// A lease that was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken {
    /// What its holder shows from now on.
    pub ticket: Ticket,
    /// How long it lasts without a renewal, in seconds.
    pub seconds: u64,
    /// Where the volume's anchor stood when it was taken.
    pub anchor: Option<Anchor>,
}

impl Service {
    /// Takes the lease of a volume, for who has its file locked for writing.
    ///
    /// # Errors
    /// If another holds it and may still be there, the volume is another caller's, there are too many volumes, or the store fails.
    pub async fn take_lease(
        &self,
        caller: &Caller,
        volume: Uuid,
        session: Uuid,
        holder: Holder,
    ) -> Result<Taken, ServiceError> {
        let trail = Trail::new(caller, "take-lease").target(&volume).note(holder.to_string());
        let (service, caller) = (self.clone(), caller.clone());
        self.to_the_end(async move {
            let decide = |service: &Self, current: Option<&AnchorRecord>| {
                // Time is read and the session noted in one step: no renewal comes between that would be in time by its own clock.
                let mut heard = service.inner.heard.sessions.lock();
                let (now, until) = service.lease_until(&heard, current);
                let by = (session, &holder);
                let taken = lease::take(current, &caller, volume, by, until, service.trusted_now())?;
                heard.insert(session, now);
                drop(heard);
                service.put_lease(&caller, current, taken)
            };
            let done = service.change_anchor(volume, decide).await;
            let taken = service.settle_lease(volume, session);
            service.forget_sessions();
            let taken = done.and_then(|()| taken.ok_or(ServiceError::Interrupted));
            service.record(trail, taken).await
        })
        .await
    }

    /// Renews it, also after it has ended, if nobody took it since. That is no operation of its own in the audit log: the lease stands there
    /// since it was taken. Where something is recorded, or it is refused, there is a line.
    ///
    /// # Errors
    /// If somebody took it since, the volume is another caller's, or the store fails.
    pub async fn renew_lease(
        &self,
        caller: &Caller,
        volume: Uuid,
        ticket: Ticket,
        holder: Holder,
    ) -> Result<(), ServiceError> {
        let began = Instant::now();
        let trail = Trail::new(caller, "renew-lease").target(&volume).note(holder.to_string());
        let (service, caller) = (self.clone(), caller.clone());
        self.to_the_end(async move {
            let changed = AtomicBool::new(false);
            let decide = |service: &Self, current: Option<&AnchorRecord>| {
                let mut heard = service.inner.heard.sessions.lock();
                let (now, until) = service.lease_until(&heard, current);
                let renewed = lease::renew(current, &caller, volume, (ticket, &holder), until)?;
                heard.insert(ticket.session, now);
                drop(heard);
                changed.store(renewed != Advance::Unchanged, Ordering::Relaxed);
                service.put_lease(&caller, current, renewed)
            };
            let renewed = service.change_anchor(volume, decide).await;
            service.settle_lease(volume, ticket.session);
            if renewed.is_ok() && !changed.into_inner() {
                service.inner.metrics.operation("renew-lease", "ok", began.elapsed());
                return renewed;
            }
            service.record(trail, renewed).await
        })
        .await
    }

    /// Gives it up; what is not that session's any more stays.
    ///
    /// # Errors
    /// If the volume is another caller's, or the store fails.
    pub async fn release_lease(
        &self,
        caller: &Caller,
        volume: Uuid,
        ticket: Ticket,
    ) -> Result<(), ServiceError> {
        let trail = Trail::new(caller, "release-lease").target(&volume);
        let (service, caller) = (self.clone(), caller.clone());
        self.to_the_end(async move {
            let decide = |service: &Self, current: Option<&AnchorRecord>| {
                let released = lease::release(current, &caller, volume, ticket)?;
                service.put_lease(&caller, current, released)
            };
            let released = service.change_anchor(volume, decide).await;
            service.settle_lease(volume, ticket.session);
            service.record(trail, released).await
        })
        .await
    }

    /// Whether who shows this ticket may move the anchor.
    pub(super) fn check_writer(
        &self,
        current: Option<&AnchorRecord>,
        volume: Uuid,
        ticket: Option<Ticket>,
    ) -> Result<(), Refusal> {
        let (_, until) = self.lease_until(&self.inner.heard.sessions.lock(), current);
        lease::check_writer(current, volume, ticket, until)
    }

    /// Milliseconds since boot now, and when the volume's lease ends by itself, if it has not.
    fn lease_until(
        &self,
        heard: &HashMap<Uuid, i64>,
        current: Option<&AnchorRecord>,
    ) -> (i64, Option<WallTime>) {
        let now = self.inner.clock.read();
        let left = current.and_then(|record| record.lease.as_deref()).map(|lease| {
            let since = heard.get(&lease.ticket.session).copied().unwrap_or(self.inner.heard.started);
            since.saturating_add(self.lease_millis()).saturating_sub(now.since_boot)
        });
        let until = left.filter(|left| *left > 0).map(|left| WallTime(now.wall.0.saturating_add(left)));
        (now.since_boot, until)
    }

    fn put_lease(
        &self,
        caller: &Caller,
        current: Option<&AnchorRecord>,
        decided: Advance,
    ) -> Result<Option<Change>, Refusal> {
        match decided {
            Advance::Record(next) => self.put_anchor(caller, current, next).map(Some),
            Advance::Unchanged => Ok(None),
        }
    }

    /// Forgets sessions whose lease others have taken, or whose volumes are gone, when there are more than leases by far. Those that were heard of
    /// just now may be taking one.
    fn forget_sessions(&self) {
        let mut heard = self.inner.heard.sessions.lock();
        let registry = self.inner.writer.registry().read();
        if heard.len() <= 2 * registry.anchors().count() + SLACK {
            return;
        }
        let leases = registry.anchors().filter_map(|record| record.lease.as_deref());
        let held: HashSet<Uuid> = leases.map(|lease| lease.ticket.session).collect();
        let now = self.inner.clock.read().since_boot;
        let lasts = self.lease_millis();
        heard.retain(|session, at| held.contains(session) || at.saturating_add(lasts) > now);
    }

    fn lease_millis(&self) -> i64 {
        i64::try_from(self.inner.limits.lease_seconds.saturating_mul(1000)).unwrap_or(i64::MAX)
    }

    /// Forgets when a session was heard of that has no lease, and gives what it has.
    fn settle_lease(&self, volume: Uuid, session: Uuid) -> Option<Taken> {
        let record = self.inner.writer.registry().read().anchor(&volume).cloned();
        let held = record.as_ref().and_then(|record| record.lease.as_deref());
        let held = held.filter(|lease| lease.ticket.session == session && !lease.released);
        let Some(lease) = held else {
            self.inner.heard.sessions.lock().remove(&session);
            return None;
        };
        let seconds = self.inner.limits.lease_seconds;
        Some(Taken {
            ticket: lease.ticket,
            seconds,
            anchor: record.as_ref().and_then(|record| record.anchor),
        })
    }
}
