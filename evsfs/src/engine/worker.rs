//! The two threads of an attached volume: one commits what nobody flushes, one checkpoints.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::core::Core;
use super::error::VolumeError;
use super::ration::Ration;
use super::task::Step;

/// Changes are committed at the latest this long after they came, plus one round.
const COMMIT_AGE: Duration = Duration::from_secs(5);
/// How often the committer looks.
const COMMIT_ROUND: Duration = Duration::from_secs(2);

/// How often a task that waits for others looks again.
const WAITING_ROUND: Duration = Duration::from_secs(1);

/// What wakes the threads.
#[derive(Default)]
pub(super) struct Signals {
    stop: Mutex<bool>,
    stopped: Condvar,
    work: Mutex<bool>,
    woken: Condvar,
    asked: AtomicBool,
    trash: AtomicBool,
    failures: Ration,
}

impl Signals {
    /// There is something to checkpoint or compact.
    pub(super) fn wake(&self) {
        if !self.asked.swap(true, Ordering::AcqRel) {
            *self.work.lock() = true;
            self.woken.notify_one();
        }
    }

    /// Whether trash waits to be freed.
    pub(super) fn trash(&self) -> bool {
        self.trash.load(Ordering::Acquire)
    }

    /// Whether trash waits, and can be freed at once.
    pub(super) fn set_trash(&self, trash: bool, at_once: bool) {
        self.trash.store(trash, Ordering::Release);
        if trash && at_once {
            self.wake();
        }
    }

    fn is_stopping(&self) -> bool {
        *self.stop.lock()
    }

    /// Waits, at most so long, for the threads to be ended.
    fn is_stopping_after(&self, wait: Duration) -> bool {
        let mut stop = self.stop.lock();
        if !*stop && !wait.is_zero() {
            self.stopped.wait_for(&mut stop, wait);
        }
        *stop
    }

    /// Ends the threads after what they do now.
    pub(super) fn stop(&self) {
        *self.stop.lock() = true;
        self.stopped.notify_all();
        self.asked.store(false, Ordering::Release);
        self.wake();
    }
}

/// Starts both threads.
pub(super) fn start(core: &Arc<Core>) -> std::io::Result<Vec<JoinHandle<()>>> {
    let thread = |name: &str, run: fn(&Core)| {
        let core = Arc::clone(core);
        std::thread::Builder::new().name(name.to_owned()).stack_size(512 << 10).spawn(move || run(&core))
    };
    Ok(vec![thread("committer", committer)?, thread("checkpointer", checkpointer)?])
}

/// Starts the thread of a re-encryption or a flatten, unless there is one.
pub(super) fn start_task(core: &Arc<Core>) -> std::io::Result<Option<JoinHandle<()>>> {
    if core.task.working.swap(true, Ordering::AcqRel) {
        return Ok(None);
    }
    core.task.set_stopped(None);
    let shared = Arc::clone(core);
    let thread = std::thread::Builder::new().name("background".to_owned()).stack_size(512 << 10);
    let started = thread.spawn(move || {
        let task = &shared.task;
        loop {
            let done = carry_on(&shared);
            task.working.store(false, Ordering::Release);
            // Another may have begun meanwhile, and have found this thread still there.
            let more = done && shared.running_task().is_some();
            if !more || task.working.swap(true, Ordering::AcqRel) {
                return;
            }
        }
    });
    if started.is_err() {
        core.task.working.store(false, Ordering::Release);
    }
    started.map(Some)
}

/// Steps until there is nothing left to do, which is true then, it fails, or the volume is closed.
fn carry_on(core: &Core) -> bool {
    let mut wait = Duration::ZERO;
    while !core.signals.is_stopping_after(wait) {
        wait = match core.task_paced() {
            Ok((Step::Finished, _)) => return true,
            Ok((Step::Went { .. }, pause)) => pause,
            Ok((Step::Freeing | Step::NoSpace, _)) => WAITING_ROUND,
            // It was wrapped anew in that moment.
            Err(VolumeError::HeaderChanged { .. }) => Duration::ZERO,
            Err(error) => {
                tracing::error!(volume = %core.store.uuid, %error, "what ran in the background stopped; it goes on when it is asked for again");
                core.task.set_stopped(Some(error.to_string()));
                return false;
            }
        };
    }
    false
}

fn committer(core: &Core) {
    loop {
        {
            let mut stop = core.signals.stop.lock();
            if !*stop {
                core.signals.stopped.wait_for(&mut stop, COMMIT_ROUND);
            }
            if *stop {
                return;
            }
        }
        let since = core.pending.lock().since();
        if since.is_some_and(|since| since.elapsed() >= COMMIT_AGE) {
            report(core, Work::Commit, core.commit());
        }
    }
}

fn checkpointer(core: &Core) {
    let mut last = Instant::now();
    loop {
        {
            let mut work = core.signals.work.lock();
            if !*work {
                core.signals.woken.wait_for(&mut work, core.idle_round);
            }
            *work = false;
        }
        core.signals.asked.store(false, Ordering::Release);
        if core.signals.is_stopping() {
            return;
        }
        if core.check_writable().is_err() {
            continue;
        }
        report(core, Work::Checkpoint, core.tend(last.elapsed() >= core.idle_round));
        if last.elapsed() >= core.idle_round {
            last = Instant::now();
        }
    }
}

/// Failures reach whoever writes or flushes next; here they are only noted, now and then: who tries again fails again.
fn report(core: &Core, work: Work, result: Result<(), VolumeError>) {
    // These two were said when it happened, and are told to everybody who asks.
    if let Err(error) = result
        && !matches!(error, VolumeError::Poisoned | VolumeError::Superseded { .. })
        && let Some(untold) = core.signals.failures.take(work as u64)
    {
        tracing::warn!(volume = %core.store.uuid, %error, untold, "background work failed");
    }
}

/// What the threads do.
#[derive(Clone, Copy)]
enum Work {
    Commit,
    Checkpoint,
}

impl Core {
    /// What the checkpointer does when it is woken.
    fn tend(&self, idle_round: bool) -> Result<(), VolumeError> {
        // Where there was no space, and nothing gave any since, only the idle round asks the host anew.
        let since = if idle_round { self.attempts.load(Ordering::Acquire) } else { 0 };
        let dirty = self.dirty.active_len() > self.limits.dirty / 8 * 7;
        if dirty || idle_round || self.signals.trash() || self.is_crowded(1) {
            self.checkpoint_since(since)?;
        }
        if self.log.lock().is_long() {
            self.make_log_room(self.limits.log_reserve, since)?;
        }
        Ok(())
    }
}
