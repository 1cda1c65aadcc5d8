//! What goes through all blocks in the background: a re-encryption, or the flatten of a thin volume. One at a time, a bounded part with each
//! checkpoint (walk.rs), by a cursor in the superblock.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::core::Core;
use super::error::VolumeError;
use super::protection::Protection;
use super::report::TaskStatus;
use super::walk::{Job, Walked};
use crate::crypto::Switch;
use crate::format::layout::BLOCK_BYTES;
use crate::format::{Superblock, Task, TaskKind};

/// Blocks of a step when nothing limits it: 16 MiB.
const STEP_BLOCKS: u64 = 4096;
/// Steps of a second when a rate does.
const STEPS_PER_SECOND: u64 = 4;

/// What is to be done next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// Blocks and pages, from the cursor of the superblock.
    Blocks,
    /// The walk from the beginning, which must find nothing left to do.
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
    /// All is done, and the header says so.
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

/// The running task, in memory.
pub(super) struct Running {
    pub(super) phase: Mutex<Phase>,
    /// One step at a time.
    pub(super) stepping: Mutex<()>,
    /// Whether a thread works on it.
    pub(super) working: AtomicBool,
    /// Whether it is a flatten. That a re-encryption runs is known by the keys.
    pub(super) flattening: AtomicBool,
    /// Bytes in a second; 0 for no limit.
    rate: AtomicU64,
    cursor: AtomicU64,
    sealed: AtomicU64,
    stopped: Mutex<Option<String>>,
}

impl Running {
    /// As a superblock tells it, and a header, which names a base or not.
    pub(super) fn new(superblock: &Superblock, switch: Option<Switch>, thin: bool) -> Self {
        let of_key = |s: Switch| superblock.generation >= s.generation;
        let task = superblock.task.filter(|task| match task.kind {
            TaskKind::Reencrypt => switch.is_some_and(of_key),
            TaskKind::Flatten => switch.is_none() && thin,
        });
        // The superblock before the switch has the rate already, so that it is not lost if the one after it was not written.
        let before = |task: &Task| task.kind == TaskKind::Reencrypt && switch.is_some();
        let rate = superblock.task.filter(|of| task.is_some() || before(of)).map_or(0, |task| task.rate);
        let cursor = task.map_or(0, |task| task.cursor);
        // Cut short at its very end: the header is still to be written.
        let at_header = thin && superblock.base_copied;
        Self {
            phase: Mutex::new(if at_header { Phase::Header } else { Phase::Blocks }),
            stepping: Mutex::default(),
            working: AtomicBool::new(false),
            flattening: AtomicBool::new(at_header || task.is_some_and(|task| task.kind == TaskKind::Flatten)),
            rate: AtomicU64::new(rate),
            cursor: AtomicU64::new(if at_header { u64::MAX } else { cursor }),
            sealed: AtomicU64::new(0),
            stopped: Mutex::default(),
        }
    }

