//! A checkpoint that there is no space for: made in pieces, or undone.

use std::ops::Range;
use std::sync::Arc;

use super::super::commit::{Log, dense_pages};
use super::super::core::Core;
use super::super::error::VolumeError;
use super::super::map::Leaf;
use super::super::ranges::RangeSet;
use super::super::store::count;
use super::{Checkpointer, Portion, dense, has_lost};
use crate::format::Superblock;
use crate::format::layout::{BLOCKS_MAX, FANOUT_BITS};
use crate::sync::RwLockWriteGuard;

/// Leaves of the first piece of a checkpoint on a full host. With the pages above them they are fewer than the slots that are kept.
const PIECE_FIRST: usize = 64;
/// Leaves of a piece at most: while it is made nobody can flush, and each of them may be a read of the host's.
pub(crate) const PIECE_MOST: usize = 4096;
/// Pieces at most; what comes in meanwhile is for later.
const PIECES_MOST: usize = 1000;
/// Leaves that find no space, in a row, before a piece is given up.
const SKIPPED_MOST: usize = 16;

/// All blocks that a volume can have.
pub(super) const ALL: Range<u64> = 0..BLOCKS_MAX;

/// What a cut has frozen.
pub(super) struct Frozen {
    /// Sorted.
    blocks: Vec<u64>,
    pub(super) holes: Arc<RangeSet>,
    /// The leaves that these blocks, and the ends of these ranges, lie under, sorted.
    leaves: Vec<u64>,
}

impl Frozen {
    fn of((blocks, holes): (Vec<u64>, Arc<RangeSet>)) -> Self {
        let ends = holes.iter().flat_map(|range| [range.start, range.end - 1]);
        let mut leaves: Vec<u64> =
            blocks.iter().copied().chain(ends).map(|block| block >> FANOUT_BITS).collect();
        leaves.sort_unstable();
        leaves.dedup();
        Self { blocks, holes, leaves }
    }

    pub(super) fn blocks_within(&self, part: &Range<u64>) -> &[u64] {
        let [first, last] =
            [part.start, part.end].map(|end| self.blocks.partition_point(|block| *block < end));
        &self.blocks[first..last]
    }

    fn leaves_from(&self, start: u64) -> &[u64] {
        &self.leaves[self.leaves.partition_point(|leaf| leaf << FANOUT_BITS < start)..]
    }

    /// The first block behind so many leaves, that of the next one, from the block `start` of one on.
    pub(super) fn end_of(&self, start: u64, leaves: usize) -> u64 {
        self.leaves_from(start).get(leaves).map_or(ALL.end, |leaf| leaf << FANOUT_BITS)
    }
}

/// Where a piece begins, and how large it is.
struct Next {
    start: u64,
    leaves: usize,
    /// Whether any was made since it last began at the front.
    went: bool,
}

impl Default for Next {
    fn default() -> Self {
        Self { start: 0, leaves: PIECE_FIRST, went: false }
    }
}

impl Next {
    /// A piece was made.
    fn went(&mut self, part: &Range<u64>) {
        self.start = if part.end == ALL.end { 0 } else { part.end };
        self.leaves = (self.leaves * 2).min(PIECE_MOST);
        self.went = part.start > 0;
    }

    /// At the front, if that may do now: something was freed behind it.
    fn begins_again(&mut self) -> Option<u64> {
        std::mem::take(&mut self.went).then_some(0)
    }
}

