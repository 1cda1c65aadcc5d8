//! Whether requests of a kind wait for the host.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use nix::sys::resource::{UsageWho, getrusage};

/// What a request may take without anybody asking why: much more than what lies in the host's cache does.
const QUICK: Duration = Duration::from_micros(100);

/// Bytes per microsecond at which a large one may take longer.
const PACE: u64 = 1000;

/// How many quick requests it takes until a slow one is forgotten.
const MEMORY: u32 = 64;

/// What is known of the latest requests of one kind.
#[derive(Debug, Default)]
pub(super) struct Expectation {
    /// Above 0: one took long lately, so it is looked at why the next ones do.
    suspected: AtomicU32,
    /// Above 0: one waited for the host lately.
    waited: AtomicU32,
}

impl Expectation {
    /// Whether the next one probably waits.
    pub(super) fn is_slow(&self) -> bool {
        self.waited.load(Ordering::Relaxed) > 0
    }

    /// Does it, and learns from how long it took. One that took long may only have waited for a processor; then the thread did not go to
    /// sleep by itself, and another thread would only make it worse.
    pub(super) fn observe<R>(&self, length: u64, work: impl FnOnce() -> R) -> R {
        let before = if self.suspected.load(Ordering::Relaxed) > 0 { sleeps() } else { None };
        let start = Instant::now();
        let result = work();
        if start.elapsed() <= QUICK + Duration::from_micros(length / PACE) {
            forget(&self.suspected);
            forget(&self.waited);
        } else {
            self.suspected.store(MEMORY, Ordering::Relaxed);
            if before.is_some() && sleeps() > before {
                self.waited.store(MEMORY, Ordering::Relaxed);
            } else {
                forget(&self.waited);
            }
        }
        result
    }
}

/// Counts down; a count that another thread loses does not matter.
fn forget(count: &AtomicU32) {
    let now = count.load(Ordering::Relaxed);
    if now > 0 {
        count.store(now - 1, Ordering::Relaxed);
    }
}

/// How often this thread has gone to sleep by itself.
fn sleeps() -> Option<i64> {
    getrusage(UsageWho::RUSAGE_THREAD).ok().map(|usage| usage.voluntary_context_switches())
}
