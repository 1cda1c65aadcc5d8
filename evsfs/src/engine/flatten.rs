//! Flatten: a thin volume becomes one that needs no base (docs/volume-format.md, "Flatten").
//!
//! ```text
//!   start: the task in a superblock
//!   blocks (walk.rs): what is absent, here or in a snapshot, and data in the base, is sealed into slots of the volume --> proof: the walk once more finds nothing
//!   --> superblocks of both generations say that nothing is read from a base any more --> header without the base
//! ```
//!
//! Each step can be cut short anywhere. A base that a header names does not count once the superblock says so; and a header without it
//! makes no superblock count that does not say so. So neither an old header nor an old superblock turns blocks of the base into zeros, or back.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::core::Core;
use super::error::VolumeError;
use super::params::BaseImage;
use super::protection::Protection;
use super::task::{Phase, Step};
use super::walk::Job;
use crate::format::{Header, Task, TaskKind};

impl Core {
    /// What lies under the volume now. Who looks a block up takes it before that: a block that is absent afterwards is in this base.
    pub(super) fn base_now(&self) -> Option<Arc<dyn BaseImage>> {
        if self.thin { self.base.read().clone() } else { None }
    }

    /// Begins to copy what is read from the base, at most `rate` bytes in a second; if that is under way, it takes the rate over.
    pub(super) fn start_flatten(&self, rate: Option<u64>) -> Result<(), VolumeError> {
        self.check_writable()?;
        self.settle()?;
        let volume = self.store.uuid;
        let _step = self.task.stepping.lock();
        match self.running_task() {
            Some(TaskKind::Reencrypt) => return Err(VolumeError::Reencrypting { volume }),
            Some(TaskKind::Flatten) => {
                if let Some(rate) = rate {
                    self.task.set_rate(rate);
                }
                return Ok(());
            }
            None => {}
        }
        let base = self.base_now().ok_or(VolumeError::NotThin { volume })?;
        let (size, base) = (self.size(), base.size());
        if size < base {
            return Err(VolumeError::SmallerThanBase { volume, size, base });
        }
        let rate = rate.unwrap_or(0);
        self.task.begin(rate);
        self.task.flattening.store(true, Ordering::Release);
        let begun = self.checkpoint_with(&mut |plan, _| {
            plan.task = Some(Task { kind: TaskKind::Flatten, cursor: 0, rate });
            Ok(())
        });
        match begun {
            // It has begun all the same; the next checkpoint tells.
            Ok(()) | Err(VolumeError::NoSpace) => Ok(()),
            Err(error) => {
                self.task.flattening.store(false, Ordering::Release);
                Err(error)
            }
        }
    }

    /// A step, and the phase after it.
    pub(super) fn flatten_in(&self, phase: Phase, blocks: u64) -> Result<(Phase, Step), VolumeError> {
        if phase != Phase::Header
            && let Some(base) = self.base_now()
        {
            return self.walk_in(phase, &Job::Fill { base: &*base }, blocks, Phase::Header);
        }
        match self.finish_flatten() {
            Ok(()) => Ok((Phase::Blocks, Step::Finished)),
            Err(VolumeError::NoSpace) => Ok((Phase::Header, Step::NoSpace)),
            Err(error) => Err(error),
        }
    }

    /// The end. What can be recovered from here on needs no base: the walk found nothing left, and both generations of superblocks say so
    /// before the header does.
    fn finish_flatten(&self) -> Result<(), VolumeError> {
        let mut checkpointer = self.checkpointer.lock();
        if !checkpointer.superblock.base_copied {
            self.exclusive_locked(&mut checkpointer, false, &mut |plan, _| {
                plan.task = None;
                plan.base_copied = true;
                // The file as it was before does not pass for the file after.
                plan.event = Some(b"flatten".to_vec());
                Ok(())
            })?;
        }
        if self.store.protections.has(Protection::BothGenerations) {
            self.checkpoint_locked(&mut checkpointer)?;
        }
        let old = self.header.lock().clone();
        if old.base.is_some() {
            // If the key is wrapped anew in this very moment, this comes again.
            self.rewrite_header(&Header { base: None, base_copied: true, ..old }, None)?;
        }
        *self.base.write() = None;
        self.task.flattening.store(false, Ordering::Release);
        tracing::info!(volume = %self.store.uuid, "flattened: the volume has all of its base itself");
        Ok(())
    }
}
