//! Which slots of the file are free.
//!
//! The bitmaps of the file's regions are leaves of the allocation tree. They are loaded when needed; while clean they can be
//! dropped again (F6). In memory a slot is taken at once; in the file only a checkpoint says so, in the other of the two places
//! of each page. A slot that a checkpoint frees stays taken until its superblock is durable: [`Allocator::commit`].

use std::collections::BTreeMap;
use std::sync::Arc;

use super::dirty::BlockMap;
use super::error::{Damage, VolumeError};
use super::store::{Store, count, host_error};
use crate::format::layout::{BLOCK, BLOCK_BYTES, FANOUT, REGION_SLOTS, RING_START, allocation_slots};
use crate::format::{Entry, Tree, UPPER_ALLOCATION_ENTRIES};
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicU64, Ordering};

mod kept;
mod persist;
mod region;
#[cfg(test)]
mod tests;
mod wipe;

use kept::{Group, lacks};
pub(super) use persist::Prepared;
pub(super) use region::Bitmap;
use region::Region;

/// How long the file is, in slots.
#[derive(Debug, Clone, Copy)]
pub(super) struct Extent {
    pub(super) now: u64,
    /// The longest that a durable state knows of: more than now if the file was cut off.
    pub(super) once: u64,
}

/// Consecutive slots.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) slot: u64,
    pub(super) count: u64,
}

/// Slots that a writer has taken and that nothing refers to yet. They land when their entries are in the dirty map, or go back.
#[must_use]
pub(super) struct Flight {
    number: u64,
    pub(super) runs: Vec<Run>,
}

/// A region is taken up again when at least this much of it is free; else the file grows.
const WORTH_FREE: u64 = REGION_SLOTS / 8;
/// The file grows by at least this many slots (1 MiB) and at most the other (64 MiB).
const GROW_LEAST: u64 = 256;
const GROW_MOST: u64 = 16_384;
/// Slots of a new region that the file must cover: the places of the allocation tree lie there.
pub(crate) const REGION_HEAD: u64 = 16;
const REGION_HEAD_BYTES: usize = 16 * BLOCK;
/// Entries of a page.
const FAN: u64 = 128;
/// Regions that the entries in a superblock have room for.
const REGIONS_MOST: u64 = UPPER_ALLOCATION_ENTRIES as u64 * FAN * FAN;
/// Slots of a file that are used at most; who can write to it may make it longer.
pub(super) const FILE_SLOTS_MOST: u64 = REGIONS_MOST * REGION_SLOTS;

/// Slots behind the log ring that are written when the volume is created and kept for checkpoints on a full host.
pub(crate) const fn reserve_slots(ring_pages: u64) -> u64 {
    let quarter = ring_pages / 4;
    if quarter < 256 { quarter } else { 256 }
}

/// Slots behind those that are for tables and the upper pages of the map as long as there are any. Data never goes there. Without one of
/// these pages much, or all, of the rest cannot be read; here they go only with everything else when the end of the file is cut off.
pub(crate) const fn low_slots(ring_pages: u64) -> u64 {
    ring_pages / 4
}

type Entries = Box<[Entry; FANOUT]>;

struct Inner {
    /// Length of the file.
    file_slots: u64,
    /// Regions that the file reaches into.
    regions: u64,
    /// Regions that it reached into before it was cut off, or reaches into now. Of those between, which it lacks, the bitmaps are gone, and
    /// what is left of the map refers to their slots: who got one would lose it with the old reference. The file goes on behind them.
    reached: u64,
    loaded: BlockMap<Region>,
    /// How many of those there are of each group that has any.
    loaded_of: BlockMap<u32>,
    /// Groups as in the durable tree, as many as memory allows.
    lower: BlockMap<Group>,
    /// The most free slots that any region of a group has in the durable tree, of the groups that were looked at.
    most_free: BlockMap<u16>,
    /// Durable entries of the groups' pages.
    middle: BlockMap<Entries>,
    /// Durable entries of the highest pages, as in the superblock.
    upper: Vec<Entry>,
    /// Pages of the durable tree, by level and index, that do not verify. What is free under them is not known, so nothing of it is
    /// handed out until the volume is opened again, and nobody looks for it there once more.
    damaged: BTreeMap<(u8, u64), Damage>,
    /// Where slots are taken from.
    cursor: u64,
    /// Whether a checkpoint runs: then changes keep the bits of its cut.
    cut: bool,
    /// Slots of writers that are in the midst of a write, each with the number of its flight.
    flights: Vec<(u64, Run)>,
    next_flight: u64,
    /// Slots in use in the durable tree.
    durable_used: u64,
    clock: u64,
    /// The host is full: slots from this one on are not worth a try.
    full: Option<u64>,
    /// Whether any of the slots that are kept for a full host may be in use.
    reserve_taken: bool,
}

