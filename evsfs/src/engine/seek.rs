//! Where there is data, for `SEEK_DATA` and `SEEK_HOLE` (F7).

use std::ops::Range;

use uuid::Uuid;

use super::core::{Core, Root};
use super::error::VolumeError;
use super::map::Leaf;
use super::params::BaseImage;
use super::protection::Protection;
use super::read::BATCH;
use crate::format::Entry;
use crate::format::layout::{BLOCK_BYTES, map_entry};

/// Where the base has data, kept in mind as far as it was asked for.
struct BaseExtents<'a> {
    base: Option<&'a dyn BaseImage>,
    /// Blocks that are all data, or all holes.
    known: Range<u64>,
    is_data: bool,
}

impl<'a> BaseExtents<'a> {
    /// Without a base all is a hole.
    fn of(base: Option<&'a dyn BaseImage>) -> Self {
        let known = if base.is_some() { 0..0 } else { 0..u64::MAX };
        Self { base, known, is_data: false }
    }

    /// Whether a block is data. Of the data behind it no more is looked at than what lies before `end`.
    fn has(&mut self, block: u64, end: u64) -> Result<bool, VolumeError> {
        if let Some(base) = self.base.filter(|_| !self.known.contains(&block)) {
            let offset = block * BLOCK_BYTES;
            let data = if offset < base.size() { base.next_data(offset)? } else { None };
            (self.known, self.is_data) = match data {
                Some(data) if data < offset + BLOCK_BYTES => {
                    let hole = base.next_hole(offset, end.saturating_mul(BLOCK_BYTES))?;
                    (block..hole.div_ceil(BLOCK_BYTES).max(block + 1), true)
                }
                Some(data) => (block..data / BLOCK_BYTES, false),
                None => (block..u64::MAX, false),
            };
        }
        Ok(self.is_data)
    }

    /// The first block from this one on that is data (or a hole). If there is none before `end`, one at or after it.
    fn first(&mut self, block: u64, end: u64, data: bool) -> Result<u64, VolumeError> {
        Ok(if self.has(block, end)? == data { block } else { self.known.end })
    }
}

impl Core {
    /// The first byte at or after `offset` that is in a data block.
    pub(super) fn next_data(&self, offset: u64) -> Result<Option<u64>, VolumeError> {
        let base = self.base_now();
        let mut base = BaseExtents::of(base.as_deref());
        let blocks = self.root().blocks;
        let mut block = offset / BLOCK_BYTES;
        let mut dirty = None;
        while block < blocks {
            if let Some(skip) = self.skip(&mut base, &mut dirty, block)? {
                block = skip;
                continue;
            }
            let end = blocks.min((block | 127) + 1);
            if let Some(found) = self.first(&mut base, block, end, true)? {
                return Ok(Some(offset.max(found * BLOCK_BYTES)));
            }
            block = end;
        }
        Ok(None)
    }

    /// The first byte at or after `offset` that is in a hole; if there is none before it, `end`, or the size.
    pub(super) fn next_hole(&self, offset: u64, end: u64) -> Result<u64, VolumeError> {
        let base = self.base_now();
        let mut base = BaseExtents::of(base.as_deref());
        let blocks = self.root().blocks.min(end.div_ceil(BLOCK_BYTES));
        let mut block = offset / BLOCK_BYTES;
        while block < blocks {
            let end = blocks.min((block | 127) + 1);
            if let Some(found) = self.first(&mut base, block, end, false)? {
                return Ok(offset.max(found * BLOCK_BYTES));
            }
            block = end;
        }
        Ok((blocks * BLOCK_BYTES).min(end))
    }

    /// The first byte at or after `offset` that is in a data block (or in a hole) of a snapshot; the size, or nothing, if there is none.
    pub(super) fn next_in_snapshot(
        &self,
        id: Uuid,
        offset: u64,
        data: bool,
    ) -> Result<Option<u64>, VolumeError> {
        let base = self.base_now();
        let mut base = BaseExtents::of(base.as_deref());
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
                Leaf::Hole(_, span) => (block / span + 1) * span,
                Leaf::Page(_) => (block | 127) + 1,
            };
            let end = end.min(snapshot.blocks);
            let found = match &leaf {
                Leaf::Hole(hole, _) if hole.is_absent() => base.first(block, end, data)?,
                Leaf::Hole(..) if data => end,
                Leaf::Hole(..) => block,
                Leaf::Page(page) => {
                    let entries = page.entries()[map_entry(block, 0)..].iter();
                    first_of(&mut base, block..end, entries, data)?.unwrap_or(end)
                }
            };
            if found < end {
                return Ok(Some(offset.max(found * BLOCK_BYTES)));
            }
            block = end;
        }
        Ok((!data).then_some(snapshot.blocks * BLOCK_BYTES))
    }

    /// If there is certainly no data in a larger span from `block` on, its end. `dirty` is, once it was searched, the first block with an
    /// entry in the dirty map from one before on.
    fn skip(
        &self,
        base: &mut BaseExtents<'_>,
        dirty: &mut Option<u64>,
        block: u64,
    ) -> Result<Option<u64>, VolumeError> {
        let Leaf::Hole(mut hole, mut span) = self.leaf(block)? else { return Ok(None) };
        if dirty.is_none_or(|dirty| dirty < block) {
            *dirty = Some(self.dirty.next_entry(block).unwrap_or(u64::MAX));
        }
        let dirty = dirty.unwrap_or(block);
        // Once more: what has left the dirty map since is in the map that is looked at now. (See `resolve`.)
        if self.store.protections.has(Protection::DirtyBeforeMap) {
            let Leaf::Hole(now, wide) = self.leaf(block)? else { return Ok(None) };
            (hole, span) = (now, wide);
        }
        let mut end = ((block / span + 1) * span).min(dirty & !127);
        if hole.is_absent() {
            // Even what is discarded since is looked at block by block: the base decides only how far to skip.
            end = end.min(base.first(block, (block | 127) + 1, true)? & !127);
        }
        Ok((end > block).then_some(end))
    }

    /// The first block of a span, at most 128, that is data (or a hole).
    fn first(
        &self,
        base: &mut BaseExtents<'_>,
        block: u64,
        end: u64,
        data: bool,
    ) -> Result<Option<u64>, VolumeError> {
        let mut entries = [Entry::ABSENT; BATCH];
        let entries = &mut entries[..usize::try_from(end - block).expect("at most 128")];
        self.resolve(block, entries)?;
        first_of(base, block..end, entries.iter(), data)
    }
}

/// The first of these blocks whose entry is data (or a hole).
fn first_of<'a>(
    base: &mut BaseExtents<'_>,
    blocks: Range<u64>,
    entries: impl Iterator<Item = &'a Entry>,
    data: bool,
) -> Result<Option<u64>, VolumeError> {
    let end = blocks.end;
    for (block, entry) in blocks.zip(entries) {
        if (entry.is_data() || entry.is_absent() && base.has(block, end)?) == data {
            return Ok(Some(block));
        }
    }
    Ok(None)
}
