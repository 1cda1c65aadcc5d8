//! The read-only volume under a thin one.

use super::text::Text;
use crate::crypto::Chain;
use uuid::Uuid;

/// Names a base so exactly that no other volume, and no other state of it, passes for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BaseReference {
    /// The base volume.
    pub uuid: Uuid,
    /// The state of it that is read.
    pub commit: u64,
    /// The chain value of that state.
    pub chain: Chain,
    /// Where it was last seen; the operator may say otherwise.
    pub path: Text<1024>,
}
