//! The volume as others see it.

use std::ops::Range;
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

use uuid::Uuid;

use super::alloc::{Allocator, Extent, FILE_SLOTS_MOST};
use super::cache::{PAGE_COST, PageCache};
use super::carry::CARRIED_MOST;
use super::check::regions_within;
use super::checkpoint::Checkpointer;
use super::commit::{Pending, pages_for};
use super::core::{Anchors, Core, Limits, Root};
use super::create::{create, header_is_stale};
use super::dirty::{DirtyMap, entries_within};
use super::epochs::Epochs;
use super::error::{CreateError, Damage, OpenError, VolumeError};
use super::params::{Anchor, BaseIdentity, BaseImage, CreateParams, OpenOptions};
use super::protection::{Protection, Protections};
use super::recovery::{check_anchor, newest_superblock, replay};
use super::report::{CheckReport, SnapshotInfo, Stats, TaskStatus};
use super::store::{Barrier, Counters, Keys, Store};
use super::tables::Tables;
use super::task::{Running, Step};
use super::worker::{self, Signals};
use crate::backing::Backing;
use crate::crypto::{Dek, Entropy, Keyring, Suite, VolumeKeys};
use crate::format::layout::{BLOCK_BYTES, GROUP_BLOCKS, RING_START};
use crate::format::{Entry, Header, LOG_PAGE_RECORDS, Superblock, TaskKind, VersionState, WrappedDekField};
use crate::sync::atomic::{AtomicBool, AtomicU64};
use crate::sync::{Mutex, RwLock};

/// Fewest dirty entries before a checkpoint, whatever the size of the volume.
const DIRTY_LEAST: u64 = 4096;
/// Slots of discarded blocks (256 MiB) that wait for a checkpoint at most before one is made for them.
const DEFERRED_MOST: usize = 65_536;
/// Writers that may be between admission and insertion at once, for which the log keeps room.
const WRITERS: u64 = 16;

/// An attached volume. All methods may be called from many threads at once. Dropping it without [`Self::close`] is what a crash
/// does: nothing more is written.
pub struct Volume {
    core: Arc<Core>,
    workers: Mutex<Vec<JoinHandle<()>>>,
    rollback: bool,
    ends_unread: bool,
}

/// Stops a volume's writing for good, when it turns out to be somebody else's to write to (F12).
#[derive(Clone)]
pub struct Brake(Weak<Core>);

impl Brake {
    /// From now on no write is taken and nothing is acknowledged; what has not become durable by now never does. Reads go on.
    pub fn pull(&self) {
        if let Some(core) = self.0.upgrade() {
            core.supersede();
        }
    }
}

impl Volume {
    /// Writes a new, empty volume into an empty backing. The header names ring and keys.
    ///
    /// # Errors
    /// If the size is not possible, the backing holds something, or the host fails. The file is not a volume then.
    pub fn create(
        backing: &dyn Backing,
        header: &Header,
        params: &CreateParams,
        keys: &VolumeKeys,
        entropy: &dyn Entropy,
    ) -> Result<(), CreateError> {
        create(backing, header, *params, keys, entropy)
    }

    /// Opens a volume and recovers the state of its last commit. Nothing is written by that, but background threads go on from there.
    ///
    /// # Errors
    /// If no superblock verifies, the state does not fit the anchor (F3), or the base is missing or another one.
    pub fn open(
        backing: Arc<dyn Backing>,
        header: Header,
        keys: impl Into<Keyring>,
        options: OpenOptions,
        entropy: Arc<dyn Entropy>,
    ) -> Result<Self, OpenError> {
        let volume = Self::open_idle(backing, header, keys, options, entropy)?;
        volume.start()?;
        Ok(volume)
    }

