//! Who is at work on a key: one at a time, and what is asked for meanwhile waits or is told why not.

use std::{pin::pin, time::Duration};

use tokio::time::{Instant, timeout_at};

use super::Service;
use crate::domain::{KeyId, Refusal, refusal::KeyName};

/// How long a caller waits for what the service does with a key on its own.
pub(super) const TURN: Duration = Duration::from_secs(5);

/// What somebody does with a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Work {
    /// It is being made.
    Making,
    /// A caller, or its interval, has it rotated.
    Rotation,
    /// A caller imports material into it or removes that.
    Material,
    /// The scheduler clears away what was left half-way, or material and offers whose day has come.
    ClearingUp,
    /// Nobody does anything in this run: the store is an older copy, and what it says was being made does not work.
    LeftAlone,
}

impl Work {
    /// What a caller is told who cannot have the key because of it.
    pub(super) fn refusal(self, key: KeyName) -> Refusal {
        match self {
            Self::Rotation => Refusal::RotationUnderWay { key },
            Self::Material => Refusal::ImportUnderWay { key },
            Self::Making | Self::ClearingUp => Refusal::Unfinished { key },
            Self::LeftAlone => Refusal::HalfMade { key },
        }
    }

    /// Whether it ends soon, and is the service's own affair.
    const fn is_waited_for(self) -> bool {
        matches!(self, Self::Making | Self::ClearingUp)
    }
}

/// Marks a key as somebody's for as long as it lives.
pub(super) struct Flight<'a> {
    service: &'a Service,
    id: KeyId,
}

impl<'a> Flight<'a> {
    /// Unless the key is marked already.
    pub(super) fn alone(service: &'a Service, id: KeyId, work: Work) -> Result<Self, Work> {
        let mut in_flight = service.inner.in_flight.lock();
        match in_flight.get(&id) {
            Some(other) => Err(*other),
            None => {
                in_flight.insert(id, work);
                // Made only then: dropping it takes the mark away.
                Ok(Self { service, id })
            }
        }
    }

    /// The same, after what the service does with the key on its own; that is waited for so long and no longer.
    pub(super) async fn turn(
        service: &'a Service,
        id: KeyId,
        work: Work,
        within: Duration,
    ) -> Result<Self, Work> {
        let deadline = Instant::now() + within;
        loop {
            let mut landed = pin!(service.inner.landed.notified());
            // Before the look, so that an end between look and wait is not missed.
            landed.as_mut().enable();
            match Self::alone(service, id, work) {
                Err(other) if other.is_waited_for() => {
                    if timeout_at(deadline, landed).await.is_err() {
                        return Err(other);
                    }
                }
                done => return done,
            }
        }
    }
}

impl Drop for Flight<'_> {
    fn drop(&mut self) {
        self.service.inner.in_flight.lock().remove(&self.id);
        self.service.inner.landed.notify_waiters();
    }
}
