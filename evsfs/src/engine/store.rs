//! Slots that are sealed and opened: the one place where the engine meets the backing and the keys.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::RwLock;
use uuid::Uuid;

use super::epochs::Epochs;
use super::error::{Damage, VolumeError};
use super::map::is_lost;
use super::protection::{Protection, Protections};
use crate::backing::Backing;
use crate::crypto::{Chain, Entropy, EpochKeys, Keyring, TablePurpose, Tag, VolumeKeys};
use crate::format::layout::{BLOCK, BLOCK_BYTES};
use crate::format::{Block, Entry, MapPage, TablePayload, Tree, data_aad, map_aad};
use crate::sync::atomic::AtomicBool;

/// Counts of what was done since the volume was opened.
#[derive(Default)]
pub(super) struct Counters {
    pub(super) seals: AtomicU64,
    pub(super) opens: AtomicU64,
    pub(super) commits: AtomicU64,
    pub(super) syncs: AtomicU64,
    pub(super) checkpoints: AtomicU64,
    pub(super) compactions: AtomicU64,
    pub(super) retried_reads: AtomicU64,
    pub(super) bytes_written: AtomicU64,
    pub(super) double_frees: AtomicU64,
    /// Slots that the host failed to read, of which the log has heard.
    pub(super) unreadable: super::ration::Ration,
}

/// Adds to a counter.
pub(super) fn count(counter: &AtomicU64, by: u64) {
    counter.fetch_add(by, Ordering::Relaxed);
}

/// See the module.
pub(super) struct Store {
    pub(super) backing: Arc<dyn Backing>,
    pub(super) uuid: Uuid,
    pub(super) keys: Arc<Keys>,
    pub(super) entropy: Arc<dyn Entropy>,
    pub(super) epochs: Epochs,
    pub(super) counters: Counters,
    pub(super) protections: Protections,
    pub(super) barrier: Barrier,
}

/// Why nothing of this attach becomes durable any more.
#[derive(Default)]
pub(super) struct Barrier {
    /// A sync has failed.
    failed: AtomicBool,
    /// Somebody else writes to the volume.
    superseded: AtomicBool,
}

impl Barrier {
    /// From now on nothing is written, nor said to be durable.
    pub(super) fn supersede(&self) {
        self.superseded.store(true, Ordering::SeqCst);
    }
}

/// The keys that the volume has now: they change when a re-encryption begins and when it ends.
pub(super) struct Keys(RwLock<Arc<Keyring>>);

impl Keys {
    pub(super) fn new(ring: Keyring) -> Self {
        Self(RwLock::new(Arc::new(ring)))
    }

    pub(super) fn now(&self) -> Arc<Keyring> {
        Arc::clone(&self.0.read())
    }

    /// Nobody seals meanwhile.
    pub(super) fn set(&self, ring: Keyring) {
        *self.0.write() = Arc::new(ring);
    }
}

/// A full disk is told apart from a broken one.
pub(super) fn host_error(error: io::Error) -> VolumeError {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
            VolumeError::NoSpace
        }
        _ => VolumeError::Io(error),
    }
}

fn damage_of(error: &io::Error) -> Damage {
    if error.kind() == io::ErrorKind::UnexpectedEof { Damage::Truncated } else { Damage::Unreadable }
}

impl Store {
    /// Reads whole slots.
    pub(super) fn read(&self, buf: &mut [u8], slot: u64) -> Result<(), Damage> {
        self.backing.read_at(buf, slot * BLOCK_BYTES).map_err(|error| {
            if error.kind() != io::ErrorKind::UnexpectedEof
                && let Some(untold) = self.counters.unreadable.take(slot)
            {
                tracing::warn!(volume = %self.uuid, slot, %error, untold, "the host failed to read the volume file");
            }
            damage_of(&error)
        })
    }

    /// Writes whole slots.
    pub(super) fn write(&self, buf: &[u8], slot: u64) -> Result<(), VolumeError> {
        self.check_ours()?;
        count(&self.counters.bytes_written, u64::try_from(buf.len()).unwrap_or(u64::MAX));
        self.backing.write_at(buf, slot * BLOCK_BYTES).map_err(host_error)
    }

    /// The barrier. After one that failed none succeeds: the host tells of lost pages only once, and whoever asks next would be told that
    /// they are durable (F11). (That of those who ask at once each is told is the backing's part.)
    ///
    /// The simulation asks who wants it, to leave out each in turn.
    #[cfg_attr(feature = "sim", track_caller)]
    pub(super) fn sync(&self) -> Result<(), VolumeError> {
        let has_failed = || {
            self.barrier.failed.load(Ordering::SeqCst) && self.protections.has(Protection::FailedSyncLasts)
        };
        if has_failed() {
            return Err(VolumeError::Poisoned);
        }
        self.check_ours()?;
        #[cfg(feature = "sim")]
        crate::backing::sim::SyncSite::announce(std::panic::Location::caller());
        count(&self.counters.syncs, 1);
        if let Err(error) = self.backing.sync() {
            self.barrier.failed.store(true, Ordering::SeqCst);
            return Err(host_error(error));
        }
        if has_failed() {
            return Err(VolumeError::Poisoned);
        }
        self.check_ours()
    }

