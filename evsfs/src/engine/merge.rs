//! Merging frozen entries into the map, copy-on-write from the leaves up.
//!
//! What the merge replaces is freed, unless a version (a snapshot, or trash that waits to be freed) maps the same block to the same
//! slot. Versions share pages with the live map only at the same place, so for that question a page of a version matters only
//! where the live map had another one: an equal reference means that everything below is shared.

use std::ops::Range;
use std::sync::Arc;

use super::core::{Core, Root};
use super::error::{Damage, VolumeError};
use super::map::{DEAD, DEAD_BELOW, is_lost, lost, span};
use super::pages::Work;
use super::protection::Protection;
use super::ranges::RangeSet;
use crate::format::layout::FANOUT;
use crate::format::{Entry, Kind, MapPage, VersionRecord, VersionState};

/// Entries of a page.
const FAN: u64 = 128;

/// Where a version has its page at the place that is looked at.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reference {
    entry: Entry,
    /// Level of the page that `entry` names. Above the level of its root a version has no pages.
    top: u8,
    /// Trash that is partly freed counts only from here on.
    from: u64,
}

/// The references of all versions at the root, but for the one with this number.
pub(super) fn references(versions: &[VersionRecord], without: Option<usize>) -> Vec<Reference> {
    let of = |(number, version): (usize, &VersionRecord)| {
        (Some(number) != without && version.root.kind() == Kind::Page).then(|| Reference {
            entry: version.root,
            top: version.height - 1,
            from: if version.state == VersionState::Trash { version.cursor } else { 0 },
        })
    };
    versions.iter().enumerate().filter_map(of).collect()
}

/// That of a live root.
pub(super) fn reference_of(root: &Root) -> Option<Reference> {
    (root.entry.kind() == Kind::Page).then(|| Reference { entry: root.entry, top: root.height - 1, from: 0 })
}

/// The references at the first page of a level, for a walk that begins there: a map that is higher has its page of that level under its
/// first children.
///
/// # Errors
/// If one on the way is damaged: what it refers to is not known then.
pub(super) fn references_at(
    core: &Core,
    references: Vec<Reference>,
    level: u8,
) -> Result<Vec<Reference>, Damage> {
    let mut found = Vec::with_capacity(references.len());
    'references: for mut reference in references {
        while reference.top > level {
            let page = core.page(reference.top, 0, &reference.entry, true)?;
            let entry = page.entry(0);
            if entry.kind() != Kind::Page {
                continue 'references;
            }
            reference = Reference { entry, top: reference.top - 1, from: reference.from };
        }
        found.push(reference);
    }
    Ok(found)
}

/// The pages that versions have at a place.
pub(super) type Pages = Vec<OfVersion>;
/// That of one; `None` above its root.
pub(super) type OfVersion = (Reference, Option<Arc<MapPage>>);

/// What versions say about a page of the map at one place.
pub(super) struct Sharing {
    /// Some version has the very page: it must stay.
    pub(super) page: bool,
    /// Some version has everything under it: all of it must stay.
    pub(super) below: bool,
}

impl Core {
    /// How `entry`, a page of `level` at `index`, is shared.
    pub(super) fn sharing(&self, references: &[Reference], entry: &Entry, level: u8, index: u64) -> Sharing {
        let first = index * span(level);
        let same = |reference: &&Reference| reference.top == level && reference.entry.slot() == entry.slot();
        Sharing {
            page: references.iter().filter(same).any(|reference| reference.from < first + span(level)),
            below: references.iter().filter(same).any(|reference| reference.from <= first),
        }
    }

    /// Whether the host only failed to read something: then it may be there, and whoever would do without it tries again later (F11).
    pub(super) fn may_be_there(&self, reason: Damage) -> bool {
        reason == Damage::Unreadable && self.store.protections.has(Protection::FreesWhenReadable)
    }

