//! The whole volume walked: every reachable block and page verified, and the bitmaps held against what is reachable.
//!
//! What is reachable is noted in a bitmap for each region. Of a volume of many terabytes they do not fit in memory (F6): then the map is walked again
//! for the regions behind those that did, without the data. Nothing that is durable changes meanwhile.

use std::collections::BTreeMap;
use std::sync::Arc;

use uuid::Uuid;

use super::alloc::Bitmap;
use super::core::{Core, Root};
use super::dirty::BlockMap;
use super::error::{Damage, VolumeError};
use super::map::{DEAD, is_lost, span};
use super::merge::{Place, Reference, child_references, held, reference_of, references, references_at};
use super::report::{BadBlock, CheckReport};
use crate::format::layout::{BLOCK, FANOUT, REGION_SLOTS, RING_START};
use crate::format::{Entry, Kind, VersionRecord, VersionState};

/// How many bad places a report names.
const NAMED: usize = 1000;

/// Bytes that a region takes here.
const REGION_COST: u64 = 4096 + 128;

/// How many regions a check has in memory at once.
pub(super) fn regions_within(memory: u64) -> usize {
    usize::try_from(memory / REGION_COST).unwrap_or(usize::MAX).max(1)
}

/// Slots of a region that something refers to, and how often that is one that something else refers to already.
struct Region {
    bits: Bitmap,
    twice: u64,
}

/// Slots that something refers to, of some of the regions.
struct Reached {
    regions: BTreeMap<u64, Region>,
    /// So many at most.
    most: usize,
    /// The regions of this walk: the later ones are for another.
    from: u64,
    end: u64,
    /// Slots of the file: what an entry names behind its end takes no memory here. It is found bad when it is read.
    file: u64,
}

impl Reached {
    fn mark(&mut self, slot: u64) {
        let number = slot / REGION_SLOTS;
        if slot >= self.file || number < self.from || number >= self.end {
            return;
        }
        if self.regions.len() >= self.most && !self.regions.contains_key(&number) {
            let last = *self.regions.keys().next_back().expect("there is one at least");
            self.end = last.max(number);
            if number > last {
                return;
            }
            self.regions.remove(&last);
        }
        let region = self.regions.entry(number).or_insert_with(|| Region { bits: Bitmap::empty(), twice: 0 });
        if region.bits.is_set(slot % REGION_SLOTS) {
            region.twice += 1;
        }
        region.bits.set(slot % REGION_SLOTS);
    }
}

struct Check<'a> {
    core: &'a Core,
    report: CheckReport,
    reached: Reached,
    progress: &'a mut dyn FnMut(u64, u64),
    done: u64,
    total: u64,
    /// The tree that is walked: a snapshot, or the volume itself.
    snapshot: Option<Uuid>,
    /// Trash is only counted, and only from here on.
    trash_from: Option<u64>,
    /// Not the first walk: all was verified, but slots were left out.
    again: bool,
    /// Pages of the map that this walk could not read.
    unread: u64,
    buffer: Vec<u8>,
}

