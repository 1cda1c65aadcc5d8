//! The walk of a re-encryption or a flatten: a bounded part of all trees, the volume's and its snapshots', with each checkpoint.
//!
//! It goes through all trees at once, block by block. What several of them refer to at a place, a page or a data slot, is sealed anew once,
//! and all of them refer to the new one afterwards: so they share what they shared. The same for what several of them read from a base. It
//! changes nothing but the map that this checkpoint makes. Whoever writes meanwhile writes into the dirty map, which is newer.

use std::collections::HashMap;
use std::ops::Range;

use zeroize::Zeroizing;

use super::checkpoint::Plan;
use super::core::Core;
use super::error::{Damage, VolumeError};
use super::map::is_lost;
use super::merge::Place;
use super::pages::Work;
use super::params::BaseImage;
use super::protection::Protection;
use super::store::count;
use crate::format::layout::{BLOCK, BLOCK_BYTES, FANOUT};
use crate::format::{Entry, Kind, MapPage, VersionState, data_aad};

/// Blocks that are sealed together.
const BATCH: usize = 128;

/// What is done with each block.
pub(super) enum Job<'a> {
    /// What was sealed in an epoch before this one is of the older DEK, and is sealed anew.
    Reseal {
        /// The epoch.
        before: u32,
    },
    /// What is absent, and data in the base, is copied.
    Fill {
        /// The base.
        base: &'a dyn BaseImage,
    },
}

impl Job<'_> {
    /// Whether an entry was sealed under the older DEK.
    const fn is_aged(&self, entry: &Entry) -> bool {
        matches!(self, Self::Reseal { before } if entry.epoch() < *before)
    }

    /// Whether there is something to be done below an entry of a page.
    fn goes_below(&self, entry: &Entry) -> bool {
        match self {
            Self::Reseal { .. } => entry.kind() == Kind::Page,
            Self::Fill { .. } => matches!(entry.kind(), Kind::Page | Kind::Absent),
        }
    }

    /// Whether there may be something to be done in a range of blocks, whatever the trees have there.
    fn concerns(&self, blocks: &Range<u64>) -> Result<bool, VolumeError> {
        match self {
            Self::Reseal { .. } => Ok(true),
            Self::Fill { base } => Ok(next_data(*base, blocks)?.is_some()),
        }
    }
}

/// The first block of a range that is data in the base.
fn next_data(base: &dyn BaseImage, blocks: &Range<u64>) -> Result<Option<u64>, VolumeError> {
    let start = blocks.start.saturating_mul(BLOCK_BYTES);
    if start >= base.size() {
        return Ok(None);
    }
    let data = base.next_data(start)?.map(|offset| offset / BLOCK_BYTES);
    Ok(data.filter(|block| *block < blocks.end))
}

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

/// A page that one or more trees have at a place; or that they will have, if it is absent so far.
struct Shared {
    old: Entry,
    page: MapPage,
    changed: bool,
}

