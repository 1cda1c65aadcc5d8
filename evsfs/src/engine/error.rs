//! What can go wrong, by operation.

use std::io;

use uuid::Uuid;

use crate::crypto::EntropyUnavailable;
use crate::format::FormatError;

/// Why stored bytes were not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    /// The bytes are not those that were sealed there.
    #[error("it does not verify: it was changed, moved, or replaced by an older version")]
    Tag,
    /// The file ends before it.
    #[error("the file was cut off before it")]
    Truncated,
    /// An entry that stands for something lost: see docs/volume-format.md, "Entry".
    #[error("it was lost with a damaged page above it, or with a part of the file that was cut off")]
    Lost,
    /// It verifies, but says something that no writer writes.
    #[error("its contents contradict the format")]
    Malformed,
    /// The host could not read it.
    #[error("the host failed to read it")]
    Unreadable,
    /// The epoch under which it was sealed is not in the epoch table.
    #[error("it was sealed under epoch {epoch}, which the volume does not know")]
    UnknownEpoch {
        /// The number of the epoch.
        epoch: u32,
    },
}

/// Why an operation on an open volume failed.
#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    /// A data block is damaged. The read fails rather than give wrong data.
    #[error("volume {volume}: block {block}: {reason}")]
    DamagedBlock {
        /// The volume.
        volume: Uuid,
        /// The block, in units of 4096 bytes.
        block: u64,
        /// What was found.
        reason: Damage,
    },
    /// A page of the map above the block is damaged.
    #[error("volume {volume}: the map page of level {level} above block {block}: {reason}")]
    DamagedPage {
        /// The volume.
        volume: Uuid,
        /// Level of the page: 0 points to data.
        level: u8,
        /// The first block under the page.
        block: u64,
        /// What was found.
        reason: Damage,
    },
    /// A page of the allocation tree or of a table is damaged. Reads go on; nothing can be written.
    #[error("volume {volume}: the page in slot {slot}: {reason}")]
    DamagedTable {
        /// The volume.
        volume: Uuid,
        /// The slot of the page.
        slot: u64,
        /// What was found.
        reason: Damage,
    },
    /// Beyond the end of the volume.
    #[error("{length} bytes at {offset} are beyond the end of the volume, which has {size} bytes")]
    OutOfRange {
        /// First byte asked for.
        offset: u64,
        /// Bytes asked for.
        length: u64,
        /// Size of the volume in bytes.
        size: u64,
    },
    /// The host has no space for it. What was written before is kept.
    #[error("the host file system is full: free space there, or discard some of the volume")]
    NoSpace,
    /// An earlier write or sync failed. What was flushed is safe; nothing more is accepted.
    #[error("an earlier write or sync of the volume file failed: detach and attach the volume again")]
    Poisoned,
    /// Somebody else writes to it, or another history of it is the one that counts.
    #[error(
        "volume {volume} is no longer this process's to write to: the log names who has it; detach it here, then attach it at one place only"
    )]
    Superseded {
        /// The volume.
        volume: Uuid,
    },
    /// The volume was opened for reading only.
    #[error("the volume is open for reading only")]
    ReadOnly,
    /// The host failed to read or write the volume file.
    #[error("the host failed on the volume file: {0}")]
    Io(#[source] io::Error),
    /// All epochs of the format are used.
    #[error("the volume has used all its epochs: restore a backup of it into a new volume")]
    EpochsExhausted,
    /// No random numbers to begin an epoch with.
    #[error(transparent)]
    NoEntropy(#[from] EntropyUnavailable),
    /// The header, or a superblock, is not one that could be read again.
    #[error(transparent)]
    Header(#[from] FormatError),
    /// A volume cannot shrink.
    #[error("a volume cannot shrink from {size} to {asked} bytes")]
    WouldShrink {
        /// Its size now, in bytes.
        size: u64,
        /// What was asked for.
        asked: u64,
    },
    /// The size is not usable.
    #[error("{asked} bytes is not a size of a volume: it must be a multiple of 4096, from 4096 to {most}")]
    BadSize {
        /// What was asked for.
        asked: u64,
        /// The largest size in bytes.
        most: u64,
    },
    /// Something else changed the header meanwhile.
    #[error("the header of volume {volume} was changed meanwhile: nothing was written")]
    HeaderChanged {
        /// The volume.
        volume: Uuid,
    },
    /// There is one already.
    #[error(
        "volume {volume} is being re-encrypted: wait until that is done, or ask for it again if it stopped"
    )]
    Reencrypting {
        /// The volume.
        volume: Uuid,
    },
    /// Another task must end first.
    #[error("volume {volume} is being flattened: wait until that is done, or ask for it again if it stopped")]
    Flattening {
        /// The volume.
        volume: Uuid,
    },
    /// There is nothing to copy.
    #[error("volume {volume} is not thin: it has no base")]
    NotThin {
        /// The volume.
        volume: Uuid,
    },
    /// What lies beyond its end would be lost.
    #[error("volume {volume} has {size} bytes, its base {base}: extend it to that size first")]
    SmallerThanBase {
        /// The volume.
        volume: Uuid,
        /// Its size in bytes.
        size: u64,
        /// Size of the base in bytes.
        base: u64,
    },
    /// The version table is full.
    #[error("the volume holds {most} snapshots, as many as it can: delete some first")]
    TooManySnapshots {
        /// How many fit.
        most: usize,
    },
    /// No such snapshot.
    #[error("the volume has no snapshot {id}")]
    NoSuchSnapshot {
        /// What was asked for.
        id: Uuid,
    },
    /// A snapshot of that id exists with another name.
    #[error("the volume has a snapshot {id} already")]
    SnapshotExists {
        /// Its id.
        id: Uuid,
    },
    /// The name does not fit.
    #[error("a snapshot's name has at most {most} bytes (this one has {length}) and no control characters")]
    NameTooLong {
        /// Its length in bytes.
        length: usize,
        /// The limit.
        most: usize,
    },
}