impl Inner {
    /// Slots from here on are behind the end of the file, or as good as.
    fn limit(&self) -> u64 {
        self.full.unwrap_or(self.file_slots)
    }

    /// Reads a page of the durable tree, unless it is known to be damaged. Damage here costs space, never data.
    fn unless_damaged<T>(
        &mut self,
        store: &Store,
        level: u8,
        index: u64,
        entry: Entry,
        read: impl FnOnce() -> Result<T, Damage>,
    ) -> Result<T, VolumeError> {
        let known = self.damaged.get(&(level, index)).copied();
        let found = known.map_or_else(read, Err);
        found.map_err(|reason| {
            if known.is_none() {
                tracing::error!(volume = %store.uuid, level, index, slot = entry.slot(), %reason, "a page of the allocation tree is damaged");
                self.damaged.insert((level, index), reason);
            }
            VolumeError::DamagedTable { volume: store.uuid, slot: entry.slot(), reason }
        })
    }

    /// The entries of an upper page of the durable tree.
    fn entries(
        &mut self,
        store: &Store,
        level: u8,
        index: u64,
        entry: Entry,
    ) -> Result<Entries, VolumeError> {
        self.unless_damaged(store, level, index, entry, || load_entries(store, level, index, entry))
    }
}

/// See the module.
pub(super) struct Allocator {
    inner: Mutex<Inner>,
    /// Slots in use. It changes under the lock alone; without it, whoever only wants to know reads it.
    used: AtomicU64,
    ring_pages: u64,
    /// Pages of the tree to keep, but for bitmaps that differ from the file.
    keep: usize,
}

impl Allocator {
    /// From a superblock.
    pub(super) fn new(upper: Vec<Entry>, extent: Extent, used: u64, ring_pages: u64, keep: usize) -> Self {
        let within = |slots: u64| slots.div_ceil(REGION_SLOTS).clamp(1, REGIONS_MOST);
        let regions = within(extent.now);
        let inner = Inner {
            file_slots: extent.now.min(FILE_SLOTS_MOST),
            regions,
            reached: regions.max(within(extent.once)),
            loaded: BlockMap::default(),
            loaded_of: BlockMap::default(),
            lower: BlockMap::default(),
            most_free: BlockMap::default(),
            middle: BlockMap::default(),
            upper,
            damaged: BTreeMap::new(),
            cursor: regions - 1,
            cut: false,
            flights: Vec::new(),
            next_flight: 0,
            durable_used: used,
            clock: 0,
            full: None,
            reserve_taken: true,
        };
        Self { inner: Mutex::new(inner), used: AtomicU64::new(used), ring_pages, keep: keep.max(16) }
    }

    /// Takes `count` slots for data in as few runs as possible.
    ///
    /// Pages of a checkpoint on a full host may stand where slots are kept for such pages. Then data leaves as many others, so that the next
    /// checkpoint finds as much as the first one.
    ///
    /// # Errors
    /// [`VolumeError::NoSpace`] if the file cannot grow and nothing is free; nothing is taken then.
    pub(super) fn take(&self, store: &Store, count: u64) -> Result<Flight, VolumeError> {
        let mut inner = self.inner.lock();
        let is_short = self.is_short(&mut inner, store, count);
        if is_short && inner.full.is_some() {
            return Err(VolumeError::NoSpace);
        }
        let some = if is_short { Self::take_behind } else { Self::take_some };
        let runs = self.take_in(&mut inner, store, count, some)?;
        let number = inner.next_flight;
        inner.next_flight += 1;
        inner.flights.extend(runs.iter().map(|run| (number, *run)));
        Ok(Flight { number, runs })
    }

    /// What refers to the slots is in the dirty map. The caller holds the gate since before it was there, so that no cut falls between: one that
    /// had the entries and not the slots would let them be handed out again.
    pub(super) fn land(&self, flight: &Flight) {
        self.inner.lock().flights.retain(|(number, _)| *number != flight.number);
    }

