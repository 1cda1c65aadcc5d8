//! The audit log (K8): a directory of files that only grow, written by one thread, synced before anybody is answered.
//!
//! What changes something is recorded before it is done (*intent*) and after; what only gives something out, before it is given
//! out. If a record cannot be made durable, the operation is refused.

#[cfg(feature = "daemon")]
mod archive;
mod error;
pub mod keys;
#[cfg(feature = "daemon")]
mod log;
mod reader;

#[cfg(test)]
#[cfg(feature = "daemon")]
mod tests;

#[cfg(feature = "daemon")]
pub use self::{
    archive::{Archived, archive, settle},
    log::AuditLog,
    reader::{FirstRecord, archived_before, file_path, files, starts},
};
pub use self::{
    error::AuditError,
    reader::{Entry, Extent, Verdict, outline, read, tail, verify},
};
