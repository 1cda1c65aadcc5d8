//! What `crate::sync` is in `evsfs`, over the scheduler's primitives.

use std::cell::Cell;

pub(crate) use shuttle::sync::atomic;
pub(crate) use shuttle::thread_local;
pub(crate) use shuttle_parking_lot::{Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard};

use std::time::Duration;

use crate::engine::Protection;

/// Time does not pass in a schedule: who waits does so until the others have let go.
pub(crate) fn patiently<T>(mut take: impl FnMut(Duration) -> Option<T>) -> T {
    take(Duration::ZERO).expect("a lock is had in the end")
}

pub(crate) fn write_within(lock: &RwLock<()>, _: Duration) -> Option<RwLockWriteGuard<'_, ()>> {
    Some(lock.write())
}

std::thread_local! {
    /// The scheduler runs all threads of a schedule on the thread that started it.
    static LEFT_OUT: Cell<Option<Protection>> = const { Cell::new(None) };
}

pub(crate) fn holds(protection: Protection) -> bool {
    LEFT_OUT.get() != Some(protection)
}

/// Runs schedules with one protection of the engine taken out, or none.
pub fn leaving_out<T>(protection: Option<Protection>, run: impl FnOnce() -> T) -> T {
    struct Restore;
    impl Drop for Restore {
        fn drop(&mut self) {
            LEFT_OUT.set(None);
        }
    }
    let _restore = Restore;
    LEFT_OUT.set(protection);
    run()
}
