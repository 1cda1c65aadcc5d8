//! What the engine tells about itself.

use uuid::Uuid;

use super::error::Damage;
use crate::format::TaskKind;

/// Counters since the volume was opened, and sizes now.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Stats {
    /// Blocks and pages sealed.
    pub seals: u64,
    /// Blocks and pages opened.
    pub opens: u64,
    /// Groups committed.
    pub commits: u64,
    /// Barriers.
    pub syncs: u64,
    /// Checkpoints that became durable.
    pub checkpoints: u64,
    /// Log compactions.
    pub compactions: u64,
    /// Reads that met a slot in the midst of being reused, and were done again.
    pub retried_reads: u64,
    /// Entries in the dirty map.
    pub dirty_entries: u64,
    /// Records not yet committed.
    pub pending_records: u64,
    /// Map pages in the cache.
    pub cached_pages: u64,
    /// Allocation bitmaps in memory.
    pub loaded_regions: u64,
    /// Length of the file in slots of 4096 bytes.
    pub file_slots: u64,
    /// Slots in use, metadata included.
    pub used_slots: u64,
    /// Bytes written to the backing.
    pub bytes_written: u64,
    /// Slots that were to be freed although they were free: none, but for a hostile volume.
    pub double_frees: u64,
    /// Whether trash (of deleted snapshots and discarded ranges) is still to be freed.
    pub trash: bool,
}

/// How far a re-encryption or a flatten has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskStatus {
    /// Which of them it is.
    pub kind: TaskKind,
    /// What it does: `blocks`, `proof`, `bitmaps`, `wiping`, `header`.
    pub phase: &'static str,
    /// Bytes of the volume, from its start, that it is done with: nothing there is sealed under the older DEK any more, or is
    /// read from the base.
    pub position: u64,
    /// Bytes of the volume.
    pub size: u64,
    /// Bytes of data sealed anew since the volume was opened.
    pub sealed: u64,
    /// Bytes in a second at most; 0 for no limit.
    pub rate: u64,
    /// Why it does not go on by itself, if it does not.
    pub stopped: Option<String>,
}

/// A snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotInfo {
    /// Its identity.
    pub id: Uuid,
    /// What it was named.
    pub name: String,
    /// Size of the volume then, in bytes.
    pub size: u64,
    /// When, in seconds since 1970.
    pub created: u64,
}

/// A place that does not verify.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BadBlock {
    /// First block affected.
    pub block: u64,
    /// Blocks affected.
    pub count: u64,
    /// The snapshot in which, or none for the volume itself.
    pub snapshot: Option<Uuid>,
    /// Level of the map page that is damaged; none for a data block.
    pub page_level: Option<u8>,
    /// What was found.
    pub reason: Damage,
}

/// Result of a check of the whole volume.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct CheckReport {
    /// Data blocks that verified.
    pub blocks: u64,
    /// Pages that verified.
    pub pages: u64,
    /// What did not verify, at most 1,000 of it.
    pub bad: Vec<BadBlock>,
    /// How many did not verify in all.
    pub bad_count: u64,
    /// Slots that the bitmaps call used though nothing refers to them: lost space, no danger.
    pub leaked_slots: u64,
    /// Slots that are referred to though the bitmaps call them free: data in danger.
    pub unaccounted_slots: u64,
    /// Slots that are referred to from two places.
    pub shared_slots: u64,
    /// Allocation pages that do not verify.
    pub bad_allocation_pages: u64,
}

impl CheckReport {
    /// Whether everything is as it should be.
    #[must_use]
    pub const fn is_sound(&self) -> bool {
        self.bad_count == 0
            && self.unaccounted_slots == 0
            && self.shared_slots == 0
            && self.bad_allocation_pages == 0
            && self.leaked_slots == 0
    }
}
