//! The allocation tree of a checkpoint.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::kept::most_free;
use super::region::Bitmap;
use super::{Allocator, Entries, FAN, Inner, freed_twice, load_entries, place_in};
use crate::engine::error::VolumeError;
use crate::engine::protection::Protection;
use crate::engine::store::Store;
use crate::format::layout::{BLOCK, FANOUT, REGION_SLOTS, allocation_slots};
use crate::format::{Block, Entry, MapPage, Tree};

/// The last region that earlier programs could let a file reach into without writing its head: from a file of so many regions on, it grew by
/// steps that end at a region's border.
const HEADLESS_MOST: u64 = 8;

/// An allocation tree that was written, but that no durable superblock refers to yet.
pub(in crate::engine) struct Prepared {
    /// Groups whose pages were written, and the most free slots of any of their regions.
    groups: Vec<(u64, u16)>,
    /// What of those pages may stay in memory.
    lower: BTreeMap<u64, Entries>,
    middle: BTreeMap<u64, Entries>,
    /// For the superblock.
    pub(in crate::engine) upper: Vec<Entry>,
    pub(in crate::engine) file_slots: u64,
    pub(in crate::engine) used: u64,
}

impl Allocator {
    /// The cut: from now on the bits of this moment are kept until [`Self::commit`] or [`Self::abandon_cut`]. The caller has the gate.
    ///
    /// Nobody waits for those who are in the midst of a write: what they took is free in the cut, as what is taken after it is.
    pub(in crate::engine) fn begin_cut(&self, store: &Store) {
        let mut guard = self.inner.lock();
        let inner: &mut Inner = &mut guard;
        inner.cut = true;
        if !store.protections.has(Protection::CutWithoutFlights) {
            return;
        }
        for (_, run) in &inner.flights {
            // (It is in memory: a bitmap with a slot that was taken since the last cut is not as in the file.)
            let Some(region) = inner.loaded.get_mut(&(run.slot / REGION_SLOTS)) else { continue };
            let bits = Arc::make_mut(region.at_cut.get_or_insert_with(|| Arc::clone(&region.bits)));
            let first = run.slot % REGION_SLOTS;
            (first..first + run.count).for_each(|slot| bits.clear(slot));
        }
    }

    /// The cut's checkpoint failed: there will be another cut. What it wrote of the tree stands where no superblock refers to.
    pub(in crate::engine) fn abandon_cut(&self) {
        let mut inner = self.inner.lock();
        inner.cut = false;
        for region in inner.loaded.values_mut() {
            region.at_cut = None;
            region.written = None;
        }
    }

    /// Writes the allocation tree as of the cut, with `taken` (by the checkpoint itself) and without `freed` (by it). Without `left` too, whose
    /// entries stay dirty: as of all that only the log refers to, recovery calls them used, and the file does not, for whoever overwrites such a
    /// block may crash before there is another bitmap. In memory they stay taken. All three are sorted. The regions of `also` are written in any case. Each page goes to the one of its two places that the durable tree does not use, so nothing durable changes.
    pub(in crate::engine) fn prepare(
        &self,
        store: &Store,
        taken: &[u64],
        freed: &[u64],
        left: &[u64],
        also: &[u64],
    ) -> Result<Prepared, VolumeError> {
        let mut regions: Vec<u64> = {
            let inner = self.inner.lock();
            inner.loaded.iter().filter(|(_, region)| region.dirty).map(|(number, _)| *number).collect()
        };
        let slots = taken.iter().chain(freed).chain(left);
        regions.extend(slots.map(|slot| slot / REGION_SLOTS).chain(also.iter().copied()));
        regions.sort_unstable();
        regions.dedup();

        let mut written = Vec::new();
        let mut groups = Vec::new();
        let mut lower = BTreeMap::new();
        let mut used_delta: i64 = 0;
        for regions in regions.chunk_by(|left, right| left / FAN == right / FAN) {
            let group = regions[0] / FAN;
            let mut entries = None;
            for region in regions {
                if let Some((old, new)) =
                    self.prepare_bitmap(store, *region, (taken, freed, left), &mut entries)?
                {
                    used_delta += i64::from(new.aux()) - i64::from(self.used_before(*region, &old));
                }
            }
            // The page above them is written at once: of a large file there are too many to have them all in memory.
            let Some(entries) = entries else { continue };
            let old = self.inner.lock().middle[&(group / FAN)][place_in(group)];
            let has_free = |entry: &Entry| u64::from(entry.aux()) < REGION_SLOTS;
            written.push((group, write_entries(store, 1, group, &old, &entries, has_free)?));
            groups.push((group, most_free(&entries)));
            if lower.len() < self.keep_groups() {
                lower.insert(group, entries);
            }
        }
        let (middle, upper, file_slots, used) = self.prepare_upper(store, &written)?;
        let used = used.saturating_add_signed(used_delta);
        Ok(Prepared { groups, lower, middle, upper, file_slots, used })
    }

