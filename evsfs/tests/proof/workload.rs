//! Sequences of operations: every short one, and long random ones.

use evsfs::backing::sim::Dice;

use crate::oracle::State;

/// Bytes in a block.
pub(crate) const BLOCK: u64 = 4096;

/// An operation on a store. Offsets and lengths are in bytes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Op {
    /// Bytes made from `stamp`, so that each write can be told from every other.
    Write {
        offset: u64,
        len: u64,
        stamp: u64,
    },
    Discard {
        offset: u64,
        len: u64,
    },
    Flush,
    Checkpoint,
    Snapshot(u8),
    Rollback(u8),
    DeleteSnapshot(u8),
    /// To so many bytes.
    Extend(u64),
    /// The header's wrapped key is exchanged.
    Rekey(u8),
    /// A step, of about so many blocks, of what runs in the background. If nothing does, a re-encryption to another DEK begins, or the flatten
    /// of a thin volume.
    Step {
        flatten: bool,
        blocks: u64,
    },
    /// Closed in good order and opened again.
    Reopen,
    /// The process dies, the machine does not; opened again.
    Kill,
}

impl Op {
    /// Whether success means that it, and all before it, survives. (A re-key survives by itself.)
    pub(crate) fn is_durable(&self) -> bool {
        !matches!(
            self,
            Self::Write { .. } | Self::Discard { .. } | Self::Rekey(_) | Self::Step { .. } | Self::Kill
        )
    }

    /// Whether a crash may leave some of its blocks done and others not.
    pub(crate) fn is_divisible(&self) -> bool {
        matches!(self, Self::Write { .. } | Self::Discard { .. })
    }

    /// The name of a snapshot.
    pub(crate) fn snapshot_name(number: u8) -> String {
        format!("snapshot-{number}")
    }
}

/// The bytes of a write.
pub(crate) fn bytes_of(stamp: u64, len: u64) -> Vec<u8> {
    let mut dice = Dice::new(stamp.wrapping_mul(0x9E37_79B9).wrapping_add(0xD15C));
    let mut bytes = Vec::with_capacity(usize::try_from(len).unwrap() + 8);
    while u64::try_from(bytes.len()).unwrap() < len {
        bytes.extend_from_slice(&dice.roll().to_le_bytes());
    }
    bytes.truncate(usize::try_from(len).unwrap());
    bytes
}

/// What a workload may contain.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    Aligned,
    Unaligned,
    Across,
    Overwrite,
    Wide,
    Discard,
    /// Of more blocks than are noted one by one, where the volume has so many.
    WideDiscard,
    Flush,
    Checkpoint,
    Snapshot,
    Rollback,
    DeleteSnapshot,
    Extend,
    Rekey,
    Reencrypt,
    Flatten,
    Reopen,
    Kill,
}

/// Everything a store without snapshots can do.
pub(crate) const PLAIN_KINDS: &[Kind] = &[
    Kind::Aligned,
    Kind::Unaligned,
    Kind::Across,
    Kind::Overwrite,
    Kind::Discard,
    Kind::Flush,
    Kind::Checkpoint,
    Kind::Reopen,
];

/// Everything but versions.
pub(crate) const UNVERSIONED: &[Kind] = &[
    Kind::Aligned,
    Kind::Unaligned,
    Kind::Across,
    Kind::Overwrite,
    Kind::Wide,
    Kind::Discard,
    Kind::Flush,
    Kind::Checkpoint,
    Kind::Rekey,
    Kind::Reopen,
    Kind::Kill,
];

/// Everything the engine can do.
pub(crate) const ALL_KINDS: &[Kind] = &[
    Kind::Aligned,
    Kind::Unaligned,
    Kind::Across,
    Kind::Overwrite,
    Kind::Wide,
    Kind::Discard,
    Kind::WideDiscard,
    Kind::Flush,
    Kind::Checkpoint,
    Kind::Snapshot,
    Kind::Rollback,
    Kind::DeleteSnapshot,
    Kind::Extend,
    Kind::Rekey,
    Kind::Reencrypt,
    Kind::Flatten,
    Kind::Reopen,
    Kind::Kill,
];

/// Everything that it does at once, not step by step.
pub(crate) fn at_once() -> Vec<Kind> {
    let steps = [Kind::Reencrypt, Kind::Flatten];
    ALL_KINDS.iter().copied().filter(|kind| !steps.contains(kind)).collect()
}

