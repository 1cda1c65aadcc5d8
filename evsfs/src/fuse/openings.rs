//! Who has the disk open, and whether anybody may open it now.

use parking_lot::Mutex;

/// Counts the open files of a disk.
#[derive(Debug, Default)]
pub struct Openings(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    open: u64,
    closed: bool,
}

impl Openings {
    /// One more, if it is allowed now.
    pub(super) fn enter(&self) -> bool {
        let mut state = self.0.lock();
        if state.closed {
            return false;
        }
        state.open += 1;
        true
    }

    /// One less.
    pub(super) fn leave(&self) {
        let mut state = self.0.lock();
        state.open = state.open.saturating_sub(1);
    }

    /// Lets nobody open the disk while the result lives.
    #[must_use]
    pub fn close(&self) -> Closed<'_> {
        self.0.lock().closed = true;
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
        self.0.0.lock().open > 0
    }
}

impl Drop for Closed<'_> {
    fn drop(&mut self) {
        self.0.0.lock().closed = false;
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
}
