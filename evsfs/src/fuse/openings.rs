//! Who has the disk open, and whether anybody may open it now.

use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

/// Counts the open files of a disk, in whatever mount namespace they are open.
#[derive(Debug, Default)]
pub struct Openings {
    state: Mutex<State>,
    unused: Condvar,
}

#[derive(Debug, Default)]
struct State {
    open: u64,
    closed: bool,
}

impl Openings {
    /// One more, if it is allowed now.
    pub(super) fn enter(&self) -> bool {
        let mut state = self.state.lock();
        if state.closed {
            return false;
        }
        state.open += 1;
        true
    }

    /// One less.
    pub(super) fn leave(&self) {
        let mut state = self.state.lock();
        state.open = state.open.saturating_sub(1);
        if state.open == 0 {
            self.unused.notify_all();
        }
    }

    /// Whether somebody has it open.
    #[must_use]
    pub fn is_in_use(&self) -> bool {
        self.state.lock().open > 0
    }

    /// Lets nobody open the disk while the result lives.
    #[must_use]
    pub fn close(&self) -> Closed<'_> {
        self.state.lock().closed = true;
        Closed(self)
    }
}

/// See [`Openings::close`].
#[derive(Debug)]
pub struct Closed<'a>(&'a Openings);

impl Closed<'_> {
    /// Whether somebody has it open from before.
    #[must_use]
    pub fn is_in_use(&self) -> bool {
        self.0.is_in_use()
    }

    /// Waits until nobody has it open any more: the kernel says so only some time after a file was closed. False when somebody
    /// still has after `patience`.
    #[must_use]
    pub fn wait_until_unused(&self, patience: Duration) -> bool {
        let end = Instant::now() + patience;
        let mut state = self.0.state.lock();
        while state.open > 0 {
            if self.0.unused.wait_until(&mut state, end).timed_out() {
                return state.open == 0;
            }
        }
        true
    }

    /// Nobody opens the disk ever again.
    pub fn for_good(self) {
        std::mem::forget(self);
    }
}

impl Drop for Closed<'_> {
    fn drop(&mut self) {
        self.0.state.lock().closed = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn while_closed_nobody_enters_and_those_inside_are_seen() {
        let openings = Openings::default();
        assert!(openings.enter());
        let closed = openings.close();
        assert!(!openings.enter());
        assert!(closed.is_in_use());
        openings.leave();
        assert!(!closed.is_in_use());
        drop(closed);
        assert!(openings.enter());
    }

    #[test]
    fn the_last_to_leave_ends_the_wait() {
        let openings = Openings::default();
        assert!(openings.enter() && openings.enter());
        let closed = openings.close();
        assert!(!closed.wait_until_unused(Duration::from_millis(1)));
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| closed.wait_until_unused(Duration::from_secs(60)));
            openings.leave();
            openings.leave();
            assert!(waits.join().unwrap());
        });
        closed.for_good();
        assert!(!openings.enter());
    }
}
