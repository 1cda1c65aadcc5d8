//! Where there is data, for `SEEK_DATA` and `SEEK_HOLE` (F7).

use uuid::Uuid;

use super::core::{Core, Root};
use super::error::VolumeError;
use super::map::Leaf;
use super::read::BATCH;
use crate::format::Entry;
use crate::format::layout::{BLOCK_BYTES, map_entry};

impl Core {
    /// The first byte at or after `offset` that is in a data block.
    pub(super) fn next_data(&self, offset: u64) -> Result<Option<u64>, VolumeError> {
        let blocks = self.root().blocks;
        let mut block = offset / BLOCK_BYTES;
        while block < blocks {
            if let Some(skip) = self.skip(block)? {
                block = skip;
                continue;
            }
            let end = blocks.min((block | 127) + 1);
            if let Some(found) = self.first(block, end, true)? {
                return Ok(Some(offset.max(found * BLOCK_BYTES)));
            }
            block = end;
        }
        Ok(None)
    }

    /// The first byte at or after `offset` that is in a hole, or the size.
    pub(super) fn next_hole(&self, offset: u64) -> Result<u64, VolumeError> {
        let blocks = self.root().blocks;
        let mut block = offset / BLOCK_BYTES;
        while block < blocks {
            let end = blocks.min((block | 127) + 1);
            if let Some(found) = self.first(block, end, false)? {
                return Ok(offset.max(found * BLOCK_BYTES));
            }
            block = end;
        }
        Ok(blocks * BLOCK_BYTES)
    }

    /// The same in a snapshot.
    pub(super) fn next_data_in_snapshot(&self, id: Uuid, offset: u64) -> Result<Option<u64>, VolumeError> {
        let root = self.snapshot_root(id)?;
        let found = self.next_in_version(&root, offset, true);
        self.still_there(id, found)
    }

    /// The same in a snapshot.
    pub(super) fn next_hole_in_snapshot(&self, id: Uuid, offset: u64) -> Result<u64, VolumeError> {
        let root = self.snapshot_root(id)?;
        let found = self.next_in_version(&root, offset, false);
        Ok(self.still_there(id, found)?.unwrap_or(root.blocks * BLOCK_BYTES))
    }

    /// The first byte at or after `offset` that is data (or not), under a root whose slots nobody frees meanwhile.
    fn next_in_version(&self, root: &Root, offset: u64, data: bool) -> Result<Option<u64>, VolumeError> {
        let mut block = offset / BLOCK_BYTES;
        while block < root.blocks {
            let leaf = self
                .descend(root, block)
                .map_err(|(level, reason)| self.damaged_page(level, block, reason))?;
            // A span without a page is of one kind, unless the base shines through.
            let (entry, next) = match leaf {
                Leaf::Page(page) => (page.entry(map_entry(block, 0)), block + 1),
                Leaf::Hole(hole, _) if hole.is_absent() && self.base.is_some() => (hole, block + 1),
                Leaf::Hole(hole, span) => (hole, (block / span + 1) * span),
            };
            if (entry.is_data() || entry.is_absent() && self.is_data_in_base(block)?) == data {
                return Ok(Some(offset.max(block * BLOCK_BYTES)));
            }
            block = next;
            if let (true, true, Some(base)) = (data, entry.is_absent(), &self.base)
                && let Some(skip) = self.absent_until(root, block)?
            {
                // Nothing of this version is before `skip`: the base alone decides where data comes next.
                let from = (block * BLOCK_BYTES).min(base.size());
                let data = base.next_data(from)?.map_or(u64::MAX, |at| at / BLOCK_BYTES);
                block = block.max(skip.min(data));
            }
        }
        Ok(None)
    }

    /// The end of the span around a block that no page of this version describes.
    fn absent_until(&self, root: &Root, block: u64) -> Result<Option<u64>, VolumeError> {
        if block >= root.blocks {
            return Ok(None);
        }
        match self.descend(root, block) {
            Ok(Leaf::Hole(hole, span)) if hole.is_absent() => Ok(Some((block / span + 1) * span)),
            Ok(_) => Ok(None),
            Err((level, reason)) => Err(self.damaged_page(level, block, reason)),
        }
    }

    /// If there is certainly no data in a larger span from `block` on, its end.
    fn skip(&self, block: u64) -> Result<Option<u64>, VolumeError> {
        let Leaf::Hole(hole, span) = self.leaf(block)? else { return Ok(None) };
        let mut end = (block / span + 1) * span;
        if let Some(dirty) = self.dirty.next_entry(block) {
            end = end.min(dirty & !127);
        }
        if hole.is_absent()
            && let Some(base) = &self.base
        {
            // Even what is discarded since is looked at block by block: the base decides only how far to skip.
            if let Some(data) = base.next_data((block * BLOCK_BYTES).min(base.size()))? {
                end = end.min((data / BLOCK_BYTES) & !127);
            }
        }
        Ok((end > block).then_some(end))
    }

    /// The first block of a span, at most 128, that is data (or a hole).
    fn first(&self, block: u64, end: u64, data: bool) -> Result<Option<u64>, VolumeError> {
        let mut entries = [Entry::ABSENT; BATCH];
        let entries = &mut entries[..usize::try_from(end - block).expect("at most 128")];
        self.resolve(block, entries)?;
        for (block, entry) in (block..).zip(entries) {
            if (entry.is_data() || entry.is_absent() && self.is_data_in_base(block)?) == data {
                return Ok(Some(block));
            }
        }
        Ok(None)
    }

    fn is_data_in_base(&self, block: u64) -> Result<bool, VolumeError> {
        let offset = block * BLOCK_BYTES;
        match &self.base {
            Some(base) if offset < base.size() => {
                Ok(base.next_data(offset)?.is_some_and(|data| data < offset + BLOCK_BYTES))
            }
            _ => Ok(false),
        }
    }
}
