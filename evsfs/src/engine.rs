//! The volume engine: a copy-on-write block device inside one file.
//!
//! `docs/volume-format.md` is the design; each module names the part of it that it carries out. The engine does no encryption
//! of its own ([`crate::crypto`]), knows no byte layout ([`crate::format`]) and touches no file but through a
//! [`Backing`](crate::backing::Backing).
//!
//! ```text
//!   write --> slots (alloc) --> entry in the dirty map + pending group      read --> dirty map --> map pages (cache) --> slots
//!   flush --> pending group into the log ring, one barrier
//!   checkpoint --> dirty entries merged into the map, copy-on-write; barrier; superblock; barrier
//!   open --> superblock, tables, log behind it
//! ```

mod alloc;
mod cache;
mod carry;
mod check;
mod checkpoint;
mod commit;
mod core;
mod create;
mod dirty;
mod discard;
mod epochs;
mod error;
mod flatten;
mod map;
mod merge;
mod pages;
mod params;
mod protection;
mod ranges;
mod ration;
mod read;
mod recovery;
mod reencrypt;
mod report;
mod seek;
mod store;
mod tables;
mod task;
#[cfg(test)]
mod tests;
mod trash;
mod versions;
mod volume;
mod walk;
mod worker;
mod write;

pub use error::{CreateError, Damage, OpenError, VolumeError};
pub use params::{Anchor, BaseIdentity, BaseImage, CreateParams, OpenOptions};
pub use protection::Protection;
pub use ration::Ration;
pub use report::{BadBlock, CheckReport, SnapshotInfo, Stats, TaskStatus};
pub use task::Step;
pub use volume::{Brake, Volume};

/// Size in bytes of a block, a page and a slot.
pub const BLOCK: u64 = 4096;

/// What docs/volume-format.md says of the engine.
#[cfg(test)]
pub(crate) mod documented {
    pub(crate) use super::alloc::{REGION_HEAD, reserve_slots};
    pub(crate) use super::carry::CARRIED_MOST;
    pub(crate) use super::checkpoint::PIECE_MOST;
    pub(crate) use super::map::{DEAD, DEAD_BELOW, LOST_EPOCH};
    pub(crate) use super::recovery::RANGES_REPLAYED;
    pub(crate) use super::write::RANGES_MOST;
}
