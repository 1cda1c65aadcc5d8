//! The pure core: identifiers, key states, policy, envelopes and the audit chain.
//!
//! Nothing in here does I/O, reads a clock or draws randomness: times and random bytes are arguments, and what
//! must happen outside is returned as data.

pub mod access_key;
pub mod alias;
pub mod anchor;
#[cfg(feature = "audit")]
pub mod audit;
pub mod context;
pub mod envelope;
pub mod grant;
mod hex_bytes;
pub mod id;
pub mod import;
#[cfg(feature = "daemon")]
pub mod integrity;
pub mod key;
pub mod key_policy;
pub mod lease;
pub mod operation;
pub mod policy;
pub mod principal;
pub mod quota;
pub mod reconcile;
pub mod refusal;
pub mod registry;
pub mod rotation;
pub mod state;
pub mod tags;
pub mod time;

pub use context::EncryptionContext;
pub use id::{Alias, DEFAULT_KEYS, KeyId, KeyRef, KeyVersion};
pub use operation::Operation;
pub use policy::Permit;
pub use principal::{Caller, Principal};
pub use refusal::Refusal;
pub use registry::Registry;
pub use state::{KeyState, Origin};
