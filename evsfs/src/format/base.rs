//! The read-only volume under a thin one.

use super::text::Text;
use crate::crypto::{BaseMac, Chain};
use uuid::Uuid;

/// Names a base so exactly that no other volume, and no other state of it, passes for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BaseReference {
    /// The base volume.
    pub uuid: Uuid,
    /// The state of it that is read: its commit,
    pub commit: u64,
    /// and its past.
    pub state: BaseState,
    /// Where it was last seen; the operator may say otherwise.
    pub path: Text<1024>,
}

/// How the state of a base is told from others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BaseState {
    /// By a MAC that only the base's own keys give (`VolumeKeys::base_mac`).
    Proven {
        /// That MAC.
        mac: BaseMac,
        /// Whether the base is encrypted.
        encrypted: bool,
    },
    /// By the chain value alone, as the first headers have it. Everybody who reads such a header can make a volume that claims it.
    Claimed(Chain),
}