    /// The same without starting background threads: for who has something to settle before anything is written.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_idle(
        backing: Arc<dyn Backing>,
        header: Header,
        keys: impl Into<Keyring>,
        mut options: OpenOptions,
        entropy: Arc<dyn Entropy>,
    ) -> Result<Self, OpenError> {
        let ring: Keyring = keys.into();
        for keys in [ring.oldest(), ring.newest()] {
            if *keys.uuid() != header.uuid {
                return Err(OpenError::ForeignKeys { header: header.uuid, keys: *keys.uuid() });
            }
        }
        let switch = ring.switch();
        if header.next.as_ref().map(|next| next.switch) != switch {
            return Err(OpenError::KeysOfBoth { volume: header.uuid });
        }
        check_base(&header, options.base.as_ref())?;
        let keys = Arc::new(Keys::new(ring));
        let epochs =
            Epochs::new(Arc::clone(&keys), Arc::clone(&entropy), Vec::new(), options.seals_per_epoch);
        let uuid = header.uuid;
        #[cfg(feature = "sim")]
        let protections = Protections::without(options.omitted);
        #[cfg(not(feature = "sim"))]
        let protections = Protections::default();
        let counters = Counters::default();
        let barrier = Barrier::default();
        let store = Store { backing, uuid, keys, entropy, epochs, counters, protections, barrier };
        let found = store.backing.len().map_err(VolumeError::Io)?;
        let least = (RING_START + header.ring_pages) * BLOCK_BYTES;
        if found < least {
            return Err(OpenError::TooShort { volume: uuid, found, least });
        }
        let superblock = newest_superblock(&store)?;
        let (tables, salts) = Tables::read(&store, &superblock)?;
        for (epoch, salt) in (1..).zip(&salts) {
            store.epochs.learn(epoch, salt);
        }
        store.epochs.skip_to(superblock.next_epoch);
        if let Some(switch) = switch {
            store.epochs.skip_to(switch.epoch);
        }
        if header.base_copied
            && !superblock.base_copied
            && store.protections.has(Protection::BaseCopiedInSuperblock)
        {
            return Err(OpenError::BaseNotCopied { volume: uuid });
        }
        // What the superblock says counts: a header that still names a base is older.
        let copied = superblock.base_copied && store.protections.has(Protection::BaseCopied);
        options.base = options.base.take().filter(|_| header.base.is_some() && !copied);
        let hole = if options.base.is_some() { Entry::ZERO } else { Entry::ABSENT };
        let dirty = DirtyMap::new();
        let salvage = options.salvage && options.read_only;
        let replayed = replay(&store, &superblock, header.ring_pages, &dirty, hole, salvage)?;
        let descent = check_anchor(&store, &superblock, &replayed, &options)?;
        options.anchor = descent.anchor();
        let (rollback, ends_unread) = (descent.is_accepted(), replayed.is_unread);
        let core = Arc::new(assemble(store, header, superblock, tables, dirty, replayed.log, hole, options)?);
        Ok(Self { core, workers: Mutex::default(), rollback, ends_unread })
    }

    /// Starts the background threads that the options asked for. What was cut short goes on by itself.
    ///
    /// # Errors
    /// If the system gives no thread.
    pub fn start(&self) -> Result<(), VolumeError> {
        if self.core.background && !self.core.read_only {
            let started = worker::start(&self.core).map_err(VolumeError::Io)?;
            self.workers.lock().extend(started);
        }
        self.resume_task()
    }

    /// Whether it was opened although it is older than the key service's anchor, or does not descend from it.
    #[must_use]
    pub const fn is_rollback(&self) -> bool {
        self.rollback
    }

    /// Whether the state is that of before a place of the log that the host failed to read: later ones may have been acknowledged.
    #[must_use]
    pub const fn ends_unread(&self) -> bool {
        self.ends_unread
    }

    /// Size in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.core.size()
    }

    /// The header as it is in the file.
    #[must_use]
    pub fn header(&self) -> Header {
        self.core.header.lock().clone()
    }

    /// Fills `buf` from `offset`: any of both within the size.
    ///
    /// # Errors
    /// [`VolumeError::DamagedBlock`] or [`VolumeError::DamagedPage`] if what is stored does not verify: never wrong data.
    pub fn read(&self, offset: u64, buf: &mut [u8]) -> Result<(), VolumeError> {
        self.core.read(offset, buf)
    }

    /// Writes `data` at `offset`: any of both within the size. It is durable after [`Self::flush`]. Of a write that fails, each block
    /// is as before or as written.
    ///
    /// # Errors
    /// [`VolumeError::NoSpace`] if the host is full: nothing is lost, and writing may go on when there is space. After other
    /// failures of the host nothing more is written until the volume is opened again.
    pub fn write(&self, offset: u64, data: &[u8]) -> Result<(), VolumeError> {
        self.core.write(offset, data)
    }

    /// Discards a range: it reads as zeros afterwards, and its space goes back to the host with the next checkpoint.
    ///
    /// # Errors
    /// As [`Self::write`].
    pub fn discard(&self, offset: u64, len: u64) -> Result<(), VolumeError> {
        self.core.discard(offset, len)
    }

    /// Makes everything durable that was written before the call, with one barrier.
    ///
    /// # Errors
    /// If the host fails. Then nothing is known about what was written since the last flush, and nothing more is written.
    pub fn flush(&self) -> Result<(), VolumeError> {
        self.core.commit()
    }

    /// Brings everything from the log into the map and frees what that replaces. It also frees a piece of trash.
    ///
    /// # Errors
    /// As [`Self::flush`].
    pub fn checkpoint(&self) -> Result<(), VolumeError> {
        self.core.checkpoint()
    }

    /// The first byte at or after `offset` that is in a data block, if there is one.
    ///
    /// # Errors
    /// If a page of the map is damaged.
    pub fn next_data(&self, offset: u64) -> Result<Option<u64>, VolumeError> {
        self.core.next_data(offset)
    }

    /// The first byte at or after `offset` that is in a hole, or the size.
    ///
    /// # Errors
    /// If a page of the map is damaged.
    pub fn next_hole(&self, offset: u64) -> Result<u64, VolumeError> {
        self.core.next_hole(offset, u64::MAX)
    }

    /// The bytes at which blocks of a range begin whose newest state is in the log and not yet in the map, in order: they can be read although
    /// the page of the map above them is damaged.
    #[must_use]
    pub fn logged_within(&self, range: Range<u64>) -> Vec<u64> {
        let blocks = range.start.div_ceil(BLOCK_BYTES)..range.end.div_ceil(BLOCK_BYTES);
        self.core.dirty.entries_of(&blocks).into_iter().map(|block| block * BLOCK_BYTES).collect()
    }

    /// Grows the volume while it is in use. What is new was never written. Snapshots keep their size.
    ///
    /// # Errors
    /// [`VolumeError::WouldShrink`], [`VolumeError::BadSize`], or as [`Self::flush`].
    pub fn extend(&self, size: u64) -> Result<(), VolumeError> {
        self.core.extend(size)
    }

    /// Keeps the state of this moment, whatever the size, as a snapshot. `created` is in seconds since 1970. Asking again with the same id and
    /// name gives the same snapshot.
    ///
    /// # Errors
    /// If there are too many, the name does not fit, or as [`Self::flush`].
    pub fn snapshot(&self, name: &str, id: Uuid, created: u64) -> Result<SnapshotInfo, VolumeError> {
        self.core.snapshot(name, id, created)
    }

    /// All snapshots, the oldest first.
    #[must_use]
    pub fn snapshots(&self) -> Vec<SnapshotInfo> {
        self.core.snapshots()
    }

    /// Deletes a snapshot. What only it held is freed in the background (or by [`Self::checkpoint`], piece by piece).
    ///
    /// # Errors
    /// [`VolumeError::NoSuchSnapshot`], or as [`Self::flush`].
    pub fn delete_snapshot(&self, id: Uuid) -> Result<(), VolumeError> {
        self.core.delete_snapshot(id)
    }

    /// Makes the volume what it was at a snapshot, which stays. Its size stays as well.
    ///
    /// # Errors
    /// [`VolumeError::NoSuchSnapshot`], or as [`Self::flush`].
    pub fn rollback(&self, id: Uuid) -> Result<(), VolumeError> {
        self.core.rollback(id)
    }

    /// Reads from a snapshot as [`Self::read`] does from the volume.
    ///
    /// # Errors
    /// [`VolumeError::NoSuchSnapshot`], or as [`Self::read`].
    pub fn read_snapshot(&self, id: Uuid, offset: u64, buf: &mut [u8]) -> Result<(), VolumeError> {
        self.core.read_snapshot(id, offset, buf)
    }

    /// As [`Self::next_data`], in a snapshot.
    ///
    /// # Errors
    /// [`VolumeError::NoSuchSnapshot`], or as there.
    pub fn next_data_in(&self, id: Uuid, offset: u64) -> Result<Option<u64>, VolumeError> {
        self.core.next_in_snapshot(id, offset, true)
    }

    /// As [`Self::next_hole`], in a snapshot.
    ///
    /// # Errors
    /// [`VolumeError::NoSuchSnapshot`], or as there.
    pub fn next_hole_in(&self, id: Uuid, offset: u64) -> Result<u64, VolumeError> {
        Ok(self.core.next_in_snapshot(id, offset, false)?.unwrap_or(offset))
    }

    /// Verifies everything: each block and page that is reachable, and the bitmaps. `progress` gets slots done and slots in all. It takes
    /// 4 KiB of memory for each 128 MiB of the file.
    ///
    /// # Errors
    /// Damage is not an error but in the report; if the host fails to write the checkpoint before it, that is.
    pub fn check(&self, progress: &mut dyn FnMut(u64, u64)) -> Result<CheckReport, VolumeError> {
        self.core.check(progress)
    }

    /// The last durable state.
    #[must_use]
    pub fn anchor(&self) -> Anchor {
        self.core.log.lock().state
    }

    /// The anchor to send to the key service now: the last durable state, or the one that was offered before and not confirmed yet, for
    /// as long as nobody knows whether that one arrived the key service must not be given another.
    #[must_use]
    pub fn offer_anchor(&self) -> Anchor {
        self.core.offer_anchor()
    }

    /// Notes that the key service has stored an anchor. The next superblock records it.
    pub fn confirm_anchor(&self, anchor: Anchor) {
        self.core.anchors.lock().confirm(anchor);
    }

    /// What stops its writing from another thread. It does not keep the volume open.
    #[must_use]
    pub fn brake(&self) -> Brake {
        Brake(Arc::downgrade(&self.core))
    }

    /// Counters and sizes.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.core.stats()
    }

    /// What it is made of.
    #[cfg(test)]
    pub(super) fn core(&self) -> &Core {
        &self.core
    }

    /// Bytes of the file in use. It waits for nobody.
    #[must_use]
    pub fn used(&self) -> u64 {
        self.core.alloc.used() * BLOCK_BYTES
    }

    /// Drops from memory what can be read again, for who has nothing to do; not while a re-encryption or a flatten runs, which goes on using it.
    pub fn rest(&self) {
        self.core.rest();
    }

    /// Whether this is the DEK that the header's wrapped DEK has to open to.
    #[must_use]
    pub fn has_key(&self, dek: &Dek) -> bool {
        self.core.store.keys.now().oldest().are_of(dek)
    }

    /// Whether this is the DEK that a running re-encryption goes to.
    #[must_use]
    pub fn has_next_key(&self, dek: &Dek) -> bool {
        let ring = self.core.store.keys.now();
        ring.switch().is_some() && ring.newest().are_of(dek)
    }

    /// Begins to re-encrypt everything, snapshots too, under another DEK, of which `wrapped_dek` is the wrapped form: at most `rate` bytes of
    /// data in a second, or as fast as it goes if that is 0. With background threads it goes on by itself, also at later attaches.
    ///
    /// # Errors
    /// If one is running, or as [`Self::flush`].
    pub fn start_reencryption(
        &self,
        next: VolumeKeys,
        wrapped_dek: WrappedDekField,
        rate: u64,
    ) -> Result<(), VolumeError> {
        self.core.start_reencryption(next, wrapped_dek, rate)?;
        self.resume_task()
    }

    /// Begins to copy into the volume, its snapshots too, all that they read from the base, at most `rate` bytes of data in a second (0: no limit;
    /// none: no limit, or as it was). In the end nothing needs the base any more. With background threads it goes on by itself, also at
    /// later attaches. Asked for again, it takes the rate over and goes on.
    ///
    /// # Errors
    /// If the volume is not thin, a re-encryption is running, or as [`Self::flush`].
    pub fn start_flatten(&self, rate: Option<u64>) -> Result<(), VolumeError> {
        self.core.start_flatten(rate)?;
        self.resume_task()
    }

    /// Lets a re-encryption or flatten that stopped, because something was damaged, go on, if there are background threads.
    ///
    /// # Errors
    /// If the system gives no thread.
    pub fn resume_task(&self) -> Result<(), VolumeError> {
        if self.core.background && !self.core.read_only && self.core.running_task().is_some() {
            let started = worker::start_task(&self.core).map_err(VolumeError::Io)?;
            self.workers.lock().extend(started);
        }
        Ok(())
    }

    /// Sets how many bytes of data a running re-encryption or flatten does in a second; 0 for no limit.
    pub fn set_task_rate(&self, rate: u64) {
        self.core.task.set_rate(rate);
    }

    /// How far a re-encryption is, if one is running.
    #[must_use]
    pub fn reencryption(&self) -> Option<TaskStatus> {
        self.core.task_status().filter(|status| status.kind == TaskKind::Reencrypt)
    }

    /// How far a flatten is, if one is running.
    #[must_use]
    pub fn flatten(&self) -> Option<TaskStatus> {
        self.core.task_status().filter(|status| status.kind == TaskKind::Flatten)
    }

    /// Does a part of a running re-encryption or flatten on the calling thread, and tells how long its rate asks to wait before the next.
    ///
    /// # Errors
    /// As [`Self::task_step`].
    pub fn task_paced(&self) -> Result<(Step, Duration), VolumeError> {
        self.core.task_paced()
    }

    /// Does a part of a running re-encryption or flatten, about so many blocks, on the calling thread.
    ///
    /// # Errors
    /// If something that is to be sealed anew is damaged, here or in the base, or as [`Self::flush`]. It can be tried again.
    pub fn task_step(&self, blocks: u64) -> Result<Step, VolumeError> {
        self.core.task_step(blocks)
    }

    /// Writes another header (a DEK wrapped anew), made from [`Self::header`], over both copies. At any moment one of them is whole.
    ///
    /// # Errors
    /// If it was changed since, or the host fails; the old or the new header counts then.
    pub fn rewrite_header(&self, header: &Header) -> Result<(), VolumeError> {
        self.core.check_writable()?;
        self.core.settle()?;
        self.core.rewrite_header(header, None)
    }

    /// Flushes, checkpoints, and closes. The anchor is that of the state that the file holds.
    ///
    /// # Errors
    /// As [`Self::flush`]. The volume is closed all the same; what was flushed before is in the file.
    pub fn close(mut self) -> Result<Anchor, VolumeError> {
        self.stop();
        if !self.core.read_only {
            self.core.commit()?;
            self.core.checkpoint_clean()?;
        }
        Ok(self.anchor())
    }

    fn stop(&mut self) {
        self.core.signals.stop();
        let workers = std::mem::take(&mut *self.workers.lock());
        for worker in workers {
            if worker.join().is_err() {
                tracing::error!(volume = %self.core.store.uuid, "a background thread of the engine panicked");
            }
        }
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        self.stop();
    }
}