    /// Whether the volume is still this attach's to write to (F12).
    pub(super) fn check_ours(&self) -> Result<(), VolumeError> {
        if self.barrier.superseded.load(Ordering::SeqCst) {
            return Err(VolumeError::Superseded { volume: self.uuid });
        }
        Ok(())
    }

    /// What a log page is bound to: the chain value of all before it.
    pub(super) fn link(&self, chain: &Chain) -> Chain {
        if self.protections.has(Protection::ChainLink) { *chain } else { Chain([0; 32]) }
    }

    fn keys_of(&self, entry: &Entry) -> Result<Arc<EpochKeys>, Damage> {
        let unknown =
            || if is_lost(entry) { Damage::Lost } else { Damage::UnknownEpoch { epoch: entry.epoch() } };
        self.epochs.keys(entry.epoch()).ok_or_else(unknown)
    }

    /// Opens a data block where it lies. On failure it holds nothing of the plaintext.
    pub(super) fn open_data(&self, entry: &Entry, lba: u64, block: &mut [u8]) -> Result<(), Damage> {
        let keys = self.keys_of(entry)?;
        count(&self.counters.opens, 1);
        keys.data
            .open(entry.counter(), &data_aad(&self.uuid, lba), block, entry.tag())
            .map_err(|_| Damage::Tag)
    }

    /// Reads and opens a page of a tree.
    pub(super) fn open_page(
        &self,
        tree: Tree,
        level: u8,
        index: u64,
        entry: &Entry,
    ) -> Result<Box<Block>, Damage> {
        let mut page = Box::new([0; BLOCK]);
        self.read(page.as_mut(), entry.slot())?;
        let keys = self.keys_of(entry)?;
        count(&self.counters.opens, 1);
        let aad = map_aad(&self.uuid, tree, level, index);
        keys.map.open(entry.counter(), &aad, page.as_mut(), entry.tag()).map_err(|_| Damage::Tag)?;
        Ok(page)
    }

    /// Reads and opens a page of the map, or an upper page of the allocation tree.
    pub(super) fn open_map_page(
        &self,
        tree: Tree,
        level: u8,
        index: u64,
        entry: &Entry,
    ) -> Result<MapPage, Damage> {
        let page = self.open_page(tree, level, index, entry)?;
        MapPage::decode(&page, tree == Tree::Map && level == 0).map_err(|_| Damage::Malformed)
    }

    /// Seals a page of a tree where it lies, to be written to `slot`, and gives the entry for it.
    pub(super) fn seal_page(
        &self,
        tree: Tree,
        level: u8,
        index: u64,
        slot: u64,
        page: &mut [u8],
    ) -> Result<Entry, VolumeError> {
        let (epoch, mut nonces) = self.epochs.take(1)?;
        let nonce = nonces.next().expect("one was taken");
        let counter = nonce.counter();
        count(&self.counters.seals, 1);
        let tag = epoch.keys.map.seal(nonce, &map_aad(&self.uuid, tree, level, index), page);
        Ok(Entry::page(slot, epoch.id, counter, tag))
    }

    /// Writes a table page of a superblock's generation to `slot`.
    pub(super) fn write_table(
        &self,
        purpose: TablePurpose,
        payload: &TablePayload,
        slot: u64,
        generation: u64,
    ) -> Result<Entry, VolumeError> {
        let ring = self.keys.now();
        let page = ring.of_generation(generation).seal_table(purpose, payload, &*self.entropy)?;
        count(&self.counters.seals, 1);
        self.write(page.as_ref(), slot)?;
        Ok(Entry::table(slot, VolumeKeys::table_tag(&page)))
    }

    /// Reads a table page that an entry in, or under, a superblock names.
    pub(super) fn read_table(
        &self,
        purpose: TablePurpose,
        entry: &Entry,
        generation: u64,
    ) -> Result<Box<TablePayload>, VolumeError> {
        let damaged = |reason| VolumeError::DamagedTable { volume: self.uuid, slot: entry.slot(), reason };
        let mut page = [0; BLOCK];
        self.read(&mut page, entry.slot()).map_err(damaged)?;
        let tag: &Tag = entry.tag();
        let own = VolumeKeys::table_tag(&page);
        let tag = if self.protections.has(Protection::TableTag) { tag } else { &own };
        let ring = self.keys.now();
        ring.of_generation(generation).open_table(purpose, &page, tag).map_err(|_| damaged(Damage::Tag))
    }
}
