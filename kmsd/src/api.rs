//! What requests come in by.

#[allow(dead_code)]
pub(crate) mod auth;
