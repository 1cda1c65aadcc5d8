//! What can go wrong with the log's files.

use std::path::PathBuf;

/// Why a record is not durable, or the log cannot be read.
#[derive(Clone, Debug, thiserror::Error)]
pub enum AuditError {
    /// The file system refuses.
    #[error("the audit log {path} cannot be written ({kind}): operations are refused until it can", path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        kind: std::io::ErrorKind,
    },
    /// The file system refuses.
    #[error("the audit log {path} cannot be read ({kind})", path = path.display())]
    Read {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        kind: std::io::ErrorKind,
    },
    /// A sync failed before: what is on disk is not known.
    #[error("the audit log failed to sync; operations are refused until kmsd is restarted")]
    Broken,
    /// The file system refuses.
    #[error("the audit log cannot be archived ({path}: {kind}); no record is lost", path = path.display())]
    Archive {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        kind: std::io::ErrorKind,
    },
    /// There is nothing to archive.
    #[error("the audit log {path} has no record: there is nothing to archive", path = path.display())]
    Empty {
        /// The directory.
        path: PathBuf,
    },
    /// A name that is none of the log's.
    #[error("the audit log {path} is damaged: {what}", path = path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: &'static str,
    },
    /// Too many records wait to be written.
    #[error("{waiting} records wait for the audit log already: try again in a moment")]
    Busy {
        /// How many.
        waiting: usize,
    },
    /// The log is closed.
    #[error("the service is shutting down")]
    Stopped,
}
