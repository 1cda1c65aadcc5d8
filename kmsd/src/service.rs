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
    collections::{HashMap, HashSet},
    sync::{Arc, atomic::AtomicU64},
};

use parking_lot::Mutex;

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
        KeyId,
        integrity::TokenNote,
        key::Phase,
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
    /// Most volume anchors.
    pub max_anchors: usize,
    /// Most of them that belong to one principal, administrators aside.
    pub max_anchors_each: usize,
    /// How long the lease of a volume lasts that is not renewed, in seconds.
    pub lease_seconds: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { max_keys: 10_000, max_anchors: 50_000, max_anchors_each: 10_000, lease_seconds: 45 }
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
    heard: leases::Heard,
    /// Keys that are being made or rotated in this process. What is in creation and not of one of these has failed.
    in_flight: Mutex<HashSet<KeyId>>,
    /// Keys whose rotation by interval failed, and when it is tried again.
    rotate_again: Mutex<HashMap<KeyId, TrustedTime>>,
    open_secrets: access_keys::OpenSecrets,
    strangers: strangers::Strangers,
    /// Lets one caller at a time make a default key (K3).
    default_keys: tokio::sync::Mutex<()>,
    /// What the token was told last.
    noted: tokio::sync::Mutex<TokenNote>,
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

    /// Most keys that are not destroyed, default keys aside.
    #[must_use]
    pub fn max_keys(&self) -> usize {
        self.inner.limits.max_keys
    }

    fn observe_clock(&self) -> TrustedClock {
        let reading = self.inner.clock.read();
        let mut trusted = self.inner.trusted.lock();
        *trusted = trusted.observe(reading);
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
