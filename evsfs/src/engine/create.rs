//! Making a new volume file.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::alloc::reserve_slots;
use super::core::Core;
use super::error::{CreateError, VolumeError};
use super::params::CreateParams;
use crate::backing::Backing;
use crate::crypto::{Entropy, Keyring, TablePurpose, VolumeKeys};
use crate::format::layout::{
    BLOCK, BLOCK_BYTES, BLOCKS_MAX, HEADER_SLOTS, RING_START, SUPERBLOCK_SLOTS, map_height,
};
use crate::format::{Anchor, Block, Entry, FormatError, Header, LogHead, Superblock};

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
        task: None,
        base_copied: false,
    };
    let page = keys.seal_table(TablePurpose::Superblock, &superblock.encode(), entropy)?;
    for slot in SUPERBLOCK_SLOTS[0] {
        backing.write_at(page.as_ref(), slot * BLOCK_BYTES).map_err(CreateError::Io)?;
    }
    backing.sync().map_err(CreateError::Io)?;
    write_header(backing, &encoded).map_err(CreateError::Io)
}

/// Writes both copies, one after the other is durable: at any moment one of them is whole. Copy 1 comes first.
fn write_header(backing: &dyn Backing, encoded: &Block) -> std::io::Result<()> {
    let [first, second] = HEADER_SLOTS;
    backing.write_at(encoded, second * BLOCK_BYTES)?;
    barrier(backing)?;
    backing.write_at(encoded, first * BLOCK_BYTES)?;
    barrier(backing)
}

/// The bytes of a header of a volume that has these keys.
pub(super) fn encode_header(header: &Header, ring: &Keyring) -> Result<Box<Block>, FormatError> {
    let next = header.next.as_ref().map(|_| ring.newest().as_ref());
    header.encode_with(ring.oldest(), next)
}

/// Whether one of the copies is not this header: a change of it was cut short, it is damaged, or it cannot be read.
pub(super) fn header_is_stale(
    backing: &dyn Backing,
    header: &Header,
    ring: &Keyring,
) -> Result<bool, VolumeError> {
    let encoded = encode_header(header, ring)?;
    let mut copy = [0; BLOCK];
    for slot in HEADER_SLOTS {
        match backing.read_at(&mut copy, slot * BLOCK_BYTES) {
            Ok(()) if copy == *encoded => {}
            Ok(()) => return Ok(true),
            // The other one was proved. Writing this one anew is what may mend it.
            Err(error) => {
                tracing::warn!(volume = %header.uuid, slot, %error, "a copy of the header cannot be read");
                return Ok(true);
            }
        }
    }
    Ok(false)
}

impl Core {
    /// Writes another header, made from the one that counts now, over both copies; with it come other keys, if `ring` has some. Header and keys
    /// change together under one lock, so that none is ever written with keys that it does not speak of.
    pub(super) fn rewrite_header(&self, header: &Header, ring: Option<Keyring>) -> Result<(), VolumeError> {
        let mut current = self.header.lock();
        let keys = ring.clone().map_or_else(|| self.store.keys.now(), Arc::new);
        let speaks_of = header.next.as_ref().map(|next| next.switch);
        if header.sequence != current.sequence || speaks_of != keys.switch() {
            return Err(VolumeError::HeaderChanged { volume: self.store.uuid });
        }
        let next = Header { sequence: current.sequence + 1, ..header.clone() };
        let encoded = encode_header(&next, &keys)?;
        self.put_header(&encoded)?;
        *current = next;
        if let Some(ring) = ring {
            self.store.keys.set(ring);
        }
        Ok(())
    }

    /// Finishes a change of the header that was cut short: both copies are the one that counts, so that a wrapped key that was replaced is
    /// nowhere any more.
    pub(super) fn mend_header(&self) -> Result<(), VolumeError> {
        let header = self.header.lock();
        if self.stale_header.load(Ordering::Acquire) {
            let encoded = encode_header(&header, &self.store.keys.now())?;
            self.put_header(&encoded)?;
            self.stale_header.store(false, Ordering::Release);
        }
        Ok(())
    }

    /// As [`write_header`], in an open volume: after a sync that failed nothing is written.
    fn put_header(&self, encoded: &Block) -> Result<(), VolumeError> {
        self.check_writable()?;
        let [first, second] = HEADER_SLOTS;
        let poison = |error| self.poison(error);
        self.store.write(encoded, second).map_err(poison)?;
        self.store.sync().map_err(poison)?;
        self.store.write(encoded, first).map_err(poison)?;
        self.store.sync().map_err(poison)
    }
}

/// The simulation asks who wants it, to leave out each in turn.
#[cfg_attr(feature = "sim", track_caller)]
fn barrier(backing: &dyn Backing) -> std::io::Result<()> {
    #[cfg(feature = "sim")]
    crate::backing::sim::SyncSite::announce(std::panic::Location::caller());
    backing.sync()
}
