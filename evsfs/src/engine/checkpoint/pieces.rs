//! A checkpoint that there is no space for: made in pieces, or undone.

use super::super::core::Core;
use super::super::error::VolumeError;
use super::super::ranges::RangeSet;
use super::Checkpointer;
use crate::format::layout::FANOUT_BITS;
use crate::sync::RwLockWriteGuard;

/// Leaves of the first piece of a checkpoint on a full host. With the pages above them they are fewer than the slots that are kept.
const PIECE_FIRST: usize = 64;
/// Pieces at most; what comes in meanwhile is for later.
const PIECES_MOST: usize = 1000;

impl Core {
    /// On a full host, and where more leaves of the map changed than there are slots for: one piece of the map after the other. Each frees the
    /// pages, and the data, that it replaces, for the next.
    ///
    /// # Errors
    /// [`VolumeError::NoSpace`] if not even one leaf can be written: because it is a new one, and nothing else is freed with it.
    pub(super) fn checkpoint_in_pieces(&self, checkpointer: &mut Checkpointer) -> Result<(), VolumeError> {
        let mut leaves = PIECE_FIRST;
        for _ in 0..PIECES_MOST {
            let mut log = self.log.lock();
            {
                let gate = self.gate.write();
                self.cut(checkpointer, &mut log, gate)?;
            }
            if self.piece(checkpointer, &mut log, &mut leaves)? {
                return Ok(());
            }
            leaves = leaves.saturating_mul(2);
        }
        Ok(())
    }

    /// A cut whose checkpoint found no space is as if there had been a flush only: its entries are dirty as before, and what was replaced by then is free.
    /// What it discarded waits for the next checkpoint; what is hidden of its own entries since is free when what hides it is durable.
    ///
    /// So the next one needs no page for what is discarded until then. `gate` keeps writers away, unless the caller does.
    pub(super) fn undo_cut(&self, checkpointer: &mut Checkpointer, gate: Option<RwLockWriteGuard<'_, ()>>) {
        let Some(cut) = checkpointer.cut.take() else { return };
        self.alloc.abandon_cut();
        self.alloc.free(&self.store, &cut.freed);
        self.deferred.lock().extend(cut.discarded);
        self.thaw(gate);
    }

    pub(super) fn thaw(&self, gate: Option<RwLockWriteGuard<'_, ()>>) {
        let hidden = self.dirty.thaw();
        // What hides them is pending, or durable already.
        let mut pending = self.pending.lock();
        pending.replaced.extend(hidden.replaced);
        pending.discarded.extend(hidden.discarded);
        drop((pending, gate));
    }
}

/// The first block behind the first `leaves` leaves that these entries, sorted, and the ends of these ranges lie under; none if that is all.
pub(super) fn end_of(items: &[u64], holes: &RangeSet, leaves: usize) -> Option<u64> {
    if leaves > items.len() + 2 * holes.len() {
        return None;
    }
    let ends = holes.iter().flat_map(|range| [range.start, range.end - 1]);
    let mut all: Vec<u64> = items.iter().copied().chain(ends).map(|block| block >> FANOUT_BITS).collect();
    all.sort_unstable();
    all.dedup();
    all.get(leaves).map(|leaf| leaf << FANOUT_BITS)
}