impl Check<'_> {
    fn bad(&mut self, block: u64, count: u64, page_level: Option<u8>, reason: Damage) {
        self.report.bad_count += 1;
        if self.report.bad.len() < NAMED {
            self.report.bad.push(BadBlock { block, count, snapshot: self.snapshot, page_level, reason });
        }
    }

    fn step(&mut self, slots: u64) {
        self.done += slots;
        (self.progress)(self.done.min(self.total), self.total);
    }

    fn page(&mut self, place: Place, entry: Entry, dead: bool, references: &[Reference]) {
        let from = self.trash_from.unwrap_or(0);
        if entry.kind() != Kind::Page || place.blocks().end <= from {
            return;
        }
        let sharing = self.core.sharing(references, &entry, place.level, place.index);
        if sharing.below {
            return;
        }
        let dead = dead || entry.aux() == DEAD;
        if !sharing.page && !is_lost(&entry) {
            self.reached.mark(entry.slot());
        }
        let page = match self.core.page(place.level, place.index, &entry, false) {
            Ok(page) => page,
            Err(reason) => {
                self.unread += 1;
                if !self.again {
                    self.bad(place.blocks().start, span(place.level), Some(place.level), reason);
                }
                return;
            }
        };
        if !self.again {
            self.report.pages += 1;
            self.step(1);
        }
        let pages = self.core.reference_pages(references, place.level, place.index).unwrap_or_default();
        if place.level > 0 {
            for child in 0..FANOUT {
                let references = child_references(&pages, place.index, child);
                self.page(place.child(child), page.entry(child), dead, &references);
            }
            return;
        }
        let first = place.blocks().start;
        let mut entries = [Entry::ABSENT; FANOUT];
        for (number, block) in place.blocks().enumerate() {
            let entry = page.entry(number);
            if entry.is_data() && block >= from && !held(&pages, number, block, entry.slot()) {
                if !is_lost(&entry) {
                    self.reached.mark(entry.slot());
                }
                entries[number] = entry;
            }
        }
        // What was discarded or deleted takes slots until it is freed, but nobody reads it.
        if !dead && self.trash_from.is_none() && !self.again {
            self.data(first, &entries);
        }
    }

    /// Verifies the data of consecutive blocks; slots in a row are read together.
    fn data(&mut self, first: u64, entries: &[Entry]) {
        let mut at = 0;
        while at < entries.len() {
            let block = first + u64::try_from(at).expect("below 128");
            if !entries[at].is_data() {
                at += 1;
                continue;
            }
            let in_row =
                |(place, entry): (u64, &Entry)| entry.is_data() && entry.slot() == entries[at].slot() + place;
            let run = (0..).zip(&entries[at..]).take_while(|pair| in_row(*pair)).count();
            let mut buffer = std::mem::take(&mut self.buffer);
            buffer.resize(run * BLOCK, 0);
            let read = self.core.store.read(&mut buffer, entries[at].slot());
            for ((block, entry), bytes) in
                (block..).zip(&entries[at..at + run]).zip(buffer.as_chunks_mut::<BLOCK>().0)
            {
                let verified = match read {
                    Ok(()) => Ok(()),
                    Err(_) => self.core.store.read(bytes.as_mut_slice(), entry.slot()),
                };
                match verified.and_then(|()| self.core.store.open_data(entry, block, bytes.as_mut_slice())) {
                    Ok(()) => self.report.blocks += 1,
                    Err(reason) => self.bad(block, 1, None, reason),
                }
            }
            self.buffer = buffer;
            at += run;
            self.step(u64::try_from(run).expect("at most 128"));
        }
    }
}

impl Check<'_> {
    /// The volume's tree, and those of its snapshots and of what waits to be freed.
    fn trees(&mut self, root: &Root, versions: &[VersionRecord]) {
        self.page(Place { level: root.height - 1, index: 0 }, root.entry, false, &[]);
        for (number, version) in versions.iter().enumerate() {
            // What an earlier tree shares was verified there.
            let mut earlier = references(&versions[..number], None);
            earlier.extend(reference_of(root));
            self.snapshot = (version.state == VersionState::Snapshot).then_some(version.id);
            self.trash_from = (version.state == VersionState::Trash).then_some(version.cursor);
            let place = Place { level: version.height - 1, index: 0 };
            let earlier = references_at(self.core, earlier, place.level).unwrap_or_default();
            self.page(place, version.root, false, &earlier);
        }
        (self.snapshot, self.trash_from) = (None, None);
    }

    /// Verifies what is not in the map yet.
    fn newest(&mut self, block: u64, entry: &Entry) {
        let bad = self.report.bad_count;
        self.data(block, &[*entry]);
        // It may have been overwritten since.
        if self.report.bad_count > bad && self.core.resolve_one(block).is_ok_and(|now| now != *entry) {
            self.report.bad_count = bad;
            self.report.bad.truncate(usize::try_from(bad).unwrap_or(NAMED));
        }
    }
}

