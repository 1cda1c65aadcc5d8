//! The reference store: what any store must do, in memory.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use parking_lot::Mutex;

use super::{Contents, Store, StoreError};
use crate::{
    domain::{
        integrity::IntegrityKey,
        registry::{Change, Registry},
        time::TrustedClock,
    },
    hsm::{
        TokenIdentity,
        fake::{Power, Spent},
    },
};

/// A store that lives as long as its last clone: drop the service, keep a clone, and you have "after a crash".
#[derive(Clone)]
pub(crate) struct MemoryStore {
    inner: Arc<Mutex<Inner>>,
}

struct Inner {
    token: TokenIdentity,
    epoch: u64,
    key_number: u64,
    clock: Option<TrustedClock>,
    /// Records as bytes, so that what is read is what was written.
    rows: BTreeMap<String, String>,
    power: Power,
    /// Of the next commits: whether each is refused.
    refusals: VecDeque<bool>,
}

impl MemoryStore {
    pub(crate) fn new(token: TokenIdentity) -> Self {
        let inner = Inner {
            token,
            epoch: 0,
            key_number: 1,
            clock: None,
            rows: BTreeMap::new(),
            power: Power::default(),
            refusals: VecDeque::new(),
        };
        Self { inner: Arc::new(Mutex::new(inner)) }
    }

    /// As if an older file had been put in the place of the store.
    pub(crate) fn put_back(&self, older: &Self) {
        let older = older.inner.lock();
        let mut inner = self.inner.lock();
        inner.rows.clone_from(&older.rows);
        inner.epoch = older.epoch;
        inner.key_number = older.key_number;
        inner.clock.clone_from(&older.clock);
    }

    /// A copy that goes its own way.
    pub(crate) fn copy(&self) -> Self {
        let inner = self.inner.lock();
        let copy = Self::new(inner.token.clone());
        copy.inner.lock().rows.clone_from(&inner.rows);
        copy.inner.lock().epoch = inner.epoch;
        copy.inner.lock().key_number = inner.key_number;
        copy.inner.lock().clock.clone_from(&inner.clock);
        drop(inner);
        copy
    }

    /// Refuses some of the next commits, the clock's among them: one for each place, if that is true.
    pub(crate) fn refuse(&self, commits: impl IntoIterator<Item = bool>) {
        self.inner.lock().refusals = commits.into_iter().collect();
    }

    /// Lets the store die with the process.
    pub(crate) fn set_power(&self, power: Power) {
        self.inner.lock().power = power;
    }
}

impl Store for MemoryStore {
    fn token(&mut self) -> Result<TokenIdentity, StoreError> {
        Ok(self.inner.lock().token.clone())
    }

    fn key_number(&mut self) -> Result<u64, StoreError> {
        Ok(self.inner.lock().key_number)
    }

    fn unlock(&mut self, _: IntegrityKey) {}

    fn load(&mut self) -> Result<Contents, StoreError> {
        let inner = self.inner.lock();
        let mut registry = Registry::default();
        for (name, row) in &inner.rows {
            registry.apply(if name.starts_with("alias") {
                Change::PutAlias(serde_json::from_str(row).expect("what was written"))
            } else if name.starts_with("access") {
                Change::PutAccessKey(serde_json::from_str(row).expect("what was written"))
            } else if name.starts_with("key") {
                Change::PutKey(serde_json::from_str(row).expect("what was written"))
            } else {
                Change::PutAnchor(serde_json::from_str(row).expect("what was written"))
            });
        }
        Ok(Contents { epoch: inner.epoch, clock: inner.clock.clone(), registry })
    }

    fn commit(&mut self, changes: &[Change]) -> Result<u64, StoreError> {
        let mut inner = self.inner.lock();
        let spent = inner.power.spend();
        let failed = || Err(std::io::Error::from(std::io::ErrorKind::StorageFull).into());
        if spent == Spent::Dead || inner.refusals.pop_front() == Some(true) {
            return failed();
        }
        for change in changes {
            match change {
                Change::PutKey(key) => {
                    let row = serde_json::to_string(key).expect("serialises");
                    inner.rows.insert(format!("key {}", key.id), row);
                }
                Change::ForgetKey(id) => {
                    inner.rows.remove(&format!("key {id}"));
                }
                Change::PutAlias(record) => {
                    let row = serde_json::to_string(record).expect("serialises");
                    inner.rows.insert(format!("alias {}", record.alias), row);
                }
                Change::ForgetAlias(alias, _) => {
                    inner.rows.remove(&format!("alias {alias}"));
                }
                Change::PutAnchor(anchor) => {
                    let row = serde_json::to_string(anchor).expect("serialises");
                    inner.rows.insert(format!("anchor {}", anchor.volume), row);
                }
                Change::ForgetAnchor(volume, _) => {
                    inner.rows.remove(&format!("anchor {volume}"));
                }
                Change::PutAccessKey(record) => {
                    let row = serde_json::to_string(record).expect("serialises");
                    inner.rows.insert(format!("access {}", record.id), row);
                }
                Change::ForgetAccessKey(id) => {
                    inner.rows.remove(&format!("access {id}"));
                }
            }
        }
        inner.epoch += 1;
        if spent == Spent::LastEffect { failed() } else { Ok(inner.epoch) }
    }

    fn put_clock(&mut self, clock: &TrustedClock) -> Result<u64, StoreError> {
        let mut inner = self.inner.lock();
        if inner.refusals.pop_front() == Some(true) {
            return Err(std::io::Error::from(std::io::ErrorKind::StorageFull).into());
        }
        inner.clock = Some(clock.clone());
        inner.epoch += 1;
        Ok(inner.epoch)
    }

    fn raise(&mut self, epoch: u64) -> Result<u64, StoreError> {
        let mut inner = self.inner.lock();
        let spent = inner.power.spend();
        let failed = || Err(std::io::Error::from(std::io::ErrorKind::StorageFull).into());
        if spent == Spent::Dead {
            return failed();
        }
        inner.epoch = epoch.max(inner.epoch + 1);
        if spent == Spent::LastEffect { failed() } else { Ok(inner.epoch) }
    }

    fn rekey(&mut self, number: u64, _: IntegrityKey) -> Result<u64, StoreError> {
        let mut inner = self.inner.lock();
        inner.key_number = number;
        inner.epoch += 1;
        Ok(inner.epoch)
    }
}
