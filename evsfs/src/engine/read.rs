//! Reading. A reader waits for nobody: it looks entries up, reads their slots, and opens them where they lie.
//!
//! Nothing keeps a slot from being freed and used again between look-up and read. Then the tag does not fit, the block is looked
//! up again, and its entry is another one. If it is the same, nobody may have touched the slot, and what lies there is damage.

use std::cell::RefCell;

use super::core::Core;
use super::error::{Damage, VolumeError};
use super::params::BaseImage;
use super::protection::Protection;
use super::store::count;
use super::write::PIECE;
use crate::format::layout::{BLOCK, BLOCK_BYTES};
use crate::format::{Entry, data_aad};
use crate::sync::thread_local;

/// Blocks that are looked up together.
pub(super) const BATCH: usize = 256;

thread_local! {
    static PARTIAL: RefCell<Box<[u8; BLOCK]>> = RefCell::new(Box::new([0; BLOCK]));
}

impl Core {
    pub(super) fn read(&self, offset: u64, buf: &mut [u8]) -> Result<(), VolumeError> {
        self.check_range(offset, u64::try_from(buf.len()).unwrap_or(u64::MAX))?;
        let mut offset = offset;
        let mut rest = buf;
        while !rest.is_empty() {
            let block = offset / BLOCK_BYTES;
            let within = usize::try_from(offset % BLOCK_BYTES).expect("below 4096");
            let len = if within == 0 && rest.len() >= BLOCK {
                let len = (rest.len() / BLOCK).min(BATCH) * BLOCK;
                self.read_blocks(block, &mut rest[..len])?;
                len
            } else {
                let len = rest.len().min(BLOCK - within);
                PARTIAL.with(|whole| {
                    let mut whole = whole.borrow_mut();
                    self.read_blocks(block, whole.as_mut_slice())?;
                    rest[..len].copy_from_slice(&whole[within..within + len]);
                    Ok::<(), VolumeError>(())
                })?;
                len
            };
            offset += u64::try_from(len).expect("small");
            rest = &mut rest[len..];
        }
        Ok(())
    }

    /// Reads whole blocks, at most [`BATCH`].
    fn read_blocks(&self, first: u64, buf: &mut [u8]) -> Result<(), VolumeError> {
        let mut entries = [Entry::ABSENT; BATCH];
        let entries = &mut entries[..buf.len() / BLOCK];
        let mut base = self.base_now();
        self.resolve(first, entries)?;
        if !self.store.protections.has(Protection::BaseBeforeLookUp) {
            base = self.base_now();
        }
        self.read_entries(first, entries, base.as_deref(), buf)
    }

    /// Reads blocks whose entries were looked up. Slots that follow one another are read in one go, up to [`PIECE`] of them.
    fn read_entries(
        &self,
        first: u64,
        entries: &[Entry],
        base: Option<&dyn BaseImage>,
        buf: &mut [u8],
    ) -> Result<(), VolumeError> {
        let mut at = 0;
        while at < entries.len() {
            let run = run_length(&entries[at..]);
            let block = first + u64::try_from(at).expect("small");
            let part = &mut buf[at * BLOCK..(at + run) * BLOCK];
            if entries[at].is_data() {
                let pieces = entries[at..at + run].chunks(PIECE).zip(part.chunks_mut(PIECE * BLOCK));
                for (block, (entries, part)) in (block..).step_by(PIECE).zip(pieces) {
                    self.read_run(block, entries, part)?;
                }
            } else if entries[at].is_absent() {
                read_base(base, block, part)?;
            } else {
                part.fill(0);
            }
            at += run;
        }
        Ok(())
    }