    /// Gives back slots that nothing refers to, nor will.
    pub(super) fn abandon(&self, store: &Store, flight: &Flight) {
        let mut inner = self.inner.lock();
        // At once with what frees them: whoever takes them next may have landed when a cut comes.
        inner.flights.retain(|(number, _)| *number != flight.number);
        for run in &flight.runs {
            self.free_run(&mut inner, store, *run);
            self.sub_used(run.count);
        }
    }

    /// The same for pages of a checkpoint, which may have any. But as long as the host is not known to be full they, too, leave those few that
    /// would be the last.
    pub(super) fn take_for_pages(&self, store: &Store, count: u64) -> Result<Vec<Run>, VolumeError> {
        let mut inner = self.inner.lock();
        let few = inner.full.is_none() && self.is_short(&mut inner, store, count);
        self.take_in(&mut inner, store, count, if few { Self::take_behind } else { Self::take_some })
    }

    /// Whether pages stand where slots are kept, and with `count` taken there would be fewer free ones elsewhere than are kept.
    fn is_short(&self, inner: &mut Inner, store: &Store, count: u64) -> bool {
        if inner.reserve_taken {
            let kept = RING_START + self.ring_pages..self.data_start() - low_slots(self.ring_pages);
            let all = kept.end - kept.start;
            let free = self.load(inner, store, 0).map_or(all, |region| region.bits.count_free(kept));
            inner.reserve_taken = free < all;
        }
        inner.reserve_taken && self.written(inner, store) < count + reserve_slots(self.ring_pages)
    }

    /// Whether the host is known to be full.
    pub(super) fn is_full(&self) -> bool {
        self.inner.lock().full.is_some()
    }

    /// How many free slots there are that most likely were written: those before the last one in use.
    pub(super) fn spare(&self, store: &Store) -> u64 {
        self.written(&mut self.inner.lock(), store)
    }

    /// How many of those a checkpoint leaves that needs more slots than it frees. The least that another one, which frees something, may need before
    /// it does: a page of each level of the map, and the tables, of which eight are for versions.
    pub(super) const fn least_spare(&self) -> u64 {
        reserve_slots(self.ring_pages) / 4
    }

    fn written(&self, inner: &mut Inner, store: &Store) -> u64 {
        let low = self.data_start() - low_slots(self.ring_pages)..self.data_start();
        let low = self.load(inner, store, 0).map_or(0, |region| region.bits.count_free(low));
        let last = inner.regions - 1;
        if self.load(inner, store, last).is_err() {
            return 0;
        }
        let end = inner.full.unwrap_or_else(|| last_used(inner));
        end.saturating_sub(self.used() + low)
    }

    fn take_in(
        &self,
        inner: &mut Inner,
        store: &Store,
        count: u64,
        some: fn(&Self, &mut Inner, &Store, u64) -> Result<Run, VolumeError>,
    ) -> Result<Vec<Run>, VolumeError> {
        let mut runs = Vec::with_capacity(1);
        let mut left = count;
        while left > 0 {
            match some(self, inner, store, left) {
                Ok(run) => {
                    left -= run.count;
                    runs.push(run);
                }
                Err(error) => {
                    for run in &runs {
                        self.free_run(inner, store, *run);
                    }
                    return Err(error);
                }
            }
        }
        self.add_used(count);
        Ok(runs)
    }

    /// Slots behind the last one in use.
    fn take_behind(&self, inner: &mut Inner, store: &Store, most: u64) -> Result<Run, VolumeError> {
        loop {
            let last = inner.regions - 1;
            let base = last * REGION_SLOTS;
            let least = if last == 0 { self.data_start() } else { 0 };
            let loaded = self.load(inner, store, last);
            let from = loaded.map_or(REGION_SLOTS, |region| region.bits.end().unwrap_or(0).max(least));
            let count = most.min(REGION_SLOTS - from);
            if count == 0 {
                self.new_region(inner, store)?;
                continue;
            }
            grow_to(inner, store, base + from + count)?;
            self.write_head(inner, store, last)?;
            return Ok(mark(inner, last, from, count));
        }
    }

