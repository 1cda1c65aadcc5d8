//! The volume engine: a copy-on-write block device inside one file.
//!
//! `docs/volume-format.md` is the design; each module names the part of it that it carries out. The engine does no encryption
//! of its own ([`crate::crypto`]), knows no byte layout ([`crate::format`]) and touches no file but through a
//! [`Backing`](crate::backing::Backing).

mod error;
mod params;
mod report;

pub use error::{CreateError, Damage, OpenError, VolumeError};
pub use params::{Anchor, BaseImage, CreateParams, OpenOptions};
pub use report::{BadBlock, CheckReport, SnapshotInfo, Stats};

/// Size in bytes of a block, a page and a slot.
pub const BLOCK: u64 = 4096;