impl BaseImage for Volume {
    fn identity(&self) -> BaseIdentity {
        let state = self.anchor();
        let ring = self.core.store.keys.now();
        let keys = ring.newest();
        BaseIdentity {
            uuid: self.core.store.uuid,
            encrypted: keys.suite() == Suite::Aes256Gcm,
            state,
            mac: keys.base_mac(state.commit, &state.chain),
        }
    }
    fn size(&self) -> u64 {
        self.core.size()
    }
    fn read(&self, offset: u64, buf: &mut [u8]) -> Result<(), VolumeError> {
        self.core.read(offset, buf)
    }
    fn next_data(&self, offset: u64) -> Result<Option<u64>, VolumeError> {
        self.core.next_data(offset)
    }
    fn next_hole(&self, offset: u64, end: u64) -> Result<u64, VolumeError> {
        self.core.next_hole(offset, end)
    }
    fn rest(&self) {
        self.core.rest();
    }
}

/// A thin volume fixes its base's identity and state, or the base could be exchanged underneath.
fn check_base(header: &Header, base: Option<&Arc<dyn BaseImage>>) -> Result<(), OpenError> {
    let Some(reference) = &header.base else { return Ok(()) };
    let Some(base) = base else {
        return Err(OpenError::BaseMissing { volume: header.uuid, base: reference.uuid });
    };
    let given = base.identity();
    if given.uuid != reference.uuid || given.state.commit != reference.commit {
        return Err(OpenError::BaseChanged {
            volume: header.uuid,
            base: reference.uuid,
            given: given.uuid,
            expected: reference.commit,
            found: given.state.commit,
        });
    }
    if !given.is_in_state(&reference.state) {
        return Err(OpenError::BaseExchanged { volume: header.uuid, base: reference.uuid });
    }
    Ok(())
}

