//! Discarding: the blocks read as zeros afterwards, and their space goes back to the host.

use std::ops::Range;

use super::commit::Change;
use super::core::Core;
use super::dirty::{CHUNK_BITS, Found};
use super::error::VolumeError;
use super::read::BATCH;
use super::write::RANGES_MOST;
use crate::format::Entry;
use crate::format::layout::{BLOCK, BLOCK_BYTES};
use crate::sync::atomic::Ordering;

/// Discards of more blocks than this are kept as ranges, not as entries.
const ENTRIES_MOST: u64 = 512;

impl Core {
    pub(super) fn discard(&self, offset: u64, len: u64) -> Result<(), VolumeError> {
        self.check_writable()?;
        self.check_range(offset, len)?;
        let since = self.attempts.load(Ordering::Acquire);
        let end = offset + len;
        let (first, last) = (offset.next_multiple_of(BLOCK_BYTES), end / BLOCK_BYTES * BLOCK_BYTES);
        if first > last {
            // Within one block.
            return self.zero_part(offset, len);
        }
        // The ends last: they are written, so on a full host they need what the rest gives back.
        self.discard_blocks(first / BLOCK_BYTES..last / BLOCK_BYTES, since)?;
        self.zero_part(offset, first - offset)?;
        self.zero_part(last, end - last)
    }

    /// A part of a block, unless the block is a hole already.
    fn zero_part(&self, offset: u64, len: u64) -> Result<(), VolumeError> {
        if len == 0 || self.resolve_one(offset / BLOCK_BYTES)? == self.hole {
            return Ok(());
        }
        self.write(offset, &[0; BLOCK][..usize::try_from(len).expect("less than a block")])
    }

    fn discard_blocks(&self, blocks: Range<u64>, since: u64) -> Result<(), VolumeError> {
        if blocks.end - blocks.start > ENTRIES_MOST {
            return self.discard_range(&blocks, since);
        }
        let mut block = blocks.start;
        while block < blocks.end {
            let end =
                blocks.end.min(((block >> CHUNK_BITS) + 1) << CHUNK_BITS).min(block + self.limits.chunk);
            self.discard_entries(block..end, since)?;
            block = end;
        }
        Ok(())
    }

    /// As [`Self::admit`]; but where there is no space for the checkpoint that would make room in the dirty map, a discard comes in all the same, for it is
    /// what gives space. There is memory for as many entries again, as nothing is frozen then; `growth` says by how many it grows.
    fn admit_discard(
        &self,
        changes: usize,
        since: u64,
        growth: impl FnOnce() -> usize,
    ) -> Result<(), VolumeError> {
        match self.admit(changes, since) {
            Err(VolumeError::NoSpace) => {}
            admitted => return admitted,
        }
        let growth = growth();
        let has_memory = (growth == 0 || self.dirty.len() + growth <= self.dirty_most())
            && self.dirty.ranges() < 2 * RANGES_MOST
            && {
                let pending = self.pending.lock();
                pending.len() + changes <= self.limits.group && pending.holes() < RANGES_MOST
            };
        if has_memory { Ok(()) } else { Err(VolumeError::NoSpace) }
    }

    /// A large range: one record, whatever its length.
    fn discard_range(&self, blocks: &Range<u64>, since: u64) -> Result<(), VolumeError> {
        self.admit_discard(1, since, || 0)?;
        // Nobody inserts anything while the entries under it go, so that every entry that stays is newer than the range.
        let _gate = self.gate.write();
        if self.dirty.is_hole(blocks) {
            return Ok(());
        }
        let mut pending = Vec::new();
        self.dirty.insert_hole(blocks, |entry| {
            if entry.is_data() {
                pending.push(entry.slot());
            }
        });
        let mut group = self.pending.lock();
        group.discarded.append(&mut pending);
        group.push(Change::Hole(blocks.start, blocks.end - blocks.start));
        self.gave.fetch_add(1, Ordering::Release);
        Ok(())
    }

    /// A few blocks of one run of 256: entries, and only where there is something.
    fn discard_entries(&self, blocks: Range<u64>, since: u64) -> Result<(), VolumeError> {
        let mut now = [Entry::ABSENT; BATCH];
        let now = &mut now[..usize::try_from(blocks.end - blocks.start).expect("at most 256")];
        self.resolve(blocks.start, now)?;
        if now.iter().all(|entry| *entry == self.hole) {
            return Ok(());
        }
        let growth = || {
            let mut growth = 0;
            self.dirty.find_each(blocks.clone(), self.hole, |_, found| {
                growth += usize::from(!matches!(found, Found::Active(_)));
            });
            growth
        };
        self.admit_discard(now.len(), since, growth)?;
        let _gate = self.gate.read();
        let mut shard = self.dirty.lock(blocks.start);
        let mut pending = self.pending.lock();
        for (block, was) in blocks.zip(now) {
            if *was == self.hole && shard.find(block, self.hole) == Found::Below {
                continue;
            }
            if let Some(old) = shard.insert(block, self.hole)
                && old.is_data()
            {
                pending.discarded.push(old.slot());
            }
            pending.push(Change::Block(block, self.hole));
        }
        self.gave.fetch_add(1, Ordering::Release);
        Ok(())
    }
}