/// Kinds as a guest uses them: many writes and flushes, the rest now and then.
pub(crate) const COMMON: &[Kind] = &[
    Kind::Aligned,
    Kind::Aligned,
    Kind::Aligned,
    Kind::Aligned,
    Kind::Unaligned,
    Kind::Unaligned,
    Kind::Across,
    Kind::Wide,
    Kind::Overwrite,
    Kind::Discard,
    Kind::Discard,
    Kind::Flush,
    Kind::Flush,
    Kind::Flush,
    Kind::Checkpoint,
    Kind::Rekey,
    Kind::Reopen,
    Kind::Kill,
];

/// Versions of a volume come and go, and much of it is discarded at once.
pub(crate) const VERSIONS: &[Kind] = &[
    Kind::Aligned,
    Kind::Aligned,
    Kind::Unaligned,
    Kind::Across,
    Kind::Wide,
    Kind::Wide,
    Kind::Overwrite,
    Kind::Discard,
    Kind::WideDiscard,
    Kind::WideDiscard,
    Kind::Flush,
    Kind::Flush,
    Kind::Checkpoint,
    Kind::Snapshot,
    Kind::Snapshot,
    Kind::Rollback,
    Kind::DeleteSnapshot,
    Kind::DeleteSnapshot,
    Kind::Extend,
    Kind::Kill,
];

/// The same while the volume is re-encrypted, or a thin one flattened.
pub(crate) const TASKS: &[Kind] = &[
    Kind::Aligned,
    Kind::Unaligned,
    Kind::Across,
    Kind::Wide,
    Kind::Wide,
    Kind::Overwrite,
    Kind::Discard,
    Kind::WideDiscard,
    Kind::Flush,
    Kind::Flush,
    Kind::Checkpoint,
    Kind::Snapshot,
    Kind::Rollback,
    Kind::DeleteSnapshot,
    Kind::Extend,
    Kind::Rekey,
    Kind::Reencrypt,
    Kind::Reencrypt,
    Kind::Flatten,
    Kind::Flatten,
    Kind::Flatten,
    Kind::Reopen,
    Kind::Kill,
];

/// Single blocks, flushed one by one: the log fills while little is dirty.
pub(crate) const TINY_GROUPS: &[Kind] = &[
    Kind::Aligned,
    Kind::Unaligned,
    Kind::Overwrite,
    Kind::Overwrite,
    Kind::Flush,
    Kind::Flush,
    Kind::Flush,
    Kind::Kill,
];

/// The state of the volume as far as an operation's sense depends on it.
#[derive(Clone, Debug)]
pub(crate) struct Sense {
    /// Size in bytes.
    pub size: u64,
    /// Snapshots that exist.
    pub snapshots: Vec<u8>,
    next_snapshot: u8,
    next_stamp: u64,
    step: u64,
}

impl Sense {
    pub(crate) fn new(size: u64) -> Self {
        Self { size, snapshots: Vec::new(), next_snapshot: 0, next_stamp: 1, step: 0 }
    }

    /// Of a volume in that state.
    pub(crate) fn of(state: &State) -> Self {
        let mut sense = Self::new(state.size());
        sense.follow(state);
        sense
    }

    /// Takes over what is there.
    pub(crate) fn follow(&mut self, state: &State) {
        self.size = state.size();
        self.snapshots = state.snapshots.iter().map(|kept| kept.number).collect();
        let after = self.snapshots.iter().map(|number| number + 1).max().unwrap_or(0);
        self.next_snapshot = self.next_snapshot.max(after);
    }

    fn stamp(&mut self) -> u64 {
        self.next_stamp += 1;
        self.next_stamp
    }

    /// The operation of that kind at its fixed place, or `None` if it would make no sense here.
    pub(crate) fn fixed(&mut self, kind: Kind) -> Option<Op> {
        self.step += 1;
        let at = self.step;
        let op = match kind {
            Kind::Aligned => Op::Write { offset: (4 + at) * BLOCK, len: BLOCK, stamp: self.stamp() },
            Kind::Unaligned => Op::Write { offset: BLOCK + 700, len: 1000, stamp: self.stamp() },
            Kind::Across => Op::Write { offset: 2 * BLOCK - 600, len: BLOCK + 1200, stamp: self.stamp() },
            Kind::Overwrite => Op::Write { offset: 0, len: BLOCK, stamp: self.stamp() },
            Kind::Wide => Op::Write { offset: 2 * BLOCK, len: 6 * BLOCK, stamp: self.stamp() },
            Kind::Discard => Op::Discard { offset: 0, len: 2 * BLOCK },
            Kind::WideDiscard => Op::Discard { offset: BLOCK, len: self.size - 2 * BLOCK },
            other => return self.simple(other, 0),
        };
        Some(op)
    }