/// Why a volume could not be created.
#[derive(Debug, thiserror::Error)]
pub enum CreateError {
    /// The size is not usable.
    #[error("{asked} bytes is not a size of a volume: it must be a multiple of 4096, from 4096 to {most}")]
    BadSize {
        /// What was asked for.
        asked: u64,
        /// The largest size in bytes.
        most: u64,
    },
    /// There is something in the file already.
    #[error("the file is not empty")]
    NotEmpty,
    /// The host failed to write.
    #[error("cannot write the volume file: {0}")]
    Io(#[source] io::Error),
    /// No random numbers.
    #[error(transparent)]
    NoEntropy(#[from] EntropyUnavailable),
    /// The header is not one that could be read again.
    #[error(transparent)]
    Header(#[from] FormatError),
}

/// Why a volume could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The file ends before the first byte that a volume must have.
    #[error(
        "volume {volume}: the file was cut off: it has {found} bytes, and {least} come before the first block: restore a backup"
    )]
    TooShort {
        /// The volume.
        volume: Uuid,
        /// Length of the file in bytes.
        found: u64,
        /// What header, superblocks and log take.
        least: u64,
    },
    /// Header and keys belong to different volumes.
    #[error("the header is that of volume {header}, the keys are those of {keys}")]
    ForeignKeys {
        /// From the header.
        header: Uuid,
        /// From the keys.
        keys: Uuid,
    },
    /// A re-encryption needs the keys of both DEKs, and those that the header speaks of.
    #[error("volume {volume} is being re-encrypted: it opens with both data keys of its header only")]
    KeysOfBoth {
        /// The volume.
        volume: Uuid,
    },
    /// No superblock verifies.
    #[error("volume {volume}: none of its four superblocks verifies: restore a backup")]
    NoSuperblock {
        /// The volume.
        volume: Uuid,
    },
    /// The log ends before the group that the superblock needs: that group was durable before the superblock, so no crash does this.
    #[error(
        "volume {volume}: the log ends at commit {found}, the superblock needs it to {least}: it was cut off or damaged"
    )]
    LogCut {
        /// The volume.
        volume: Uuid,
        /// Where the log ends.
        found: u64,
        /// Where it must end at least.
        least: u64,
    },
    /// The state is older than the one that the key service knows (F3).
    #[error(
        "volume {volume} is at commit {found}, older than commit {anchor} that the key service knows: \
         an old copy was put back; to use a restored backup, accept the rollback explicitly"
    )]
    RolledBack {
        /// The volume.
        volume: Uuid,
        /// The commit that the file holds.
        found: u64,
        /// The commit that it should hold at least.
        anchor: u64,
    },
    /// The history is another one than the key service knows (F3).
    #[error(
        "volume {volume} does not descend from commit {anchor} that the key service knows: \
         another copy of it was written to; to use this one, accept the rollback explicitly"
    )]
    Forked {
        /// The volume.
        volume: Uuid,
        /// The commit where the histories part, or later.
        anchor: u64,
    },
    /// The base of a thin volume is needed.
    #[error("volume {volume} is thin: its base {base} must be opened with it")]
    BaseMissing {
        /// The volume.
        volume: Uuid,
        /// The base's identity.
        base: Uuid,
    },
    /// The base is not the one that the volume was made from.
    #[error(
        "volume {volume} needs its base {base} at commit {expected}, but was given volume {given} at commit {found}"
    )]
    BaseChanged {
        /// The volume.
        volume: Uuid,
        /// The base's identity, from the header.
        base: Uuid,
        /// The identity of the base that was given.
        given: Uuid,
        /// The commit that the header names.
        expected: u64,
        /// The commit of what was given.
        found: u64,
    },
    /// It has the number and the commit that the header names, but not the base's key, or another past.
    #[error(
        "volume {volume}: what was given as its base {base} is not the volume that it was made over: \
         it was exchanged for one of another key or another past"
    )]
    BaseExchanged {
        /// The volume.
        volume: Uuid,
        /// The base's identity, from the header, which the one that was given claims.
        base: Uuid,
    },
    /// The newest superblock is of a time when there was a base.
    #[error(
        "volume {volume} was flattened, but its newest superblock is from before that: it was put back or damaged; restore a backup"
    )]
    BaseNotCopied {
        /// The volume.
        volume: Uuid,
    },
    /// Reading failed, or what was read is damaged.
    #[error(transparent)]
    Volume(#[from] VolumeError),
}
