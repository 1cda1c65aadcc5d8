//! Who has the disk or one of its snapshots open, and whether anybody may open them now.

use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

/// Counts the open files of a mount, in whatever mount namespace they are open.
#[derive(Debug, Default)]
pub struct Openings {
    state: Mutex<State>,
    unused: Condvar,
}

/// A kind of file that can be open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum View {
    /// The disk as it is now.
    Disk,
    /// A state that it had.
    Snapshot,
}

#[derive(Debug, Default)]
struct State {
    disk: u64,
    snapshots: u64,
    closed: Extent,
}

/// What may not be opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Extent {
    #[default]
    Nothing,
    Disk,
    All,
}

impl State {
    const fn count(&mut self, view: View) -> &mut u64 {
        match view {
            View::Disk => &mut self.disk,
            View::Snapshot => &mut self.snapshots,
        }
    }

    const fn may_be_opened(&self, view: View) -> bool {
        match self.closed {
            Extent::Nothing => true,
            Extent::Disk => matches!(view, View::Snapshot),
            Extent::All => false,
        }
    }

    /// Whether anything is open that is closed to others.
    const fn is_in_use(&self, extent: Extent) -> bool {
        match extent {
            Extent::Nothing => false,
            Extent::Disk => self.disk > 0,
            Extent::All => self.disk + self.snapshots > 0,
        }
    }
}

impl Openings {
    /// One more, if it is allowed now.
    pub(super) fn enter(&self, view: View) -> bool {
        let mut state = self.state.lock();
        if !state.may_be_opened(view) {
            return false;
        }
        *state.count(view) += 1;
        true
    }

    /// One less.
    pub(super) fn leave(&self, view: View) {
        let mut state = self.state.lock();
        let count = state.count(view);
        *count = count.saturating_sub(1);
        self.unused.notify_all();
    }

    /// Whether somebody has the disk or a snapshot open.
    #[must_use]
    pub fn is_in_use(&self) -> bool {
        self.state.lock().is_in_use(Extent::All)
    }

    /// Waits until nobody has the disk or a snapshot open any more, and lets nobody open them from that moment on, while the result lives.
    /// The kernel says only some time after a file was closed that it was. `None` when somebody still has one open after `patience`; until
    /// then they can be opened as ever.
    #[must_use]
    pub fn close(&self, patience: Duration) -> Option<Closed<'_>> {
        self.close_to(Extent::All, patience)
    }

    /// The same for the disk alone; snapshots stay as they are, whatever happens to the disk.
    #[must_use]
    pub fn close_disk(&self, patience: Duration) -> Option<Closed<'_>> {
        self.close_to(Extent::Disk, patience)
    }

    fn close_to(&self, extent: Extent, patience: Duration) -> Option<Closed<'_>> {
        let end = Instant::now() + patience;
        let mut state = self.state.lock();
        while state.is_in_use(extent) {
            if self.unused.wait_until(&mut state, end).timed_out() && state.is_in_use(extent) {
                return None;
            }
        }
        state.closed = extent;
        Some(Closed { openings: self })
    }
}

/// See [`Openings::close`].
#[derive(Debug)]
pub struct Closed<'a> {
    openings: &'a Openings,
}

impl Closed<'_> {
    /// Nobody opens any of it ever again.
    pub fn for_good(self) {
        std::mem::forget(self);
    }
}

impl Drop for Closed<'_> {
    fn drop(&mut self) {
        self.openings.state.lock().closed = Extent::Nothing;
    }
}

#[cfg(test)]
mod tests {
    use super::View::{Disk, Snapshot};
    use super::*;

    #[test]
    fn while_closed_nobody_enters() {
        for (inside, other) in [(Disk, Snapshot), (Snapshot, Disk)] {
            let openings = Openings::default();
            assert!(!openings.is_in_use() && openings.enter(inside) && openings.is_in_use());
            assert!(openings.close(Duration::ZERO).is_none());
            openings.leave(inside);
            let closed = openings.close(Duration::ZERO).unwrap();
            assert!(!openings.enter(inside) && !openings.enter(other));
            drop(closed);
            assert!(openings.enter(inside) && openings.enter(other));
        }
    }

    #[test]
    fn a_closed_disk_leaves_snapshots_alone() {
        let openings = Openings::default();
        assert!(openings.enter(Snapshot));
        let closed = openings.close_disk(Duration::ZERO);
        assert!(closed.is_some(), "who reads a snapshot does not see what happens to the disk");
        assert!(openings.enter(Snapshot) && !openings.enter(Disk));
    }

    #[test]
    fn until_the_last_has_left_others_may_enter() {
        let openings = Openings::default();
        assert!(openings.enter(Disk) && openings.enter(Snapshot));
        openings.leave(Disk);
        assert!(openings.close(Duration::from_millis(1)).is_none());
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| openings.close(Duration::from_secs(60)));
            // However far the other one is.
            assert!(openings.enter(Disk));
            openings.leave(Disk);
            openings.leave(Snapshot);
            waits.join().unwrap().unwrap().for_good();
        });
        assert!(!openings.enter(Disk) && !openings.enter(Snapshot));
    }
}
