//! Where there is data, for `SEEK_DATA` and `SEEK_HOLE` (F7).

use uuid::Uuid;

use super::core::{Core, Root};
use super::error::VolumeError;
use super::map::Leaf;
use super::params::BaseImage;
use super::read::BATCH;
use crate::format::Entry;
use crate::format::layout::{BLOCK_BYTES, map_entry};

impl Core {
    /// The first byte at or after `offset` that is in a data block.
    pub(super) fn next_data(&self, offset: u64) -> Result<Option<u64>, VolumeError> {
        let base = self.base_now();
        let base = base.as_deref();
        let blocks = self.root().blocks;
        let mut block = offset / BLOCK_BYTES;
        while block < blocks {
            if let Some(skip) = self.skip(base, block)? {
                block = skip;
                continue;
            }
            let end = blocks.min((block | 127) + 1);
            if let Some(found) = self.first(base, block, end, true)? {
                return Ok(Some(offset.max(found * BLOCK_BYTES)));
            }
            block = end;
        }
        Ok(None)
    }

    /// The first byte at or after `offset` that is in a hole, or the size.
    pub(super) fn next_hole(&self, offset: u64) -> Result<u64, VolumeError> {
        let base = self.base_now();
        let blocks = self.root().blocks;
        let mut block = offset / BLOCK_BYTES;
        while block < blocks {
            let end = blocks.min((block | 127) + 1);
            if let Some(found) = self.first(base.as_deref(), block, end, false)? {
                return Ok(offset.max(found * BLOCK_BYTES));
            }
            block = end;
        }
        Ok(blocks * BLOCK_BYTES)
    }

    /// The first byte at or after `offset` that is in a data block (or in a hole) of a snapshot; the size, or nothing, if there is none.
    pub(super) fn next_in_snapshot(
        &self,
        id: Uuid,
        offset: u64,
        data: bool,
    ) -> Result<Option<u64>, VolumeError> {
        let base = self.base_now();
        let base = base.as_deref();
        let mut snapshot = self.find_snapshot(id).ok_or(VolumeError::NoSuchSnapshot { id })?;
        let mut block = offset / BLOCK_BYTES;
        while block < snapshot.blocks {
            let root = Root { entry: snapshot.root, height: snapshot.height, blocks: snapshot.blocks };
            let leaf = match self.descend(&root, block) {
                Ok(leaf) => leaf,
                Err((level, reason)) => {
                    // Its pages may have been sealed anew in the meantime.
                    let now = self.find_snapshot(id).ok_or(VolumeError::NoSuchSnapshot { id })?;
                    if now.root == snapshot.root {
                        return Err(self.damaged_page(level, block, reason));
                    }
                    snapshot = now;
                    continue;
                }
            };
            let end = match &leaf {
                Leaf::Hole(hole, span) if !hole.is_absent() || base.is_none() => (block / span + 1) * span,
                Leaf::Hole(..) | Leaf::Page(_) => (block | 127) + 1,
            };
            for block in block..end.min(snapshot.blocks) {
                let entry = match &leaf {
                    Leaf::Page(page) => page.entry(map_entry(block, 0)),
                    Leaf::Hole(hole, _) => *hole,
                };
                if (entry.is_data() || entry.is_absent() && is_data_in(base, block)?) == data {
                    return Ok(Some(offset.max(block * BLOCK_BYTES)));
                }
                // All of a hole is alike, unless a base shows through.
                if matches!(leaf, Leaf::Hole(..)) && end - block > 128 {
                    break;
                }
            }
            block = end;
        }
        Ok((!data).then_some(snapshot.blocks * BLOCK_BYTES))
    }

    /// If there is certainly no data in a larger span from `block` on, its end.
    fn skip(&self, base: Option<&dyn BaseImage>, block: u64) -> Result<Option<u64>, VolumeError> {
        let Leaf::Hole(hole, span) = self.leaf(block)? else { return Ok(None) };
        let mut end = (block / span + 1) * span;
        if let Some(dirty) = self.dirty.next_entry(block) {
            end = end.min(dirty & !127);
        }
        if hole.is_absent()
            && let Some(base) = base
        {
            // Even what is discarded since is looked at block by block: the base decides only how far to skip.
            if let Some(data) = base.next_data((block * BLOCK_BYTES).min(base.size()))? {
                end = end.min((data / BLOCK_BYTES) & !127);
            }
        }
        Ok((end > block).then_some(end))
    }

    /// The first block of a span, at most 128, that is data (or a hole).
    fn first(
        &self,
        base: Option<&dyn BaseImage>,
        block: u64,
        end: u64,
        data: bool,
    ) -> Result<Option<u64>, VolumeError> {
        let mut entries = [Entry::ABSENT; BATCH];
        let entries = &mut entries[..usize::try_from(end - block).expect("at most 128")];
        self.resolve(block, entries)?;
        for (block, entry) in (block..).zip(entries) {
            if (entry.is_data() || entry.is_absent() && is_data_in(base, block)?) == data {
                return Ok(Some(block));
            }
        }
        Ok(None)
    }
}

fn is_data_in(base: Option<&dyn BaseImage>, block: u64) -> Result<bool, VolumeError> {
    let offset = block * BLOCK_BYTES;
    match base {
        Some(base) if offset < base.size() => {
            Ok(base.next_data(offset)?.is_some_and(|data| data < offset + BLOCK_BYTES))
        }
        _ => Ok(false),
    }
}