    fn read_run(&self, first: u64, entries: &[Entry], buf: &mut [u8]) -> Result<(), VolumeError> {
        let blocks = buf.as_chunks_mut::<BLOCK>().0;
        let read = self.store.read(blocks.as_flattened_mut(), entries[0].slot());
        let mut keys = None;
        for ((block, entry), bytes) in (first..).zip(entries).zip(blocks) {
            if keys.as_ref().is_none_or(|(epoch, _)| *epoch != entry.epoch()) {
                keys = self.store.epochs.keys(entry.epoch()).map(|keys| (entry.epoch(), keys));
            }
            let opened = match (&read, &keys) {
                (Ok(()), Some((_, keys))) => keys
                    .data
                    .open(entry.counter(), &data_aad(&self.store.uuid, block), bytes, entry.tag())
                    .map_err(|_| Damage::Tag),
                (Ok(()), None) => Err(Damage::UnknownEpoch { epoch: entry.epoch() }),
                (Err(damage), _) => Err(*damage),
            };
            match opened {
                Ok(()) => {}
                Err(reason) if !self.store.protections.has(Protection::SecondLook) => {
                    return Err(VolumeError::DamagedBlock { volume: self.store.uuid, block, reason });
                }
                Err(_) => self.read_again(block, *entry, bytes)?,
            }
        }
        count(&self.store.counters.opens, u64::try_from(entries.len()).expect("small"));
        Ok(())
    }

    /// Reads one block that failed together with others or was overwritten meanwhile, until its entry stays the same.
    fn read_again(&self, block: u64, entry: Entry, bytes: &mut [u8]) -> Result<(), VolumeError> {
        let base = self.base_now();
        let mut entry = self.look_up_again(block, entry)?;
        loop {
            count(&self.store.counters.retried_reads, 1);
            let Err(reason) = self.read_entry(block, &entry, base.as_deref(), bytes)? else { return Ok(()) };
            let now = self.look_up_again(block, entry)?;
            if now == entry || !self.store.protections.has(Protection::LooksUntilStable) {
                bytes.fill(0);
                let error = VolumeError::DamagedBlock { volume: self.store.uuid, block, reason };
                if let Some(untold) = self.reported.take(block) {
                    tracing::error!(%error, slot = entry.slot(), untold, "damage found");
                }
                return Err(error);
            }
            entry = now;
        }
    }

    /// The entry of a block now; `entry` is the one that was found before.
    pub(super) fn look_up_again(&self, block: u64, entry: Entry) -> Result<Entry, VolumeError> {
        if self.store.protections.has(Protection::SecondLook) { self.resolve_one(block) } else { Ok(entry) }
    }

    /// Reads one block as its entry says, which was looked up after `base` was taken. The inner error may be a slot in the midst of being reused.
    pub(super) fn read_entry(
        &self,
        block: u64,
        entry: &Entry,
        base: Option<&dyn BaseImage>,
        bytes: &mut [u8],
    ) -> Result<Result<(), Damage>, VolumeError> {
        if entry.is_data() {
            let read = self.store.read(bytes, entry.slot());
            return Ok(read.and_then(|()| self.store.open_data(entry, block, bytes)));
        }
        if entry.is_absent() {
            read_base(base, block, bytes)?;
        } else {
            bytes.fill(0);
        }
        Ok(Ok(()))
    }
}

/// What an absent block reads as: the base, and zeros beyond its end or without one.
fn read_base(base: Option<&dyn BaseImage>, block: u64, buf: &mut [u8]) -> Result<(), VolumeError> {
    let Some(base) = base else {
        buf.fill(0);
        return Ok(());
    };
    let offset = block * BLOCK_BYTES;
    let there = usize::try_from(base.size().saturating_sub(offset)).unwrap_or(usize::MAX).min(buf.len());
    let (from_base, beyond) = buf.split_at_mut(there);
    beyond.fill(0);
    if from_base.is_empty() { Ok(()) } else { base.read(offset, from_base) }
}

/// How many of the first entries can be read together: holes of one kind, or slots in a row.
fn run_length(entries: &[Entry]) -> usize {
    let first = entries[0];
    let fits = |(place, entry): (u64, &Entry)| {
        entry.kind() == first.kind() && (!first.is_data() || entry.slot() == first.slot() + place)
    };
    (0..).zip(entries).take_while(|pair| fits(*pair)).count()
}
