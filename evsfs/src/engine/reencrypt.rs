//! Re-encryption to another DEK (docs/volume-format.md, "Re-encryption"): what comes after what.
//!
//! ```text
//!   start: header with both wrapped DEKs --> newer keys seal --> superblock
//!   blocks (walk.rs) --> proof: the walk once more finds nothing --> bitmaps --> log ring and free space wiped --> header with the newer DEK only
//! ```
//!
//! Each step can be cut short anywhere. Only the walk's cursor is kept in the superblock; what comes after it is done again.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::alloc::Run;
use super::core::Core;
use super::error::{Damage, VolumeError};
use super::report::ReencryptionStatus;
use super::walk::Walked;
use crate::crypto::{Keyring, Switch, VolumeKeys};
use crate::format::layout::{BLOCK, BLOCK_BYTES, RING_START};
use crate::format::{Header, NextKey, Superblock, Task, TaskKind, WrappedDekField, epoch_place};

/// Blocks of a step when nothing limits it: 16 MiB.
const STEP_BLOCKS: u64 = 4096;
/// Steps of a second when a rate does.
const STEPS_PER_SECOND: u64 = 4;
/// Bitmaps that are written anew at once.
const STEP_REGIONS: usize = 1024;
/// Log pages, and free slots, that are wiped at once.
const WIPED_PAGES: u64 = 256;
const WIPED_SLOTS: u64 = 4096;
/// Regions of free space that are wiped before a checkpoint lets go of their bitmaps.
const WIPED_REGIONS: u64 = 64;

/// What is to be done next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Blocks and pages, from the cursor of the superblock.
    Blocks,
    /// The walk from the beginning, which must find nothing of the older DEK.
    Proof { cursor: u64, found: u64 },
    /// Bitmaps and the pages above them.
    Bitmaps,
    /// The log ring, from this page.
    Log(u64),
    /// Free space, from this slot of this region.
    Space { region: u64, slot: u64 },
    /// The header.
    Header,
}

/// What a step came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Nothing of the older DEK is left, its wrapped form neither.
    Finished,
    /// It went on, and sealed so many bytes of data anew.
    Went {
        /// Bytes.
        bytes: u64,
    },
    /// Deleted snapshots and discarded ranges are freed first.
    Freeing,
    /// The host has no space for what would be sealed anew.
    NoSpace,
}

/// The running re-encryption, in memory.
pub(super) struct Reencryption {
    phase: Mutex<Phase>,
    /// One step at a time.
    stepping: Mutex<()>,
    /// Whether a thread works on it.
    pub(super) running: AtomicBool,
    /// Bytes in a second; 0 for no limit.
    rate: AtomicU64,
    cursor: AtomicU64,
    sealed: AtomicU64,
    stopped: Mutex<Option<String>>,
}

impl Reencryption {
    /// As a superblock tells it.
    pub(super) fn new(superblock: &Superblock, switch: Option<Switch>) -> Self {
        let task = superblock.task.filter(|_| switch.is_some_and(|s| superblock.generation >= s.generation));
        let (cursor, rate) = task.map_or((0, 0), |task| (task.cursor, task.rate));
        Self {
            phase: Mutex::new(Phase::Blocks),
            stepping: Mutex::default(),
            running: AtomicBool::new(false),
            rate: AtomicU64::new(rate),
            cursor: AtomicU64::new(cursor),
            sealed: AtomicU64::new(0),
            stopped: Mutex::default(),
        }
    }

    /// Blocks of the next step.
    fn step_blocks(&self) -> u64 {
        match self.rate.load(Ordering::Relaxed) {
            0 => STEP_BLOCKS,
            rate => (rate / BLOCK_BYTES / STEPS_PER_SECOND).clamp(32, STEP_BLOCKS),
        }
    }

    /// How long to wait after a step that took `took`.
    fn pause(&self, bytes: u64, took: Duration) -> Duration {
        match self.rate.load(Ordering::Relaxed) {
            0 => Duration::ZERO,
            rate => Duration::from_micros(bytes.saturating_mul(1_000_000) / rate).saturating_sub(took),
        }
    }

