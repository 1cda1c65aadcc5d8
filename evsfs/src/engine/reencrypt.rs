//! Re-encryption to another DEK (docs/volume-format.md, "Re-encryption"): what comes after what.
//!
//! ```text
//!   start: header with both wrapped DEKs --> newer keys seal --> superblock
//!   blocks (walk.rs) --> proof: the walk once more finds nothing --> bitmaps --> log ring and free space wiped --> header with the newer DEK only
//! ```
//!
//! Each step can be cut short anywhere. Only the walk's cursor is kept in the superblock; what comes after it is done again.

use super::alloc::Run;
use super::core::Core;
use super::error::{Damage, VolumeError};
use super::protection::Protection;
use super::task::{Phase, Step};
use super::walk::Job;
use crate::crypto::{Keyring, Switch, VolumeKeys};
use crate::format::layout::{BLOCK, BLOCK_BYTES, RING_START};
use crate::format::{Header, NextKey, Task, TaskKind, WrappedDekField, epoch_place};

/// Bitmaps that are written anew at once.
const STEP_REGIONS: usize = 1024;
/// Log pages, and free slots, that are wiped at once.
const WIPED_PAGES: u64 = 256;
const WIPED_SLOTS: u64 = 4096;
/// Regions of free space that are wiped before a checkpoint lets go of their bitmaps.
const WIPED_REGIONS: u64 = 64;

impl Core {
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
        let _step = self.task.stepping.lock();
        let mut checkpointer = self.checkpointer.lock();
        let volume = self.store.uuid;
        match self.running_task() {
            Some(TaskKind::Reencrypt) => return Err(VolumeError::Reencrypting { volume }),
            Some(TaskKind::Flatten) => return Err(VolumeError::Flattening { volume }),
            None => {}
        }
        let ring = self.store.keys.now();
        // Beforehand, so that the pause of the writers is short, and so that what keeps a structural change from being made keeps this from
        // beginning. The rate comes with it: what the header begins may be cut short before the next superblock, and goes on with this one's.
        self.exclusive_locked(&mut checkpointer, false, &mut |plan, _| {
            plan.task = Some(Task { kind: TaskKind::Reencrypt, cursor: 0, rate });
            Ok(())
        })?;
        {
            // Who sealed something under the older DEK has inserted it: the walk begins after that, and finds it.
            let _alone = self.alone();
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
        self.task.begin(rate);
        let begun = self.exclusive_locked(&mut checkpointer, false, &mut |plan, _| {
            // The file as it was before does not pass for the file after.
            plan.event = Some(b"re-encrypt".to_vec());
            Ok(())
        });
        match begun {
            // It has begun all the same; the next checkpoint tells.
            Err(error) if self.check_writable().is_ok() => {
                tracing::warn!(%volume, %error, "the re-encryption has begun, and the file does not say so yet");
                Ok(())
            }
            other => other,
        }
    }

    /// A step, and the phase after it.
    pub(super) fn reencrypt_in(
        &self,
        phase: Phase,
        switch: Switch,
        blocks: u64,
    ) -> Result<(Phase, Step), VolumeError> {
        const WENT: Step = Step::Went { bytes: 0 };
        Ok(match phase {
            Phase::Blocks | Phase::Proof { .. } => {
                self.walk_in(phase, &Job::Reseal { before: switch.epoch }, blocks, Phase::Bitmaps)?
            }
            Phase::Bitmaps => {
                let regions = self.alloc.sealed_before(&self.store, switch.epoch, STEP_REGIONS)?;
                if regions.is_empty() {
                    let wiped = self.store.protections.has(Protection::Wiping);
                    (if wiped { Phase::Log(0) } else { Phase::Header }, WENT)
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
                if self.finish_reencryption(switch)? {
                    (Phase::Blocks, Step::Finished)
                } else {
                    (Phase::Blocks, WENT)
                }
            }
        })
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
        // No checkpoint runs meanwhile, which could write to these places, or have slots that it gives back unused; and no cut is made, so
        // nothing ever refers to what is taken here.
        let mut checkpointer = self.checkpointer.lock();
        if slot == 0 {
            for place in self.alloc.unused_places(&self.store, region)? {
                self.store.write(&[0; BLOCK], place).map_err(|error| self.poison(error))?;
            }
        }
        let borrowed = {
            // With slots that he may give back unused.
            let _nobody = self.between_writes();
            self.alloc.borrow_free(&self.store, region, slot, WIPED_SLOTS)
        };
        let next = match borrowed {
            Ok((runs, next)) => {
                let wiped = runs.iter().try_for_each(|run| self.wipe(*run));
                self.alloc.give_back(&self.store, &runs);
                wiped?;
                next
            }
            // Which of its slots are free is not known: none of them is handed out any more.
            Err(VolumeError::DamagedTable { reason, .. }) if reason != Damage::Unreadable => None,
            Err(error) => return Err(error),
        };
        Ok(match next {
            Some(slot) => Phase::Space { region, slot },
            None => {
                if (region + 1).is_multiple_of(WIPED_REGIONS) {
                    self.checkpoint_locked(&mut checkpointer)?;
                }
                Phase::Space { region: region + 1, slot: 0 }
            }
        })
    }

    /// Gives slots back to the host, or overwrites them where the host cannot take them or they have to stay.
    fn wipe(&self, run: Run) -> Result<(), VolumeError> {
        self.store.check_ours()?;
        if !self.alloc.is_reserve(run.slot)
            && matches!(self.store.backing.punch(run.slot * BLOCK_BYTES, run.count * BLOCK_BYTES), Ok(true))
        {
            return Ok(());
        }
        let mut block = Box::new([0; BLOCK]);
        for slot in run.slot..run.slot + run.count {
            // What is a hole stays one.
            let is_zero =
                self.store.read(block.as_mut_slice(), slot).is_ok() && block.iter().all(|byte| *byte == 0);
            if !is_zero {
                self.store.write(&[0; BLOCK], slot).map_err(|error| self.poison(error))?;
            }
        }
        Ok(())
    }

    /// The end: the older wrapped DEK is overwritten, and its keys go. Nothing that can be recovered refers to them: the walk found nothing,
    /// and both generations of superblocks are of the newer DEK.
    ///
    /// False, and nothing has happened, if a checkpoint has carried over what was sealed under the older one: it never was in the map that was walked.
    fn finish_reencryption(&self, switch: Switch) -> Result<bool, VolumeError> {
        let mut checkpointer = self.checkpointer.lock();
        while checkpointer.superblock.generation <= switch.generation {
            self.checkpoint_locked(&mut checkpointer)?;
        }
        if self.dirty.has(|entry| entry.is_data() && entry.epoch() < switch.epoch) {
            return Ok(false);
        }
        self.store.sync().map_err(|error| self.poison(error))?;
        let old = self.header.lock().clone();
        let Some(next) = old.next.clone() else { return Ok(true) };
        let ring = Keyring::clone(&self.store.keys.now()).finished();
        let header = Header { wrapped_dek: next.wrapped_dek, next: None, ..old };
        // If the keys are wrapped anew in this very moment, this comes again.
        self.rewrite_header(&header, Some(ring))?;
        self.store.epochs.forget_before(switch.epoch);
        tracing::info!(volume = %self.store.uuid, "re-encrypted: nothing is left of the older data key");
        Ok(true)
    }
}