    /// Takes a slot for a page of a checkpoint: if there is none anywhere, one of the reserve, which was written when the volume was
    /// created and is kept for this. So a discard can be carried out, and its space come back, when the host is full.
    pub(super) fn take_reserved(&self, store: &Store) -> Result<u64, VolumeError> {
        let mut inner = self.inner.lock();
        let cut = inner.cut;
        let region = self.load(&mut inner, store, 0)?;
        let start = RING_START + self.ring_pages;
        let free =
            region.bits.free_run(start, 1).filter(|run| run.start < start + reserve_slots(self.ring_pages));
        let slot = free.ok_or(VolumeError::NoSpace)?.start;
        region.change(cut).set(slot);
        region.used += 1;
        inner.reserve_taken = true;
        self.add_used(1);
        Ok(slot)
    }

    /// Takes one of the slots near the start of the file, if there is a free one. `few` says whether it is for one of the fewest: those have a
    /// part for themselves.
    pub(super) fn take_low(&self, store: &Store, few: bool) -> Option<u64> {
        let mut inner = self.inner.lock();
        let cut = inner.cut;
        let end = self.data_start();
        let low = low_slots(self.ring_pages);
        let from = end - if few { low } else { low / 4 * 3 };
        let slot = self.load(&mut inner, store, 0).ok()?.bits.free_run(from, 1)?.start;
        // On a full host it may be one that was never written.
        if slot >= end || inner.full.is_some() {
            return None;
        }
        grow_to(&mut inner, store, slot + 1).ok()?;
        let region = inner.loaded.get_mut(&0)?;
        region.change(cut).set(slot);
        region.used += 1;
        self.add_used(1);
        Some(slot)
    }

    /// Where data begins in the first region.
    const fn data_start(&self) -> u64 {
        RING_START + self.ring_pages + reserve_slots(self.ring_pages) + low_slots(self.ring_pages)
    }

    fn take_some(&self, inner: &mut Inner, store: &Store, most: u64) -> Result<Run, VolumeError> {
        loop {
            let cursor = inner.cursor;
            let base = cursor * REGION_SLOTS;
            let bounds = Bounds {
                start: if cursor == 0 { self.data_start() } else { 0 },
                file_end: inner.limit().saturating_sub(base).min(REGION_SLOTS),
                grow: inner.full.is_none(),
            };
            if let Ok(region) = self.load(inner, store, cursor)
                && let Some((slot, count)) = search(region, most, &bounds)
            {
                match grow_to(inner, store, base + slot + count) {
                    Ok(()) => {}
                    // Look again, within the file as it is.
                    Err(VolumeError::NoSpace) if inner.full.is_none() => {
                        inner.full = Some(inner.file_slots);
                        continue;
                    }
                    Err(error) => return Err(error),
                }
                match self.write_head(inner, store, cursor) {
                    Ok(()) => {}
                    // Look again, before this region.
                    Err(VolumeError::NoSpace) => {
                        inner.full = Some(inner.limit().min(base));
                        continue;
                    }
                    Err(error) => return Err(error),
                }
                return Ok(mark(inner, cursor, slot, count));
            }
            inner.cursor = self.next_region(inner, store)?;
            if let Some(region) = inner.loaded.get_mut(&inner.cursor) {
                region.hint = 0;
            }
        }
    }

    /// Another region to take slots from: one with much free space, else a new one, else any with free space.
    fn next_region(&self, inner: &mut Inner, store: &Store) -> Result<u64, VolumeError> {
        let start = inner.cursor;
        let mut why = VolumeError::NoSpace;
        for worth in [WORTH_FREE, 1] {
            let mut region = start + 1;
            for _ in 0..inner.regions {
                if region >= inner.regions {
                    region = 0;
                }
                // A group none of whose regions has so much is passed over whole.
                if region.is_multiple_of(FAN)
                    && lacks(inner, region / FAN, worth)
                    && region + FAN <= inner.regions
                {
                    region += FAN;
                    continue;
                }
                if region != start && self.free_in(inner, store, region) >= worth {
                    return Ok(region);
                }
                region += 1;
            }
            if worth == WORTH_FREE && inner.full.is_none() {
                match self.new_region(inner, store) {
                    Ok(region) => return Ok(region),
                    Err(VolumeError::NoSpace) => inner.full = Some(inner.file_slots),
                    Err(error @ VolumeError::DamagedTable { .. }) => why = error,
                    Err(error) => return Err(error),
                }
            }
        }
        Err(why)
    }

