//! Leases of volumes (F12).
//!
//! Who holds one is in the store; when it was renewed last is not, or each attached disk would cost a commit every few seconds. After a start
//! nothing was heard of any holder, so each has one lease time from then on to come back, and the same when this process stood still: no lease is
//! lost by a restart, and none is granted a second time. Where the store was put back, the holders that it does not know have that time, too. Times
//! are those since the host's boot, which no wall clock moves.

use std::{
    collections::{HashMap, HashSet},
    sync::atomic::{AtomicBool, Ordering},
    time::Instant,
};

use uuid::Uuid;

use super::{Service, ServiceError, audit::Trail};
use crate::domain::{
    Caller, Refusal,
    anchor::{Advance, Anchor, AnchorRecord},
    lease::{self, Holder, Ticket, Times},
    time::{Reading, TrustedClock, WallTime},
};

/// Sessions that are remembered besides two for each volume.
const SLACK: usize = 64;

/// A process that did nothing for so many milliseconds was suspended, frozen or stopped, and heard of nobody meanwhile.
const STOOD_STILL_MS: i64 = 5000;

/// When each session was heard of, in milliseconds since boot.
pub(super) struct Heard {
    /// Since when anybody can be heard: since the start, or since the process went on.
    since: i64,
    /// When the process was last seen at work.
    at_work: i64,
    /// The store was put back and may have forgotten holders, who come back within a lease time.
    forgetful: bool,
    /// When each was heard of.
    pub(super) sessions: HashMap<Uuid, i64>,
}

impl Heard {
    /// At the start.
    pub(super) fn nothing(clock: &TrustedClock, lease_seconds: u64) -> Self {
        let now = clock.reading().since_boot;
        let forgetful = clock.was_put_back_within(millis(lease_seconds));
        Self { since: now, at_work: now, forgetful, sessions: HashMap::new() }
    }

    /// The process is at work.
    fn work(&mut self, now: &Reading) {
        if now.since_boot.saturating_sub(self.at_work) > STOOD_STILL_MS {
            self.since = now.since_boot;
        }
        self.at_work = now.since_boot;
    }

    /// Milliseconds until what is of that session, or of one that nothing was heard of, has ended.
    fn left(&self, session: Option<Uuid>, lasts: i64, now: &Reading) -> i64 {
        let heard = session.and_then(|session| self.sessions.get(&session).copied());
        heard.unwrap_or(self.since).max(self.since).saturating_add(lasts).saturating_sub(now.since_boot)
    }
}

