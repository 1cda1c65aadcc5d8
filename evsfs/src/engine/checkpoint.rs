//! Checkpoints: the frozen entries come into the map, and a superblock says so (docs/volume-format.md, "Writing, in order", 3
//! and 4).

use std::cell::OnceCell;
use std::ops::Range;

use super::alloc::Prepared;
use super::commit::{Change, Log, dense_pages, pages_for};
use super::core::{Core, Root};
use super::error::VolumeError;
use super::map::is_lost;
use super::merge::{Merge, Place, references};
use super::pages::Work;
use super::protection::Protection;
use super::ranges::RangeSet;
use super::store::count;
use super::tables::Tables;
use crate::crypto::TablePurpose;
use crate::format::layout::{BLOCK_BYTES, SUPERBLOCK_SLOTS};
use crate::format::{
    Anchor, Entry, LOG_PAGE_RECORDS, LogHead, Superblock, Task, VersionRecord, VersionState,
};
use crate::sync::atomic::Ordering;
use crate::sync::{MutexGuard, RwLockWriteGuard};

mod pieces;

#[cfg(test)]
pub(crate) use pieces::PIECE_MOST;
use pieces::{ALL, Frozen};

/// The moment that a checkpoint makes durable.
struct Cut {
    state: Anchor,
    log_head: u64,
    /// Slots that were replaced or discarded before it, still taken in the bitmaps of the cut.
    freed: Vec<u64>,
    discarded: Vec<u64>,
    /// What is frozen; it is collected when it is needed first, however many attempts there are.
    frozen: OnceCell<Frozen>,
}

/// What is durable, and the cut of the checkpoint that is being made.
pub(super) struct Checkpointer {
    pub(super) superblock: Superblock,
    pub(super) tables: Tables,
    cut: Option<Cut>,
    /// The volume is being closed.
    closing: bool,
    /// Whether this attach has seen to it that bitmaps can be written on a full host.
    places_complete: bool,
    /// What had given space by the last cut ([`Core::gave`]).
    gave: u64,
    /// The last attempt, by its number, if it found no space, and what had given some by its last cut.
    futile: Option<(u64, u64)>,
}

/// What a checkpoint publishes. A structural change (snapshot, rollback, extension) edits it.
pub(super) struct Plan {
    pub(super) root: Root,
    pub(super) versions: Vec<VersionRecord>,
    /// What runs in the background, and how far it has come.
    pub(super) task: Option<Task>,
    /// Nothing is read from a base any more.
    pub(super) base_copied: bool,
    /// Bitmaps of these regions are written although nothing in them changed.
    pub(super) regions: Vec<u64>,
    /// What the chain takes up, if the change is one that must not be undone by an old superblock.
    pub(super) event: Option<Vec<u8>>,
}

/// What is written of a checkpoint before its superblock.
struct Built {
    plan: Plan,
    /// The blocks whose frozen entries are in the map.
    part: Range<u64>,
    tables: Tables,
    /// The allocation tree, until what it frees is free.
    prepared: Option<Prepared>,
    work: Work,
}

/// A structural change, applied to the merged map. It comes again if the host had no space the first time.
pub(super) type Edit<'a> = dyn FnMut(&mut Plan, &mut Work) -> Result<(), VolumeError> + 'a;

/// What of a cut a checkpoint brings into the map.
#[derive(Clone, Copy)]
enum Portion {
    /// All of it.
    All,
    /// The same, and nobody writes meanwhile.
    Pressing,
    /// What lies under so many leaves from this block on.
    Leaves { start: u64, leaves: usize },
}

impl Checkpointer {
    pub(super) const fn new(superblock: Superblock, tables: Tables) -> Self {
        Self { superblock, tables, cut: None, closing: false, places_complete: false, gave: 0, futile: None }
    }

    /// Slots that the checkpoint of the cut that stands will free.
    pub(super) fn waiting(&self) -> impl Iterator<Item = u64> + '_ {
        self.cut.iter().flat_map(|cut| cut.freed.iter().chain(&cut.discarded).copied())
    }
}

impl Core {
    /// Whether a checkpoint would change anything.
    pub(super) fn has_changes(&self, checkpointer: &Checkpointer) -> bool {
        checkpointer.cut.is_some()
            || !self.dirty.is_empty()
            || self.pending.lock().len() > 0
            || !self.deferred.lock().is_empty()
            || self.signals.trash()
    }

