//! Looking blocks up: the dirty map first, then the map in the file.

use std::sync::Arc;

use super::core::{Core, Root};
use super::dirty::{CHUNK_BITS, Found};
use super::error::{Damage, VolumeError};
use super::protection::Protection;
use crate::crypto::Tag;
use crate::format::layout::{FANOUT_BITS, RING_START, map_entry, map_index};
use crate::format::{Entry, Kind, MapPage, Tree};

/// Mark of an entry in the map (its `aux`): the whole subtree was discarded and reads as a hole; it waits to be freed.
pub(crate) const DEAD: u16 = 1;
/// Mark of an entry in the map: somewhere in the subtree there is a dead one.
pub(crate) const DEAD_BELOW: u16 = 2;

/// The epoch of entries whose target is lost: no volume has so many. When a damaged page must be replaced because something under it was
/// written, these stand for all that it held, so that those blocks keep failing and do not read as holes.
pub(crate) const LOST_EPOCH: u32 = u32::MAX;

/// An entry of a page of `level` whose target is lost.
pub(super) fn lost(level: u8) -> Entry {
    let make = if level == 0 { Entry::data } else { Entry::page };
    make(RING_START, LOST_EPOCH, 0, Tag::default())
}

/// Whether an entry stands for something lost: it refers to no slot.
pub(super) const fn is_lost(entry: &Entry) -> bool {
    entry.epoch() == LOST_EPOCH
}

/// Blocks under a page of a level.
pub(super) const fn span(level: u8) -> u64 {
    1 << (FANOUT_BITS * (level as u32 + 1))
}

/// What the map has at the lowest level above a block.
pub(super) enum Leaf {
    /// A page of 128 entries.
    Page(Arc<MapPage>),
    /// No page: all blocks of the aligned span of so many blocks are this kind of hole.
    Hole(Entry, u64),
}

/// A damaged page: its level, and what was found.
pub(super) type PageDamage = (u8, Damage);

impl Core {
    /// A page of the map, from the cache or the file.
    pub(super) fn page(
        &self,
        level: u8,
        index: u64,
        entry: &Entry,
        keep: bool,
    ) -> Result<Arc<MapPage>, Damage> {
        if let Some(page) = self.cache.find(entry) {
            return Ok(page);
        }
        let page = Arc::new(self.store.open_map_page(Tree::Map, level, index, entry)?);
        if keep {
            self.cache.insert(entry, Arc::clone(&page));
        }
        Ok(page)
    }

    /// Walks from a root to the leaf above a block.
    pub(super) fn descend(&self, root: &Root, block: u64) -> Result<Leaf, PageDamage> {
        let mut entry = root.entry;
        let mut level = root.height - 1;
        if map_index(block, level) != 0 {
            return Ok(Leaf::Hole(self.hole_outside(), span(level)));
        }
        loop {
            match entry.kind() {
                Kind::Page if entry.aux() == DEAD => return Ok(Leaf::Hole(self.hole, span(level))),
                Kind::Page => {}
                _ => return Ok(Leaf::Hole(entry, span(level))),
            }
            let page =
                self.page(level, map_index(block, level), &entry, true).map_err(|reason| (level, reason))?;
            if level == 0 {
                return Ok(Leaf::Page(page));
            }
            entry = page.entry(map_entry(block, level));
            level -= 1;
        }
    }

    /// What lies beyond a map that is lower than the volume's: nothing was ever written there.
    const fn hole_outside(&self) -> Entry {
        let _ = self;
        Entry::ABSENT
    }

    /// The leaf above a block in the live map. A page that a reader holds an old entry of may have been freed and its slot used again
    /// meanwhile; then the root has changed, and the walk begins again.
    pub(super) fn leaf(&self, block: u64) -> Result<Leaf, VolumeError> {
        loop {
            let root = self.root();
            match self.descend(&root, block) {
                Ok(leaf) => return Ok(leaf),
                Err(_)
                    if self.root().entry != root.entry
                        && self.store.protections.has(Protection::SecondWalk) =>
                {
                    super::store::count(&self.store.counters.retried_reads, 1);
                }
                Err((level, reason)) => return Err(self.damaged_page(level, block, reason)),
            }
        }
    }

    pub(super) fn damaged_page(&self, level: u8, block: u64, reason: Damage) -> VolumeError {
        let error = VolumeError::DamagedPage {
            volume: self.store.uuid,
            level,
            block: block & !(span(level) - 1),
            reason,
        };
        if let Some(untold) = self.reported.take(block & !(span(level) - 1)) {
            tracing::error!(%error, untold, "damage found");
        }
        error
    }

    /// The entries of consecutive blocks, each as of some moment during the call.
    ///
    /// The order matters: a block that the dirty map no longer has is in the map that is looked at afterwards, because a checkpoint
    /// publishes its root before it drops the frozen entries.
    pub(super) fn resolve(&self, first: u64, entries: &mut [Entry]) -> Result<(), VolumeError> {
        let len = u64::try_from(entries.len()).expect("a few hundred");
        if !self.dirty.is_empty() {
            let mut block = first;
            let mut below = false;
            while block < first + len {
                let end = (first + len).min(((block >> CHUNK_BITS) + 1) << CHUNK_BITS);
                self.dirty.find_each(block..end, self.hole, |block, found| {
                    entries[usize::try_from(block - first).expect("within")] = match found {
                        Found::Active(entry) | Found::Frozen(entry) => entry,
                        Found::Below => {
                            below = true;
                            UNRESOLVED
                        }
                    };
                });
                block = end;
            }
            if !below {
                return Ok(());
            }
        } else {
            entries.fill(UNRESOLVED);
        }
        let mut block = first;
        while block < first + len {
            let end = (first + len).min((block | 127) + 1);
            let part = usize::try_from(block - first).expect("within")
                ..usize::try_from(end - first).expect("within");
            let part = &mut entries[part];
            if part.contains(&UNRESOLVED) {
                match self.leaf(block)? {
                    Leaf::Page(page) => {
                        for (place, entry) in (map_entry(block, 0)..).zip(part) {
                            if *entry == UNRESOLVED {
                                *entry = page.entry(place);
                            }
                        }
                    }
                    Leaf::Hole(hole, _) => {
                        part.iter_mut().filter(|entry| **entry == UNRESOLVED).for_each(|entry| *entry = hole);
                    }
                }
            }
            block = end;
        }
        Ok(())
    }

    pub(super) fn resolve_one(&self, block: u64) -> Result<Entry, VolumeError> {
        let mut entry = [Entry::ABSENT];
        self.resolve(block, &mut entry)?;
        Ok(entry[0])
    }
}

/// Stands for "not in the dirty map" while a look-up runs: no map entry has these marks.
const UNRESOLVED: Entry = Entry::ZERO.with_aux(u16::MAX);
