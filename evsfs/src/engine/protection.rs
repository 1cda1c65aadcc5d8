//! What keeps a volume whole, by name, so that the proof suite can take each out in turn and see that somebody misses it.
//! Nothing can be taken out but with the feature `sim`, which the program is built without.
#![cfg_attr(not(feature = "sim"), allow(unreachable_pub, reason = "only the simulation names them"))]

/// A protection that is not a sync (those are known by their places in the source).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Protection {
    /// A block that does not verify is looked up again: its slot may have been used again meanwhile.
    SecondLook,
    /// And again, until its entry stays the same.
    LooksUntilStable,
    /// A walk down the map that fails begins again if the root has changed.
    SecondWalk,
    /// Of a block that is written in part, the rest is that of the moment in which the new one takes its place.
    UnchangedMeanwhile,
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
}

#[cfg(feature = "sim")]
impl Protection {
    /// All of them.
    pub const ALL: [Self; 14] = [
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
    ];
}

/// Those of one open volume.
#[derive(Clone, Copy, Default)]
pub(super) struct Protections {
    #[cfg(feature = "sim")]
    omitted: Option<Protection>,
}

#[cfg(feature = "sim")]
impl Protections {
    pub(super) const fn without(omitted: Option<Protection>) -> Self {
        Self { omitted }
    }

    pub(super) fn has(self, protection: Protection) -> bool {
        self.omitted != Some(protection)
    }
}

#[cfg(not(feature = "sim"))]
impl Protections {
    /// Always.
    pub(super) const fn has(self, _: Protection) -> bool {
        true
    }
}
