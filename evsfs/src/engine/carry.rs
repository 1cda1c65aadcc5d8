//! What a checkpoint cannot bring into the map, because the host fails to read a page that it would have to change or to compare with: it
//! stays in the dirty map and in the log. So one bad sector keeps from the map what lies under one page, and nothing else.
//!
//! ```text
//!   frozen entries --- page can be read -----> map ----------------------> superblock
//!                  `-- page cannot be read --> active layer, and, behind what is pending, a group at the log's end --> superblock with its commit
//! ```

use super::commit::{Change, dense_pages, pages_for};
use super::core::Core;
use super::error::{Damage, VolumeError};
use super::map::is_lost;
use super::merge::Place;
use super::protection::Protection;
use crate::format::Entry;

/// Entries that may be carried over at once, where the log and the dirty map are large enough: those of eight leaves.
pub(crate) const CARRIED_MOST: u64 = 1024;

/// Blocks and their frozen entries.
#[derive(Default)]
pub(super) struct Carried {
    entries: Vec<(u64, Entry)>,
    most: usize,
    /// A page that cannot be read, and why.
    under: Option<(Place, Damage)>,
}

impl Carried {
    pub(super) const fn at_most(most: usize) -> Self {
        Self { entries: Vec::new(), most, under: None }
    }

    /// Whether so many more may be added. None always may.
    pub(super) const fn has_room(&self, more: usize) -> bool {
        self.entries.len().saturating_add(more) <= self.most
    }

    pub(super) fn add(&mut self, under: Place, reason: Damage, entries: impl Iterator<Item = (u64, Entry)>) {
        self.under = Some((under, reason));
        self.entries.extend(entries);
    }

    /// The slots of their data.
    pub(super) fn slots(&self) -> impl Iterator<Item = u64> + '_ {
        let data = self.entries.iter().filter(|(_, entry)| entry.is_data() && !is_lost(entry));
        data.map(|(_, entry)| entry.slot())
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

impl Core {
    /// Puts what the checkpoint of the cut has left into the active layer, and durably at the end of the log, for the part of the log in
    /// which it stands will be let go of. Gives the commit that the log must lead to from now on. The data of these entries was durable with
    /// the cut, so the group is one that repeats, as that of a compaction does.
    ///
    /// What is pending comes into the log first. A block that was flushed before the cut and written since is left out of the repeating group:
    /// the write must be durable before the log lets go of what was flushed.
    ///
    /// # Errors
    /// [`VolumeError::DamagedPage`] if the log has no room, or no record for what is lost, and nothing has happened then; else if the host fails.
    pub(super) fn carry_over(&self, carried: &Carried) -> Result<u64, VolumeError> {
        let mut log = self.log.lock();
        if self.store.protections.has(Protection::FailedSyncLasts) {
            self.check_writable()?;
        }
        let mut entries = carried.entries.clone();
        // Records of one page share their epoch.
        entries.sort_unstable_by_key(|(block, entry)| (entry.epoch(), *block));
        let group = {
            let _gate = self.gate.write();
            let pending = self.pending.lock().len();
            let needed = dense_pages(&entries, 0) + if pending == 0 { 0 } else { pages_for(pending) };
            if (needed > log.free() || entries.iter().any(|(_, entry)| is_lost(entry)))
                && let Some((place, reason)) = carried.under
            {
                return Err(self.damaged_page(place.level, place.blocks().start, reason));
            }
            entries.retain(|(block, entry)| {
                let mut shard = self.dirty.lock(*block);
                let is_newest = shard.carry_over(*block, *entry);
                if !is_newest && entry.is_data() {
                    // It will never be in the map, where the merge would find it, and nobody needs it once what is newer is durable.
                    self.pending.lock().replaced.push(entry.slot());
                }
                is_newest
            });
            self.take_pending()
        };
        self.commit_group(&mut log, group)?;
        if !entries.is_empty() {
            let changes: Vec<Change> =
                entries.into_iter().map(|(block, entry)| Change::Block(block, entry)).collect();
            log.append_durably(&self.store, &changes, self.hole, true).map_err(|error| self.poison(error))?;
        }
        Ok(log.state.commit)
    }
}
