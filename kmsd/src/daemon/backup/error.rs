//! Why there is no copy, or nothing was restored.

use std::{
    io,
    path::{Path, PathBuf},
};

use crate::{audit::AuditError, hsm::TokenIdentity};

/// Of `kmsd backup` and `kmsd restore`.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// Something is there.
    #[error("{path} is there already; it is left as it is: name a new directory", path = path.display())]
    Exists {
        /// What.
        path: PathBuf,
    },
    /// The file system.
    #[error("cannot {doing} {path}: {source}", path = path.display())]
    Io {
        /// The verb.
        doing: &'static str,
        /// On what.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// No backup.
    #[error("{path} is no backup that this version of kmsd can read: its manifest.json {what}", path = path.display())]
    Manifest {
        /// The directory.
        path: PathBuf,
        /// What is wrong with it.
        what: &'static str,
    },
    /// A file differs from what was copied.
    #[error("{file} in the backup is not as it was copied: the backup is damaged; nothing was restored")]
    Damaged {
        /// The file.
        file: PathBuf,
    },
    /// There is a store.
    #[error(
        "there is a store in {home} (its newest change is {present}, the backup's is {backup}): say --replace to put it aside and restore the backup", home = home.display()
    )]
    StoreThere {
        /// The home directory.
        home: PathBuf,
        /// Number of its newest commit.
        present: u64,
        /// Number of the backup's.
        backup: u64,
    },
    /// The backup is of another installation.
    #[error("the backup is of the token {backup}, the store in this home of {present}: nothing was restored")]
    OtherToken {
        /// The backup's.
        backup: TokenIdentity,
        /// The one of the store that is there.
        present: TokenIdentity,
    },
    /// Two histories.
    #[error(
        "{file} in this home and in the backup tell different histories: move the one in the home away, and keep it; nothing was restored"
    )]
    Histories {
        /// The file.
        file: PathBuf,
    },
    /// The log.
    #[error(transparent)]
    Audit(#[from] AuditError),
}

impl BackupError {
    pub(super) fn io<'a>(doing: &'static str, path: &'a Path) -> impl Fn(io::Error) -> Self + 'a {
        move |source| Self::Io { doing, path: path.to_owned(), source }
    }
}
