//! Freeing what only a deleted snapshot held, a bounded piece with each checkpoint.
//!
//! The walk goes through the blocks in order. Its cursor and the bitmaps are in the same superblock, so after a crash it goes on
//! where that superblock left it and frees nothing twice. A page is freed when all blocks under it have been passed.

use super::core::{Core, Root};
use super::error::VolumeError;
use super::map::is_lost;
use super::merge::{Place, Reference, child_references, held, reference_of, references, references_at};
use super::pages::Work;
use crate::format::layout::FANOUT;
use crate::format::{Entry, Kind, VersionRecord, VersionState};

/// One go at freeing.
struct Sweep<'a> {
    core: &'a Core,
    work: &'a mut Work,
    budget: &'a mut usize,
    /// Blocks before it were passed by earlier walks.
    cursor: u64,
}

impl Sweep<'_> {
    /// Frees what is under a page of the trash. Gives the block where it stopped: the budget ended, or the host failed to read something.
    fn page(&mut self, place: Place, entry: Entry, references: &[Reference]) -> Option<u64> {
        let blocks = place.blocks();
        if blocks.end <= self.cursor {
            return None;
        }
        let sharing = self.core.sharing(references, &entry, place.level, place.index);
        if sharing.below {
            return None;
        }
        if *self.budget == 0 {
            return Some(blocks.start.max(self.cursor));
        }
        *self.budget -= 1;
        let here = Some(blocks.start.max(self.cursor));
        let pages = match self.core.reference_pages(references, place.level, place.index) {
            Ok(pages) => pages,
            Err(reason) if self.core.may_be_there(reason) => {
                self.work.wait_for_reads();
                return here;
            }
            Err(_) => return None,
        };
        let page = match self.core.page(place.level, place.index, &entry, false) {
            Ok(page) => page,
            Err(reason) if self.core.may_be_there(reason) => {
                self.work.wait_for_reads();
                return here;
            }
            Err(reason) => {
                let error = self.core.damaged_page(place.level, blocks.start, reason);
                tracing::error!(%error, "a page of a deleted snapshot is damaged: what it held is not freed");
                return None;
            }
        };
        for child in 0..FANOUT {
            let entry = page.entry(child);
            if place.level == 0 {
                let block = blocks.start + u64::try_from(child).expect("below 128");
                if entry.is_data()
                    && !is_lost(&entry)
                    && block >= self.cursor
                    && !held(&pages, child, block, entry.slot())
                {
                    self.work.free(entry.slot());
                }
            } else if entry.kind() == Kind::Page {
                let references = child_references(&pages, place.index, child);
                if let Some(stopped) = self.page(place.child(child), entry, &references) {
                    return Some(stopped);
                }
            }
        }
        if !sharing.page {
            self.work.free_page(entry.slot());
        }
        None
    }
}

impl Core {
    /// Goes on with freeing trash, as far as the budget goes. `live` is the root that this checkpoint will publish.
    pub(super) fn walk_trash(
        &self,
        live: &Root,
        versions: &mut Vec<VersionRecord>,
        work: &mut Work,
        budget: &mut usize,
    ) -> Result<(), VolumeError> {
        // The walk reads pages that this checkpoint has just made.
        work.flush(self)?;
        let mut number = 0;
        while number < versions.len() {
            let version = versions[number];
            if version.state != VersionState::Trash {
                number += 1;
                continue;
            }
            let mut references = references(versions, Some(number));
            references.extend(reference_of(live));
            let level = version.height - 1;
            let references = references_at(self, references, level);
            if let Err(reason) = references {
                if self.may_be_there(reason) {
                    work.wait_for_reads();
                    return Ok(());
                }
                tracing::error!(volume = %self.store.uuid, "a page is damaged: what a deleted snapshot held is not freed");
            }
            let stopped = if let Ok(references) = references
                && version.root.kind() == Kind::Page
            {
                let place = Place { level, index: 0 };
                Sweep { core: self, work, budget, cursor: version.cursor }.page(
                    place,
                    version.root,
                    &references,
                )
            } else {
                None
            };
            match stopped {
                Some(cursor) => {
                    versions[number].cursor = cursor;
                    return Ok(());
                }
                None => {
                    versions.remove(number);
                }
            }
        }
        Ok(())
    }
}