    /// Lets the file reach into the next region. Its head is written at once, and makes the file reach so far: there the allocation tree of
    /// every checkpoint goes, which must not fail for want of space later.
    ///
    /// If the page above it is damaged, its bitmap could not be recorded, so the file does not grow. If that page was cut off, nothing is left
    /// of the regions under it, and the file goes on behind them; so it does where a bitmap is said to be, for only a forger says so.
    fn new_region(&self, inner: &mut Inner, store: &Store) -> Result<u64, VolumeError> {
        let mut region = inner.reached;
        loop {
            if region >= REGIONS_MOST {
                return Err(VolumeError::NoSpace);
            }
            match self.durable(inner, store, region) {
                Ok(entry) if entry.is_absent() => break,
                Ok(_) => region += 1,
                Err(VolumeError::DamagedTable { reason: Damage::Truncated, .. }) => {
                    region = (region / FAN + 1) * FAN;
                }
                Err(error) => return Err(error),
            }
        }
        store.write(&[0; REGION_HEAD_BYTES], region * REGION_SLOTS)?;
        inner.file_slots = region * REGION_SLOTS + REGION_HEAD;
        inner.regions = region + 1;
        inner.reached = inner.regions;
        Ok(region)
    }

    /// Before the first slot of a region is handed out, both places of its bitmap are written, unless one holds a bitmap: another attach may
    /// have let the file reach into it, and not have come to write its head.
    fn write_head(&self, inner: &mut Inner, store: &Store, region: u64) -> Result<(), VolumeError> {
        if inner.loaded.get(&region).is_none_or(|loaded| loaded.has_head) {
            return Ok(());
        }
        if region > 0 && self.durable(inner, store, region)?.is_absent() {
            for slot in allocation_slots(0, region) {
                store.write(&[0; BLOCK], slot)?;
            }
        }
        if let Some(loaded) = inner.loaded.get_mut(&region) {
            loaded.has_head = true;
        }
        Ok(())
    }

    /// Free slots of a region, within the file if it cannot grow.
    fn free_in(&self, inner: &mut Inner, store: &Store, region: u64) -> u64 {
        let kept = if region == 0 { reserve_slots(self.ring_pages) + low_slots(self.ring_pages) } else { 0 };
        let free = match inner.loaded.get(&region) {
            // Not all that are kept are free.
            Some(loaded) if region == 0 => {
                loaded.free() + kept - loaded.bits.count_free(self.data_start() - kept..self.data_start())
            }
            Some(loaded) => loaded.free(),
            None if inner.damaged.contains_key(&(0, region)) => 0,
            None => match self.durable(inner, store, region) {
                Ok(entry) if !entry.is_absent() => REGION_SLOTS - u64::from(entry.aux()),
                Ok(_) => REGION_SLOTS - u64::from(Bitmap::fresh(region, self.ring_pages).used()),
                Err(_) => 0,
            },
        };
        let beyond = ((region + 1) * REGION_SLOTS).saturating_sub(inner.limit());
        let free = free.saturating_sub(kept);
        if inner.full.is_some() { free.saturating_sub(beyond) } else { free }
    }

