//! The reference store: what any store must do, in memory.

use std::{collections::BTreeMap, sync::Arc};

use parking_lot::Mutex;

use super::{Contents, Store, StoreError};
use crate::{
    domain::{
        registry::{Change, Registry},
        time::TrustedClock,
    },
    hsm::TokenIdentity,
};

/// A store that lives as long as its last clone: drop the service, keep a clone, and you have "after a crash".
#[derive(Clone)]
pub(crate) struct MemoryStore {
    inner: Arc<Mutex<Inner>>,
}

struct Inner {
    token: TokenIdentity,
    clock: Option<TrustedClock>,
    /// Records as bytes, so that what is read is what was written.
    rows: BTreeMap<String, String>,
    commits: u64,
    fail_commits: BTreeMap<u64, StoreFault>,
}

/// How a commit fails.
#[derive(Clone, Copy, Debug)]
pub(crate) enum StoreFault {
    /// Nothing was recorded.
    Before,
    /// It was recorded, and then the process "died": the answer is an error.
    After,
}

impl MemoryStore {
    pub(crate) fn new(token: TokenIdentity) -> Self {
        let inner = Inner {
            token,
            clock: None,
            rows: BTreeMap::new(),
            commits: 0,
            fail_commits: BTreeMap::new(),
        };
        Self { inner: Arc::new(Mutex::new(inner)) }
    }

    /// Lets the commit with that index, counted from now, fail.
    pub(crate) fn fail_commit(&self, index: u64, fault: StoreFault) {
        let mut inner = self.inner.lock();
        let at = inner.commits + index;
        inner.fail_commits.insert(at, fault);
    }

    pub(crate) fn clear_faults(&self) {
        self.inner.lock().fail_commits.clear();
    }

    pub(crate) fn commits(&self) -> u64 {
        self.inner.lock().commits
    }
}

impl Store for MemoryStore {
    fn load(&mut self) -> Result<Contents, StoreError> {
        let inner = self.inner.lock();
        let mut registry = Registry::default();
        for (name, row) in &inner.rows {
            registry.apply(if name.starts_with("key") {
                Change::PutKey(serde_json::from_str(row).expect("what was written"))
            } else {
                Change::PutAnchor(serde_json::from_str(row).expect("what was written"))
            });
        }
        Ok(Contents { token: inner.token.clone(), clock: inner.clock.clone(), registry })
    }

    fn commit(&mut self, changes: &[Change]) -> Result<(), StoreError> {
        let mut inner = self.inner.lock();
        let index = inner.commits;
        inner.commits += 1;
        let fault = inner.fail_commits.remove(&index);
        if matches!(fault, Some(StoreFault::Before)) {
            return Err(std::io::Error::from(std::io::ErrorKind::StorageFull).into());
        }
        for change in changes {
            match change {
                Change::PutKey(key) => {
                    inner.rows.insert(format!("key {}", key.id), serde_json::to_string(key).expect("serialises"));
                }
                Change::ForgetKey(id) => {
                    inner.rows.remove(&format!("key {id}"));
                }
                Change::PutAnchor(anchor) => {
                    let row = serde_json::to_string(anchor).expect("serialises");
                    inner.rows.insert(format!("anchor {}", anchor.volume), row);
                }
            }
        }
        match fault {
            Some(StoreFault::After) => Err(std::io::Error::from(std::io::ErrorKind::StorageFull).into()),
            _ => Ok(()),
        }
    }

    fn put_clock(&mut self, clock: &TrustedClock) -> Result<(), StoreError> {
        self.inner.lock().clock = Some(clock.clone());
        Ok(())
    }
}
