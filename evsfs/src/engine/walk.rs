//! The walk of a re-encryption: a bounded part of all trees, the volume's and its snapshots', with each checkpoint.
//!
//! It goes through all trees at once, block by block. What several of them refer to at a place, a page or a data slot, is sealed anew once,
//! and all of them refer to the new one afterwards: so they share what they shared. It changes nothing but the map that this checkpoint
//! makes. Whoever writes meanwhile writes into the dirty map, which is newer.

use std::collections::HashMap;

use zeroize::Zeroizing;

use super::checkpoint::Plan;
use super::core::Core;
use super::error::{Damage, VolumeError};
use super::map::is_lost;
use super::merge::Place;
use super::pages::Work;
use super::store::count;
use crate::format::layout::{BLOCK, FANOUT};
use crate::format::{Entry, Kind, MapPage, VersionState, data_aad};

/// Blocks that are sealed together.
const BATCH: usize = 128;

/// How far a walk came.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Walked {
    /// All blocks before this one are done; `u64::MAX` if all are.
    pub(super) cursor: u64,
    /// Data blocks sealed anew.
    pub(super) sealed: u64,
    /// Pages of the older DEK that were written anew.
    pub(super) rewritten: u64,
    /// It did not go on, because something waits to be freed: its slots are shared with the trees that are walked.
    pub(super) freeing: bool,
    /// It did not go on for want of space.
    pub(super) no_space: bool,
}

/// A tree at the place that is looked at: its page there, or its root, which lies further down.
#[derive(Debug, Clone, Copy)]
struct Branch {
    entry: Entry,
    /// Level of the page that `entry` names.
    top: u8,
}

/// A page that one or more trees have at a place.
struct Shared {
    old: Entry,
    page: MapPage,
    changed: bool,
}

struct Walk<'a> {
    core: &'a Core,
    work: &'a mut Work,
    /// What was sealed in an epoch before this one is of the older DEK.
    before: u32,
    from: u64,
    left: u64,
    leaves: u64,
    sealed: u64,
    rewritten: u64,
    /// The block before which it stopped.
    stop: Option<u64>,
    buffer: Zeroizing<Vec<u8>>,
}

impl Core {
    /// Walks on from `from`, or from where the task stands, by about `blocks` blocks and pages.
    pub(super) fn walk(
        &self,
        plan: &mut Plan,
        work: &mut Work,
        from: Option<u64>,
        before: u32,
        blocks: u64,
    ) -> Result<Walked, VolumeError> {
        let cursor = from.or_else(|| plan.task.map(|task| task.cursor)).unwrap_or(0);
        let stays = Walked { cursor, ..Walked::default() };
        if plan.root.entry.aux() != 0 || plan.versions.iter().any(|v| v.state == VersionState::Trash) {
            return Ok(Walked { freeing: true, ..stays });
        }
        // The walk reads pages that this checkpoint has just made.
        work.flush(self)?;
        let live = Branch { entry: plan.root.entry, top: plan.root.height - 1 };
        let others =
            plan.versions.iter().map(|version| Branch { entry: version.root, top: version.height - 1 });
        let mut branches: Vec<Branch> = std::iter::once(live).chain(others).collect();
        let top = branches.iter().map(|branch| branch.top).max().unwrap_or(0);
        let mut part = Work::without_reserve();
        let mut walk = Walk {
            core: self,
            work: &mut part,
            before,
            from: cursor,
            left: blocks,
            leaves: 0,
            sealed: 0,
            rewritten: 0,
            stop: None,
            buffer: Zeroizing::default(),
        };
        let done = walk.subtree(Place { level: top, index: 0 }, &mut branches);
        let Walk { sealed, rewritten, stop, .. } = walk;
        match done.and_then(|()| part.flush(self)) {
            Ok(()) => {}
            Err(VolumeError::NoSpace) => {
                part.abandon(self);
                return Ok(Walked { no_space: true, ..stays });
            }
            Err(error) => {
                part.abandon(self);
                return Err(error);
            }
        }
        part.settle(self);
        work.absorb(part);
        plan.root.entry = branches[0].entry;
        for (version, branch) in plan.versions.iter_mut().zip(&branches[1..]) {
            version.root = branch.entry;
        }
        let cursor = stop.unwrap_or(u64::MAX);
        if let (None, Some(task)) = (from, &mut plan.task) {
            task.cursor = cursor;
        }
        Ok(Walked { cursor, sealed, rewritten, freeing: false, no_space: false })
    }
}

