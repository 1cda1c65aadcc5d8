//! The store: what must outlive the process. SQLite in production, memory as the reference in tests.

pub mod sqlite;
mod writer;

#[cfg(test)]
mod contract;
#[cfg(test)]
pub(crate) mod memory;

use std::path::PathBuf;

pub use self::{
    sqlite::SqliteStore,
    writer::{CommitError, Writer},
};
use crate::{
    domain::{
        integrity::IntegrityKey,
        registry::{Change, Registry},
        time::TrustedClock,
    },
    hsm::TokenIdentity,
};

/// A durable place for records.
pub trait Store: Send {
    /// The token that the store is bound to.
    ///
    /// # Errors
    /// If it cannot be read.
    fn token(&mut self) -> Result<TokenIdentity, StoreError>;

    /// Number of the integrity key that its MACs are made with, from 1. What it says is checked by the MACs only.
    ///
    /// # Errors
    /// If it cannot be read.
    fn key_number(&mut self) -> Result<u64, StoreError>;

    /// Gives the key that the rows' MACs are made with. To be called once, before everything below.
    fn unlock(&mut self, key: IntegrityKey);

    /// Everything in it, checked.
    ///
    /// # Errors
    /// If it cannot be read, or something in it makes no sense or was changed by somebody else.
    fn load(&mut self) -> Result<Contents, StoreError>;

    /// Records all changes, or none of them. They are durable when this returns. Gives the commit's number.
    ///
    /// # Errors
    /// If they are not.
    fn commit(&mut self, changes: &[Change]) -> Result<u64, StoreError>;

    /// Records where the trusted clock stands.
    ///
    /// # Errors
    /// If it is not durable.
    fn put_clock(&mut self, clock: &TrustedClock) -> Result<u64, StoreError>;

    /// Goes on with commit numbers from that one on, if it is above the newest: the store takes the place of another that was further. Durable when this
    /// returns. Gives the commit's number.
    ///
    /// # Errors
    /// If it is not durable.
    fn raise(&mut self, epoch: u64) -> Result<u64, StoreError>;

    /// Makes every MAC anew with another key, all or none. Durable when this returns. Gives the commit's number.
    ///
    /// # Errors
    /// If it is not; then the old key goes on.
    fn rekey(&mut self, number: u64, key: IntegrityKey) -> Result<u64, StoreError>;
}

/// What [`Store::load`] gives.
#[derive(Debug)]
pub struct Contents {
    /// Number of the newest commit.
    pub epoch: u64,
    /// The trusted clock, as it was seen last.
    pub clock: Option<TrustedClock>,
    /// Keys and anchors.
    pub registry: Registry,
}

/// Why the store did not do it.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// There is none.
    #[error("there is no store at {path}: make one with `kmsd init`", path = path.display())]
    Missing {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// There is one already.
    #[error("there is a store at {path} already; it is left as it is", path = path.display())]
    Exists {
        /// Where.
        path: PathBuf,
    },
    /// A newer version's.
    #[error("the store {path} has schema {found}, this version knows up to {known}: use the newer version", path = path.display())]
    Newer {
        /// Where.
        path: PathBuf,
        /// Its schema.
        found: u32,
        /// The newest known.
        known: u32,
    },
    /// Another process serves it.
    #[error("the store {path} is in use by another kmsd", path = path.display())]
    InUse {
        /// Where.
        path: PathBuf,
    },
    /// A record that makes no sense.
    #[error("the record of {what} {id} in the store is damaged: restore a backup (`kmsd restore`)")]
    Damaged {
        /// What kind.
        what: &'static str,
        /// Which.
        id: String,
    },
    /// A MAC does not fit.
    #[error(
        "{what} {id} in the store was changed by another program than kmsd: restore a backup (`kmsd restore`), and find out who did it"
    )]
    Tampered {
        /// What kind.
        what: &'static str,
        /// Which.
        id: String,
    },
    /// A record that does not fit one that is there. Never the caller's fault: the writer checks first.
    #[error("a record in the store was changed behind the service's back")]
    Conflict,
    /// SQLite failed.
    #[error("the store failed: {0}")]
    Sqlite(#[from] rusqlite::Error),
    /// The file system failed.
    #[error("the store failed: {0}")]
    Io(#[from] std::io::Error),
}
