//! What a checkpoint writes and frees, until its superblock makes it so.

use std::sync::Arc;

use super::carry::Carried;
use super::core::Core;
use super::error::VolumeError;
use super::merge::Place;
use crate::format::layout::{BLOCK, REGION_SLOTS};
use crate::format::{Entry, MapPage, Tree};

/// Pages that are collected before they are written, so that neighbours go out together.
const BATCH: usize = 64;

/// Former pages that a detach gives back to the host: from so many on, since few are soon used again, and no more, since each costs a call.
const GIVEN_BACK: std::ops::RangeInclusive<usize> = 64..=65_536;

/// See the module.
#[derive(Default)]
pub(super) struct Work {
    /// Every slot that was taken for this checkpoint.
    taken: Vec<u64>,
    /// Those of them that are not used yet.
    spare: Vec<u64>,
    freed: Vec<u64>,
    punched: Vec<u64>,
    /// Freed slots that held pages of the map.
    old_pages: Vec<u64>,
    waiting: Vec<(u64, Box<[u8; BLOCK]>)>,
    /// Leaves the reserve alone: what it does can wait.
    without_reserve: bool,
    /// Takes the reserve first: the host had no space for other slots.
    using_reserve: bool,
    /// Something was not freed, because the host failed to read what says what it is.
    unread: bool,
    /// What stays in the dirty map, because a page above it cannot be read.
    pub(super) carried: Carried,
    /// The slots of all that stays in the dirty map.
    left: Vec<u64>,
}

impl Work {
    /// `freed` and `discarded` slots come with the cut.
    pub(super) fn new(freed: &[u64], discarded: &[u64]) -> Self {
        let freed = freed.iter().chain(discarded).copied().collect();
        Self { freed, punched: discarded.to_vec(), ..Self::default() }
    }

    /// The same; so many entries may stay in the dirty map that cannot be merged.
    pub(super) fn carrying(self, most: usize) -> Self {
        Self { carried: Carried::at_most(most), ..self }
    }

    /// The same; the frozen entries of these slots are not merged.
    pub(super) fn leaving(self, left: Vec<u64>) -> Self {
        Self { left, ..self }
    }

    /// For what can be left out when the host is full.
    pub(super) fn without_reserve() -> Self {
        Self { without_reserve: true, ..Self::default() }
    }

    /// For what the host had no space for.
    pub(super) fn using_reserve(self) -> Self {
        Self { using_reserve: true, ..self }
    }

    /// For the tables beside it, which may have to be written again.
    pub(super) fn for_tables(&self) -> Self {
        Self { using_reserve: self.using_reserve, ..Self::default() }
    }

    /// A new slot.
    pub(super) fn take(&mut self, core: &Core) -> Result<u64, VolumeError> {
        if self.spare.is_empty() {
            if self.using_reserve
                && let Ok(slot) = core.alloc.take_reserved(&core.store)
            {
                self.taken.push(slot);
                return Ok(slot);
            }
            // As many as there are already, so that a small checkpoint takes few and a large one takes long runs.
            let count = u64::try_from(self.taken.len().clamp(1, BATCH)).expect("small");
            let runs = match core.alloc.take_for_pages(&core.store, count) {
                Ok(runs) => runs,
                Err(VolumeError::NoSpace) if !self.without_reserve => {
                    let slot = core.alloc.take_reserved(&core.store)?;
                    self.taken.push(slot);
                    return Ok(slot);
                }
                Err(error) => return Err(error),
            };
            let slots = runs.iter().flat_map(|run| run.slot..run.slot + run.count);
            self.spare.extend(slots);
            self.spare.reverse();
            self.taken.extend(&self.spare);
        }
        Ok(self.spare.pop().expect("just filled"))
    }

    /// A new slot for a page that much of the rest needs to be read, near the start of the file. Of tables, and of pages of the map that are
    /// far up, there are few.
    pub(super) fn take_low(&mut self, core: &Core, few: bool) -> Result<u64, VolumeError> {
        let low = if self.using_reserve { None } else { core.alloc.take_low(&core.store, few) };
        let Some(slot) = low else { return self.take(core) };
        self.taken.push(slot);
        Ok(slot)
    }

    /// Marks a slot as free once the checkpoint is durable.
    pub(super) fn free(&mut self, slot: u64) {
        self.freed.push(slot);
    }

    /// The same for one that held a page of the map.
    pub(super) fn free_page(&mut self, slot: u64) {
        self.free(slot);
        self.old_pages.push(slot);
    }

