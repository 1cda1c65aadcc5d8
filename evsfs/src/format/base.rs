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

impl BaseReference {
    /// What is to be said of a base that is not proved (docs/adr/0008).
    pub const UNPROVED: &str = "the header is one of the first, which name the base by values that anybody can read in them: who may write the file \
        of the base, and use a key of the key service, can exchange it unnoticed; while you trust it, copy what is read from it into \
        the disk (`evsfs flatten`, `ecsctl disk flatten`), or make the disk anew from its image";

    /// Whether it takes the base's own key to make a volume that passes for the base.
    #[must_use]
    pub const fn is_proved(&self) -> bool {
        matches!(self.state, BaseState::Proven { .. })
    }
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
