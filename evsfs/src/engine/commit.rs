//! Groups: what a flush makes durable (docs/volume-format.md, "Writing, in order", 2).

use std::collections::BTreeMap;
use std::time::Instant;

use super::core::Core;
use super::error::VolumeError;
use super::protection::Protection;
use super::store::{Store, count};
use crate::crypto::Chain;
use crate::format::layout::{BLOCK, RING_START};
use crate::format::{Anchor, Block, Entry, LOG_PAGE_RECORDS, LogPageHeader, LogRecord, seal_log_page};
use crate::sync::atomic::Ordering;

/// A change that is in the dirty map, but not in the log.
#[derive(Debug, Clone, Copy)]
pub(super) enum Change {
    /// The block has this entry now.
    Block(u64, Entry),
    /// So many blocks from the first were discarded.
    Hole(u64, u64),
}

/// The group that collects changes.
#[derive(Default)]
pub(super) struct Pending {
    /// Number of this group within the attach.
    number: u64,
    changes: Vec<Change>,
    /// Discarded ranges among them.
    holes: usize,
    /// Slots whose entries were replaced in the dirty map: nobody needs them once this group is durable.
    pub(super) replaced: Vec<u64>,
    /// The same for discarded blocks: the next checkpoint gives their space back to the host.
    pub(super) discarded: Vec<u64>,
    since: Option<Instant>,
}

impl Pending {
    pub(super) fn push(&mut self, change: Change) {
        if self.changes.is_empty() {
            self.since = Some(Instant::now());
        }
        self.holes += usize::from(matches!(change, Change::Hole(..)));
        self.changes.push(change);
    }

    pub(super) fn len(&self) -> usize {
        self.changes.len()
    }

    /// How many discarded ranges wait, those that touch counted each.
    pub(super) const fn holes(&self) -> usize {
        self.holes
    }

    /// When the oldest change came.
    pub(super) const fn since(&self) -> Option<Instant> {
        self.since
    }

    /// The group that a flush must wait for: this one, or if it is empty the one before.
    fn target(&self) -> u64 {
        if self.changes.is_empty() { self.number } else { self.number + 1 }
    }

    fn take(&mut self) -> Self {
        let next = Self { number: self.number + 1, ..Self::default() };
        std::mem::replace(self, next)
    }
}

/// The log ring and the end of the chain.
pub(super) struct Log {
    /// The last durable group and the chain value after it.
    pub(super) state: Anchor,
    /// Number of the next page.
    pub(super) next: u64,
    /// Number of the first page that the durable superblock needs.
    pub(super) head: u64,
    pub(super) ring_pages: u64,
    /// Groups of this attach that are durable.
    durable: u64,
    /// Where pages, and the records of one, are put together.
    pages: Vec<u8>,
    records: Vec<LogRecord>,
}

/// Pages for which memory is kept from one group to the next.
const PAGES_KEPT: usize = 8;

impl Log {
    pub(super) const fn new(state: Anchor, next: u64, head: u64, ring_pages: u64) -> Self {
        Self { state, next, head, ring_pages, durable: 0, pages: Vec::new(), records: Vec::new() }
    }

    /// Pages in use.
    pub(super) const fn used(&self) -> u64 {
        self.next - self.head
    }

    pub(super) const fn free(&self) -> u64 {
        self.ring_pages - self.used()
    }

    /// Whether it is time to let the log begin later.
    pub(super) const fn is_long(&self) -> bool {
        self.used() > self.ring_pages / 4 * 3
    }