fn limits(superblock: &Superblock, ring_pages: u64, options: &OpenOptions) -> Limits {
    let number = |value: u64| usize::try_from(value).unwrap_or(usize::MAX);
    let by_memory = entries_within(options.memory * 9 / 20);
    let by_size = (superblock.blocks / 16).max(DIRTY_LEAST);
    let dirty = options.dirty_limit.unwrap_or_else(|| number(by_size.min(by_memory)));
    let records = u64::try_from(LOG_PAGE_RECORDS).expect("125");
    let group = GROUP_BLOCKS.min((ring_pages / 16).max(1) * records);
    let chunk = group.min(256).min(u64::try_from(dirty).unwrap_or(256).max(1));
    let writers = if options.background { WRITERS } else { 1 };
    let carried =
        CARRIED_MOST.min(group / 4).min(u64::try_from(dirty).unwrap_or(u64::MAX).saturating_sub(chunk));
    // A cut must always find room for the group that is pending, however full the log is, and its checkpoint for what it cannot merge and the
    // group that is pending by then.
    let reserve = (2 * pages_for(number(group + writers * chunk)) + pages_for(number(carried)))
        .min(ring_pages - pages_for(number(group + chunk)).min(ring_pages));
    let trash = options.trash_budget.max(1);
    let dirty = dirty.max(number(chunk));
    let deferred = DEFERRED_MOST.min(dirty);
    let (group, carried) = (number(group), number(carried));
    // A disk that is attached needs the rest for those who write.
    let check = regions_within(options.memory / if options.background { 16 } else { 4 });
    Limits { dirty, group, chunk, trash, carried, log_reserve: reserve, deferred, check }
}

