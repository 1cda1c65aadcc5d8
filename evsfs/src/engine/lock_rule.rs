//! The lock protocol, rule by rule, so that the schedules can leave one out at a time and see that it is missed.

/// A part of the lock protocol. Each is asked for where it acts (`crate::sync::holds`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LockRule {
    /// A block whose tag does not fit is looked up again before it is called damaged: its slot may have been used again.
    SecondLookUp,
    /// The same for a page of the map, by the root that counts now.
    SecondWalk,
    /// A changed part of a block is put in place only if nobody wrote the block since it was read.
    CompareBeforeInsertion,
    /// An entry comes into the dirty map and into the pending group under one lock of its block, so both have the same order.
    MapAndLogTogether,
    /// A writer holds the gate until the slots that it took are referred to.
    GateUntilInsertion,
    /// A checkpoint publishes its root before the frozen entries go.
    RootBeforeEntriesGo,
}
