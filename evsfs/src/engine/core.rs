//! What the parts of the engine share.
//!
//! Locks, in the order in which they may be taken: that of a step of `task`, `checkpointer`, `log`, `writing`, `gate`, a shard of
//! `dirty`, `pending`, `header`, and last those inside `alloc`, `cache` and `store`. Readers take none but the shard's.

use std::sync::Arc;
use std::time::Duration;

use super::alloc::Allocator;
use super::cache::PageCache;
use super::checkpoint::Checkpointer;
use super::commit::{Log, Pending};
use super::dirty::DirtyMap;
use super::error::VolumeError;
use super::params::BaseImage;
use super::ration::Ration;
use super::report::Stats;
use super::store::Store;
use super::task::Running;
use super::worker::Signals;
use crate::format::layout::BLOCK_BYTES;
use crate::format::{Anchor, Entry, Header, VersionRecord};
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::sync::{Mutex, MutexGuard, RwLock, RwLockWriteGuard, patiently, write_within};

/// The map that the durable superblock names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Root {
    pub(super) entry: Entry,
    pub(super) height: u8,
    /// Size of the volume in blocks.
    pub(super) blocks: u64,
}

/// What the key service knows, or may know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Anchors {
    /// It said that it stored this one.
    pub(super) confirmed: Anchor,
    /// The last one that was given out to be sent. While it is not confirmed no other is.
    pub(super) offered: Anchor,
}

impl Anchors {
    /// An offer whose fate is unknown stays, whatever older anchor is confirmed meanwhile, again and again.
    fn is_settled_by(&self, anchor: &Anchor) -> bool {
        self.offered == self.confirmed || self.offered == *anchor
    }

    /// The key service has `anchor`.
    pub(super) fn confirm(&mut self, anchor: Anchor) {
        if self.is_settled_by(&anchor) {
            self.offered = anchor;
        }
        self.confirmed = anchor;
    }
}

/// Bounds that are fixed when the volume is opened.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Dirty entries before a checkpoint.
    pub(super) dirty: usize,
    /// Records of a group.
    pub(super) group: usize,
    /// Blocks that are written in one go.
    pub(super) chunk: u64,
    /// Pages of trash that one checkpoint frees.
    pub(super) trash: usize,
    /// Entries that a checkpoint leaves in the dirty map at most, because the host fails to read the page above them.
    pub(super) carried: usize,
    /// Log pages that only a checkpoint or a compaction may use.
    pub(super) log_reserve: u64,
    /// Slots of discarded blocks that wait for a checkpoint before one is made for them.
    pub(super) deferred: usize,
    /// Regions that a check has in memory at once.
    pub(super) check: usize,
}

/// Nobody changes anything.
pub(super) struct Alone<'a> {
    _gate: RwLockWriteGuard<'a, ()>,
    _writing: RwLockWriteGuard<'a, ()>,
    _log: MutexGuard<'a, Log>,
}

/// See the module.
pub(super) struct Core {
    pub(super) store: Store,
    pub(super) alloc: Allocator,
    pub(super) cache: PageCache,
    pub(super) dirty: DirtyMap,
    pub(super) pending: Mutex<Pending>,
    pub(super) log: Mutex<Log>,
    /// A writer holds it shared from the allocation of its slots to the insertion of their entries, while the host works, however long
    /// that takes. So only what seldom happens takes it whole, by [`Core::alone`] or [`Core::between_writes`].
    pub(super) writing: RwLock<()>,
    /// A writer holds it shared while it inserts its entries and its slots land; the cut takes it whole. So at the cut a slot is referred to,
    /// or its writer is in the midst of a write. Nobody holds it while the host works, but for a structural change.
    pub(super) gate: RwLock<()>,
    pub(super) root: RwLock<Root>,
    /// Snapshots and trash, as the durable superblock names them.
    pub(super) versions: RwLock<Vec<VersionRecord>>,
    /// Slots of discarded blocks that no recoverable state needs: the next checkpoint frees them and punches holes.
    pub(super) deferred: Mutex<Vec<u64>>,
    pub(super) anchors: Mutex<Anchors>,
    /// Whether this attach has synced before its first write.
    pub(super) settled: AtomicBool,
    /// Dirty entries that were recovered when the volume was opened: by an attach with more memory there may have been more than the limit.
    pub(super) recovered: usize,
    /// Whether the log named slots that were cut off, when the volume was opened.
    pub(super) names_lost: bool,
    /// Whether the log of this attach has had, once, the room that a cut needs, and names no slot that was cut off.
    pub(super) roomy: AtomicBool,
    /// Checkpoints that were begun.
    pub(super) attempts: AtomicU64,
    /// Goes up with whatever may give space to a checkpoint that found none: something was discarded, or slots became free.
    pub(super) gave: AtomicU64,
    /// Whether a copy of the header is not the one that counts.
    pub(super) stale_header: AtomicBool,
    pub(super) checkpointer: Mutex<Checkpointer>,
    pub(super) task: Running,
    pub(super) header: Mutex<Header>,
    pub(super) limits: Limits,
    /// How a discarded block is recorded: absent, or zero if there is a base to hide.
    pub(super) hole: Entry,
    /// Whether there was a base when the volume was opened.
    pub(super) thin: bool,
    pub(super) base: RwLock<Option<Arc<dyn BaseImage>>>,
    pub(super) read_only: bool,
    pub(super) background: bool,
    /// How often the checkpointer looks after a volume that nobody writes to.
    pub(super) idle_round: Duration,
    pub(super) poisoned: AtomicBool,
    /// Damaged blocks that the log has heard of.
    pub(super) reported: Ration,
    pub(super) signals: Signals,
}

