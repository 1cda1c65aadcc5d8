//! What the engine's threads meet at. The engine takes its locks, the atomics of its protocol, and its thread-local buffers from here alone:
//! `evsfs/schedules` compiles the same engine against another module of this name, whose locks hand control to a scheduler, and
//! tries the orders in which threads may run.

pub(crate) use std::sync::atomic;
pub(crate) use std::thread_local;

pub(crate) use parking_lot::{Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::engine::Protection;

/// All of them, always. The schedules leave out one at a time, to see that this is noticed.
#[inline(always)]
pub(crate) const fn holds(_: Protection) -> bool {
    true
}