    /// Gives the slots of former pages back to the host as well, if they are many: nobody writes any more who could use them.
    pub(super) fn punch_old_pages(&mut self, core: &Core) {
        let (file, _) = core.alloc.totals();
        if self.old_pages.len() < *GIVEN_BACK.start() {
            return;
        }
        self.old_pages.truncate(*GIVEN_BACK.end());
        let old = self.old_pages.drain(..).filter(|slot| *slot < file && !core.alloc.is_reserve(*slot));
        self.punched.extend(old);
        self.punched.sort_unstable();
        self.punched.dedup();
    }

    /// Marks a freed slot to be given back to the host.
    pub(super) fn punch(&mut self, slot: u64) {
        self.punched.push(slot);
    }

    /// Seals a page of the map into a new slot. It is written with the next batch.
    pub(super) fn put(
        &mut self,
        core: &Core,
        place: Place,
        page: &MapPage,
        keep: bool,
    ) -> Result<Entry, VolumeError> {
        let slot = if place.level == 0 { self.take(core)? } else { self.take_low(core, place.level > 1)? };
        let mut bytes = Box::new([0; BLOCK]);
        page.encode(&mut bytes);
        let entry = core.store.seal_page(Tree::Map, place.level, place.index, slot, bytes.as_mut_slice())?;
        self.waiting.push((slot, bytes));
        if keep {
            core.cache.insert(&entry, Arc::new(page.clone()));
        }
        if self.waiting.len() >= BATCH {
            self.flush(core)?;
        }
        Ok(entry)
    }

    /// Writes what waits.
    pub(super) fn flush(&mut self, core: &Core) -> Result<(), VolumeError> {
        let mut waiting = std::mem::take(&mut self.waiting);
        waiting.sort_unstable_by_key(|(slot, _)| *slot);
        let mut buffer = Vec::with_capacity(waiting.len() * BLOCK);
        for run in waiting.chunk_by(|(left, _), (right, _)| left + 1 == *right) {
            buffer.clear();
            run.iter().for_each(|(_, bytes)| buffer.extend_from_slice(bytes.as_slice()));
            core.store.write(&buffer, run[0].0)?;
        }
        Ok(())
    }

    /// Returns what was not used, so that it is neither taken nor freed in the file, and sorts the rest.
    pub(super) fn settle(&mut self, core: &Core) {
        let mut spare = std::mem::take(&mut self.spare);
        core.alloc.free(&core.store, &spare);
        spare.sort_unstable();
        self.taken.retain(|slot| spare.binary_search(slot).is_err());
        self.taken.sort_unstable();
        self.left.extend(self.carried.slots());
        // Entries of a hostile volume, or of one whose file was cut off, may name slots behind the end of the file, or one slot twice. In the
        // last region such slots are freed all the same: the file may grow to them again.
        let (file, _) = core.alloc.totals();
        for (slots, end) in [
            (&mut self.freed, file.next_multiple_of(REGION_SLOTS)),
            (&mut self.punched, file),
            (&mut self.left, file),
        ] {
            slots.retain(|slot| *slot < end);
            slots.sort_unstable();
            slots.dedup();
        }
    }

    /// Gives everything back after a failure: nothing refers to it.
    pub(super) fn abandon(mut self, core: &Core) {
        self.taken.sort_unstable();
        core.alloc.free(&core.store, &self.taken);
    }

    /// Takes over what another one did.
    pub(super) fn absorb(&mut self, other: Self) {
        self.taken.extend(other.taken);
        self.freed.extend(other.freed);
        self.freed.sort_unstable();
        self.old_pages.extend(other.old_pages);
        self.punched.extend(other.punched);
        self.punched.sort_unstable();
    }

    /// The host failed to read what is to be freed: the next checkpoint tries again, and none is made for it alone.
    pub(super) fn wait_for_reads(&mut self) {
        self.unread = true;
    }

    pub(super) fn waits_for_reads(&self) -> bool {
        self.unread
    }

    pub(super) fn taken(&self) -> &[u64] {
        &self.taken
    }

    pub(super) fn freed(&self) -> &[u64] {
        &self.freed
    }

    pub(super) fn left(&self) -> &[u64] {
        &self.left
    }

    /// Runs of slots to give back to the host: (first, count).
    pub(super) fn punched_runs(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        let runs = self.punched.chunk_by(|left, right| left + 1 == *right);
        runs.map(|run| (run[0], u64::try_from(run.len()).expect("a length")))
    }
}