fn millis(seconds: u64) -> i64 {
    i64::try_from(seconds.saturating_mul(1000)).unwrap_or(i64::MAX)
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

/// What came of it.
enum Changed {
    Nothing,
    Recorded,
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
            let decide = |current: Option<&AnchorRecord>, times| {
                lease::take(current, &caller, volume, (session, &holder), times)
            };
            let done = service.change_lease(&trail, &caller, volume, session, decide).await;
            let taken = service.settle_lease(volume, session);
            service.forget_sessions();
            let taken = done.and_then(|_| taken.ok_or(ServiceError::Interrupted));
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
            let decide = |current: Option<&AnchorRecord>, times: Times| {
                lease::renew(current, &caller, volume, (ticket, &holder), times.until)
            };
            let renewed = service.change_lease(&trail, &caller, volume, ticket.session, decide).await;
            service.settle_lease(volume, ticket.session);
            if matches!(renewed, Ok(Changed::Nothing)) {
                service.inner.metrics.operation("renew-lease", "ok", began.elapsed());
                return Ok(());
            }
            service.record(trail, renewed.map(drop)).await
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
            let decide = |current: Option<&AnchorRecord>, _| lease::release(current, &caller, volume, ticket);
            let released = service.change_lease(&trail, &caller, volume, ticket.session, decide).await;
            service.settle_lease(volume, ticket.session);
            service.record(trail, released.map(drop)).await
        })
        .await
    }

    /// Decides on a volume's lease as it stands, and changes it. What changes something stands in the audit log before it is done (K8); as that takes
    /// time, it is decided once more then.
    async fn change_lease(
        &self,
        trail: &Trail,
        caller: &Caller,
        volume: Uuid,
        session: Uuid,
        decide: impl Fn(Option<&AnchorRecord>, Times) -> Result<Advance, Refusal>,
    ) -> Result<Changed, ServiceError> {
        let (is_intended, is_wanted) = (AtomicBool::new(false), AtomicBool::new(false));
        let attempt = |service: &Self, current: Option<&AnchorRecord>| {
            // Time is read and the session noted in one step: no renewal comes between that would be in time by its own clock.
            let mut heard = service.inner.heard.lock();
            let (now, times) = service.lease_times(&mut heard, current);
            let decided = decide(current, times)?;
            if decided != Advance::Unchanged && !is_intended.load(Ordering::Relaxed) {
                is_wanted.store(true, Ordering::Relaxed);
                return Ok(None);
            }
            heard.sessions.insert(session, now);
            drop(heard);
            match decided {
                Advance::Record(next) => service.put_anchor(caller, current, next).map(Some),
                Advance::Unchanged => Ok(None),
            }
        };
        self.change_anchor(volume, &attempt).await?;
        if !is_wanted.load(Ordering::Relaxed) {
            return Ok(Changed::Nothing);
        }
        self.intend(trail).await?;
        is_intended.store(true, Ordering::Relaxed);
        self.change_anchor(volume, &attempt).await?;
        Ok(Changed::Recorded)
    }

    /// Whether who shows this ticket may move the anchor.
    pub(super) fn check_writer(
        &self,
        current: Option<&AnchorRecord>,
        volume: Uuid,
        ticket: Option<Ticket>,
    ) -> Result<(), Refusal> {
        let (_, times) = self.lease_times(&mut self.inner.heard.lock(), current);
        lease::check_writer(current, volume, ticket, times.until)
    }

    /// A sign of life, to be given about every second: when it was missing for long, this process was suspended or stopped, and the holders of leases have
    /// another lease time to be heard of.
    pub fn at_work(&self) {
        let mut heard = self.inner.heard.lock();
        let now = self.inner.clock.read();
        heard.work(&now);
        if heard.left(None, self.lease_millis(), &now) <= 0 {
            heard.forgetful = false;
        }
    }

    /// Milliseconds since boot now, and what that means for a lease.
    fn lease_times(&self, heard: &mut Heard, current: Option<&AnchorRecord>) -> (i64, Times) {
        let now = self.inner.clock.read();
        heard.work(&now);
        let lasts = self.lease_millis();
        let moment = |left: i64| (left > 0).then(|| WallTime(now.wall.0.saturating_add(left)));
        let held = current.and_then(|record| record.lease.as_deref());
        let until = held.and_then(|lease| moment(heard.left(Some(lease.ticket.session), lasts, &now)));
        let forgotten = if heard.forgetful { moment(heard.left(None, lasts, &now)) } else { None };
        let clock = self.observe_clock();
        let term = u64::try_from(clock.now().0.max(now.wall.0)).unwrap_or(0);
        (now.since_boot, Times { until, forgotten, term })
    }

    /// Forgets sessions whose lease others have taken, or whose volumes are gone, when there are more than leases by far. Those that were heard of
    /// just now may be taking one.
    fn forget_sessions(&self) {
        let sessions = &mut self.inner.heard.lock().sessions;
        let registry = self.inner.writer.registry().read();
        if sessions.len() <= 2 * registry.anchors().count() + SLACK {
            return;
        }
        let leases = registry.anchors().filter_map(|record| record.lease.as_deref());
        let held: HashSet<Uuid> = leases.map(|lease| lease.ticket.session).collect();
        let now = self.inner.clock.read().since_boot;
        let lasts = self.lease_millis();
        sessions.retain(|session, at| held.contains(session) || at.saturating_add(lasts) > now);
    }

    fn lease_millis(&self) -> i64 {
        millis(self.inner.limits.lease_seconds)
    }

    /// Forgets when a session was heard of that has no lease, and gives what it has.
    fn settle_lease(&self, volume: Uuid, session: Uuid) -> Option<Taken> {
        let record = self.inner.writer.registry().read().anchor(&volume).cloned();
        let held = record.as_ref().and_then(|record| record.lease.as_deref());
        let held = held.filter(|lease| lease.ticket.session == session && !lease.released);
        let Some(lease) = held else {
            self.inner.heard.lock().sessions.remove(&session);
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
