//! What each sealed thing is bound to: its kind, its volume and its place. Never empty, and of another length for each kind.

use super::layout::LOG_HEADER;
use crate::crypto::Chain;
use uuid::Uuid;

/// Which tree a page belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Tree {
    /// Blocks to slots.
    Map = 0,
    /// Which slots are in use.
    Allocation = 1,
}

fn prefixed<const N: usize>(prefix: &[u8; 4], uuid: &Uuid) -> [u8; N] {
    let mut aad = [0; N];
    aad[..4].copy_from_slice(prefix);
    aad[4..20].copy_from_slice(uuid.as_bytes());
    aad
}

/// Of a data block.
#[must_use]
pub fn data_aad(uuid: &Uuid, lba: u64) -> [u8; 28] {
    let mut aad = prefixed(b"evsD", uuid);
    aad[20..].copy_from_slice(&lba.to_le_bytes());
    aad
}

/// Of a page of a tree. `index` counts the pages of its level from the start of the volume (map) or the file (allocation).
#[must_use]
pub fn map_aad(uuid: &Uuid, tree: Tree, level: u8, index: u64) -> [u8; 30] {
    let mut aad = prefixed(b"evsM", uuid);
    aad[20] = tree as u8;
    aad[21] = level;
    aad[22..].copy_from_slice(&index.to_le_bytes());
    aad
}

/// Of a log page: its clear header and all that was logged before it.
#[must_use]
pub fn log_aad(uuid: &Uuid, header: &[u8; LOG_HEADER], before: &Chain) -> [u8; 52 + LOG_HEADER] {
    let mut aad = prefixed(b"evsL", uuid);
    aad[20..20 + LOG_HEADER].copy_from_slice(header);
    aad[20 + LOG_HEADER..].copy_from_slice(&before.0);
    aad
}
