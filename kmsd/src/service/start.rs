//! The start: compares the store with the token, finishes what a crash cut short, reports what does not fit.

use std::{collections::HashSet, sync::Arc};

use parking_lot::Mutex;

use super::{Inner, Limits, Service, ServiceError};
use crate::{
    clock::Clock,
    domain::{
        reconcile::{Findings, ObjectId, reconcile},
        registry::Change,
        time::TrustedClock,
    },
    hsm::{HsmError, Pool, TokenIdentity},
    store::{CommitError, Contents, Store, StoreError, Writer},
};

/// Why the service does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The token.
    #[error(transparent)]
    Hsm(#[from] HsmError),
    /// None of the keys is in the token.
    #[error(
        "the token {token} has none of the {keys} key versions of this store: it is the wrong one, or it was initialised anew. Nothing was changed; plug in the right token, or restore it from its backup"
    )]
    ForeignToken {
        /// The token.
        token: TokenIdentity,
        /// How many should be there.
        keys: usize,
    },
    /// Finishing what was cut short failed.
    #[error("what an earlier run left unfinished cannot be finished: {0}")]
    Unfinished(#[source] ServiceError),
    /// No more threads.
    #[error("cannot start a thread: {0}")]
    Thread(#[from] std::io::Error),
}

impl Service {
    /// Opens the service on a store and a token.
    ///
    /// # Errors
    /// If either cannot be used, or they do not belong together.
    pub async fn start(
        mut store: Box<dyn Store>,
        pool: Pool,
        clock: Arc<dyn Clock>,
        limits: Limits,
    ) -> Result<Self, StartError> {
        let Contents { token, clock: stored, registry } = store.load()?;
        let found = pool.identity();
        if token != found {
            return Err(HsmError::WrongToken { expected: token, found }.into());
        }
        let inventory = pool.call(|session| session.inventory()).await?;
        let findings = reconcile(&registry, &inventory.into_iter().collect());
        if findings.is_foreign {
            return Err(StartError::ForeignToken { token, keys: findings.missing.len() });
        }
        let reading = clock.read();
        let trusted = match stored {
            Some(stored) => stored.observe(reading),
            None => TrustedClock::start(reading),
        };
        let inner = Inner {
            writer: Writer::start(store, registry)?,
            pool,
            clock,
            trusted: Mutex::new(trusted),
            limits,
            in_flight: Mutex::new(HashSet::new()),
            open_secrets: super::access_keys::OpenSecrets::default(),
            default_keys: tokio::sync::Mutex::new(()),
        };
        let service = Self { inner: Arc::new(inner) };
        service.finish_all(findings).await.map_err(StartError::Unfinished)?;
        service.save_clock().await.map_err(StartError::Unfinished)?;
        Ok(service)
    }

    async fn finish_all(&self, findings: Findings) -> Result<(), ServiceError> {
        let commit = async |change| -> Result<(), CommitError> { self.inner.writer.commit(change).await };
        for key in findings.confirm {
            tracing::info!(key = %key.id, alias = %key.alias, "confirmed: the token has what was being made");
            commit(Change::PutKey(key)).await?;
        }
        for id in findings.forget {
            tracing::info!(key = %id, "given up: the token has nothing of what was being made");
            commit(Change::ForgetKey(id)).await?;
        }
        for key in findings.drop_version {
            tracing::info!(key = %key.id, "given up: the token does not have the version that was being made");
            commit(Change::PutKey(key)).await?;
        }
        for key in findings.destroy {
            self.destroy(&key).await?;
        }
        for ObjectId { key, version } in findings.missing {
            tracing::error!(%key, %version, "the token does not show this version; it cannot be used");
        }
        for ObjectId { key, version } in findings.orphans {
            tracing::warn!(%key, %version, "the token has a key that the store does not know; it is left alone");
        }
        Ok(())
    }
}
