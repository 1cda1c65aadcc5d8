//! The service: carries decisions out, and owns the order of effects.
//!
//! For a new key: record the intent, generate in the token, confirm the record. For a destruction: record it, destroy, confirm.
//! So a crash at any point leaves a record that says what to look for in the token, and [`Service::start`] finishes it.
//!
//! What changes something runs as a task of its own: a client that hangs up does not leave half of it undone.

mod access_keys;
mod aliases;
mod anchors;
mod audit;
mod data;
mod datakeys;
mod details;
mod error;
mod flight;
mod grants;
mod import;
mod leases;
mod lifecycle;
mod metrics;
mod policies;
mod release;
mod restored;
mod rotation;
mod schedule;
mod start;
mod strangers;

#[cfg(test)]
pub(crate) mod tests;

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64},
    },
};

use parking_lot::Mutex;
use tokio::sync::Notify;

pub(crate) use self::start::{audit_purpose, newest_note, store_purpose};
pub use self::{
    access_keys::{Credential, NewAccessKey},
    aliases::NamedKey,
    anchors::Offer,
    data::{ReEncrypted, Source},
    datakeys::{DatakeyRequest, NewDatakey},
    error::ServiceError,
    import::ImportParameters,
    leases::Taken,
    lifecycle::{KeyView, NewKey},
    metrics::{OpenConnection, Way},
    start::{Parts, StartError},
    strangers::Stranger,
};
use crate::{
    audit::AuditLog,
    clock::Clock,
    domain::{
        Caller, KeyId,
        integrity::TokenNote,
        key::Phase,
        quota::Quota,
        state::KeyState,
        time::{TrustedClock, TrustedTime},
    },
    hsm::{Pool, TokenStatus},
    store::Writer,
    wire::control::{AuditHealth, Health, SchedulerHealth, StoreHealth, TokenHealth},
};

/// Bounds that the configuration sets.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Most keys that are not destroyed.
    pub max_keys: usize,
    /// Most of them that belong to one principal, administrators aside.
    pub max_keys_each: usize,
    /// Most grants on keys that are not destroyed.
    pub max_grants: usize,
    /// Most of them on keys of one principal, unless an administrator makes them.
    pub max_grants_each: usize,
    /// Most volume anchors.
    pub max_anchors: usize,
    /// Most of them that belong to one principal, administrators aside.
    pub max_anchors_each: usize,
    /// How long the lease of a volume lasts that is not renewed, in seconds.
    pub lease_seconds: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_keys: 10_000,
            max_keys_each: 1000,
            max_grants: 50_000,
            max_grants_each: 5000,
            max_anchors: 50_000,
            max_anchors_each: 10_000,
            lease_seconds: 45,
        }
    }
}

impl Limits {
    const fn grants(self) -> Quota {
        Quota { all: self.max_grants, each: self.max_grants_each }
    }

    const fn keys(self) -> Quota {
        Quota { all: self.max_keys, each: self.max_keys_each }
    }
}

/// The key service, whatever protocol asks it. Cheap to clone.
#[derive(Clone)]
pub struct Service {
    inner: Arc<Inner>,
}

struct Inner {
    writer: Writer,
    audit: AuditLog,
    metrics: metrics::Metrics,
    pool: Pool,
    clock: Arc<dyn Clock>,
    trusted: Mutex<TrustedClock>,
    limits: Limits,
    heard: Mutex<leases::Heard>,
    /// Keys that somebody is at work on in this process. What is in creation and not of one of these has failed.
    in_flight: Mutex<HashMap<KeyId, flight::Work>>,
    /// Told whenever one is let go.
    landed: Notify,
    /// What failed of what is due, and when it is tried again.
    again: Mutex<HashMap<KeyId, schedule::Again>>,
    open_secrets: access_keys::OpenSecrets,
    strangers: strangers::Strangers,
    /// Lets one caller at a time count keys and record another one.
    new_keys: tokio::sync::Mutex<()>,
    /// Lets one caller at a time make a default key (K3).
    default_keys: tokio::sync::Mutex<()>,
    /// What the token was told last.
    noted: tokio::sync::Mutex<TokenNote>,
    /// A restored store is being dealt with: the token is not told of it before that is done.
    is_restoring: AtomicBool,
    /// Number of the store's integrity key.
    store_key: AtomicU64,
}

impl Service {
    /// How the service is.
    #[must_use]
    pub fn health(&self) -> Health {
        let inner = &self.inner;
        let identity = inner.pool.identity();
        let reason = match inner.pool.status() {
            TokenStatus::Present => None,
            TokenStatus::Away { cause, .. } => Some(cause.to_string()),
        };
        let distrusted = self.observe_clock().is_wall_distrusted();
        let registry = inner.writer.registry().read();
        let pending =
            registry.keys().filter(|key| key.phase == Phase::Live && key.state == KeyState::PendingDeletion);
        let (stores, records) = (!inner.writer.is_failing(), !inner.audit.is_failing());
        let is_well = reason.is_none() && stores && records;
        Health {
            status: if is_well { "ok" } else { "degraded" }.to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            token: TokenHealth {
                available: reason.is_none(),
                label: identity.label,
                serial: identity.serial,
                reason,
            },
            store: StoreHealth {
                available: stores,
                keys: u64::try_from(registry.living()).unwrap_or(u64::MAX),
            },
            audit: AuditHealth { writable: records, records: inner.audit.head().seq },
            scheduler: SchedulerHealth {
                pending_deletions: u64::try_from(pending.count()).unwrap_or(u64::MAX),
                clock_distrusted: distrusted,
            },
        }
    }

    /// How many keys a caller has, default keys aside, and how many it may have. Of administrators: of all together.
    #[must_use]
    pub fn key_quota(&self, caller: &Caller) -> (usize, usize) {
        let count = self.inner.writer.registry().read().count(&caller.principal);
        self.inner.limits.keys().share(caller, count)
    }

    fn observe_clock(&self) -> TrustedClock {
        let mut trusted = self.inner.trusted.lock();
        // Read under the lock: a reading that another thread overtakes would pass for one of another boot.
        *trusted = trusted.observe(self.inner.clock.read());
        trusted.clone()
    }

    fn trusted_now(&self) -> TrustedTime {
        self.observe_clock().now()
    }

    /// Runs to its end, whether or not somebody still waits for it.
    async fn to_the_end<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, ServiceError>> + Send + 'static,
    ) -> Result<T, ServiceError> {
        tokio::spawn(work).await.unwrap_or(Err(ServiceError::Interrupted))
    }
}
