//! How much of the allocation tree is in memory (F6).
//!
//! Of a file of 64 TiB in use the bitmaps are 2 GiB, and the pages above them 16 MiB. What is as in the file is dropped when there is too much,
//! those first that were not used for longest, and read again when it is needed: also while a checkpoint runs, for that changes nothing of the durable tree.

use super::region::Region;
use super::{Allocator, Entries, FAN, Inner, place_in};
use crate::engine::error::VolumeError;
use crate::engine::store::Store;
use crate::format::Entry;
use crate::format::layout::REGION_SLOTS;

/// Durable entries of the bitmaps of 128 regions (16 GiB of the file): a page of the lowest upper level.
pub(super) struct Group {
    pub(super) entries: Entries,
    /// When it was last used, by the allocator's own count.
    touched: u64,
}

impl Allocator {
    /// The durable entry of a region's bitmap.
    pub(super) fn durable(
        &self,
        inner: &mut Inner,
        store: &Store,
        region: u64,
    ) -> Result<Entry, VolumeError> {
        Ok(self.group(inner, store, region / FAN)?[place_in(region)])
    }

    /// The durable entries of a group, read if need be.
    pub(super) fn group<'a>(
        &self,
        inner: &'a mut Inner,
        store: &Store,
        group: u64,
    ) -> Result<&'a Entries, VolumeError> {
        inner.clock += 1;
        let touched = inner.clock;
        if !inner.lower.contains_key(&group) {
            let top = group / FAN;
            if !inner.middle.contains_key(&top) {
                let entry = usize::try_from(top).ok().and_then(|top| inner.upper.get(top).copied());
                let entries = inner.entries(store, 2, top, entry.unwrap_or_default())?;
                inner.middle.insert(top, entries);
            }
            let entry = inner.middle[&top][place_in(group)];
            let entries = inner.entries(store, 1, group, entry)?;
            self.keep_group(inner, group, entries);
        }
        let group = inner.lower.get_mut(&group).expect("present or just inserted");
        group.touched = touched;
        Ok(&group.entries)
    }

    /// Groups to keep: an eighth of all pages, as each stands for 16 GiB.
    pub(super) const fn keep_groups(&self) -> usize {
        self.keep / 8
    }

    pub(super) fn keep_group(&self, inner: &mut Inner, group: u64, entries: Entries) {
        if inner.lower.len() >= self.keep_groups() {
            let ages = inner.lower.values().map(|group| group.touched);
            let dropped = youngest_but(ages, self.keep_groups() / 2);
            inner.lower.retain(|_, group| Some(group.touched) > dropped);
        }
        inner.most_free.insert(group, most_free(&entries));
        let touched = inner.clock;
        inner.lower.insert(group, Group { entries, touched });
    }

    /// Drops bitmaps that are as in the file, those first that were not used for longest.
    pub(super) fn evict(&self, inner: &mut Inner) {
        // A checkpoint has as many groups once more while it runs.
        let others = 2 * self.keep_groups() + inner.middle.len();
        let most = self.keep.saturating_sub(others).max(8);
        if inner.loaded.len() >= most {
            let ages = inner.loaded.values().filter(|region| region.is_clean()).map(|region| region.touched);
            let dropped = youngest_but(ages, most / 2);
            forget(inner, |region| Some(region.touched) <= dropped);
        }
    }

    /// Drops all bitmaps that are as in the file: nobody is going to need them soon.
    pub(in crate::engine) fn rest(&self) {
        let mut inner = self.inner.lock();
        forget(&mut inner, |_| true);
        inner.loaded.shrink_to_fit();
    }

    /// Pages of the tree in memory.
    #[cfg(test)]
    pub(in crate::engine) fn pages(&self) -> usize {
        let inner = self.inner.lock();
        inner.loaded.len() + inner.lower.len() + inner.middle.len()
    }
}

/// The youngest of these ages, but for so many that are younger; none if there are no more.
fn youngest_but(ages: impl Iterator<Item = u64>, younger: usize) -> Option<u64> {
    let mut ages: Vec<u64> = ages.collect();
    ages.sort_unstable_by(|left, right| right.cmp(left));
    ages.get(younger).copied()
}

/// Drops those of the bitmaps that are as in the file.
fn forget(inner: &mut Inner, which: impl Fn(&Region) -> bool) {
    let loaded_of = &mut inner.loaded_of;
    inner.loaded.retain(|number, region| {
        let stays = !region.is_clean() || !which(region);
        if !stays && let Some(count) = loaded_of.get_mut(&(number / FAN)) {
            *count -= 1;
            if *count == 0 {
                loaded_of.remove(&(number / FAN));
            }
        }
        stays
    });
}

/// The most free slots that any region has of a group with these durable entries. (A region has more than none in use: its bitmap's places.)
pub(super) fn most_free(entries: &Entries) -> u16 {
    let used = |entry: &Entry| if entry.is_absent() { 0 } else { entry.aux() };
    let least = entries.iter().map(used).min().unwrap_or(0);
    u16::try_from(REGION_SLOTS - u64::from(least).min(REGION_SLOTS)).expect("at most 32,768")
}

/// Whether it is known that no region of a group has `worth` free slots: none of it is in memory, and none of the durable ones has so many.
pub(super) fn lacks(inner: &Inner, group: u64, worth: u64) -> bool {
    if inner.loaded_of.contains_key(&group) {
        return false;
    }
    if let Some(most) = inner.most_free.get(&group) {
        return u64::from(*most) < worth;
    }
    let Some(middle) = inner.middle.get(&(group / FAN)) else { return false };
    let entry = middle[place_in(group)];
    !entry.is_absent() && entry.aux() == 0
}