    /// Writes a group behind the last one and gives the state after it. It counts once it is durable.
    fn append(
        &mut self,
        store: &Store,
        changes: &[Change],
        hole: Entry,
        compaction: bool,
    ) -> Result<Anchor, VolumeError> {
        let count_of = pages_of(changes);
        if u64::try_from(count_of).unwrap_or(u64::MAX) > self.free() {
            return Err(VolumeError::NoSpace);
        }
        let group = self.state.commit + 1;
        let mut chain = self.state.chain;
        let (mut bytes, mut records) = (std::mem::take(&mut self.pages), std::mem::take(&mut self.records));
        bytes.resize(count_of * BLOCK, 0);
        let mut rest = changes;
        for (place, page) in bytes.as_chunks_mut::<BLOCK>().0.iter_mut().enumerate() {
            let sequence = self.next + u64::try_from(place).expect("small");
            let last = place + 1 == count_of;
            let (count, epoch) = first_page(rest);
            let (here, after) = rest.split_at(count);
            rest = after;
            records.clear();
            records.extend(here.iter().map(|change| record_of(change, hole)));
            chain = seal_one(store, sequence, group, last, compaction, epoch, &records, &chain, page)?;
        }
        self.write_ring(store, &bytes)?;
        self.next += u64::try_from(count_of).expect("small");
        bytes.truncate(PAGES_KEPT * BLOCK);
        bytes.shrink_to(PAGES_KEPT * BLOCK);
        (self.pages, self.records) = (bytes, records);
        Ok(Anchor { commit: group, chain })
    }

    /// The same, and makes it durable, with whatever else was written: from then on it is the end of the chain. `repeats` says that the group holds
    /// what is durable already, in another place of the log.
    pub(super) fn append_durably(
        &mut self,
        store: &Store,
        changes: &[Change],
        hole: Entry,
        repeats: bool,
    ) -> Result<(), VolumeError> {
        let state = self.append(store, changes, hole, repeats)?;
        store.sync()?;
        // Only now: the key service may be told of it at any time, and must not hear of what the file may never have had.
        self.state = state;
        Ok(())
    }

    /// Pages are overwritten in the order of the ring. Those that this overwrites lie before the head of the durable superblock.
    fn write_ring(&self, store: &Store, bytes: &[u8]) -> Result<(), VolumeError> {
        let at = self.next % self.ring_pages;
        let until_wrap = usize::try_from(self.ring_pages - at).expect("small") * BLOCK;
        let (first, wrapped) = bytes.split_at(bytes.len().min(until_wrap));
        store.write(first, RING_START + at)?;
        if !wrapped.is_empty() {
            store.write(wrapped, RING_START)?;
        }
        Ok(())
    }
}

/// Pages that a group of so many changes takes at most; the two spare ones are for a change of epochs in its midst.
pub(super) fn pages_for(changes: usize) -> u64 {
    u64::try_from(changes.div_ceil(LOG_PAGE_RECORDS) + 2).unwrap_or(u64::MAX)
}

/// Pages that these entries, sorted by epoch, and so many holes take at most: each epoch begins a page of its own.
pub(super) fn dense_pages(entries: &[(u64, Entry)], holes: usize) -> u64 {
    let mut by_epoch: BTreeMap<u32, usize> = BTreeMap::new();
    for (_, entry) in entries {
        *by_epoch.entry(if entry.is_data() { entry.epoch() } else { 0 }).or_default() += 1;
    }
    *by_epoch.entry(0).or_default() += holes;
    let pages = by_epoch.values().map(|records| records.div_ceil(LOG_PAGE_RECORDS)).sum::<usize>();
    u64::try_from(pages).unwrap_or(u64::MAX)
}

/// How many of the first changes go into one page, and the epoch of their data: there is one for all of them. Holes have none (0) and go
/// with any.
fn first_page(changes: &[Change]) -> (usize, u32) {
    let mut of = 0;
    for (place, change) in changes.iter().enumerate() {
        let epoch = match change {
            Change::Block(_, entry) if entry.is_data() => entry.epoch(),
            Change::Block(..) | Change::Hole(..) => 0,
        };
        if place == LOG_PAGE_RECORDS || (epoch != 0 && of != 0 && of != epoch) {
            return (place, of);
        }
        of = of.max(epoch);
    }
    (changes.len(), of)
}

fn pages_of(mut changes: &[Change]) -> usize {
    let mut pages = 0;
    while !changes.is_empty() {
        changes = &changes[first_page(changes).0..];
        pages += 1;
    }
    pages
}

fn record_of(change: &Change, hole: Entry) -> LogRecord {
    match *change {
        Change::Block(lba, entry) if entry.is_data() => {
            LogRecord::Write { lba, slot: entry.slot(), counter: entry.counter(), tag: *entry.tag() }
        }
        Change::Block(lba, _) => hole_record(lba, 1, hole),
        Change::Hole(lba, count) => hole_record(lba, count, hole),
    }
}