    /// From the beginning, at that rate.
    pub(super) fn begin(&self, rate: u64) {
        self.set_rate(rate);
        self.cursor.store(0, Ordering::Relaxed);
        self.sealed.store(0, Ordering::Relaxed);
        *self.phase.lock() = Phase::Blocks;
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
    /// What runs, if anything does.
    pub(super) fn running_task(&self) -> Option<TaskKind> {
        if self.store.keys.now().switch().is_some() {
            return Some(TaskKind::Reencrypt);
        }
        self.task.flattening.load(Ordering::Acquire).then_some(TaskKind::Flatten)
    }

    /// The task that goes into the superblock after this one.
    pub(super) fn task_of(&self, superblock: &Superblock) -> Option<Task> {
        let kind = self.running_task()?;
        let begun = self.store.keys.now().switch().map_or(0, |switch| switch.generation);
        let known = superblock.task.filter(|task| task.kind == kind && superblock.generation >= begun);
        let rate = self.task.rate.load(Ordering::Relaxed);
        let copied = kind == TaskKind::Flatten && superblock.base_copied;
        (!copied).then(|| Task { kind, cursor: known.map_or(0, |task| task.cursor), rate })
    }

    pub(super) fn task_status(&self) -> Option<TaskStatus> {
        let kind = self.running_task()?;
        let size = self.size();
        let cursor = self.task.cursor.load(Ordering::Relaxed);
        let phase = *self.task.phase.lock();
        Some(TaskStatus {
            kind,
            phase: match phase {
                Phase::Blocks if cursor < u64::MAX => "blocks",
                Phase::Blocks | Phase::Proof { .. } => "proof",
                Phase::Bitmaps => "bitmaps",
                Phase::Log(_) | Phase::Space { .. } => "wiping",
                Phase::Header => "header",
            },
            position: cursor.saturating_mul(BLOCK_BYTES).min(size),
            size,
            sealed: self.task.sealed.load(Ordering::Relaxed),
            rate: self.task.rate.load(Ordering::Relaxed),
            stopped: self.task.stopped.lock().clone(),
        })
    }

    /// Goes on by a step of the size that the rate asks for, and tells how long to wait afterwards.
    pub(super) fn task_paced(&self) -> Result<(Step, Duration), VolumeError> {
        let began = Instant::now();
        let step = self.task_step(self.task.step_blocks())?;
        let pause = match step {
            Step::Went { bytes } => self.task.pause(bytes, began.elapsed()),
            Step::Finished | Step::Freeing | Step::NoSpace => Duration::ZERO,
        };
        Ok((step, pause))
    }

    /// Goes on, by about so many blocks. Readers and writers go on, too.
    pub(super) fn task_step(&self, blocks: u64) -> Result<Step, VolumeError> {
        let _step = self.task.stepping.lock();
        let Some(kind) = self.running_task() else { return Ok(Step::Finished) };
        self.check_writable()?;
        self.settle()?;
        let phase = *self.task.phase.lock();
        let (next, step) = match (kind, self.store.keys.now().switch()) {
            (TaskKind::Reencrypt, Some(switch)) => self.reencrypt_in(phase, switch, blocks)?,
            _ => self.flatten_in(phase, blocks)?,
        };
        *self.task.phase.lock() = next;
        Ok(step)
    }

    /// The part that both have: all blocks, and then all of them once more, to see that nothing is left. `then` is the phase after it.
    pub(super) fn walk_in(
        &self,
        phase: Phase,
        job: &Job<'_>,
        blocks: u64,
        then: Phase,
    ) -> Result<(Phase, Step), VolumeError> {
        let (from, found) = match phase {
            Phase::Proof { cursor, found } => (Some(cursor), found),
            _ => (None, 0),
        };
        let mut walked = Walked::default();
        self.checkpoint_with(&mut |plan, work| {
            walked = self.walk(plan, work, from, job, blocks)?;
            Ok(())
        })?;
        let bytes = walked.sealed * BLOCK_BYTES;
        self.task.sealed.fetch_add(bytes, Ordering::Relaxed);
        let all = walked.cursor == u64::MAX;
        let next = if from.is_none() {
            self.task.cursor.store(walked.cursor, Ordering::Relaxed);
            match phase {
                _ if all && self.store.protections.has(Protection::WalkProof) => {
                    Phase::Proof { cursor: 0, found: 0 }
                }
                _ if all => then,
                phase => phase,
            }
        } else {
            let found = found + walked.sealed + walked.rewritten;
            match walked.cursor {
                u64::MAX if found == 0 => then,
                u64::MAX => {
                    tracing::warn!(volume = %self.store.uuid, found, "the walk had left something: it is done again");
                    Phase::Proof { cursor: 0, found: 0 }
                }
                cursor => Phase::Proof { cursor, found },
            }
        };
        let step = if walked.freeing {
            Step::Freeing
        } else if walked.no_space {
            // The next step asks the host again.
            self.alloc.retry_growth();
            Step::NoSpace
        } else {
            Step::Went { bytes }
        };
        Ok((next, step))
    }
}
