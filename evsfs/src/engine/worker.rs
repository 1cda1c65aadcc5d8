//! The two threads of an attached volume: one commits what nobody flushes, one checkpoints.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::core::Core;
use super::error::VolumeError;

/// Changes are committed at the latest this long after they came, plus one round.
const COMMIT_AGE: Duration = Duration::from_secs(5);
/// How often the committer looks.
const COMMIT_ROUND: Duration = Duration::from_secs(2);
/// How often an otherwise idle volume is checkpointed, so that discarded space goes back to the host.
const CHECKPOINT_ROUND: Duration = Duration::from_secs(30);

/// What wakes the threads.
#[derive(Default)]
pub(super) struct Signals {
    stop: Mutex<bool>,
    stopped: Condvar,
    work: Mutex<bool>,
    woken: Condvar,
    asked: AtomicBool,
    trash: AtomicBool,
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

    pub(super) fn set_trash(&self, trash: bool) {
        self.trash.store(trash, Ordering::Release);
        if trash {
            self.wake();
        }
    }

    fn is_stopping(&self) -> bool {
        *self.stop.lock()
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
            report(core, core.commit());
        }
    }
}

fn checkpointer(core: &Core) {
    let mut last = Instant::now();
    loop {
        {
            let mut work = core.signals.work.lock();
            if !*work {
                core.signals.woken.wait_for(&mut work, CHECKPOINT_ROUND);
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
        report(core, core.tend(last.elapsed() >= CHECKPOINT_ROUND));
        if last.elapsed() >= CHECKPOINT_ROUND {
            last = Instant::now();
        }
    }
}

/// Failures reach whoever writes or flushes next; here they are only noted.
fn report(core: &Core, result: Result<(), VolumeError>) {
    if let Err(error) = result {
        tracing::warn!(volume = %core.store.uuid, %error, "background work failed");
    }
}

impl Core {
    /// What the checkpointer does when it is woken.
    fn tend(&self, idle_round: bool) -> Result<(), VolumeError> {
        let dirty = self.dirty.active_len() > self.limits.dirty / 8 * 7;
        if dirty || idle_round || self.signals.trash() {
            self.checkpoint()?;
        }
        if self.log.lock().is_long() {
            self.make_log_room(self.limits.log_reserve)?;
        }
        Ok(())
    }
}