fn hole_record(lba: u64, count: u64, hole: Entry) -> LogRecord {
    if hole.is_absent() { LogRecord::Unmap { lba, count } } else { LogRecord::Zero { lba, count } }
}

#[allow(clippy::too_many_arguments)] // the fields of one header
fn seal_one(
    store: &Store,
    sequence: u64,
    group: u64,
    last: bool,
    compaction: bool,
    record_epoch: u32,
    records: &[LogRecord],
    before: &Chain,
    page: &mut Block,
) -> Result<Chain, VolumeError> {
    let (epoch, mut nonces) = store.epochs.take(1)?;
    let nonce = nonces.next().expect("one was taken");
    let record_epoch = if record_epoch == 0 { epoch.id } else { record_epoch };
    let record_salt = store.epochs.salt(record_epoch).unwrap_or(epoch.salt);
    let header = LogPageHeader {
        last,
        compaction,
        count: 0,
        sequence,
        group,
        epoch: epoch.id,
        counter: 0,
        record_epoch,
        salt: epoch.salt,
        record_salt,
    };
    count(&store.counters.seals, 1);
    let link = store.link(before);
    let tag = seal_log_page(&header, records, &*epoch.keys.log, nonce, &store.uuid, &link, page);
    Ok(store.keys.now().of_epoch(epoch.id).chain_step(before, &tag))
}

impl Core {
    /// Makes every change that is in the dirty map now durable. Those who come while another commits are served by the next group,
    /// together.
    pub(super) fn commit(&self) -> Result<(), VolumeError> {
        let target = self.pending.lock().target();
        let since = self.attempts.load(Ordering::Acquire);
        loop {
            self.check_writable()?;
            let mut log = self.log.lock();
            if log.durable >= target {
                return Ok(());
            }
            let needed =
                pages_for(self.pending.lock().len() + usize::try_from(self.limits.chunk).unwrap_or(0));
            let wanted = (needed + self.limits.log_reserve).min(log.ring_pages);
            if log.free() < wanted {
                drop(log);
                self.make_log_room(wanted, since)?;
                continue;
            }
            let group = self.pending.lock().take();
            return self.commit_group(&mut log, group);
        }
    }

    /// Logs a group and, with one barrier, makes it durable together with its data, in whatever order the host writes them: if any of
    /// the data is missing, recovery finds that out and drops the group. So no page of a later group may be written before this
    /// barrier, and none is: the caller holds the log.
    pub(super) fn commit_group(&self, log: &mut Log, group: Pending) -> Result<(), VolumeError> {
        // Whoever had the log before may have failed to make his group durable: then none comes after it, and an empty one says nothing.
        if self.store.protections.has(Protection::FailedSyncLasts) {
            self.check_writable()?;
        }
        if group.changes.is_empty() {
            log.durable = log.durable.max(group.number + 1);
            // (Of what was carried over, or left by a cut that was undone: what is newer was durable by then.)
            self.let_go(&group.replaced, group.discarded);
            return Ok(());
        }
        log.append_durably(&self.store, &group.changes, self.hole, false)
            .map_err(|error| self.poison(error))?;
        log.durable = group.number + 1;
        count(&self.store.counters.commits, 1);
        // Only now: before, recovery could have gone back to a state that needs these.
        self.let_go(&group.replaced, group.discarded);
        if log.is_long() || self.is_crowded(1) {
            self.signals.wake();
        }
        Ok(())
    }

    /// What hides these slots is durable: they are free, or wait for the next checkpoint if they were discarded.
    pub(super) fn let_go(&self, replaced: &[u64], discarded: Vec<u64>) {
        if replaced.is_empty() && discarded.is_empty() {
            return;
        }
        self.alloc.free(&self.store, replaced);
        self.deferred.lock().extend(discarded);
        self.gave.fetch_add(1, Ordering::Release);
    }

    /// Takes the pending group whole. The caller holds the log.
    pub(super) fn take_pending(&self) -> Pending {
        self.pending.lock().take()
    }
}
