//! The audit log (K8): a directory of files that only grow, written by one thread, synced before anybody is answered.
//!
//! What changes something is recorded before it is done (*intent*) and after; what only gives something out, before it is given
//! out. If a record cannot be made durable, the operation is refused.

mod log;
mod reader;

#[cfg(test)]
mod tests;

pub use self::{
    log::{AuditError, AuditLog},
    reader::{Entry, Verdict, tail, verify},
};