impl Walk<'_> {
    /// What the trees have at and under a place. Afterwards `branches` name the pages that stand there now.
    fn subtree(&mut self, place: Place, branches: &mut [Branch]) -> Result<(), VolumeError> {
        let blocks = place.blocks();
        if blocks.end <= self.from {
            return Ok(());
        }
        let here = |branch: &Branch| {
            branch.top == place.level && branch.entry.kind() == Kind::Page && !is_lost(&branch.entry)
        };
        let mut pages: Vec<Shared> = Vec::new();
        for branch in branches.iter().filter(|branch| here(branch)) {
            let old = branch.entry;
            if pages.iter().any(|shared| shared.old.slot() == old.slot()) {
                continue;
            }
            let page = self.core.page(place.level, place.index, &old, place.level > 0);
            let page = page.map_err(|reason| self.core.damaged_page(place.level, blocks.start, reason))?;
            pages.push(Shared { old, page: MapPage::clone(&page), changed: false });
        }
        self.left = self.left.saturating_sub(u64::try_from(pages.len()).unwrap_or(u64::MAX));
        if place.level == 0 {
            self.leaf(place, &mut pages)?;
        } else {
            self.children(place, &mut pages, branches)?;
        }
        for Shared { old, page, changed } in pages {
            let aged = self.stop.is_none() && old.epoch() < self.before;
            if !changed && !aged {
                continue;
            }
            self.rewritten += u64::from(old.epoch() < self.before);
            let new = self.work.put(self.core, place, &page, place.level > 0)?;
            self.drop_slot(old.slot());
            for branch in branches.iter_mut().filter(|branch| here(branch)) {
                if branch.entry.slot() == old.slot() {
                    // Marks of what is discarded below stay.
                    branch.entry = new.with_aux(branch.entry.aux());
                }
            }
        }
        Ok(())
    }

    fn children(
        &mut self,
        place: Place,
        pages: &mut [Shared],
        branches: &mut [Branch],
    ) -> Result<(), VolumeError> {
        for child in 0..FANOUT {
            let at = place.child(child);
            if at.blocks().end <= self.from {
                continue;
            }
            let of = |shared: &Shared| Branch { entry: shared.page.entry(child), top: at.level };
            let mut under: Vec<Branch> = pages.iter().map(of).collect();
            // Roots that lie further down are under the first child of first pages.
            let lower = |branch: &Branch| at.index == 0 && branch.top < place.level;
            under.extend(branches.iter().filter(|branch| lower(branch)));
            if under.iter().all(|branch| branch.entry.kind() != Kind::Page) {
                continue;
            }
            if self.left == 0 && self.leaves > 0 {
                self.stop = Some(at.blocks().start.max(self.from));
                return Ok(());
            }
            self.subtree(at, &mut under)?;
            let (mine, others) = under.split_at(pages.len());
            for (shared, branch) in pages.iter_mut().zip(mine) {
                let old = shared.page.set(child, branch.entry);
                shared.changed |= old != branch.entry;
            }
            for (branch, new) in branches.iter_mut().filter(|branch| lower(branch)).zip(others) {
                *branch = *new;
            }
            if self.stop.is_some() {
                return Ok(());
            }
        }
        Ok(())
    }

    fn leaf(&mut self, place: Place, pages: &mut [Shared]) -> Result<(), VolumeError> {
        self.leaves += 1;
        // Each slot once, whoever refers to it.
        let mut old: Vec<(u64, Entry)> = Vec::new();
        for (number, block) in place.blocks().enumerate() {
            let at = old.len();
            for shared in pages.iter() {
                let entry = shared.page.entry(number);
                let aged = entry.is_data() && entry.epoch() < self.before;
                if aged && old[at..].iter().all(|(_, have)| have.slot() != entry.slot()) {
                    old.push((block, entry));
                }
            }
        }
        if old.is_empty() {
            return Ok(());
        }
        let mut moved: HashMap<u64, Entry> = HashMap::with_capacity(old.len());
        for part in old.chunks(BATCH) {
            for ((_, was), now) in part.iter().zip(self.seal_anew(part)?) {
                moved.insert(was.slot(), now);
                self.drop_slot(was.slot());
            }
        }
        for shared in pages {
            for number in 0..FANOUT {
                let entry = shared.page.entry(number);
                if entry.is_data()
                    && entry.epoch() < self.before
                    && let Some(now) = moved.get(&entry.slot())
                {
                    shared.page.set(number, *now);
                    shared.changed = true;
                }
            }
        }
        let sealed = u64::try_from(old.len()).unwrap_or(u64::MAX);
        self.sealed += sealed;
        self.left = self.left.saturating_sub(sealed);
        Ok(())
    }

    /// Opens blocks and seals them into new slots.
    fn seal_anew(&mut self, old: &[(u64, Entry)]) -> Result<Vec<Entry>, VolumeError> {
        let store = &self.core.store;
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.resize(BATCH * BLOCK, 0);
        let bytes = &mut buffer.as_chunks_mut::<BLOCK>().0[..old.len()];
        let mut at = 0;
        while at < old.len() {
            let in_row = |(place, (_, entry)): (u64, &(u64, Entry))| entry.slot() == old[at].1.slot() + place;
            let run = (0..).zip(&old[at..]).take_while(|pair| in_row(*pair)).count();
            let part = &mut bytes[at..at + run];
            let read = store.read(part.as_flattened_mut(), old[at].1.slot());
            for ((block, entry), block_bytes) in old[at..at + run].iter().zip(part) {
                let read = match read {
                    Ok(()) => Ok(()),
                    // One of them: which?
                    Err(_) => store.read(block_bytes.as_mut_slice(), entry.slot()),
                };
                read.and_then(|()| store.open_data(entry, *block, block_bytes.as_mut_slice()))
                    .map_err(|reason| self.damaged(*block, entry, reason))?;
            }
            at += run;
        }
        let (epoch, nonces) = store.epochs.take(u32::try_from(old.len()).expect("at most 128"))?;
        count(&store.counters.seals, u64::try_from(old.len()).expect("at most 128"));
        let mut new = Vec::with_capacity(old.len());
        for (((block, _), plain), nonce) in old.iter().zip(bytes.iter_mut()).zip(nonces) {
            let slot = self.work.take(self.core)?;
            let counter = nonce.counter();
            let tag = epoch.keys.data.seal(nonce, &data_aad(&store.uuid, *block), plain.as_mut_slice());
            new.push(Entry::data(slot, epoch.id, counter, tag));
        }
        let mut rest = &*bytes;
        for run in new.chunk_by(|left, right| left.slot() + 1 == right.slot()) {
            let (part, after) = rest.split_at(run.len());
            store.write(part.as_flattened(), run[0].slot())?;
            rest = after;
        }
        self.buffer = buffer;
        Ok(new)
    }

    fn damaged(&self, block: u64, entry: &Entry, reason: Damage) -> VolumeError {
        let error = VolumeError::DamagedBlock { volume: self.core.store.uuid, block, reason };
        tracing::error!(%error, slot = entry.slot(), "damage found: the re-encryption does not go on");
        error
    }

    /// A slot that no tree refers to any more: free, and wiped, once this checkpoint is durable.
    fn drop_slot(&mut self, slot: u64) {
        self.work.free(slot);
        if !self.core.alloc.is_reserve(slot) {
            self.work.punch(slot);
        }
    }
}
