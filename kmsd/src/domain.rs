//! The pure core: identifiers, key states, policy, envelopes and the audit chain.
//!
//! Nothing in here does I/O, reads a clock or draws randomness: times and random bytes are arguments, and what
//! must happen outside is returned as data.

pub mod context;
pub mod id;
pub mod state;

pub use context::EncryptionContext;
pub use id::{Alias, KeyId, KeyRef, KeyVersion};
pub use state::{KeyState, Origin};