    /// A random operation of that kind within the first `span` blocks.
    pub(crate) fn random(&mut self, kind: Kind, span: u64, dice: &mut Dice) -> Option<Op> {
        let blocks = span.min(self.size / BLOCK);
        let block = dice.below(blocks);
        let op = match kind {
            Kind::Aligned | Kind::Overwrite => {
                Op::Write { offset: block * BLOCK, len: BLOCK, stamp: self.stamp() }
            }
            Kind::Unaligned => {
                let within = dice.below(BLOCK);
                let len = 1 + dice.below(BLOCK - within);
                Op::Write { offset: block * BLOCK + within, len, stamp: self.stamp() }
            }
            Kind::Across | Kind::Wide => {
                let most = if kind == Kind::Wide { 12 * BLOCK } else { 3 * BLOCK };
                let offset = block * BLOCK + dice.below(BLOCK);
                let len = (1 + dice.below(most)).min(blocks * BLOCK - offset);
                Op::Write { offset, len, stamp: self.stamp() }
            }
            Kind::Discard => {
                let ragged = dice.below(2);
                let offset = block * BLOCK + ragged * dice.below(BLOCK);
                let len = (1 + dice.below(8 * BLOCK)).min(blocks * BLOCK - offset);
                Op::Discard { offset, len: if ragged == 0 { len.next_multiple_of(BLOCK) } else { len } }
            }
            Kind::WideDiscard => {
                let from = dice.below(self.size / 2);
                let len = 1 + self.size / 3 + dice.below(self.size / 6 * 5);
                Op::Discard { offset: from, len: len.min(self.size - from) }
            }
            other => return self.simple(other, dice.roll()),
        };
        Some(op)
    }

    fn simple(&mut self, kind: Kind, roll: u64) -> Option<Op> {
        let chosen = |snapshots: &[u8]| {
            let count = u64::try_from(snapshots.len()).unwrap();
            (count > 0).then(|| snapshots[usize::try_from(roll % count).unwrap()])
        };
        Some(match kind {
            Kind::Flush => Op::Flush,
            Kind::Checkpoint => Op::Checkpoint,
            Kind::Reopen => Op::Reopen,
            Kind::Kill => Op::Kill,
            Kind::Snapshot => {
                if self.snapshots.len() >= 3 {
                    return None;
                }
                let number = self.next_snapshot;
                self.next_snapshot = number.checked_add(1)?;
                self.snapshots.push(number);
                Op::Snapshot(number)
            }
            Kind::Rollback => Op::Rollback(chosen(&self.snapshots)?),
            Kind::DeleteSnapshot => {
                let number = chosen(&self.snapshots)?;
                self.snapshots.retain(|&other| other != number);
                Op::DeleteSnapshot(number)
            }
            Kind::Extend => {
                if self.size > 4096 * BLOCK {
                    return None;
                }
                self.size += 64 * BLOCK;
                Op::Extend(self.size)
            }
            Kind::Reencrypt | Kind::Flatten => {
                Op::Step { flatten: kind == Kind::Flatten, blocks: 60 - roll % 60 }
            }
            Kind::Rekey => {
                self.next_stamp += 1;
                Op::Rekey(u8::try_from(self.next_stamp % 251).unwrap())
            }
            other => unreachable!("{other:?} has a place"),
        })
    }
}

/// Every sequence of the kinds with that length, as far as each makes sense.
pub(crate) fn exhaustive(kinds: &[Kind], length: usize, start: &Sense) -> Vec<Vec<Op>> {
    let mut all = vec![(start.clone(), Vec::new())];
    for _ in 0..length {
        let mut longer = Vec::new();
        for (sense, ops) in all {
            for &kind in kinds {
                let mut sense = sense.clone();
                let Some(op) = sense.fixed(kind) else { continue };
                let mut ops: Vec<Op> = ops.clone();
                ops.push(op);
                longer.push((sense, ops));
            }
        }
        all = longer;
    }
    all.into_iter().map(|(_, ops)| ops).collect()
}

/// A random sequence. Kinds may be named more than once to make them likelier.
pub(crate) fn random(kinds: &[Kind], length: usize, span: u64, start: &Sense, seed: u64) -> Vec<Op> {
    let mut dice = Dice::new(seed);
    let mut sense = start.clone();
    let mut ops = Vec::new();
    while ops.len() < length {
        let kind = kinds[dice.index(kinds.len())];
        ops.extend(sense.random(kind, span, &mut dice));
    }
    ops
}