    pub(super) fn set_rate(&self, rate: u64) {
        self.rate.store(rate, Ordering::Relaxed);
    }

    /// Notes why it does not go on, or that it does.
    pub(super) fn set_stopped(&self, reason: Option<String>) {
        *self.stopped.lock() = reason;
    }
}

impl Core {
    /// The task that goes into the superblock after this one.
    pub(super) fn task_of(&self, superblock: &Superblock) -> Option<Task> {
        let switch = self.store.keys.now().switch()?;
        let known = superblock.task.filter(|_| superblock.generation >= switch.generation);
        let rate = self.reencryption.rate.load(Ordering::Relaxed);
        Some(Task { kind: TaskKind::Reencrypt, cursor: known.map_or(0, |task| task.cursor), rate })
    }

    pub(super) fn reencryption_status(&self) -> Option<ReencryptionStatus> {
        self.store.keys.now().switch()?;
        let size = self.size();
        let cursor = self.reencryption.cursor.load(Ordering::Relaxed);
        let phase = *self.reencryption.phase.lock();
        Some(ReencryptionStatus {
            phase: match phase {
                Phase::Blocks if cursor < u64::MAX => "blocks",
                Phase::Blocks | Phase::Proof { .. } => "proof",
                Phase::Bitmaps => "bitmaps",
                Phase::Log(_) | Phase::Space { .. } => "wiping",
                Phase::Header => "header",
            },
            position: cursor.saturating_mul(BLOCK_BYTES).min(size),
            size,
            sealed: self.reencryption.sealed.load(Ordering::Relaxed),
            rate: self.reencryption.rate.load(Ordering::Relaxed),
            stopped: self.reencryption.stopped.lock().clone(),
        })
    }

    /// Lets the volume go to another DEK: from now on that one seals. `wrapped_dek` is its wrapped form.
    ///
    /// The header, which names both DEKs and where the newer begins, is durable before anything is sealed under the newer. Nobody writes at
    /// that moment, so no epoch and no superblock is of both.
    pub(super) fn start_reencryption(
        &self,
        next: VolumeKeys,
        wrapped_dek: WrappedDekField,
        rate: u64,
    ) -> Result<(), VolumeError> {
        self.check_writable()?;
        self.settle()?;
        let _step = self.reencryption.stepping.lock();
        let mut checkpointer = self.checkpointer.lock();
        let ring = self.store.keys.now();
        if ring.switch().is_some() {
            return Err(VolumeError::Reencrypting { volume: self.store.uuid });
        }
        // Beforehand, so that the pause of the writers is short.
        if self.has_changes(&checkpointer) {
            self.checkpoint_locked(&mut checkpointer)?;
        }
        {
            let _log = self.log.lock();
            let _gate = self.gate.write();
            let epoch = u32::try_from(self.store.epochs.len() + 1).ok();
            let epoch = epoch.filter(|epoch| epoch_place(*epoch).is_some());
            let epoch = epoch.ok_or(VolumeError::EpochsExhausted)?;
            let switch = Switch { epoch, generation: checkpointer.superblock.generation + 1 };
            let ring = Keyring::clone(&ring).switched(next, switch);
            let old = self.header.lock().clone();
            let header = Header { next: Some(NextKey { wrapped_dek, switch }), ..old };
            self.rewrite_header(&header, Some(ring))?;
            self.store.epochs.end_current();
        }
        self.reencryption.set_rate(rate);
        self.reencryption.cursor.store(0, Ordering::Relaxed);
        self.reencryption.sealed.store(0, Ordering::Relaxed);
        *self.reencryption.phase.lock() = Phase::Blocks;
        let begun = self.exclusive_locked(&mut checkpointer, false, &mut |plan, _| {
            // The file as it was before does not pass for the file after.
            plan.event = Some(b"re-encrypt".to_vec());
            Ok(())
        });
        match begun {
            // It has begun all the same; the next checkpoint tells.
            Err(VolumeError::NoSpace) => Ok(()),
            other => other,
        }
    }