    /// Brings every change so far into the map.
    pub(super) fn checkpoint(&self) -> Result<(), VolumeError> {
        self.check_writable()?;
        self.settle()?;
        let mut checkpointer = self.checkpointer.lock();
        if !self.has_changes(&checkpointer) {
            return Ok(());
        }
        self.checkpoint_locked(&mut checkpointer)
    }

    /// The same for somebody who came when so many had been begun: an attempt that was begun later, and found no space, was one for him as well,
    /// unless something gave some since.
    pub(super) fn checkpoint_since(&self, since: u64) -> Result<(), VolumeError> {
        self.check_writable()?;
        self.settle()?;
        let mut checkpointer = self.checkpointer.lock();
        if !self.has_changes(&checkpointer) {
            return Ok(());
        }
        self.attempt_since(&mut checkpointer, since)
    }

    fn attempt_since(&self, checkpointer: &mut Checkpointer, since: u64) -> Result<(), VolumeError> {
        let gave = self.gave.load(Ordering::Acquire);
        match checkpointer.futile {
            Some((attempt, had)) if attempt > since && had == gave => Err(VolumeError::NoSpace),
            _ => self.checkpoint_locked(checkpointer),
        }
    }

    /// A checkpoint that also does what `edit` says; everybody goes on meanwhile.
    pub(super) fn checkpoint_with(&self, edit: &mut Edit<'_>) -> Result<(), VolumeError> {
        self.checkpoint_locked_with(&mut self.checkpointer.lock(), edit)
    }

    pub(super) fn checkpoint_locked(&self, checkpointer: &mut Checkpointer) -> Result<(), VolumeError> {
        self.checkpoint_locked_with(checkpointer, &mut |_, _| Ok(()))
    }

    pub(super) fn checkpoint_locked_with(
        &self,
        checkpointer: &mut Checkpointer,
        edit: &mut Edit<'_>,
    ) -> Result<(), VolumeError> {
        let number = self.attempts.fetch_add(1, Ordering::AcqRel) + 1;
        let done = self.attempt(checkpointer, edit);
        let is_futile = matches!(done, Err(VolumeError::NoSpace));
        checkpointer.futile = is_futile.then_some((number, checkpointer.gave));
        done
    }

    fn attempt(&self, checkpointer: &mut Checkpointer, edit: &mut Edit<'_>) -> Result<(), VolumeError> {
        if checkpointer.cut.is_some() {
            // A cut whose checkpoint failed (the host could not read a page) must be finished before there can be another.
            self.finish(checkpointer, None, false, &mut |_, _| Ok(()))?;
        }
        let mut at_once = |checkpointer: &mut Checkpointer| {
            {
                let mut log = self.log.lock();
                let gate = self.gate.write();
                self.cut(checkpointer, &mut log, gate)?;
            }
            self.finish(checkpointer, None, false, edit)
        };
        match at_once(checkpointer) {
            // (Where the log, or a barrier, met a full host, nothing is written any more.)
            Err(VolumeError::NoSpace) if self.check_writable().is_ok() => {}
            other => return other,
        }
        let done = self.checkpoint_in_pieces(checkpointer).and_then(|()| at_once(checkpointer));
        if matches!(done, Err(VolumeError::NoSpace))
            && self.check_writable().is_ok()
            && checkpointer.cut.is_none()
        {
            // Each try puts what is pending into the log. It is made short while there is room for that.
            let log = self.log.lock();
            if log.is_long() {
                let most = log.ring_pages / 2;
                self.compact(checkpointer, log, most)?;
            }
        }
        done
    }

    /// The last checkpoint of an attach: nothing is left in the log.
    pub(super) fn checkpoint_clean(&self) -> Result<(), VolumeError> {
        self.check_writable()?;
        // Also if there is nothing to write: the state that is left here becomes the anchor.
        self.settle()?;
        let mut checkpointer = self.checkpointer.lock();
        let anchors = *self.anchors.lock();
        // Whichever of the two the key service has, the file as it is opens with it.
        let durable = &checkpointer.superblock;
        let opens = [durable.state, durable.confirmed, durable.offered];
        let anchored = opens.contains(&anchors.confirmed) && opens.contains(&anchors.offered);
        let log_empty = self.log.lock().used() == 0;
        if !self.has_changes(&checkpointer) && checkpointer.superblock.clean && log_empty && anchored {
            return Ok(());
        }
        checkpointer.closing = true;
        self.exclusive_locked(&mut checkpointer, true, &mut |_, _| Ok(()))
    }

