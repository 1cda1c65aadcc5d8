//! evsfs

pub mod backing;
pub mod engine;
