//! What keeps a volume whole, by name, so that it can be taken out part by part and somebody be seen to miss it: by the proof suite (feature
//! `sim`, which the program is built without), and by the schedules of threads (`crate::sync`, which is another module there).

use crate::sync::holds;

/// A protection that is not a sync (those are known by their places in the source).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Protection {
    /// After a sync that failed none succeeds, and nothing is written that asks for one.
    FailedSyncLasts,
    /// A block that does not verify is looked up again: its slot may have been used again meanwhile.
    SecondLook,
    /// And again, until its entry stays the same.
    LooksUntilStable,
    /// A walk down the map that fails begins again if the root has changed.
    SecondWalk,
    /// Of a block that is written in part, the rest is that of the moment in which the new one takes its place.
    UnchangedMeanwhile,
    /// An entry comes into the dirty map and into the pending group under one lock of its block, so both have the same order.
    MapAndLogTogether,
    /// A cut calls free what those took who are in the midst of a write.
    CutWithoutFlights,
    /// A writer's slots land within the gate, together with what refers to them.
    LandingWithEntries,
    /// A checkpoint publishes its root before the frozen entries go.
    RootBeforeEntriesGo,
    /// The last group of the log counts only if its data is there.
    LastGroup,
    /// A slot that was replaced is used again only when the group that replaced it is durable.
    ReuseAfterCommit,
    /// A slot that a checkpoint frees is used again only when its superblock is durable.
    ReuseAfterCheckpoint,
    /// Each superblock is written twice.
    SecondCopy,
    /// A log page is sealed with the chain value of all before it.
    ChainLink,
    /// The state that is found descends from the one that the key service knows.
    Anchor,
    /// The log carries the salts under which its pages and data are sealed.
    SaltInLog,
    /// What a superblock refers to is sealed under salts that its table has.
    SaltInTable,
    /// The log leads at least to the group that the superblock needs.
    LeastCommit,
    /// A table page has the tag that the reference to it names.
    TableTag,
    /// Whoever looks for data takes note of the dirty map before he looks at the map.
    DirtyBeforeMap,
    /// A page that the host fails to read at the moment is not taken for damaged when what is under it is freed.
    FreesWhenReadable,
    /// A re-encryption or a flatten ends only when a second walk has found nothing left.
    WalkProof,
    /// The first walk of a re-encryption or a flatten leaves nothing out.
    WholeWalk,
    /// It goes through the snapshots too.
    WalkOfSnapshots,
    /// What lies under a volume is taken note of before a block is looked up in it.
    BaseBeforeLookUp,
    /// A re-encryption wipes log ring and free space before the older key goes.
    Wiping,
    /// A flatten takes the base out of the header only when the superblocks of both generations do without it.
    BothGenerations,
    /// What a superblock says of the base counts, whatever the header says.
    BaseCopied,
    /// A header that had a base once makes no superblock count that needs it.
    BaseCopiedInSuperblock,
}

#[cfg(feature = "sim")]
impl Protection {
    /// All that the proof suite tries.
    pub const ALL: [Self; 23] = [
        Self::FailedSyncLasts,
        Self::SecondLook,
        Self::LooksUntilStable,
        Self::SecondWalk,
        Self::UnchangedMeanwhile,
        Self::LastGroup,
        Self::ReuseAfterCommit,
        Self::ReuseAfterCheckpoint,
        Self::SecondCopy,
        Self::ChainLink,
        Self::Anchor,
        Self::SaltInLog,
        Self::SaltInTable,
        Self::LeastCommit,
        Self::TableTag,
        Self::FreesWhenReadable,
        Self::WalkProof,
        Self::WholeWalk,
        Self::WalkOfSnapshots,
        Self::Wiping,
        Self::BothGenerations,
        Self::BaseCopied,
        Self::BaseCopiedInSuperblock,
    ];
}

/// Those of one open volume.
#[derive(Clone, Copy, Default)]
pub(super) struct Protections {
    #[cfg(feature = "sim")]
    omitted: &'static [Protection],
}

#[cfg(feature = "sim")]
impl Protections {
    pub(super) const fn without(omitted: &'static [Protection]) -> Self {
        Self { omitted }
    }

    pub(super) fn has(self, protection: Protection) -> bool {
        holds(protection) && !self.omitted.contains(&protection)
    }
}

#[cfg(not(feature = "sim"))]
impl Protections {
    /// All, but in a schedule that leaves one out.
    #[inline(always)]
    pub(super) fn has(self, protection: Protection) -> bool {
        holds(protection)
    }
}