    /// The pages that versions have at a place, for [`child_references`] and leaves.
    ///
    /// # Errors
    /// If one is damaged: what it refers to is not known then, so nothing may be freed.
    pub(super) fn reference_pages(
        &self,
        references: &[Reference],
        level: u8,
        index: u64,
    ) -> Result<Pages, Damage> {
        let end = (index + 1) * span(level);
        let mut pages = Pages::with_capacity(references.len());
        for reference in references.iter().filter(|reference| reference.from < end) {
            if reference.top > level {
                continue;
            }
            if reference.top < level {
                pages.push((*reference, None));
                continue;
            }
            // Snapshots share most of their pages with each other.
            if let Some((have, _)) =
                pages.iter_mut().find(|(have, _)| have.top == level && have.entry == reference.entry)
            {
                have.from = have.from.min(reference.from);
                continue;
            }
            match self.page(level, index, &reference.entry, true) {
                Ok(page) => pages.push((*reference, Some(page))),
                Err(reason) => {
                    if let Some(untold) = self.reported.take(index * span(level)) {
                        tracing::error!(volume = %self.store.uuid, level, index, %reason, untold, "a snapshot's page is damaged: what it shares is kept");
                    }
                    return Err(reason);
                }
            }
        }
        Ok(pages)
    }
}

/// The references at a child of the place that `pages` are of.
pub(super) fn child_references(pages: &[OfVersion], index: u64, child: usize) -> Vec<Reference> {
    let of = |(reference, page): &OfVersion| match page {
        // The version's root lies lower: under the first child of first pages only.
        None => (index == 0 && child == 0).then_some(*reference),
        Some(page) => {
            let entry = page.entry(child);
            (entry.kind() == Kind::Page).then(|| Reference {
                entry,
                top: reference.top - 1,
                from: reference.from,
            })
        }
    };
    pages.iter().filter_map(of).collect()
}

/// One merge.
pub(super) struct Merge<'a> {
    pub(super) core: &'a Core,
    pub(super) holes: &'a RangeSet,
    pub(super) work: &'a mut Work,
    /// Dead leaves that may be freed now; the rest is left for later checkpoints.
    pub(super) budget: &'a mut usize,
}

/// A place in the tree.
#[derive(Clone, Copy)]
pub(super) struct Place {
    pub(super) level: u8,
    pub(super) index: u64,
}

impl Place {
    pub(super) fn blocks(self) -> Range<u64> {
        self.index * span(self.level)..(self.index + 1) * span(self.level)
    }

    pub(super) fn child(self, child: usize) -> Self {
        Self { level: self.level - 1, index: self.index * FAN + u64::try_from(child).expect("below 128") }
    }
}