    /// Goes on by a step of the size that the rate asks for, and tells how long to wait afterwards.
    pub(super) fn reencrypt_paced(&self) -> Result<(Step, Duration), VolumeError> {
        let began = Instant::now();
        let step = self.reencrypt_step(self.reencryption.step_blocks())?;
        let pause = match step {
            Step::Went { bytes } => self.reencryption.pause(bytes, began.elapsed()),
            Step::Finished | Step::Freeing | Step::NoSpace => Duration::ZERO,
        };
        Ok((step, pause))
    }

    /// Goes on, by about so many blocks. Readers and writers go on, too.
    pub(super) fn reencrypt_step(&self, blocks: u64) -> Result<Step, VolumeError> {
        let _step = self.reencryption.stepping.lock();
        let Some(switch) = self.store.keys.now().switch() else { return Ok(Step::Finished) };
        self.check_writable()?;
        self.settle()?;
        let phase = *self.reencryption.phase.lock();
        let (next, step) = self.in_phase(phase, switch, blocks)?;
        *self.reencryption.phase.lock() = next;
        Ok(step)
    }

    fn in_phase(&self, phase: Phase, switch: Switch, blocks: u64) -> Result<(Phase, Step), VolumeError> {
        const WENT: Step = Step::Went { bytes: 0 };
        Ok(match phase {
            Phase::Blocks => {
                let walked = self.walk_on(None, switch, blocks)?;
                self.reencryption.cursor.store(walked.cursor, Ordering::Relaxed);
                let done = walked.cursor == u64::MAX;
                (if done { Phase::Proof { cursor: 0, found: 0 } } else { phase }, step_of(&walked))
            }
            Phase::Proof { cursor, found } => {
                let walked = self.walk_on(Some(cursor), switch, blocks)?;
                let found = found + walked.sealed + walked.rewritten;
                let next = match walked.cursor {
                    u64::MAX if found == 0 => Phase::Bitmaps,
                    u64::MAX => {
                        tracing::warn!(volume = %self.store.uuid, found, "the walk had left something of the older key: it is done again");
                        Phase::Proof { cursor: 0, found: 0 }
                    }
                    cursor => Phase::Proof { cursor, found },
                };
                (next, step_of(&walked))
            }
            Phase::Bitmaps => {
                let regions = self.alloc.sealed_before(&self.store, switch.epoch, STEP_REGIONS)?;
                if regions.is_empty() {
                    (Phase::Log(0), WENT)
                } else {
                    self.checkpoint_with(&mut |plan, _| {
                        plan.regions.clone_from(&regions);
                        Ok(())
                    })?;
                    (phase, WENT)
                }
            }
            Phase::Log(page) => (self.wipe_log(page)?, WENT),
            Phase::Space { region, slot } => (self.wipe_space(region, slot)?, WENT),
            Phase::Header => {
                self.finish_reencryption(switch)?;
                (Phase::Blocks, Step::Finished)
            }
        })
    }

    fn walk_on(&self, from: Option<u64>, switch: Switch, blocks: u64) -> Result<Walked, VolumeError> {
        let mut walked = Walked::default();
        self.checkpoint_with(&mut |plan, work| {
            walked = self.walk(plan, work, from, switch.epoch, blocks)?;
            Ok(())
        })?;
        let bytes = walked.sealed * BLOCK_BYTES;
        self.reencryption.sealed.fetch_add(bytes, Ordering::Relaxed);
        Ok(walked)
    }

    /// Zeros over the pages of the ring that the log does not need.
    fn wipe_log(&self, first: u64) -> Result<Phase, VolumeError> {
        let log = self.log.lock();
        let end = log.ring_pages.min(first + WIPED_PAGES);
        let start = log.head % log.ring_pages;
        let in_use = |page: &u64| (page + log.ring_pages - start) % log.ring_pages < log.used();
        for page in (first..end).filter(|page| !in_use(page)) {
            self.store.write(&[0; BLOCK], RING_START + page).map_err(|error| self.poison(error))?;
        }
        Ok(if end < log.ring_pages { Phase::Log(end) } else { Phase::Space { region: 0, slot: 0 } })
    }