    /// Makes a structural change while nobody writes: what is dirty is merged beforehand, so that the pause is short.
    pub(super) fn exclusive(&self, edit: &mut Edit<'_>) -> Result<(), VolumeError> {
        self.check_writable()?;
        self.settle()?;
        let mut checkpointer = self.checkpointer.lock();
        self.exclusive_locked(&mut checkpointer, false, edit)
    }

    pub(super) fn exclusive_locked(
        &self,
        checkpointer: &mut Checkpointer,
        clean: bool,
        edit: &mut Edit<'_>,
    ) -> Result<(), VolumeError> {
        if self.has_changes(checkpointer) {
            self.checkpoint_locked(checkpointer)?;
        }
        let mut log = self.log.lock();
        let gate = self.gate.write();
        let gate = self.cut_keeping(checkpointer, &mut log, gate)?;
        let done = self.finish(checkpointer, Some((&mut log, &gate)), clean, edit);
        drop(gate);
        done
    }

    /// The cut. Every writer that holds the gate has put its entries into the dirty map and the pending group when this gets it, and the slots
    /// of those who are in the midst of a write are left out, so the bitmaps of this moment call exactly those slots used that something
    /// refers to.
    fn cut(
        &self,
        checkpointer: &mut Checkpointer,
        log: &mut Log,
        gate: RwLockWriteGuard<'_, ()>,
    ) -> Result<(), VolumeError> {
        self.check_cut(log)?;
        checkpointer.gave = self.gave.load(Ordering::Acquire);
        let group = self.freeze();
        // Writers go on. What they write now belongs to the next group.
        drop(gate);
        self.log_cut(checkpointer, log, group)
    }

