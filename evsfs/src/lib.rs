//! evsfs

pub mod backing;
pub mod crypto;
pub mod engine;
pub mod format;