    /// A region, loaded if need be.
    fn load<'a>(
        &self,
        inner: &'a mut Inner,
        store: &Store,
        region: u64,
    ) -> Result<&'a mut Region, VolumeError> {
        inner.clock += 1;
        let clock = inner.clock;
        if !inner.loaded.contains_key(&region) {
            let bits = self.read_bitmap(inner, store, region)?;
            self.evict(inner);
            inner.loaded.insert(region, Region::new(bits, false));
            *inner.loaded_of.entry(region / FAN).or_default() += 1;
        }
        let region = inner.loaded.get_mut(&region).expect("present or just inserted");
        region.touched = clock;
        Ok(region)
    }

    fn read_bitmap(&self, inner: &mut Inner, store: &Store, region: u64) -> Result<Bitmap, VolumeError> {
        let entry = self.durable(inner, store, region)?;
        if entry.is_absent() {
            return Ok(Bitmap::fresh(region, self.ring_pages));
        }
        inner.unless_damaged(store, 0, region, entry, || {
            store.open_page(Tree::Allocation, 0, region, &entry).map(|page| Bitmap::decode(&page))
        })
    }

    /// Gives slots back at once: nothing that could be recovered may refer to them.
    pub(super) fn free(&self, store: &Store, slots: &[u64]) {
        let mut inner = self.inner.lock();
        for slot in slots {
            self.free_run(&mut inner, store, Run { slot: *slot, count: 1 });
        }
        self.sub_used(u64::try_from(slots.len()).unwrap_or(u64::MAX));
    }

    fn free_run(&self, inner: &mut Inner, store: &Store, run: Run) {
        let number = run.slot / REGION_SLOTS;
        let cut = inner.cut;
        // An entry of a hostile volume may name any slot.
        if number >= inner.regions {
            return;
        }
        // A bitmap that cannot be read has no slots to give: these are lost until it is repaired.
        let Ok(region) = self.load(inner, store, number) else { return };
        let bits = region.change(cut);
        let first = run.slot % REGION_SLOTS;
        let mut freed = 0;
        for slot in first..first + run.count {
            if bits.is_set(slot) {
                bits.clear(slot);
                freed += 1;
            } else {
                freed_twice(store, number * REGION_SLOTS + slot);
            }
        }
        region.used -= freed;
        region.no_run = u64::MAX;
    }

    /// Marks slots that the recovered log refers to, all within the file, as taken.
    ///
    /// # Errors
    /// If the host fails to read a bitmap. What can be read another time must not be passed over: the next checkpoint would let go of the
    /// log, and a later attach would find those slots free. Of a bitmap that is damaged nobody hands out a slot, now or later.
    pub(super) fn recover(&self, store: &Store, slots: &[u64]) -> Result<(), VolumeError> {
        let mut inner = self.inner.lock();
        let mut added = 0;
        for slot in slots {
            match self.load(&mut inner, store, slot / REGION_SLOTS) {
                Ok(region) => {
                    let at = slot % REGION_SLOTS;
                    if !region.bits.is_set(at) {
                        region.change(false).set(at);
                        region.used += 1;
                        added += 1;
                    }
                }
                Err(error @ VolumeError::DamagedTable { reason: Damage::Unreadable, .. }) => {
                    return Err(error);
                }
                Err(_) => {}
            }
        }
        self.add_used(added);
        Ok(())
    }

    /// Length of the file, and slots in use.
    pub(super) fn totals(&self) -> (u64, u64) {
        let inner = self.inner.lock();
        (inner.file_slots, self.used())
    }

    /// Slots in use. It waits for nobody.
    pub(super) fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    fn add_used(&self, slots: u64) {
        self.used.fetch_add(slots, Ordering::Relaxed);
    }

    /// Of a hostile volume more may be freed than were in use. (The caller holds the lock, so nobody else changes it.)
    fn sub_used(&self, slots: u64) {
        self.used.store(self.used().saturating_sub(slots), Ordering::Relaxed);
    }

    /// Bitmaps in memory.
    pub(super) fn loaded(&self) -> usize {
        self.inner.lock().loaded.len()
    }

    /// The host had no space for what was written to slots that are free again. Those behind the last one in use are most likely holes of
    /// the file: from now on only what lies before them is tried.
    pub(super) fn note_full(&self) {
        let mut inner = self.inner.lock();
        inner.full = Some(last_used(&inner));
    }

    /// Space on the host may be there again: the file may try to grow.
    pub(super) fn retry_growth(&self) {
        self.inner.lock().full = None;
    }

    /// There was no space for a checkpoint: where only the file as it is was tried it may try to grow, and where that was tried it may not.
    pub(super) fn try_otherwise(&self) {
        let was_full = self.inner.lock().full.is_some();
        if was_full {
            self.retry_growth();
        } else {
            self.note_full();
        }
    }
}

/// Where a search may look: `start` and `file_end` are slots of the region, `grow` says whether it may go beyond the latter.
struct Bounds {
    start: u64,
    file_end: u64,
    grow: bool,
}

/// Up to `most` free slots in a row. First a long run in what the file has, so that what is written together lies together; then
/// any, if much of the region is free; then the space behind the end of the file.
fn search(region: &mut Region, most: u64, bounds: &Bounds) -> Option<(u64, u64)> {
    let wanted = most.min(64);
    // What a search found says nothing about slots by which the file has grown since.
    if region.no_run > wanted || region.no_run_before < bounds.file_end {
        if let Some(found) = run_of(region, wanted, most, bounds) {
            return Some(found);
        }
        region.no_run = wanted;
        region.no_run_before = bounds.file_end;
    }
    let free = bounds.file_end.saturating_sub(region.used);
    if (free >= bounds.file_end / 8 || !bounds.grow)
        && wanted > 1
        && let Some(found) = run_of(region, 1, most, bounds)
    {
        return Some(found);
    }
    if !bounds.grow {
        return None;
    }
    let run = region.bits.free_run(bounds.file_end.max(bounds.start), most)?;
    Some((run.start, run.end - run.start))
}

