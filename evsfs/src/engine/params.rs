//! What callers choose when they create and open volumes.

use std::sync::Arc;

use uuid::Uuid;

use super::error::VolumeError;
use crate::crypto::BaseMac;
pub use crate::format::Anchor;
use crate::format::{BaseReference, BaseState, Text, layout};

/// What a new volume is to be, besides what its header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CreateParams {
    /// Size in bytes: a multiple of 4096.
    pub size: u64,
}

impl CreateParams {
    /// The log ring that suits the size: for the header's `ring_pages`.
    #[must_use]
    pub const fn ring_pages(&self) -> u64 {
        layout::ring_pages(self.size / layout::BLOCK_BYTES)
    }
}

/// Who a base is, and what state of it is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BaseIdentity {
    /// The volume.
    pub uuid: Uuid,
    /// Whether it is encrypted.
    pub encrypted: bool,
    /// Its state.
    pub state: Anchor,
    /// That state under the base's key.
    pub mac: BaseMac,
}

impl BaseIdentity {
    /// What the header of a thin volume over it says of it.
    #[must_use]
    pub const fn reference(&self, path: Text<1024>) -> BaseReference {
        let state = BaseState::Proven { mac: self.mac, encrypted: self.encrypted };
        BaseReference { uuid: self.uuid, commit: self.state.commit, state, path }
    }

    /// Whether it is, but for its number, what a header names.
    pub(super) fn is_in_state(&self, named: &BaseState) -> bool {
        match named {
            BaseState::Proven { mac, encrypted } => *mac == self.mac && *encrypted == self.encrypted,
            BaseState::Claimed(chain) => *chain == self.state.chain,
        }
    }
}

/// What a thin volume reads where it has nothing of its own. It never changes.
pub trait BaseImage: Send + Sync {
    /// Identity and state: the volume's header names the one that it was made from.
    fn identity(&self) -> BaseIdentity;

    /// Size in bytes. Beyond it the thin volume reads zeros.
    fn size(&self) -> u64;

    /// Fills `buf` from `offset`; both are multiples of 4096 and within the size.
    ///
    /// # Errors
    /// As `Volume::read`.
    fn read(&self, offset: u64, buf: &mut [u8]) -> Result<(), VolumeError>;

    /// The first byte at or after `offset` that is not in a hole.
    ///
    /// # Errors
    /// As `Volume::read`.
    fn next_data(&self, offset: u64) -> Result<Option<u64>, VolumeError>;

    /// The first byte at or after `offset` that is in a hole; if there is none before it, `end`, or the size if that is less.
    ///
    /// # Errors
    /// As `Volume::read`.
    fn next_hole(&self, offset: u64, end: u64) -> Result<u64, VolumeError>;
}

/// How to open a volume.
#[derive(Clone)]
pub struct OpenOptions {
    /// Bytes of memory that the process should not exceed (F6). The engine takes less than three quarters of it for dirty entries, cached
    /// pages and bitmaps.
    pub memory: u64,
    /// Whether a committer and a checkpointer thread run. Without them everything happens on the calling thread, in an order that
    /// depends on nothing else, and nothing is committed but by `Volume::flush` and when a limit is reached.
    pub background: bool,
    /// Never write to the file.
    pub read_only: bool,
    /// Where the host fails to read the log, take that for its end: [`super::Volume::ends_unread`] tells. Only together with `read_only`, to
    /// save what can be saved.
    pub salvage: bool,
    /// What the key service knows of the volume.
    pub anchor: Option<Anchor>,
    /// Open it even if it is older than the anchor or does not descend from it ([`super::Volume::is_rollback`] tells).
    pub accept_rollback: bool,
    /// The base of a thin volume.
    pub base: Option<Arc<dyn BaseImage>>,
    /// Seals per epoch at most: lower only to rehearse the change of epochs.
    pub seals_per_epoch: u64,
    /// Dirty entries before a checkpoint; `None` chooses by size and memory.
    pub dirty_limit: Option<usize>,
    /// Pages of deleted snapshots, and leaves of discarded ranges with the pages that are above them alone, that one checkpoint frees at most, each
    /// with up to 128 blocks.
    pub trash_budget: usize,
    /// Does without these protections, to see what happens then.
    #[cfg(feature = "sim")]
    pub omitted: &'static [super::Protection],
}

impl Default for OpenOptions {
    fn default() -> Self {
        Self {
            memory: 192 << 20,
            background: true,
            read_only: false,
            salvage: false,
            anchor: None,
            accept_rollback: false,
            base: None,
            seals_per_epoch: u64::from(u32::MAX),
            dirty_limit: None,
            trash_budget: 4096,
            #[cfg(feature = "sim")]
            omitted: &[],
        }
    }
}