    /// Wipes free slots, and the places of the allocation tree that the durable tree does not use.
    fn wipe_space(&self, region: u64, slot: u64) -> Result<Phase, VolumeError> {
        if region >= self.alloc.regions() {
            return Ok(Phase::Header);
        }
        if slot == 0 {
            // No checkpoint writes to these places meanwhile.
            let _checkpointer = self.checkpointer.lock();
            for place in self.alloc.unused_places(&self.store, region)? {
                self.store.write(&[0; BLOCK], place).map_err(|error| self.poison(error))?;
            }
        }
        let next = {
            // No cut meanwhile: nothing refers to what is taken here, and it is free again before the next one.
            let _gate = self.gate.read();
            match self.alloc.borrow_free(&self.store, region, slot, WIPED_SLOTS) {
                Ok((runs, next)) => {
                    let wiped = runs.iter().try_for_each(|run| self.wipe(*run));
                    self.alloc.give_back(&self.store, &runs);
                    wiped?;
                    next
                }
                // Which of its slots are free is not known: none of them is handed out any more.
                Err(VolumeError::DamagedTable { reason, .. }) if reason != Damage::Unreadable => None,
                Err(error) => return Err(error),
            }
        };
        Ok(match next {
            Some(slot) => Phase::Space { region, slot },
            None => {
                if (region + 1).is_multiple_of(WIPED_REGIONS) {
                    self.checkpoint_with(&mut |_, _| Ok(()))?;
                }
                Phase::Space { region: region + 1, slot: 0 }
            }
        })
    }

    /// Gives slots back to the host, or overwrites them where the host cannot take them or they have to stay.
    fn wipe(&self, run: Run) -> Result<(), VolumeError> {
        let mut first = Box::new([0; BLOCK]);
        let is_zero = |slot, block: &mut [u8; BLOCK]| {
            self.store.read(block, slot).is_ok() && block.iter().all(|byte| *byte == 0)
        };
        if !self.alloc.is_reserve(run.slot) {
            let punched = self.store.backing.punch(run.slot * BLOCK_BYTES, run.count * BLOCK_BYTES);
            let last = run.slot + run.count - 1;
            if punched.is_ok() && is_zero(run.slot, &mut first) && is_zero(last, &mut first) {
                return Ok(());
            }
        }
        for slot in run.slot..run.slot + run.count {
            if !is_zero(slot, &mut first) {
                self.store.write(&[0; BLOCK], slot).map_err(|error| self.poison(error))?;
            }
        }
        Ok(())
    }

    /// The end: the older wrapped DEK is overwritten, and its keys go. Nothing that can be recovered refers to them: the walk found nothing,
    /// and both generations of superblocks are of the newer DEK.
    fn finish_reencryption(&self, switch: Switch) -> Result<(), VolumeError> {
        let mut checkpointer = self.checkpointer.lock();
        while checkpointer.superblock.generation <= switch.generation {
            self.checkpoint_locked(&mut checkpointer)?;
        }
        self.store.sync().map_err(|error| self.poison(error))?;
        let old = self.header.lock().clone();
        let Some(next) = old.next.clone() else { return Ok(()) };
        let ring = Keyring::clone(&self.store.keys.now()).finished();
        let header = Header { wrapped_dek: next.wrapped_dek, next: None, ..old };
        // If the keys are wrapped anew in this very moment, this comes again.
        self.rewrite_header(&header, Some(ring))?;
        self.store.epochs.forget_before(switch.epoch);
        tracing::info!(volume = %self.store.uuid, "re-encrypted: nothing is left of the older data key");
        Ok(())
    }
}

fn step_of(walked: &Walked) -> Step {
    if walked.freeing {
        Step::Freeing
    } else if walked.no_space {
        Step::NoSpace
    } else {
        Step::Went { bytes: walked.sealed * BLOCK_BYTES }
    }
}
