//! A store of which it is in doubt whether a commit took place.

use std::sync::atomic::{AtomicI64, Ordering};

use super::*;
use crate::{
    domain::{integrity::IntegrityKey, registry::Change, time::TrustedClock},
    hsm::TokenIdentity,
    store::{Contents, SqliteStore, Store, StoreError},
};

/// A store whose n-th commit takes place and is reported as failed, and which then cannot be read once.
struct Doubtful {
    inner: SqliteStore,
    /// Commits until then; below zero, all is well.
    until: Arc<AtomicI64>,
    unreadable: bool,
}

impl Store for Doubtful {
    fn token(&mut self) -> Result<TokenIdentity, StoreError> {
        self.inner.token()
    }

    fn key_number(&mut self) -> Result<u64, StoreError> {
        self.inner.key_number()
    }

    fn unlock(&mut self, key: IntegrityKey) {
        self.inner.unlock(key);
    }

    fn load(&mut self) -> Result<Contents, StoreError> {
        if std::mem::take(&mut self.unreadable) {
            return Err(std::io::Error::from(std::io::ErrorKind::TimedOut).into());
        }
        self.inner.load()
    }

    fn commit(&mut self, changes: &[Change]) -> Result<u64, StoreError> {
        let done = self.inner.commit(changes)?;
        if self.until.fetch_sub(1, Ordering::SeqCst) == 0 {
            self.unreadable = true;
            return Err(std::io::Error::from(std::io::ErrorKind::TimedOut).into());
        }
        Ok(done)
    }

    fn put_clock(&mut self, clock: &TrustedClock) -> Result<u64, StoreError> {
        self.inner.put_clock(clock)
    }

    fn raise(&mut self, epoch: u64) -> Result<u64, StoreError> {
        self.inner.raise(epoch)
    }

    fn rekey(&mut self, number: u64, key: IntegrityKey) -> Result<u64, StoreError> {
        self.inner.rekey(number, key)
    }
}

/// What survives the process: a token, and a store in a file.
pub(super) struct DoubtfulWorld {
    pub(super) token: FakeToken,
    dir: tempfile::TempDir,
    until: Arc<AtomicI64>,
}

impl DoubtfulWorld {
    pub(super) fn new(token: FakeToken) -> Self {
        let dir = tempfile::tempdir().unwrap();
        SqliteStore::create(&dir.path().join("kmsd.db"), &token.identity()).unwrap();
        Self { token, dir, until: Arc::new(AtomicI64::new(-1)) }
    }

    /// The service, on a store that can be in doubt or on one that cannot.
    pub(super) async fn start(&self, doubtful: bool) -> Service {
        let inner = SqliteStore::open(&self.dir.path().join("kmsd.db")).unwrap();
        let store: Box<dyn Store> = if doubtful {
            Box::new(Doubtful { inner, until: Arc::clone(&self.until), unreadable: false })
        } else {
            Box::new(inner)
        };
        let parts = Parts {
            store,
            audit: self.dir.path().join("audit"),
            pool: Pool::start(Arc::new(self.token.clone()), PoolSettings::default()).unwrap(),
            clock: Arc::new(ManualClock::new()),
            limits: Limits::default(),
            accept_restored: false,
        };
        Service::start(parts).await.unwrap()
    }

    /// The commit with that index from now on is in doubt.
    pub(super) fn doubt(&self, commit: i64) {
        self.until.store(commit, Ordering::SeqCst);
    }
}
