//! Writing: out of place, so nothing that a recoverable state refers to is overwritten.

use std::cell::RefCell;

use super::alloc::{Flight, Run};
use super::commit::Change;
use super::core::Core;
use super::dirty::{CHUNK_BITS, Found};
use super::error::VolumeError;
use super::protection::Protection;
use super::store::count;
use crate::format::layout::{BLOCK, BLOCK_BYTES};
use crate::format::{Entry, data_aad};
use crate::sync::atomic::Ordering;
use crate::sync::{RwLockReadGuard, thread_local};

/// Discarded ranges before a checkpoint: each look-up passes them.
pub(crate) const RANGES_MOST: usize = 1024;

/// Blocks that are sealed and then written together, or read and then opened: few enough that they are still in the core's own cache (L2)
/// when they are touched for the second time.
pub(super) const PIECE: usize = 32;

thread_local! {
    /// Ciphertext on its way to the file.
    static SEALED: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

impl Core {
    pub(super) fn write(&self, offset: u64, data: &[u8]) -> Result<(), VolumeError> {
        self.check_writable()?;
        self.check_range(offset, u64::try_from(data.len()).unwrap_or(u64::MAX))?;
        let most = usize::try_from(self.limits.chunk).expect("at most 256") * BLOCK;
        let mut offset = offset;
        let mut rest = data;
        while !rest.is_empty() {
            let block = offset / BLOCK_BYTES;
            let within = usize::try_from(offset % BLOCK_BYTES).expect("below 4096");
            let len = if within == 0 && rest.len() >= BLOCK {
                let len = (rest.len() / BLOCK * BLOCK).min(most);
                self.with_space(|since| self.write_blocks(block, &rest[..len], since))?;
                len
            } else {
                let len = rest.len().min(BLOCK - within);
                self.with_space(|since| self.write_part(block, within, &rest[..len], since))?;
                len
            };
            offset += u64::try_from(len).expect("small");
            rest = &rest[len..];
        }
        Ok(())
    }

    /// Runs a write; if the host is full, makes the slots available that only wait for a checkpoint, and runs it once more, and then
    /// asks the host again, which may have got space since. Whoever comes after a write that failed asks it too.
    ///
    /// It gets the number of checkpoints that were begun by now: where one that was begun since finds no space, it waits for no other.
    fn with_space(&self, write: impl Fn(u64) -> Result<(), VolumeError>) -> Result<(), VolumeError> {
        let since = self.attempts.load(Ordering::Acquire);
        match write(since) {
            Err(VolumeError::NoSpace) => {}
            other => return other,
        }
        match self.checkpoint_since(since) {
            Ok(()) | Err(VolumeError::NoSpace) => {}
            failed => return failed,
        }
        match write(since) {
            Err(VolumeError::NoSpace) => self.alloc.retry_growth(),
            other => return other,
        }
        let again = write(since);
        if matches!(again, Err(VolumeError::NoSpace)) {
            self.alloc.retry_growth();
        }
        again
    }

    /// Waits until there is room for `changes` more. No lock is held here. `since` is as in [`Self::with_space`].
    pub(super) fn admit(&self, changes: usize, since: u64) -> Result<(), VolumeError> {
        self.settle()?;
        if !self.roomy.load(Ordering::Acquire) {
            self.begin_with_room(since)?;
        }
        loop {
            self.check_writable()?;
            let is_full = {
                let pending = self.pending.lock();
                // (Earlier programs take a group of many ranges for the end of the log, although they touch.)
                pending.len() + changes > self.limits.group || pending.holes() >= RANGES_MOST
            };
            if is_full {
                self.commit()?;
                continue;
            }
            if self.is_dirty_full(changes) {
                self.relieve(since)?;
                continue;
            }
            if self.dirty.active_len() + changes > self.limits.dirty / 8 * 7 {
                self.signals.wake();
            }
            return Ok(());
        }
    }

    /// Whether a checkpoint must make room in the dirty map before `changes` more come in.
    ///
    /// While there is a cut both layers count together as well: should its checkpoint find no space they become one, and what the next attempt
    /// lets in comes on top. Nobody could read a log of more ranges than two layers have, and there is no memory for more entries.
    pub(super) fn is_dirty_full(&self, changes: usize) -> bool {
        self.dirty.active_len() + changes > self.limits.dirty
            || self.dirty.active_ranges() >= RANGES_MOST
            || self.dirty.len() + changes > self.dirty_most()
            || self.dirty.ranges() >= 2 * RANGES_MOST
            // (Twice, for those who are faster than the checkpoints that are made at once.)
            || self.is_crowded(2)
    }

    /// Entries that both layers may have; those that were recovered may be more than one layer is meant to have.
    pub(super) fn dirty_most(&self) -> usize {
        self.limits.dirty + self.limits.dirty.max(self.recovered)
    }

    /// Takes slots and seals and writes `blocks` to them. On failure the slots are free again.
    fn place(
        &self,
        first: u64,
        data: &[u8],
        entries: &mut Vec<Entry>,
        _writing: &RwLockReadGuard<'_, ()>,
    ) -> Result<Flight, VolumeError> {
        let blocks = u64::try_from(data.len() / BLOCK).expect("at most 256");
        let flight = self.alloc.take(&self.store, blocks)?;
        let written = self.seal_and_write(first, data, &flight.runs, entries);
        if written.is_err() {
            self.alloc.abandon(&self.store, &flight);
        }
        match written {
            Ok(()) => Ok(flight),
            // The file is as before but for slots that nobody refers to.
            Err(VolumeError::NoSpace) => {
                self.alloc.note_full();
                Err(VolumeError::NoSpace)
            }
            Err(VolumeError::Io(error)) => Err(self.poison(VolumeError::Io(error))),
            Err(other) => Err(other),
        }
    }

    fn seal_and_write(
        &self,
        first: u64,
        data: &[u8],
        runs: &[Run],
        entries: &mut Vec<Entry>,
    ) -> Result<(), VolumeError> {
        let plain = data.as_chunks::<BLOCK>().0;
        let (epoch, nonces) = self.store.epochs.take(u32::try_from(plain.len()).expect("at most 256"))?;
        count(&self.store.counters.seals, u64::try_from(plain.len()).expect("at most 256"));
        let mut sources = (first..).zip(plain).zip(nonces);
        SEALED.with(|sealed| {
            let mut sealed = sealed.borrow_mut();
            sealed.resize(PIECE * BLOCK, 0);
            for run in runs {
                let mut slot = run.slot;
                let end = run.slot + run.count;
                while slot < end {
                    let count = usize::try_from(end - slot).expect("at most 256").min(PIECE);
                    let out = &mut sealed.as_chunks_mut::<BLOCK>().0[..count];
                    for (place, (out, ((block, plain), nonce))) in
                        (slot..).zip(out.iter_mut().zip(&mut sources))
                    {
                        let counter = nonce.counter();
                        let aad = data_aad(&self.store.uuid, block);
                        let tag = epoch.keys.data.seal_into(nonce, &aad, plain, out);
                        entries.push(Entry::data(place, epoch.id, counter, tag));
                    }
                    self.store.write(out.as_flattened(), slot)?;
                    slot += u64::try_from(count).expect("small");
                }
            }
            Ok(())
        })
    }

    /// Writes whole blocks, no more than a group takes.
    fn write_blocks(&self, first: u64, data: &[u8], since: u64) -> Result<(), VolumeError> {
        let blocks = data.len() / BLOCK;
        self.admit(blocks, since)?;
        let writing = self.writing.read();
        let mut entries = Vec::with_capacity(blocks);
        let flight = self.place(first, data, &mut entries, &writing)?;
        let gate = self.gate.read();
        self.insert(first, &entries);
        let _gate = self.store.protections.has(Protection::LandingWithEntries).then_some(gate);
        self.alloc.land(&flight);
        Ok(())
    }

    /// Puts entries into the dirty map and the pending group. Both under the lock of the shard, so that for each block the order in the
    /// map is the order in the log.
    fn insert(&self, first: u64, entries: &[Entry]) {
        let mut block = first;
        let mut rest = entries;
        while !rest.is_empty() {
            let end = ((block >> CHUNK_BITS) + 1) << CHUNK_BITS;
            let (part, after) =
                rest.split_at(rest.len().min(usize::try_from(end - block).expect("at most 256")));
            let together = self.store.protections.has(Protection::MapAndLogTogether);
            if !together {
                let mut pending = self.pending.lock();
                (block..).zip(part).for_each(|(block, entry)| pending.push(Change::Block(block, *entry)));
            }
            let mut shard = self.dirty.lock(block);
            let mut pending = self.pending.lock();
            for entry in part {
                if let Some(old) = shard.insert(block, *entry)
                    && old.is_data()
                {
                    if self.store.protections.has(Protection::ReuseAfterCommit) {
                        pending.replaced.push(old.slot());
                    } else {
                        self.alloc.free(&self.store, &[old.slot()]);
                    }
                }
                if together {
                    pending.push(Change::Block(block, *entry));
                }
                block += 1;
            }
            rest = after;
        }
    }

    /// Writes a part of a block: reads it, and puts the changed one in its place only if nobody else wrote it meanwhile. So it takes no
    /// lock while it reads, opens, seals and writes, and still no write is lost.
    fn write_part(&self, block: u64, within: usize, part: &[u8], since: u64) -> Result<(), VolumeError> {
        let mut bytes = Box::new([0; BLOCK]);
        loop {
            self.admit(1, since)?;
            let base = self.base_now();
            let moves = self.dirty.moves();
            let mut found = Found::Below;
            self.dirty.find_each(block..block + 1, self.hole, |_, now| found = now);
            let entry = match found {
                Found::Active(entry) | Found::Frozen(entry) => entry,
                Found::Below => self.resolve_one(block)?,
            };
            if let Err(reason) = self.read_entry(block, &entry, base.as_deref(), bytes.as_mut_slice())? {
                if self.look_up_again(block, entry)? == entry {
                    let error = VolumeError::DamagedBlock { volume: self.store.uuid, block, reason };
                    if let Some(untold) = self.reported.take(block) {
                        tracing::error!(%error, slot = entry.slot(), untold, "damage found");
                    }
                    return Err(error);
                }
                continue;
            }
            bytes[within..within + part.len()].copy_from_slice(part);
            let writing = self.writing.read();
            let mut entries = Vec::with_capacity(1);
            let flight = self.place(block, bytes.as_slice(), &mut entries, &writing)?;
            let new = entries[0];
            let _gate = self.gate.read();
            let mut shard = self.dirty.lock(block);
            let unchanged = shard.find(block, self.hole) == found && self.dirty.moves() == moves;
            if unchanged || !self.store.protections.has(Protection::UnchangedMeanwhile) {
                let mut pending = self.pending.lock();
                if let Some(old) = shard.insert(block, new)
                    && old.is_data()
                {
                    pending.replaced.push(old.slot());
                }
                pending.push(Change::Block(block, new));
                self.alloc.land(&flight);
                return Ok(());
            }
            drop(shard);
            // Nobody saw the slot.
            self.alloc.abandon(&self.store, &flight);
        }
    }
}