impl Core {
    pub(super) fn root(&self) -> Root {
        *self.root.read()
    }

    /// Size of the volume in bytes.
    pub(super) fn size(&self) -> u64 {
        self.root().blocks * BLOCK_BYTES
    }

    pub(super) fn check_range(&self, offset: u64, length: u64) -> Result<(), VolumeError> {
        let size = self.size();
        if offset.checked_add(length).is_some_and(|end| end <= size) {
            return Ok(());
        }
        Err(VolumeError::OutOfRange { offset, length, size })
    }

    /// Syncs once before the first write of this attach. Recovery may have read what is only in the host's cache (a process was killed
    /// before its barrier); what is built upon that could otherwise become durable without it.
    pub(super) fn settle(&self) -> Result<(), VolumeError> {
        if self.settled.load(Ordering::Acquire) {
            return Ok(());
        }
        self.store.sync().map_err(|error| self.poison(error))?;
        self.mend_header()?;
        self.settled.store(true, Ordering::Release);
        Ok(())
    }

    /// The anchor to send to the key service. Taken under the log's lock: a superblock that does not record it yet leaves it in the log.
    ///
    /// What recovery found may be in the host's cache only. Before it becomes an anchor it is made durable: else power could fail, and
    /// the file would be older than its anchor. Where that is not possible there is no other anchor to send than the one confirmed.
    pub(super) fn offer_anchor(&self) -> Anchor {
        let settled = !self.read_only && self.settle().is_ok();
        let log = self.log.lock();
        let mut anchors = self.anchors.lock();
        if settled && anchors.offered == anchors.confirmed {
            anchors.offered = log.state;
        }
        anchors.offered
    }

    /// Whether so many slots of discarded blocks wait to be freed that a checkpoint is worth it, or `times` as many.
    pub(super) fn is_crowded(&self, times: usize) -> bool {
        self.deferred.lock().len() > self.limits.deferred.saturating_mul(times)
    }

    /// Nobody is in the midst of a write, nor begins one. Others go on while this waits for somebody whom the host holds up.
    pub(super) fn between_writes(&self) -> RwLockWriteGuard<'_, ()> {
        patiently(|patience| write_within(&self.writing, patience))
    }

    /// The same, and nobody flushes, discards, or is in the midst of that.
    pub(super) fn alone(&self) -> Alone<'_> {
        let (log, writing) = patiently(|patience| {
            let log = self.log.lock();
            Some((log, write_within(&self.writing, patience)?))
        });
        Alone { _gate: self.gate.write(), _writing: writing, _log: log }
    }

    pub(super) fn check_writable(&self) -> Result<(), VolumeError> {
        if self.read_only {
            return Err(VolumeError::ReadOnly);
        }
        self.store.check_ours()?;
        if self.poisoned.load(Ordering::Acquire) {
            return Err(VolumeError::Poisoned);
        }
        Ok(())
    }

    /// Takes note that the volume is somebody else's now, or that the key service knows another history of it: whatever is written from
    /// now on would be lost, or harm the other (F12). Reads go on.
    pub(super) fn supersede(&self) {
        self.poisoned.store(true, Ordering::Release);
        self.store.barrier.supersede();
        self.signals.wake();
    }

    /// Takes note of a failure at a point after which nobody knows what the file holds: nothing is written from now on, for the
    /// kernel may have dropped the pages that it failed to write and call them clean (F11). Reads go on.
    pub(super) fn poison(&self, error: VolumeError) -> VolumeError {
        if !self.poisoned.swap(true, Ordering::AcqRel) {
            tracing::error!(volume = %self.store.uuid, %error, "writing stops until the volume is attached again");
        }
        self.signals.wake();
        error
    }

    /// See [`super::Volume::rest`].
    pub(super) fn rest(&self) {
        if self.running_task().is_none() {
            self.cache.clear();
            self.alloc.rest();
            if let Some(base) = self.base_now() {
                base.rest();
            }
        }
    }

    pub(super) fn stats(&self) -> Stats {
        let counters = &self.store.counters;
        let (file_slots, used_slots) = self.alloc.totals();
        let load = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        let number = |value: usize| u64::try_from(value).unwrap_or(u64::MAX);
        Stats {
            seals: load(&counters.seals),
            opens: load(&counters.opens),
            commits: load(&counters.commits),
            syncs: load(&counters.syncs),
            checkpoints: load(&counters.checkpoints),
            compactions: load(&counters.compactions),
            retried_reads: load(&counters.retried_reads),
            dirty_entries: number(self.dirty.len()),
            pending_records: number(self.pending.lock().len()),
            cached_pages: number(self.cache.len()),
            loaded_regions: number(self.alloc.loaded()),
            file_slots,
            used_slots,
            bytes_written: load(&counters.bytes_written),
            double_frees: load(&counters.double_frees),
            trash: self.signals.trash(),
        }
    }
}