impl Merge<'_> {
    /// The page at a place, after `items` (frozen blocks under it, sorted) and the ranges.
    pub(super) fn subtree(
        &mut self,
        place: Place,
        old: Entry,
        items: &[u64],
        references: &[Reference],
        shared: bool,
    ) -> Result<Entry, VolumeError> {
        let sharing = self.core.sharing(references, &old, place.level, place.index);
        let (keep_page, shared) = if old.kind() == Kind::Page {
            (shared || sharing.page, shared || sharing.below)
        } else {
            (shared, shared)
        };
        let before = match old.kind() {
            Kind::Page => match self.core.page(place.level, place.index, &old, place.level > 0) {
                Ok(page) => Some(page),
                Err(reason @ Damage::Unreadable) => return self.carry_over(place, old, items, reason),
                Err(reason) => return self.replace_damaged(place, items, reason),
            },
            _ => None,
        };
        let mut page = before.as_ref().map_or_else(|| filled(old), |page| MapPage::clone(page));
        let pages = if shared || references.is_empty() {
            Ok(Vec::new())
        } else {
            self.core.reference_pages(references, place.level, place.index)
        };
        if let Err(reason) = pages
            && self.core.may_be_there(reason)
        {
            return self.carry_over(place, old, items, reason);
        }
        let shared = shared || pages.is_err();
        let pages = pages.unwrap_or_default();
        let dead = old.aux() == DEAD;
        if place.level == 0 {
            self.leaf(place, &mut page, dead, items, &pages, shared);
        } else {
            if dead {
                kill_children(&mut page, self.core.hole);
            }
            self.children(place, &mut page, items, &pages, shared)?;
        }
        self.finish(place, old, before.as_deref(), &page, keep_page)
    }

    /// The host fails to read what must be read to merge `items` and ranges into `old`. It may be good, so nothing is put in its place (F11),
    /// and the next checkpoint tries again. A sector that is bad for good must not keep all the rest from the map, though: so `old` stays, and
    /// what is newer stays in the dirty map and in the log, unless it is too much for them.
    fn carry_over(
        &mut self,
        place: Place,
        old: Entry,
        items: &[u64],
        reason: Damage,
    ) -> Result<Entry, VolumeError> {
        let core = self.core;
        let blocks = place.blocks();
        // A dead page reads as a hole already.
        let discarded: Vec<Range<u64>> =
            if old.aux() == DEAD { Vec::new() } else { self.holes.within(blocks.clone()).collect() };
        let entries = items.iter().filter_map(|block| Some((*block, core.dirty.frozen_entry(*block)?)));
        let count = discarded.iter().fold(items.len(), |count, range| {
            count.saturating_add(usize::try_from(range.end - range.start).unwrap_or(usize::MAX))
        });
        if !self.work.carried.has_room(count) {
            return Err(core.damaged_page(place.level, blocks.start, reason));
        }
        let holes = discarded.into_iter().flatten().filter(|block| items.binary_search(block).is_err());
        self.work.carried.add(place, reason, entries.chain(holes.map(|block| (block, core.hole))));
        self.work.wait_for_reads();
        Ok(old)
    }

    /// A damaged page must not keep the whole volume from being written. What it held stays lost, and its slots stay taken (a check tells);
    /// what comes under it now is kept.
    fn replace_damaged(&mut self, place: Place, items: &[u64], reason: Damage) -> Result<Entry, VolumeError> {
        let error = self.core.damaged_page(place.level, place.blocks().start, reason);
        tracing::error!(%error, "a damaged page is replaced: what was under it stays lost");
        let mut page = filled(lost(place.level));
        if place.level == 0 {
            self.leaf(place, &mut page, false, items, &[], true);
        } else {
            self.children(place, &mut page, items, &[], true)?;
        }
        self.finish(place, Entry::ABSENT, None, &page, true)
    }

    /// Decides whether a page must be written, and frees the one that it replaces.
    fn finish(
        &mut self,
        place: Place,
        old: Entry,
        before: Option<&MapPage>,
        page: &MapPage,
        keep_page: bool,
    ) -> Result<Entry, VolumeError> {
        let first = page.entry(0);
        let uniform = !matches!(first.kind(), Kind::Page | Kind::Data)
            && page.entries().iter().all(|entry| *entry == first);
        if before.is_some_and(|before| before == page) && !uniform && old.aux() != DEAD {
            return Ok(old);
        }
        if before.is_some() && !keep_page {
            self.work.free_page(old.slot());
        }
        if uniform {
            return Ok(first);
        }
        let below = place.level > 0
            && page.entries().iter().any(|entry| entry.kind() == Kind::Page && entry.aux() != 0);
        let keep = place.level > 0 || self.core.cache.find(&old).is_some();
        let entry = self.work.put(self.core, place, page, keep)?;
        Ok(if below { entry.with_aux(DEAD_BELOW) } else { entry })
    }

    fn leaf(
        &mut self,
        place: Place,
        page: &mut MapPage,
        dead: bool,
        items: &[u64],
        pages: &[OfVersion],
        shared: bool,
    ) {
        let blocks = place.blocks();
        let hole = self.core.hole;
        if dead {
            for (number, block) in blocks.clone().enumerate() {
                let old = page.set(number, hole);
                self.release(old, number, block, pages, shared, true);
            }
        }
        for range in self.holes.within(blocks.clone()) {
            for block in range {
                let number = usize::try_from(block - blocks.start).expect("below 128");
                let old = page.set(number, hole);
                self.release(old, number, block, pages, shared, true);
            }
        }
        for block in items {
            // Frozen entries stay as they are until this checkpoint is done.
            let Some(entry) = self.core.dirty.frozen_entry(*block) else { continue };
            let number = usize::try_from(block - blocks.start).expect("below 128");
            let old = page.set(number, entry);
            if old.slot() != entry.slot() {
                self.release(old, number, *block, pages, shared, !entry.is_data());
            }
        }
    }

    /// Frees a data slot that the live map no longer refers to, if no version has it at the same block.
    fn release(
        &mut self,
        old: Entry,
        number: usize,
        block: u64,
        pages: &[OfVersion],
        shared: bool,
        punch: bool,
    ) {
        if old.is_data() && !is_lost(&old) && !shared && !held(pages, number, block, old.slot()) {
            self.work.free(old.slot());
            if punch {
                self.work.punch(old.slot());
            }
        }
    }

    fn children(
        &mut self,
        place: Place,
        page: &mut MapPage,
        items: &[u64],
        pages: &[OfVersion],
        shared: bool,
    ) -> Result<(), VolumeError> {
        let any_holes = self.holes.touches(&place.blocks());
        let mut rest = items;
        for child in 0..FANOUT {
            let at = place.child(child);
            let blocks = at.blocks();
            let here = rest.partition_point(|block| *block < blocks.end);
            let (here, after) = rest.split_at(here);
            rest = after;
            let old = page.entry(child);
            let covered = any_holes && self.holes.covers(&blocks);
            let touched = any_holes && self.holes.touches(&blocks);
            let mut new = old;
            if covered && here.is_empty() {
                new = if old.kind() == Kind::Page { old.with_aux(DEAD) } else { self.core.hole };
            } else if touched || !here.is_empty() {
                // A covered subtree is dead even where new blocks come into it.
                let old = if covered && old.kind() == Kind::Page { old.with_aux(DEAD) } else { old };
                new = self.subtree(at, old, here, &child_references(pages, place.index, child), shared)?;
            }
            if new.kind() == Kind::Page && new.aux() != 0 && *self.budget > 0 {
                let references = child_references(pages, place.index, child);
                new = if new.aux() == DEAD {
                    self.reap(at, new, &references, shared)?
                } else if touched || !here.is_empty() {
                    // Its own children had their turn just now.
                    new
                } else {
                    self.subtree(at, new, &[], &references, shared)?
                };
            }
            page.set(child, new);
        }
        Ok(())
    }

    /// Frees what is under a dead page, as far as the budget goes, and gives what stays in its place.
    fn reap(
        &mut self,
        place: Place,
        old: Entry,
        references: &[Reference],
        shared: bool,
    ) -> Result<Entry, VolumeError> {
        let hole = self.core.hole;
        let sharing = self.core.sharing(references, &old, place.level, place.index);
        if shared || sharing.below {
            return Ok(hole);
        }
        let pages = match self.core.reference_pages(references, place.level, place.index) {
            Ok(pages) => pages,
            Err(reason) if self.core.may_be_there(reason) => {
                self.work.wait_for_reads();
                return Ok(old);
            }
            Err(_) => return Ok(hole),
        };
        let before = match self.core.page(place.level, place.index, &old, false) {
            Ok(page) => page,
            Err(reason) if self.core.may_be_there(reason) => {
                self.work.wait_for_reads();
                return Ok(old);
            }
            Err(reason) => {
                // Its blocks are gone anyway; their slots stay taken until a repair.
                let error = self.core.damaged_page(place.level, place.blocks().start, reason);
                tracing::error!(%error, "a discarded page is damaged: what it held is not freed");
                return Ok(hole);
            }
        };
        let mut page = MapPage::clone(&before);
        if place.level == 0 {
            *self.budget = self.budget.saturating_sub(1);
            self.leaf(place, &mut page, true, &[], &pages, false);
        } else {
            kill_children(&mut page, hole);
            for child in 0..FANOUT {
                let entry = page.entry(child);
                if entry.kind() == Kind::Page && *self.budget > 0 {
                    let new = self.reap(
                        place.child(child),
                        entry,
                        &child_references(&pages, place.index, child),
                        false,
                    )?;
                    page.set(child, new);
                }
            }
        }
        if !sharing.page {
            self.work.free_page(old.slot());
        }
        if page.entries().iter().all(|entry| entry.kind() != Kind::Page) {
            return Ok(hole);
        }
        Ok(self.work.put(self.core, place, &page, true)?.with_aux(DEAD))
    }
}

/// Whether a version has this slot at this block.
pub(super) fn held(pages: &[OfVersion], number: usize, block: u64, slot: u64) -> bool {
    pages.iter().any(|(reference, page)| {
        reference.from <= block
            && page
                .as_ref()
                .is_some_and(|page| page.entry(number).is_data() && page.entry(number).slot() == slot)
    })
}

/// A page under a hole, as if it were there.
fn filled(hole: Entry) -> MapPage {
    let mut page = MapPage::empty();
    if !hole.is_absent() {
        (0..FANOUT).for_each(|child| {
            page.set(child, hole);
        });
    }
    page
}

fn kill_children(page: &mut MapPage, hole: Entry) {
    for child in 0..FANOUT {
        let entry = page.entry(child);
        page.set(child, if entry.kind() == Kind::Page { entry.with_aux(DEAD) } else { hole });
    }
}