impl Core {
    /// Readers and writers go on meanwhile, but no checkpoint runs: who fills the dirty map waits.
    ///
    /// It begins with a checkpoint, so that the report is about the map. Where there is no space for one, or a page above what is dirty cannot be
    /// read, a report is wanted all the more: what is not in the map is looked at where it is.
    pub(super) fn check(&self, progress: &mut dyn FnMut(u64, u64)) -> Result<CheckReport, VolumeError> {
        if !self.read_only {
            match self.checkpoint() {
                Ok(()) => {}
                Err(error @ (VolumeError::NoSpace | VolumeError::DamagedPage { .. })) => {
                    self.check_writable()?;
                    tracing::warn!(volume = %self.store.uuid, %error, "the check goes on without a checkpoint");
                }
                Err(error) => return Err(error),
            }
        }
        let checkpointer = self.checkpointer.lock();
        // One moment for all: bitmaps, dirty entries, and the slots that wait to be freed.
        let (bits, dirty, waiting) = {
            let _alone = self.alone();
            let pending = self.pending.lock();
            let mut waiting =
                [&pending.replaced[..], &pending.discarded[..], &self.deferred.lock()[..]].concat();
            waiting.extend(checkpointer.waiting());
            let dirty = [self.dirty.active().0, self.dirty.frozen_outside(&(0..0)).0].concat();
            (self.alloc.loaded_bitmaps(), dirty, waiting)
        };
        let root = self.root();
        let versions = self.versions.read().clone();
        let ((file, total), regions) = (self.alloc.totals(), self.alloc.regions());
        let mut check = Check {
            core: self,
            report: CheckReport::default(),
            reached: Reached {
                regions: BTreeMap::new(),
                most: self.limits.check,
                from: 0,
                end: regions,
                file,
            },
            progress,
            // Header, superblocks and log were read when the volume was opened.
            done: RING_START + self.header.lock().ring_pages,
            total,
            snapshot: None,
            trash_from: None,
            again: false,
            unread: 0,
            buffer: Vec::new(),
        };
        let (good, bad) = self.alloc.verify(&self.store);
        let mut unread = None;
        while check.reached.from < regions {
            checkpointer
                .tables
                .slots()
                .chain(waiting.iter().copied())
                .for_each(|slot| check.reached.mark(slot));
            check.trees(&root, &versions);
            for (block, entry) in dirty.iter().filter(|(_, entry)| entry.is_data()) {
                if !is_lost(entry) {
                    check.reached.mark(entry.slot());
                }
                if !check.again {
                    check.newest(*block, entry);
                }
            }
            let Check { report, reached, .. } = &mut check;
            self.compare_bitmaps(&bits, reached, report);
            // What a later walk cannot read that the first one read is bad as well.
            check.report.bad_count += check.unread.saturating_sub(*unread.get_or_insert(check.unread));
            (check.reached.from, check.reached.end) = (check.reached.end, regions);
            check.reached.regions.clear();
            (check.again, check.unread) = (true, 0);
        }
        let Check { mut report, progress, total, .. } = check;
        report.pages += good;
        report.bad_allocation_pages = bad;
        progress(total, total);
        drop(checkpointer);
        Ok(report)
    }

    /// Holds the bitmaps of a walk's regions against what it reached.
    fn compare_bitmaps(&self, bits: &BlockMap<Arc<Bitmap>>, reached: &Reached, report: &mut CheckReport) {
        for number in reached.from..reached.end {
            let reached = reached.regions.get(&number);
            report.shared_slots += reached.map_or(0, |region| region.twice);
            // What was not in memory then has not changed in the file since.
            let stored = bits.get(&number).map_or_else(
                || self.alloc.durable_bitmap(&self.store, number).map(Arc::new),
                |bits| Ok(Arc::clone(bits)),
            );
            // A damaged one is counted elsewhere.
            let Ok(stored) = stored else { continue };
            let mut expected = self.alloc.fresh(number);
            if let Some(region) = reached {
                report.shared_slots += expected.count_common(&region.bits);
                expected.add(&region.bits);
            }
            report.leaked_slots += stored.count_not_in(&expected);
            report.unaccounted_slots += expected.count_not_in(&stored);
        }
    }
}
