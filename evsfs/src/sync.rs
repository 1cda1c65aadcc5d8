//! What the engine's threads meet at. The engine takes its locks, the atomics of its protocol, and its thread-local buffers from here alone:
//! `evsfs/schedules` compiles the same engine against another module of this name, whose locks hand control to a scheduler, and
//! tries the orders in which threads may run.

pub(crate) use std::sync::atomic;
pub(crate) use std::thread_local;

pub(crate) use parking_lot::{Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard};

use std::time::Duration;

use crate::engine::Protection;

/// How long those who come later are kept waiting at the first try, and at most, by who waits for one that may take long.
const PATIENCE: [Duration; 2] = [Duration::from_millis(1), Duration::from_millis(64)];

/// Tries again and again, each time for longer, to take a lock whole within the time that it hands to `take`. Between the tries those go on
/// who would have it shared, for at least as long.
pub(crate) fn patiently<T>(mut take: impl FnMut(Duration) -> Option<T>) -> T {
    let [mut patience, most] = PATIENCE;
    loop {
        if let Some(taken) = take(patience) {
            return taken;
        }
        std::thread::sleep(patience);
        patience = (patience * 2).min(most);
    }
}

/// Takes a lock whole, unless that takes longer.
pub(crate) fn write_within(lock: &RwLock<()>, patience: Duration) -> Option<RwLockWriteGuard<'_, ()>> {
    lock.try_write_for(patience)
}

/// All of them, always. The schedules leave out one at a time, to see that this is noticed.
#[inline(always)]
pub(crate) const fn holds(_: Protection) -> bool {
    true
}
