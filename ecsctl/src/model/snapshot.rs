//! Snapshots: states of a disk, kept in its volume (D5).

use uuid::Uuid;

/// A snapshot in the catalogue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Snapshot {
    /// Its ID, also in the volume.
    pub(crate) id: Uuid,
    /// Its unique name.
    pub(crate) name: String,
    /// The disk.
    pub(crate) disk_id: Uuid,
    /// The size of the disk at that time, bytes.
    pub(crate) size: u64,
    /// When it was taken, RFC 3339.
    pub(crate) created_at: String,
}
