//! Making a new volume file.

use super::alloc::reserve_slots;
use super::error::CreateError;
use super::params::CreateParams;
use crate::backing::Backing;
use crate::crypto::{Entropy, TablePurpose, VolumeKeys};
use crate::format::layout::{
    BLOCK_BYTES, BLOCKS_MAX, HEADER_SLOTS, RING_START, SUPERBLOCK_SLOTS, map_height,
};
use crate::format::{Anchor, Block, Entry, Header, LogHead, Superblock};

/// Bytes of zeros that are written at once.
const ZEROS: usize = 1 << 20;

/// Writes an empty volume.
///
/// Everything up to the end of the log ring is written, so that later log writes and superblocks only overwrite: they need no new
/// space from the host, and its file system has nothing of its own to write for them. The header comes last: before it is durable
/// the file is no volume.
pub(super) fn create(
    backing: &dyn Backing,
    header: &Header,
    params: CreateParams,
    keys: &VolumeKeys,
    entropy: &dyn Entropy,
) -> Result<(), CreateError> {
    let blocks = params.size / BLOCK_BYTES;
    if !params.size.is_multiple_of(BLOCK_BYTES) || blocks == 0 || blocks > BLOCKS_MAX {
        return Err(CreateError::BadSize { asked: params.size, most: BLOCKS_MAX * BLOCK_BYTES });
    }
    if !backing.is_empty().map_err(CreateError::Io)? {
        return Err(CreateError::NotEmpty);
    }
    let encoded = header.encode(keys)?;
    let fixed = RING_START + header.ring_pages;
    // With the slots that are kept for checkpoints on a full host: they must be there, not only be promised.
    let file_slots = fixed + reserve_slots(header.ring_pages);
    let zeros = vec![0; ZEROS];
    let mut offset = 0;
    while offset < file_slots * BLOCK_BYTES {
        let len = usize::try_from(file_slots * BLOCK_BYTES - offset).map_or(ZEROS, |left| left.min(ZEROS));
        backing.write_at(&zeros[..len], offset).map_err(CreateError::Io)?;
        offset += u64::try_from(len).expect("small");
    }
    let state = Anchor { commit: 0, chain: keys.genesis_chain() };
    let superblock = Superblock {
        generation: 0,
        state,
        log_head: LogHead { page: 0, sequence: 0 },
        blocks,
        height: map_height(blocks),
        root: Entry::ABSENT,
        file_slots,
        used_slots: fixed,
        next_epoch: 1,
        epochs: Entry::ABSENT,
        versions: Vec::new(),
        confirmed: state,
        offered: state,
        least_commit: 0,
        clean: true,
        upper_allocation: Vec::new(),
    };
    let page = keys.seal_table(TablePurpose::Superblock, &superblock.encode(), entropy)?;
    for slot in SUPERBLOCK_SLOTS[0] {
        backing.write_at(page.as_ref(), slot * BLOCK_BYTES).map_err(CreateError::Io)?;
    }
    backing.sync().map_err(CreateError::Io)?;
    write_header(backing, &encoded).map_err(CreateError::Io)
}

/// Writes both copies, one after the other is durable: at any moment one of them is whole. Copy 1 comes first.
pub(super) fn write_header(backing: &dyn Backing, encoded: &Block) -> std::io::Result<()> {
    let [first, second] = HEADER_SLOTS;
    backing.write_at(encoded, second * BLOCK_BYTES)?;
    barrier(backing)?;
    backing.write_at(encoded, first * BLOCK_BYTES)?;
    barrier(backing)
}

/// The simulation asks who wants it, to leave out each in turn.
#[cfg_attr(feature = "sim", track_caller)]
fn barrier(backing: &dyn Backing) -> std::io::Result<()> {
    #[cfg(feature = "sim")]
    crate::backing::sim::SyncSite::announce(std::panic::Location::caller());
    backing.sync()
}