    /// The same, and nobody writes until the caller lets go of the gate.
    fn cut_keeping<'a>(
        &self,
        checkpointer: &mut Checkpointer,
        log: &mut Log,
        gate: RwLockWriteGuard<'a, ()>,
    ) -> Result<RwLockWriteGuard<'a, ()>, VolumeError> {
        self.check_cut(log)?;
        let group = self.freeze();
        self.log_cut(checkpointer, log, group)?;
        Ok(gate)
    }

    /// Whether there may be a cut: nothing is frozen, as it stays where writing has stopped, and the log takes the pending group. It keeps room for
    /// one cut; after a few that found no space for their checkpoints there may be none. The caller keeps writers away.
    fn check_cut(&self, log: &Log) -> Result<(), VolumeError> {
        self.check_writable()?;
        let pending = self.pending.lock().len();
        if pending > 0 && pages_for(pending) > log.free() { Err(VolumeError::NoSpace) } else { Ok(()) }
    }

    fn freeze(&self) -> (super::commit::Pending, Vec<u64>) {
        let group = self.take_pending();
        let discarded = std::mem::take(&mut *self.deferred.lock());
        self.dirty.freeze();
        self.alloc.begin_cut(&self.store);
        (group, discarded)
    }

    fn log_cut(
        &self,
        checkpointer: &mut Checkpointer,
        log: &mut Log,
        (mut group, mut discarded): (super::commit::Pending, Vec<u64>),
    ) -> Result<(), VolumeError> {
        // These are still taken in the bitmaps of the cut, so it is this checkpoint that frees them.
        let freed = std::mem::take(&mut group.replaced);
        discarded.append(&mut group.discarded);
        // It is in the log although the superblock will contain it: until that is durable, recovery needs it.
        self.commit_group(log, group)?;
        let frozen = OnceCell::new();
        checkpointer.cut = Some(Cut { state: log.state, log_head: log.next, freed, discarded, frozen });
        Ok(())
    }

    /// Writes the checkpoint of the cut that stands, and publishes it. If the host is full the cut is undone; the log keeps everything until
    /// there is another. After another failure that may pass it stays, and the next checkpoint begins with it. `held` is what the caller holds.
    fn finish(
        &self,
        checkpointer: &mut Checkpointer,
        held: Option<(&mut Log, &RwLockWriteGuard<'_, ()>)>,
        clean: bool,
        edit: &mut Edit<'_>,
    ) -> Result<(), VolumeError> {
        if !std::mem::replace(&mut checkpointer.places_complete, true) {
            self.alloc.complete_places(&self.store);
        }
        let portion = if held.is_some() { Portion::Pressing } else { Portion::All };
        let mut built = match self.build(checkpointer, portion, edit) {
            Ok(built) => built,
            Err(VolumeError::NoSpace) => {
                let gate = if held.is_some() { None } else { Some(self.gate.write()) };
                self.undo_cut(checkpointer, gate);
                return Err(VolumeError::NoSpace);
            }
            Err(error) => return Err(error),
        };
        let cut = checkpointer.cut.as_ref().expect("the caller made one");
        let state = match &built.plan.event {
            // The caller holds the log, so no group comes between the cut and this.
            Some(event) => {
                let keys = self.store.keys.now();
                let chain = keys.newest().chain_event(&cut.state.chain, event);
                Anchor { commit: cut.state.commit + 1, chain }
            }
            None => cut.state,
        };
        let log_head = cut.log_head;
        let mut least_commit = state.commit;
        if !built.work.carried.is_empty() {
            match self.carry_over(&built.work.carried) {
                Ok(commit) => least_commit = commit,
                Err(error) => {
                    built.work.abandon(self);
                    return Err(error);
                }
            }
        }
        // Barrier one: data, log and pages are durable before anything refers to them.
        self.store.sync().map_err(|error| self.poison(error))?;
        let superblock = Superblock {
            log_head: self.log_head(log_head),
            least_commit,
            clean,
            ..self.superblock_after(&checkpointer.superblock, &built, state)
        };
        if !self.store.protections.has(Protection::ReuseAfterCheckpoint)
            && let Some(prepared) = built.prepared.take()
        {
            self.alloc.commit(&self.store, prepared, built.work.freed());
        }
        // With it comes barrier two.
        self.write_superblock(&superblock)?;
        count(&self.store.counters.checkpoints, 1);
        match held {
            Some((log, _)) => self.publish(checkpointer, superblock, built, |publish| publish(log)),
            None => self.publish(checkpointer, superblock, built, |publish| publish(&mut self.log.lock())),
        }
        Ok(())
    }

    fn superblock_after(&self, before: &Superblock, built: &Built, state: Anchor) -> Superblock {
        let Built { plan, tables, prepared, .. } = built;
        let prepared = prepared.as_ref().expect("nothing is free before there is a superblock");
        let anchors = *self.anchors.lock();
        Superblock {
            generation: before.generation + 1,
            state,
            log_head: before.log_head,
            blocks: plan.root.blocks,
            height: plan.root.height,
            root: plan.root.entry,
            file_slots: prepared.file_slots,
            // A hostile bitmap may count more.
            used_slots: prepared.used.min(prepared.file_slots),
            next_epoch: self.next_epoch(),
            epochs: tables.directory,
            versions: tables.version_pages.clone(),
            confirmed: anchors.confirmed,
            offered: anchors.offered,
            least_commit: state.commit,
            clean: false,
            upper_allocation: prepared.upper.clone(),
            task: plan.task,
            base_copied: plan.base_copied,
        }
    }

    /// The superblock is durable: everybody sees what it says, and what it frees is free.
    fn publish(
        &self,
        checkpointer: &mut Checkpointer,
        superblock: Superblock,
        built: Built,
        with_log: impl FnOnce(&dyn Fn(&mut Log)),
    ) {
        let Built { plan, part, tables, prepared, mut work } = built;
        // The root comes before the frozen entries go: whoever misses a block there finds it in the map.
        if !self.store.protections.has(Protection::RootBeforeEntriesGo) {
            self.dirty.clear_frozen();
        }
        *self.root.write() = plan.root;
        *self.versions.write() = plan.versions;
        if part == ALL {
            self.dirty.clear_frozen();
        } else {
            self.dirty.clear_frozen_within(&part);
        }
        if checkpointer.closing {
            work.punch_old_pages(self);
        }
        // Holes are punched before anybody can take the slots.
        for (slot, slots) in work.punched_runs() {
            if self.store.check_ours().is_err() {
                break;
            }
            if let Err(error) = self.store.backing.punch(slot * BLOCK_BYTES, slots * BLOCK_BYTES) {
                tracing::warn!(volume = %self.store.uuid, %error, "discarded space could not be given back to the host");
                break;
            }
        }
        if let Some(prepared) = prepared {
            self.alloc.commit(&self.store, prepared, work.freed());
        }
        with_log(&|log| {
            log.head = superblock.log_head.sequence;
            if plan.event.is_some() {
                log.state = superblock.state;
            }
        });
        let trash = plan.root.entry.aux() != 0
            || self.versions.read().iter().any(|version| version.state == VersionState::Trash);
        self.signals.set_trash(trash, !work.waits_for_reads());
        checkpointer.superblock = superblock;
        checkpointer.tables = tables;
        checkpointer.cut = None;
    }

    /// Everything that the superblock refers to goes to free slots. If the host has no space for that, it goes to those that are kept for it;
    /// and if that does not do either, whoever comes next asks the host anew.
    ///
    /// While the caller holds the log nothing can be put into it, and while nobody writes nothing is freed that can be freed another time.
    fn build(
        &self,
        checkpointer: &Checkpointer,
        portion: Portion,
        edit: &mut Edit<'_>,
    ) -> Result<Built, VolumeError> {
        let cut = checkpointer.cut.as_ref().expect("the caller made one");
        let carried = if matches!(portion, Portion::All) { self.limits.carried } else { 0 };
        let work = || Work::new(&cut.freed, &cut.discarded).carrying(carried);
        let mut built = self.build_with(checkpointer, work(), portion, edit);
        if self.alloc.is_full() {
            built = built.and_then(|built| self.check_spare(built));
        }
        if matches!(built, Err(VolumeError::NoSpace)) {
            self.alloc.try_otherwise();
            built = self.build_with(checkpointer, work().using_reserve(), portion, edit);
            built = built.and_then(|built| self.check_spare(built));
        }
        built.map_err(|error| match error {
            VolumeError::NoSpace => {
                self.alloc.retry_growth();
                error
            }
            VolumeError::Io(_) => self.poison(error),
            other => other,
        })
    }

    fn build_with(
        &self,
        checkpointer: &Checkpointer,
        mut work: Work,
        portion: Portion,
        edit: &mut Edit<'_>,
    ) -> Result<Built, VolumeError> {
        let frozen = self.frozen(checkpointer);
        let (part, trash) = match portion {
            Portion::All => (ALL, self.limits.trash),
            Portion::Pressing => (ALL, 0),
            Portion::Leaves { start, leaves } => (start..frozen.end_of(start, leaves), self.limits.trash),
        };
        if part != ALL {
            work = work.leaving(self.dirty.frozen_slots_outside(&part));
        }
        let changes = (frozen.blocks_within(&part), &frozen.holes.clipped(part.clone()));
        match self.build_pages(checkpointer, &mut work, changes, trash, edit) {
            Ok((plan, tables, prepared)) => Ok(Built { plan, part, tables, prepared: Some(prepared), work }),
            Err(error) => {
                work.abandon(self);
                Err(error)
            }
        }
    }

    fn build_pages(
        &self,
        checkpointer: &Checkpointer,
        work: &mut Work,
        (items, holes): (&[u64], &RangeSet),
        mut budget: usize,
        edit: &mut Edit<'_>,
    ) -> Result<(Plan, Tables, Prepared), VolumeError> {
        let old = self.root();
        let mut versions = self.versions.read().clone();
        let mut root = old;
        if !items.is_empty() || !holes.is_empty() || old.entry.aux() != 0 {
            let place = Place { level: old.height - 1, index: 0 };
            let references = references(&versions, None);
            let mut merge = Merge { core: self, holes, work, budget: &mut budget };
            root.entry = merge.subtree(place, old.entry, items, &references, false)?;
        }
        self.walk_trash(&root, &mut versions, work, &mut budget)?;
        let task = self.task_of(&checkpointer.superblock);
        let base_copied = checkpointer.superblock.base_copied;
        let mut plan = Plan { root, versions, task, base_copied, regions: Vec::new(), event: None };
        edit(&mut plan, work)?;
        work.flush(self)?;
        work.settle(self);
        let guarded = self.store.protections.has(Protection::SaltInTable);
        loop {
            // Whatever is sealed from here on must be of an epoch that the table has.
            if guarded {
                drop(self.store.epochs.take(1)?);
            }
            let mut attempt = work.for_tables();
            match self.build_tables(checkpointer, &plan, work, &mut attempt) {
                Ok((tables, prepared)) if !guarded || self.store.epochs.len() == tables.salts => {
                    work.absorb(attempt);
                    return Ok((plan, tables, prepared));
                }
                // An epoch began meanwhile: once more, with it.
                Ok(_) => attempt.abandon(self),
                Err(error) => {
                    attempt.abandon(self);
                    return Err(error);
                }
            }
        }
    }

    /// New pages must not take the last slots of a full host: with some left, what is discarded can always be carried out, which gives more.
    fn check_spare(&self, built: Built) -> Result<Built, VolumeError> {
        let (taken, freed) = (built.work.taken().len(), built.work.freed().len());
        let left = self.alloc.spare(&self.store).saturating_add(u64::try_from(freed).unwrap_or(u64::MAX));
        if taken <= freed || left >= self.alloc.least_spare() {
            return Ok(built);
        }
        built.work.abandon(self);
        Err(VolumeError::NoSpace)
    }

    fn build_tables(
        &self,
        checkpointer: &Checkpointer,
        plan: &Plan,
        work: &Work,
        attempt: &mut Work,
    ) -> Result<(Tables, Prepared), VolumeError> {
        let generation = checkpointer.superblock.generation;
        let tables = self.write_tables(&checkpointer.tables, generation, &plan.versions, attempt)?;
        attempt.settle(self);
        let union = |left: &[u64], right: &[u64]| {
            let mut both = [left, right].concat();
            both.sort_unstable();
            both
        };
        let taken = union(work.taken(), attempt.taken());
        let freed = union(work.freed(), attempt.freed());
        Ok((tables, self.alloc.prepare(&self.store, &taken, &freed, work.left(), &plan.regions)?))
    }

    fn log_head(&self, sequence: u64) -> LogHead {
        let ring = self.header.lock().ring_pages;
        LogHead { page: sequence % ring, sequence }
    }

    fn next_epoch(&self) -> u32 {
        u32::try_from(self.store.epochs.len() + 1).unwrap_or(u32::MAX)
    }

    /// Both copies, to the places of the generation before the last, then the barrier. If none survives, the last generation counts,
    /// and nothing that it refers to has been touched.
    fn write_superblock(&self, superblock: &Superblock) -> Result<(), VolumeError> {
        if self.store.protections.has(Protection::FailedSyncLasts) {
            self.check_writable()?;
        }
        let payload = superblock.encode();
        // What nobody could read again must not take the place of what can be read.
        Superblock::decode(&payload).map_err(|error| self.poison(error.into()))?;
        let ring = self.store.keys.now();
        let keys = ring.of_generation(superblock.generation);
        let sealed = keys.seal_table(TablePurpose::Superblock, &payload, &*self.store.entropy);
        let page = sealed.map_err(|error| self.poison(error.into()))?;
        count(&self.store.counters.seals, 1);
        let copies = if self.store.protections.has(Protection::SecondCopy) { 2 } else { 1 };
        for &slot in &SUPERBLOCK_SLOTS[usize::from(superblock.generation % 2 == 1)][..copies] {
            self.store.write(page.as_ref(), slot).map_err(|error| self.poison(error))?;
        }
        self.store.sync().map_err(|error| self.poison(error))
    }

    /// Before the first change of an attach: sees to it that the log has the room that a cut needs. An attach that ended after a cut and
    /// before its superblock has used that up, and all its groups are needed still; what this one changed would not find any.
    /// And that it names no slot that was cut off: the file may grow to it again, and until the log lets go of it nobody else may get it.
    pub(super) fn begin_with_room(&self, since: u64) -> Result<(), VolumeError> {
        let mut checkpointer = self.checkpointer.lock();
        if self.roomy.load(Ordering::Acquire) {
            return Ok(());
        }
        if self.names_lost || self.log.lock().free() < self.limits.log_reserve {
            self.attempt_since(&mut checkpointer, since)?;
        }
        self.roomy.store(true, Ordering::Release);
        Ok(())
    }

    /// Makes room in the dirty map: whoever finds it full waits for the checkpoint that runs, or runs one.
    pub(super) fn relieve(&self, since: u64) -> Result<(), VolumeError> {
        let mut checkpointer = self.checkpointer.lock();
        let full = self.is_dirty_full(usize::try_from(self.limits.chunk).unwrap_or(0));
        if full { self.attempt_since(&mut checkpointer, since) } else { Ok(()) }
    }

    /// Makes room in the log, at least `wanted` pages.
    pub(super) fn make_log_room(&self, wanted: u64, since: u64) -> Result<(), VolumeError> {
        let mut checkpointer = self.checkpointer.lock();
        self.check_writable()?;
        let log = self.log.lock();
        if log.free() >= wanted && !log.is_long() {
            return Ok(());
        }
        // Many tiny groups, few entries: it costs less to write the entries once more, densely, than to touch all their map pages. But only
        // a checkpoint frees what was discarded.
        let most = (log.ring_pages / 4).min(log.ring_pages.saturating_sub(wanted));
        let at_least = (self.dirty.active_len() + self.dirty.active_ranges()).div_ceil(LOG_PAGE_RECORDS);
        let few = u64::try_from(at_least).is_ok_and(|pages| pages <= most);
        if checkpointer.cut.is_none() && few && !self.is_crowded(1) {
            if self.compact(&mut checkpointer, log, most)? {
                return Ok(());
            }
        } else {
            drop(log);
        }
        match self.attempt_since(&mut checkpointer, since) {
            // On a full host it may be all that can be done.
            Err(VolumeError::NoSpace) if self.check_writable().is_ok() && checkpointer.cut.is_none() => {
                let log = self.log.lock();
                let most = (log.ring_pages / 2).min(log.ring_pages.saturating_sub(wanted));
                if self.compact(&mut checkpointer, log, most)? { Ok(()) } else { Err(VolumeError::NoSpace) }
            }
            other => other,
        }
    }

    /// Log compaction: the dirty entries once more, densely, as one group, and a superblock that lets the log begin with it. Whether
    /// the dense group takes at most `most` pages, and there was room for both the pending group and it; if not, nothing has happened.
    fn compact(
        &self,
        checkpointer: &mut Checkpointer,
        mut log: MutexGuard<'_, Log>,
        most: u64,
    ) -> Result<bool, VolumeError> {
        let generation = checkpointer.superblock.generation;
        if self.store.keys.now().differ(generation, generation + 1) {
            // The tables must be written anew, which this does not do.
            return Ok(false);
        }
        let (group, entries, holes) = {
            let _gate = self.gate.write();
            // Counted behind the gate, where nobody adds to them.
            let (entries, holes) = self.dirty.active();
            let dense = dense_pages(&entries, holes.len());
            let pending = {
                let pending = self.pending.lock();
                if pending.len() == 0 { 0 } else { pages_for(pending.len()) }
            };
            if has_lost(&entries) || dense > most || pending + dense > log.free() {
                return Ok(false);
            }
            (self.take_pending(), entries, holes)
        };
        // First the group that was pending: then the data of every entry is durable, and recovery need not look at it again.
        self.commit_group(&mut log, group)?;
        let (before, head) = (log.state, log.next);
        let changes = dense(entries, &holes);
        if !changes.is_empty() {
            // The new group must be durable before a superblock lets go of the old ones, and before it becomes an anchor.
            log.append_durably(&self.store, &changes, self.hole, true).map_err(|error| self.poison(error))?;
        }
        let anchors = *self.anchors.lock();
        let superblock = Superblock {
            generation: checkpointer.superblock.generation + 1,
            state: before,
            log_head: self.log_head(head),
            next_epoch: self.next_epoch(),
            confirmed: anchors.confirmed,
            offered: anchors.offered,
            // The map lacks what the new group holds: a log that ends before it was cut off.
            least_commit: log.state.commit,
            clean: false,
            ..checkpointer.superblock.clone()
        };
        self.write_superblock(&superblock)?;
        checkpointer.superblock = superblock;
        log.head = head;
        count(&self.store.counters.compactions, 1);
        // The next pieces have room in the log.
        self.gave.fetch_add(1, Ordering::Release);
        Ok(true)
    }
}

/// What no record of the log says: only a page of the map does.
fn has_lost(entries: &[(u64, Entry)]) -> bool {
    entries.iter().any(|(_, entry)| is_lost(entry))
}

/// Entries, and the ranges that they are newer than, as one group.
fn dense(mut entries: Vec<(u64, Entry)>, holes: &RangeSet) -> Vec<Change> {
    // Records of one page share their epoch: sorted by block alone, the entries of an attach and of the one before would alternate.
    entries.sort_unstable_by_key(|(block, entry)| (entry.epoch(), *block));
    let holes = holes.iter().map(|range| Change::Hole(range.start, range.end - range.start));
    holes.chain(entries.into_iter().map(|(block, entry)| Change::Block(block, entry))).collect()
}
