//! Key management service over a PKCS#11 token.
//!
//! ```text
//!   client  --HTTP/JSON-->  api  -->  service  -->  domain (pure: states, policy, envelope, audit)
//!  (evsfs, ecsctl, SDKs)                 |
//!                                        +-->  hsm    PKCS#11 token: generates, wraps, unwraps
//!                                        +-->  store  SQLite: names, states, versions
//! ```
//!
//! Master keys are made in the token and never leave it; this crate moves references to them. It does not
//! encrypt disks (`evsfs` does) and holds no data key longer than one request.
//!
//! Without the `daemon` feature only [`client`], the wire types and the domain's plain types are compiled.

#[cfg(feature = "daemon")]
mod api;
pub mod client;
pub mod domain;
pub mod memory;
pub mod paths;
#[cfg(feature = "daemon")]
pub mod pki;
mod secret;
pub mod wire;

#[cfg(feature = "audit")]
pub mod audit;
#[cfg(feature = "daemon")]
pub mod clock;
#[cfg(feature = "daemon")]
pub mod daemon;
#[cfg(feature = "daemon")]
pub mod hsm;
#[cfg(feature = "daemon")]
pub mod service;
#[cfg(feature = "daemon")]
pub mod store;

pub use secret::{Dek, WrappedDek, WrappedDekLength};