impl Core {
    /// On a full host, and where more leaves of the map changed than there are slots for: one piece of the map after the other. Each frees the
    /// pages, and the data, that it replaces, for the next.
    ///
    /// # Errors
    /// [`VolumeError::NoSpace`] if not even one leaf can be written: because it is a new one, and nothing else is freed with it, nor under any that
    /// was there before.
    pub(super) fn checkpoint_in_pieces(&self, checkpointer: &mut Checkpointer) -> Result<(), VolumeError> {
        let mut next = Next::default();
        for _ in 0..PIECES_MOST {
            let mut log = self.log.lock();
            {
                let gate = self.gate.write();
                self.cut(checkpointer, &mut log, gate)?;
            }
            if self.piece(checkpointer, &mut log, &mut next)? {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Brings a part of the cut into the map. The rest goes to the log once more, densely, and there the log of the new superblock begins, as in a
    /// compaction: what is in the map must not be replayed, for whoever overwrites a replayed entry frees its slot, and so does the merge. Nobody commits
    /// meanwhile. Whether that was all of the cut.
    fn piece(
        &self,
        checkpointer: &mut Checkpointer,
        log: &mut Log,
        next: &mut Next,
    ) -> Result<bool, VolumeError> {
        let mut skipped = 0;
        let built = loop {
            let Next { start, leaves, .. } = *next;
            match self.build(checkpointer, Portion::Leaves { start, leaves }, &mut |_, _| Ok(())) {
                Err(VolumeError::NoSpace) if leaves > 1 => next.leaves = (leaves / 4).max(1),
                Err(VolumeError::NoSpace) if skipped < SKIPPED_MOST => {
                    let further = self.leaf_that_gives(checkpointer, start);
                    let Some(start) = further.or_else(|| next.begins_again()) else {
                        break Err(VolumeError::NoSpace);
                    };
                    (next.start, skipped) = (start, skipped + 1);
                }
                other => break other,
            }
        };
        let rest = built.and_then(|built| {
            let (entries, holes) = self.dirty.frozen_outside(&built.part);
            if has_lost(&entries) || dense_pages(&entries, holes.len()) > log.free() {
                built.work.abandon(self);
                return Err(VolumeError::NoSpace);
            }
            Ok((built, dense(entries, &holes)))
        });
        let (built, rest) = match rest {
            Ok(both) => both,
            Err(VolumeError::NoSpace) => {
                self.undo_cut(checkpointer, Some(self.gate.write()));
                return Err(VolumeError::NoSpace);
            }
            Err(error) => return Err(error),
        };
        let (before, head, part) = (log.state, log.next, built.part.clone());
        let durable = if rest.is_empty() {
            self.store.sync()
        } else {
            log.append_durably(&self.store, &rest, self.hole, true)
        };
        durable.map_err(|error| self.poison(error))?;
        let superblock = Superblock {
            log_head: self.log_head(head),
            least_commit: log.state.commit,
            ..self.superblock_after(&checkpointer.superblock, &built, before)
        };
        self.write_superblock(&superblock)?;
        count(&self.store.counters.checkpoints, 1);
        self.publish(checkpointer, superblock, built, |publish| publish(log));
        next.went(&part);
        if part != ALL {
            self.thaw(Some(self.gate.write()));
        }
        Ok(part == ALL)
    }

    /// The first block of the next leaf, behind the first one from `start` on, that takes no slot in the end: it is in the map, or nothing is written
    /// under it. Where a new one finds no space, these give some.
    fn leaf_that_gives(&self, checkpointer: &Checkpointer, start: u64) -> Option<u64> {
        let frozen = self.frozen(checkpointer);
        let gives = |leaf: u64| {
            let blocks = leaf << FANOUT_BITS..(leaf + 1) << FANOUT_BITS;
            let mut entries =
                frozen.blocks_within(&blocks).iter().filter_map(|block| self.dirty.frozen_entry(*block));
            !entries.any(|entry| entry.is_data()) || matches!(self.leaf(blocks.start), Ok(Leaf::Page(_)))
        };
        let leaves = frozen.leaves_from(start).iter().skip(1).copied();
        leaves.map(|leaf| (leaf, gives(leaf))).find(|(_, gives)| *gives).map(|(leaf, _)| leaf << FANOUT_BITS)
    }

    /// What is frozen by the cut that stands.
    pub(super) fn frozen<'a>(&self, checkpointer: &'a Checkpointer) -> &'a Frozen {
        let cut = checkpointer.cut.as_ref().expect("the caller made one");
        cut.frozen.get_or_init(|| Frozen::of(self.dirty.frozen()))
    }

    /// A cut whose checkpoint found no space is as if there had been a flush only: its entries are dirty as before, and what was replaced by then is free.
    /// What it discarded waits for the next checkpoint; what is hidden of its own entries since is free when what hides it is durable.
    ///
    /// So the next one needs no page for what is discarded until then. `gate` keeps writers away, unless the caller does.
    pub(super) fn undo_cut(&self, checkpointer: &mut Checkpointer, gate: Option<RwLockWriteGuard<'_, ()>>) {
        let Some(cut) = checkpointer.cut.take() else { return };
        self.alloc.abandon_cut();
        self.let_go(&cut.freed, Vec::new());
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn d10_a_piece_has_an_upper_size_for_nobody_can_flush_meanwhile() {
        let mut next = Next::default();
        let mut sizes = Vec::new();
        for _ in 0..12 {
            sizes.push(next.leaves);
            next.went(&(0..128));
        }
        assert_eq!(sizes[..3], [64, 128, 256]);
        assert_eq!(sizes[8..], [PIECE_MOST; 4]);
    }

    #[test]
    fn pieces_go_on_behind_those_before_them_and_begin_again_once_for_what_came_of_it() {
        let mut next = Next::default();
        assert_eq!(next.begins_again(), None);
        next.went(&(0..1280));
        assert_eq!((next.start, next.begins_again()), (1280, None));
        next.went(&(2560..3840));
        assert_eq!((next.start, next.begins_again(), next.begins_again()), (3840, Some(0), None));
        next.went(&(3840..ALL.end));
        assert_eq!(next.start, 0);
    }

    #[test]
    fn a_part_of_what_is_frozen_ends_where_a_leaf_begins() {
        let mut holes = RangeSet::default();
        holes.insert(1000..5000);
        let frozen = Frozen::of((vec![5, 6, 300, 6000], Arc::new(holes)));
        assert_eq!(frozen.leaves, [0, 2, 7, 39, 46]);
        let ends = [(0, 1), (0, 2), (256, 1), (896, 1), (4992, 9)]
            .map(|(start, leaves)| frozen.end_of(start, leaves));
        assert_eq!(ends, [256, 896, 896, 4992, ALL.end]);
        assert_eq!(frozen.blocks_within(&(6..301)), [6, 300]);
    }
}