#[allow(clippy::too_many_arguments)] // once, to put the parts together
fn assemble(
    store: Store,
    header: Header,
    superblock: Superblock,
    tables: Tables,
    dirty: DirtyMap,
    log: super::commit::Log,
    hole: Entry,
    options: OpenOptions,
) -> Result<Core, OpenError> {
    let limits = limits(&superblock, header.ring_pages, &options);
    // Where the superblock says more the file was cut off: nothing lies behind its end.
    let file_slots = (store.backing.len().map_err(VolumeError::Io)? / BLOCK_BYTES).min(FILE_SLOTS_MOST);
    // No crash does this: what the log refers to was durable before the next group.
    let lost = dirty.lose_from(file_slots);
    if let Some((block, blocks)) = lost {
        let reason = Damage::Truncated;
        tracing::error!(volume = %store.uuid, block, blocks, %reason, "blocks whose newest state is in the log only are lost");
    }
    let number = |value: u64| usize::try_from(value).unwrap_or(usize::MAX);
    let alloc = Allocator::new(
        superblock.upper_allocation.clone(),
        Extent { now: file_slots, once: superblock.file_slots },
        superblock.used_slots,
        header.ring_pages,
        // Bitmaps and the pages above them take a sixteenth of the memory, pages of the map a fifth, dirty entries under half; the rest is for what a checkpoint
        // needs while it runs, for buffers, and for the program.
        number(options.memory / 16 / 4096),
    );
    match alloc.recover(&store, &Core::recovered_slots(&dirty)) {
        // Who only reads takes no slot: a bitmap that cannot be read at the moment does not keep him out.
        Err(error) if options.read_only => {
            tracing::warn!(volume = %store.uuid, %error, "a bitmap cannot be read");
        }
        recovered => recovered?,
    }
    let recovered = dirty.active_len();
    let cache = PageCache::new(number(options.memory / 5) / PAGE_COST);
    let root = Root { entry: superblock.root, height: superblock.height, blocks: superblock.blocks };
    let versions = tables.versions.clone();
    let ring = store.keys.now();
    let stale_header = !options.read_only && header_is_stale(&*store.backing, &header, &ring)?;
    let task = Running::new(&superblock, ring.switch(), header.base.is_some());
    let signals = Signals::default();
    signals.set_trash(
        root.entry.aux() != 0 || versions.iter().any(|version| version.state == VersionState::Trash),
        true,
    );
    // What the key service has now is known: an offer of another attach has arrived or never will.
    let known = options.anchor.unwrap_or(superblock.confirmed);
    Ok(Core {
        alloc,
        cache,
        dirty,
        pending: Mutex::new(Pending::default()),
        log: Mutex::new(log),
        writing: RwLock::new(()),
        gate: RwLock::new(()),
        root: RwLock::new(root),
        versions: RwLock::new(versions),
        deferred: Mutex::default(),
        anchors: Mutex::new(Anchors { confirmed: known, offered: known }),
        settled: AtomicBool::new(false),
        recovered,
        names_lost: lost.is_some(),
        roomy: AtomicBool::new(false),
        attempts: AtomicU64::new(0),
        gave: AtomicU64::new(0),
        stale_header: AtomicBool::new(stale_header),
        checkpointer: Mutex::new(Checkpointer::new(superblock, tables)),
        task,
        header: Mutex::new(header),
        limits,
        hole,
        thin: options.base.is_some(),
        base: RwLock::new(options.base),
        read_only: options.read_only,
        background: options.background,
        idle_round: options.idle_round,
        poisoned: AtomicBool::new(false),
        reported: super::ration::Ration::default(),
        signals,
        store,
    })
}