struct Walk<'a> {
    core: &'a Core,
    work: &'a mut Work,
    job: &'a Job<'a>,
    /// Whether it is the one whose work the second proves.
    first: bool,
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
        job: &Job<'_>,
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
        if !self.store.protections.has(Protection::WalkOfSnapshots) && from.is_none() {
            branches.truncate(1);
        }
        let top = branches.iter().map(|branch| branch.top).max().unwrap_or(0);
        let mut part = Work::without_reserve();
        let mut walk = Walk {
            core: self,
            work: &mut part,
            job,
            first: from.is_none(),
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

/// Whether two trees have the same there.
fn is_same(one: &Entry, other: &Entry) -> bool {
    one.kind() == other.kind() && one.slot() == other.slot()
}

impl Walk<'_> {
    /// What the trees have at and under a place. Afterwards `branches` name the pages that stand there now.
    fn subtree(&mut self, place: Place, branches: &mut [Branch]) -> Result<(), VolumeError> {
        let blocks = place.blocks();
        if blocks.end <= self.from || !self.job.concerns(&blocks)? {
            return Ok(());
        }
        let job = self.job;
        let here = |branch: &Branch| {
            branch.top == place.level && job.goes_below(&branch.entry) && !is_lost(&branch.entry)
        };
        let mut pages: Vec<Shared> = Vec::new();
        for branch in branches.iter().filter(|branch| here(branch)) {
            let old = branch.entry;
            if pages.iter().any(|shared| is_same(&shared.old, &old)) {
                continue;
            }
            if old.is_absent() {
                pages.push(Shared { old, page: MapPage::empty(), changed: false });
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
            let aged = job.is_aged(&old) && !old.is_absent();
            let whole = self.stop.is_none();
            if !(changed || aged && whole) {
                continue;
            }
            self.rewritten += u64::from(aged);
            let new = self.work.put(self.core, place, &page, place.level > 0)?;
            if !old.is_absent() {
                self.drop_slot(old.slot());
            }
            for branch in branches.iter_mut().filter(|branch| here(branch)) {
                if is_same(&branch.entry, &old) {
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
            if !under.iter().any(|branch| self.job.goes_below(&branch.entry))
                || !self.job.concerns(&at.blocks())?
            {
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
        if self.first && place.index % 2 == 1 && !self.core.store.protections.has(Protection::WholeWalk) {
            return Ok(());
        }
        match self.job {
            Job::Reseal { .. } => self.reseal(place, pages),
            Job::Fill { base } => self.fill(place, pages, *base),
        }
    }

    /// Copies what is data in the base and absent in one of the trees: once, for all of them.
    fn fill(&mut self, place: Place, pages: &mut [Shared], base: &dyn BaseImage) -> Result<(), VolumeError> {
        let range = place.blocks();
        let number = |block: u64| usize::try_from(block - range.start).expect("below 128");
        let mut wanted: Vec<u64> = Vec::new();
        let mut from = range.start;
        while let Some(data) = next_data(base, &(from..range.end))? {
            let hole = base.next_hole(data * BLOCK_BYTES, range.end * BLOCK_BYTES)?.div_ceil(BLOCK_BYTES);
            let absent =
                |block: &u64| pages.iter().any(|shared| shared.page.entry(number(*block)).is_absent());
            wanted.extend((data..hole).filter(absent));
            from = hole;
        }
        if wanted.is_empty() {
            return Ok(());
        }
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.resize(BATCH * BLOCK, 0);
        let bytes = &mut buffer.as_chunks_mut::<BLOCK>().0[..wanted.len()];
        let mut rest = &mut *bytes;
        for run in wanted.chunk_by(|left, right| left + 1 == *right) {
            let (part, after) = rest.split_at_mut(run.len());
            base.read(run[0] * BLOCK_BYTES, part.as_flattened_mut())?;
            rest = after;
        }
        let new = self.seal(&wanted, bytes)?;
        self.buffer = buffer;
        for shared in pages {
            for (block, entry) in wanted.iter().zip(&new) {
                if shared.page.entry(number(*block)).is_absent() {
                    shared.page.set(number(*block), *entry);
                    shared.changed = true;
                }
            }
        }
        self.did(wanted.len());
        Ok(())
    }

    fn did(&mut self, blocks: usize) {
        let blocks = u64::try_from(blocks).unwrap_or(u64::MAX);
        self.sealed += blocks;
        self.left = self.left.saturating_sub(blocks);
    }

    fn reseal(&mut self, place: Place, pages: &mut [Shared]) -> Result<(), VolumeError> {
        // Each slot once, whoever refers to it.
        let mut old: Vec<(u64, Entry)> = Vec::new();
        for (number, block) in place.blocks().enumerate() {
            let at = old.len();
            for shared in pages.iter() {
                let entry = shared.page.entry(number);
                let aged = entry.is_data() && self.job.is_aged(&entry);
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
                    && self.job.is_aged(&entry)
                    && let Some(now) = moved.get(&entry.slot())
                {
                    shared.page.set(number, *now);
                    shared.changed = true;
                }
            }
        }
        self.did(old.len());
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
        let blocks: Vec<u64> = old.iter().map(|(block, _)| *block).collect();
        let new = self.seal(&blocks, bytes)?;
        self.buffer = buffer;
        Ok(new)
    }

    /// Seals blocks, at most [`BATCH`], into new slots.
    fn seal(&mut self, blocks: &[u64], bytes: &mut [[u8; BLOCK]]) -> Result<Vec<Entry>, VolumeError> {
        let store = &self.core.store;
        let (epoch, nonces) = store.epochs.take(u32::try_from(blocks.len()).expect("at most 128"))?;
        count(&store.counters.seals, u64::try_from(blocks.len()).expect("at most 128"));
        let mut new = Vec::with_capacity(blocks.len());
        for ((block, plain), nonce) in blocks.iter().zip(bytes.iter_mut()).zip(nonces) {
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
        Ok(new)
    }

    fn damaged(&self, block: u64, entry: &Entry, reason: Damage) -> VolumeError {
        let error = VolumeError::DamagedBlock { volume: self.core.store.uuid, block, reason };
        tracing::error!(%error, slot = entry.slot(), "damage found: the re-encryption does not go on");
        error
    }

    /// A slot that no tree refers to any more: free, once this checkpoint is durable, and wiped if it is of the older DEK.
    fn drop_slot(&mut self, slot: u64) {
        self.work.free(slot);
        if matches!(self.job, Job::Reseal { .. }) && !self.core.alloc.is_reserve(slot) {
            self.work.punch(slot);
        }
    }
}