    /// Writes the bitmap of a region, and puts its new entry among those of its group, which are the durable ones if there are none yet. Gives the
    /// durable entry and the new one. Damage here costs the slots that would be freed there (a check tells), not the checkpoint.
    fn prepare_bitmap(
        &self,
        store: &Store,
        region: u64,
        (taken, freed, left): (&[u64], &[u64], &[u64]),
        entries: &mut Option<Entries>,
    ) -> Result<Option<(Entry, Entry)>, VolumeError> {
        // The lock is held for one region at a time, and not while it is written: writers go on.
        let (old, mut bits) = {
            let mut inner = self.inner.lock();
            let read = self.durable(&mut inner, store, region).and_then(|old| {
                if old.is_absent() {
                    // From here on its first bitmap may stand at one of these places.
                    self.load(&mut inner, store, region)?.has_head = true;
                }
                if !within(left, region).is_empty() {
                    // It stays in memory: read from the file, these would be free.
                    self.load(&mut inner, store, region)?.dirty = true;
                }
                let bits = match inner.loaded.get(&region) {
                    Some(loaded) => Bitmap::clone(loaded.at_cut.as_ref().unwrap_or(&loaded.bits)),
                    None => self.read_bitmap(&mut inner, store, region)?,
                };
                if entries.is_none() {
                    *entries = Some(self.group(&mut inner, store, region / FAN)?.clone());
                }
                Ok((old, bits))
            });
            let Ok(read) = read else { return Ok(None) };
            read
        };
        for slot in within(taken, region) {
            bits.set(slot % REGION_SLOTS);
        }
        for slot in within(freed, region).iter().chain(within(left, region)) {
            bits.clear(slot % REGION_SLOTS);
        }
        let mut page = Box::new([0; BLOCK]);
        bits.encode(&mut page);
        let entry = write_page(store, 0, region, &old, &mut page)?.with_aux(bits.used());
        if let Some(entries) = entries {
            entries[place_in(region)] = entry;
        }
        let mut inner = self.inner.lock();
        if let Some(loaded) = inner.loaded.get_mut(&region) {
            loaded.written = Some(Arc::new(bits));
        }
        Ok(Some((old, entry)))
    }

    /// Writes the places of bitmaps that were never written, in those regions into which earlier programs let a file reach without its head:
    /// else the next bitmap there would need space from the host, and a checkpoint on a full one fail. It is done before the first checkpoint
    /// of an attach.
    ///
    /// Such a place holds nothing, so no superblock refers to it. If the host has no space now, there is no harm done.
    pub(in crate::engine) fn complete_places(&self, store: &Store) {
        for region in 1..self.regions().min(HEADLESS_MOST + 1) {
            let Ok(durable) = self.durable(&mut self.inner.lock(), store, region) else { continue };
            for slot in allocation_slots(0, region).into_iter().filter(|slot| *slot != durable.slot()) {
                let mut page = [0; BLOCK];
                let is_hole = store.read(&mut page, slot).is_ok() && page == [0; BLOCK];
                if is_hole && let Err(error) = store.write(&page, slot) {
                    tracing::warn!(volume = %store.uuid, region, %error, "a place for a bitmap is still not written");
                }
            }
        }
    }

    fn used_before(&self, region: u64, old: &Entry) -> u16 {
        if old.is_absent() { Bitmap::fresh(region, self.ring_pages).used() } else { old.aux() }
    }

    /// Writes the pages above those of the groups in `written`. Gives what is in them and above, the length of the file, and the slots that were in use.
    #[allow(clippy::type_complexity)] // the parts of what is prepared
    fn prepare_upper(
        &self,
        store: &Store,
        written: &[(u64, Entry)],
    ) -> Result<(BTreeMap<u64, Entries>, Vec<Entry>, u64, u64), VolumeError> {
        let mut middle: BTreeMap<u64, Entries> = BTreeMap::new();
        let (mut upper, file_slots, used) = {
            let inner = self.inner.lock();
            // Also where the file was cut off and has not grown again: a later attach must not go on in between.
            let once = if inner.reached > inner.regions { inner.reached * REGION_SLOTS } else { 0 };
            (inner.upper.clone(), inner.file_slots.max(once), inner.durable_used)
        };
        for (group, entry) in written {
            let top = group / FAN;
            let entries = middle.entry(top).or_insert_with(|| self.inner.lock().middle[&top].clone());
            entries[place_in(*group)] = *entry;
        }
        for (top, entries) in &middle {
            let at = usize::try_from(*top).expect("at most 64");
            if upper.len() <= at {
                upper.resize(at + 1, Entry::ABSENT);
            }
            upper[at] = write_entries(store, 2, *top, &upper[at].clone(), entries, |entry| entry.aux() > 0)?;
        }
        Ok((middle, upper, file_slots, used))
    }