/// The next run of at least `least` slots within the file, from the hint on and then from the start.
fn run_of(region: &Region, least: u64, most: u64, bounds: &Bounds) -> Option<(u64, u64)> {
    for (from, end) in
        [(region.hint.max(bounds.start), bounds.file_end), (bounds.start, region.hint.min(bounds.file_end))]
    {
        let mut at = from;
        while let Some(run) = region.bits.free_run(at, most)
            && run.start < end
        {
            let count = run.end.min(bounds.file_end) - run.start;
            if count >= least {
                return Some((run.start, count));
            }
            at = run.end;
        }
    }
    None
}

/// The place of a region, or of a group, among the entries of the page above it.
fn place_in(index: u64) -> usize {
    usize::try_from(index % FAN).expect("below 128")
}

/// The end of the last slot in use, as far as is known.
fn last_used(inner: &Inner) -> u64 {
    let last = inner.regions - 1;
    let end = inner.loaded.get(&last).and_then(|region| region.bits.end()).unwrap_or(0);
    (last * REGION_SLOTS + end).min(inner.file_slots)
}

/// Marks slots of a loaded region as taken.
fn mark(inner: &mut Inner, region: u64, slot: u64, count: u64) -> Run {
    let cut = inner.cut;
    let loaded = inner.loaded.get_mut(&region).expect("the caller loaded it");
    let bits = loaded.change(cut);
    (slot..slot + count).for_each(|slot| bits.set(slot));
    loaded.used += count;
    loaded.hint = slot + count;
    Run { slot: region * REGION_SLOTS + slot, count }
}

/// Makes the file reach slot `end` of a region that it reaches into, and no further than the region: see [`Allocator::new_region`].
fn grow_to(inner: &mut Inner, store: &Store, end: u64) -> Result<(), VolumeError> {
    if end <= inner.file_slots {
        return Ok(());
    }
    store.check_ours()?;
    // In steps, so that the host's file system seldom has to write its own metadata.
    let step = (inner.file_slots / 16).clamp(GROW_LEAST, GROW_MOST);
    let new = end.next_multiple_of(step).min(end.next_multiple_of(REGION_SLOTS));
    store.backing.set_len(new * BLOCK_BYTES).map_err(host_error)?;
    inner.file_slots = new;
    inner.regions = new.div_ceil(REGION_SLOTS);
    inner.reached = inner.reached.max(inner.regions);
    Ok(())
}

/// Only a hostile volume refers to one slot from two places, or to a free one.
fn freed_twice(store: &Store, slot: u64) {
    tracing::error!(volume = %store.uuid, slot, "a slot is freed twice");
    count(&store.counters.double_frees, 1);
}

fn load_entries(store: &Store, level: u8, index: u64, entry: Entry) -> Result<Entries, Damage> {
    if entry.is_absent() {
        return Ok(Box::new([Entry::ABSENT; FANOUT]));
    }
    Ok(Box::new(*store.open_map_page(Tree::Allocation, level, index, &entry)?.entries()))
}

/// For a check of the whole volume.
impl Allocator {
    /// The bitmaps in memory.
    pub(super) fn loaded_bitmaps(&self) -> BlockMap<Arc<Bitmap>> {
        self.inner.lock().loaded.iter().map(|(region, loaded)| (*region, Arc::clone(&loaded.bits))).collect()
    }

    /// Regions that the file reaches into.
    pub(super) fn regions(&self) -> u64 {
        self.inner.lock().regions
    }

    /// The bitmap of a region in which nothing was allocated.
    pub(super) fn fresh(&self, region: u64) -> Bitmap {
        Bitmap::fresh(region, self.ring_pages)
    }

    /// A bitmap as it is in the durable tree.
    pub(super) fn durable_bitmap(&self, store: &Store, region: u64) -> Result<Bitmap, VolumeError> {
        self.read_bitmap(&mut self.inner.lock(), store, region)
    }
}