    /// The superblock that refers to `prepared` is durable: what was freed may be used, and the tree's old places too.
    pub(in crate::engine) fn commit(&self, store: &Store, prepared: Prepared, freed: &[u64]) {
        let mut guard = self.inner.lock();
        let inner: &mut Inner = &mut guard;
        let mut lower = prepared.lower;
        for (group, most_free) in prepared.groups {
            inner.lower.remove(&group);
            inner.most_free.insert(group, most_free);
            // Of the others it is read again when it is needed.
            if let Some(entries) = lower.remove(&group) {
                self.keep_group(inner, group, entries);
            }
        }
        inner.middle.extend(prepared.middle);
        inner.upper = prepared.upper;
        inner.durable_used = prepared.used;
        self.sub_used(u64::try_from(freed.len()).unwrap_or(u64::MAX));
        inner.cut = false;
        // Regions that are not in memory are loaded from the tree that is durable now, in which these slots are free.
        let mut rest = freed;
        while let Some(first) = rest.first() {
            let number = first / REGION_SLOTS;
            let here = within(rest, number);
            if let Some(region) = inner.loaded.get_mut(&number) {
                let bits = Arc::make_mut(&mut region.bits);
                for slot in here {
                    if bits.is_set(slot % REGION_SLOTS) {
                        bits.clear(slot % REGION_SLOTS);
                        region.used -= 1;
                    } else {
                        freed_twice(store, *slot);
                    }
                }
                region.no_run = u64::MAX;
            }
            rest = &rest[here.len()..];
        }
        for region in inner.loaded.values_mut() {
            region.at_cut = None;
            if let Some(written) = region.written.take() {
                region.dirty = written != region.bits;
            }
        }
        self.evict(inner);
    }
}

/// The slots of a sorted list that lie in a region.
fn within(slots: &[u64], region: u64) -> &[u64] {
    let start = slots.partition_point(|slot| *slot < region * REGION_SLOTS);
    let end = slots.partition_point(|slot| *slot < (region + 1) * REGION_SLOTS);
    &slots[start..end]
}

/// Writes a page of the tree to the place that its durable entry `old` does not name.
fn write_page(
    store: &Store,
    level: u8,
    index: u64,
    old: &Entry,
    page: &mut Block,
) -> Result<Entry, VolumeError> {
    let [first, second] = allocation_slots(level, index);
    let slot = if old.slot() == first { second } else { first };
    let entry = store.seal_page(Tree::Allocation, level, index, slot, page)?;
    store.write(page, slot)?;
    Ok(entry)
}

fn write_entries(
    store: &Store,
    level: u8,
    index: u64,
    old: &Entry,
    entries: &Entries,
    has_free: impl Fn(&Entry) -> bool,
) -> Result<Entry, VolumeError> {
    let mut map_page = MapPage::empty();
    for (place, entry) in entries.iter().enumerate() {
        map_page.set(place, *entry);
    }
    let mut page = Box::new([0; BLOCK]);
    map_page.encode(&mut page);
    // What is absent is all free.
    let free = entries.iter().filter(|entry| entry.is_absent() || has_free(entry)).count();
    let aux = u16::try_from(free).expect("at most 128");
    Ok(write_page(store, level, index, old, &mut page)?.with_aux(aux))
}

const _: () = assert!(FANOUT == 128);

/// For a check of the whole volume: the durable tree, read again from the file.
impl Allocator {
    /// Reads every page of the durable tree and counts those that are damaged, or were cut off.
    pub(in crate::engine) fn verify(&self, store: &Store) -> (u64, u64) {
        let upper = self.inner.lock().upper.clone();
        let (mut good, mut bad) = (0, 0);
        let mut seen = |fine: bool| if fine { good += 1 } else { bad += 1 };
        for (top, entry) in (0u64..).zip(&upper) {
            let middle = load_entries(store, 2, top, *entry);
            seen(middle.is_ok());
            let Ok(middle) = middle else { continue };
            for (group, entry) in (top * FAN..).zip(middle.iter()).filter(|(_, entry)| !entry.is_absent()) {
                let lower = load_entries(store, 1, group, *entry);
                seen(lower.is_ok());
                let Ok(lower) = lower else { continue };
                for (region, entry) in
                    (group * FAN..).zip(lower.iter()).filter(|(_, entry)| !entry.is_absent())
                {
                    seen(store.open_page(Tree::Allocation, 0, region, entry).is_ok());
                }
            }
        }
        (good, bad)
    }
}

#[cfg(test)]
mod tests;
