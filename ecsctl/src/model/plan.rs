//! Changes as data: each operation is a list of steps that are recorded before the first is taken, and every
//! step may be repeated. A process that dies between any two steps therefore leaves an operation that the next
//! command finishes or undoes.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::images::{ExportFormat, ImageFormat};

/// A change of one disk that takes more than one step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "kebab-case")]
pub(crate) enum Operation {
    /// Write a new volume.
    Create {
        /// The CMK (ID or `evs/default`), or none for a plain volume.
        key: Option<String>,
        /// What it is filled with; without it, it is empty.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        fill: Option<Fill>,
    },
    /// Show it to a server.
    Attach {
        /// The server.
        server: Uuid,
    },
    /// Take it from its server.
    Detach,
    /// Take a snapshot of it.
    Snapshot {
        /// The snapshot.
        id: Uuid,
        /// Its name.
        name: String,
    },
    /// Delete a snapshot of it.
    DeleteSnapshot {
        /// The snapshot.
        id: Uuid,
    },
    /// Take it back to a snapshot.
    RollBack {
        /// The snapshot.
        id: Uuid,
    },
    /// Grow it.
    Extend {
        /// The new size, bytes.
        size: u64,
    },
    /// Wrap its DEK anew (D8).
    Rekey {
        /// The CMK: its ID, or `evs/default`.
        key: String,
        /// The name of it.
        alias: Option<String>,
    },
    /// Re-encrypt it under a new DEK, or let that go on (D8).
    Reencrypt {
        /// Bytes in a second at most, 0 for no limit; as before if none is given.
        rate: Option<u64>,
        /// Return only when an attached disk is done.
        wait: bool,
    },
    /// Go on with a volume file that is older than the key service knows (F3).
    AcceptRollback,
    /// Copy into it what it reads from its image, until it needs that no more, or let that go on.
    Flatten {
        /// Bytes in a second at most, 0 for no limit; as before if none is given.
        rate: Option<u64>,
        /// Return only when an attached disk is done.
        wait: bool,
    },
    /// Write it to a file of the user's, in the open.
    Export {
        /// Names the file that is written before it has its own name: whatever else is there is somebody else's.
        #[serde(default)]
        id: Uuid,
        /// The file.
        path: PathBuf,
        /// Its format.
        format: ExportFormat,
    },
    /// Destroy it: its wrapped DEK, then its file (D7).
    Delete {
        /// Leave out the crypto-erase, because the header cannot be read any more.
        skip_erase: bool,
    },
}

/// What a new volume is filled with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "from", rename_all = "kebab-case")]
pub(crate) enum Fill {
    /// An image file of the user's.
    File {
        /// Where it is.
        path: PathBuf,
        /// What the user says it is.
        format: Option<ImageFormat>,
    },
    /// Another volume.
    Volume {
        /// Its ID.
        id: Uuid,
        /// Compare what was written with what was read.
        verify: bool,
        /// A snapshot of it, instead of what it holds now.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        snapshot: Option<Uuid>,
    },
}

/// One step; taking it again after it was taken changes nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// Write the volume file, with a DEK of its own.
    WriteVolume,
    /// Take away a mount whose process has died. A live one stays.
    ClearDead,
    /// Make the directory that the view is mounted on.
    MakeMountpoint,
    /// Unwrap and mount.
    Mount,
    /// Have the key service record that something encrypted will lie in the open, if it will.
    Release,
    /// Copy what it is filled with into the view, and flush it.
    CopyIn,
    /// Read both again and compare them, where that was asked for.
    Verify,
    /// Unmount the volume that is copied from, if it was mounted for that.
    ReleaseSource,
    /// Unwrap and mount, to be read only.
    MountReadOnly,
    /// Write the view to the user's file.
    Export,
    /// Remove what was written of that file.
    DropExport,
    /// Take the snapshot.
    TakeSnapshot,
    /// Delete the snapshot.
    DropSnapshot,
    /// Go back to the snapshot.
    RollBack,
    /// Grow the volume.
    Grow,
    /// Wrap the DEK anew.
    Rewrap,
    /// Begin to re-encrypt, or go on; of a detached disk, to the end.
    Reencrypt,
    /// Read from the volume's header which key it has.
    NoteKey,
    /// Have the key service accept the state that the file has.
    AcceptPast,
    /// Bring the catalogue to what the volume holds: its size, key, image and snapshots. Before that is accepted, nothing.
    NotePast,
    /// Begin to copy what is read from the image, or go on; of a detached disk, to the end.
    Flatten,
    /// Read from the volume's header whether it needs its image still.
    NoteBase,
    /// Put the symlink at the stable path (S2).
    Publish,
    /// Remove that symlink.
    Unpublish,
    /// Flush, unmount, and wait until the process that held the DEK has gone (D4).
    Unmount,
    /// Remove the directory and what else the attachment left.
    RemoveMountpoint,
    /// Overwrite the wrapped DEK.
    Erase,
    /// Unlink the volume file, and make that durable.
    Unlink,
    /// Write the result into the catalogue and forget the operation, in one transaction.
    Settle(Outcome),
}

/// How an operation ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The disk is detached.
    Available,
    /// The disk is attached.
    InUse,
    /// The disk no longer exists.
    Gone,
    /// The disk can only be deleted again.
    ErrorDeleting,
    /// The disk is where it was, changed as the operation says.
    Applied,
    /// The disk is as it was.
    Kept,
}

/// Which way to leave an operation that was cut short or has failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    /// Take its steps again from the first.
    Finish,
    /// Take the steps that undo it.
    Undo,
}

use Step::{
    AcceptPast, ClearDead, CopyIn, DropExport, DropSnapshot, Erase, Export, Flatten, Grow, MakeMountpoint,
    Mount, MountReadOnly, NoteBase, NoteKey, NotePast, Publish, Reencrypt, Release, ReleaseSource,
    RemoveMountpoint, Rewrap, RollBack, Settle, TakeSnapshot, Unlink, Unmount, Unpublish, Verify,
    WriteVolume,
};

impl Operation {
    /// The verb in messages: "is being ...".
    pub(crate) fn doing(&self) -> &'static str {
        match self {
            Self::Create { .. } => "created",
            Self::Attach { .. } => "attached",
            Self::Detach => "detached",
            Self::Export { .. } => "exported",
            Self::Snapshot { .. } => "given a snapshot",
            Self::DeleteSnapshot { .. } => "freed of a snapshot",
            Self::RollBack { .. } => "rolled back",
            Self::Extend { .. } => "extended",
            Self::Rekey { .. } => "re-keyed",
            Self::Reencrypt { .. } => "re-encrypted",
            Self::AcceptRollback => "accepted as it was",
            Self::Flatten { .. } => "flattened",
            Self::Delete { .. } => "deleted",
        }
    }

    /// The steps that carry it out.
    pub(crate) fn steps(&self) -> &'static [Step] {
        match self {
            Self::Create { fill: None, .. } => &[WriteVolume, Settle(Outcome::Available)],
            Self::Create { fill: Some(_), .. } => &[
                WriteVolume,
                MakeMountpoint,
                Mount,
                Release,
                CopyIn,
                Verify,
                ReleaseSource,
                Unmount,
                RemoveMountpoint,
                Settle(Outcome::Available),
            ],
            // The stable path comes last: who can see it can use it.
            Self::Attach { .. } => &[ClearDead, MakeMountpoint, Mount, Publish, Settle(Outcome::InUse)],
            // The view goes first: when it is busy nothing has changed yet.
            Self::Detach => &[Unmount, Unpublish, RemoveMountpoint, Settle(Outcome::Available)],
            Self::Snapshot { .. } => &[TakeSnapshot, Settle(Outcome::Applied)],
            Self::DeleteSnapshot { .. } => &[DropSnapshot, Settle(Outcome::Applied)],
            Self::RollBack { .. } => &[RollBack, Settle(Outcome::Kept)],
            Self::Extend { .. } => &[Grow, Settle(Outcome::Applied)],
            Self::Rekey { .. } => &[Rewrap, NoteKey, Settle(Outcome::Applied)],
            Self::Reencrypt { .. } => &[Reencrypt, Settle(Outcome::Kept)],
            Self::Flatten { .. } => &[Flatten, NoteBase, Settle(Outcome::Applied)],
            Self::AcceptRollback => &[AcceptPast, NotePast, Settle(Outcome::Applied)],
            Self::Export { .. } => &[
                ClearDead,
                MakeMountpoint,
                MountReadOnly,
                Release,
                Export,
                Unmount,
                RemoveMountpoint,
                Settle(Outcome::Available),
            ],
            Self::Delete { skip_erase: false } => &[Erase, Unlink, Settle(Outcome::Gone)],
            Self::Delete { skip_erase: true } => &[Unlink, Settle(Outcome::Gone)],
        }
    }

    /// The steps that undo it, from any point.
    pub(crate) fn undo_steps(&self) -> &'static [Step] {
        match self {
            Self::Create { fill: None, .. } => &[Unlink, Settle(Outcome::Gone)],
            // Its own things first, the DEK in memory before all: the source may be one that cannot be opened any more.
            Self::Create { fill: Some(_), .. } => {
                &[Unmount, RemoveMountpoint, Unlink, ReleaseSource, Settle(Outcome::Gone)]
            }
            Self::Attach { .. } => &[Unpublish, Unmount, RemoveMountpoint, Settle(Outcome::Available)],
            Self::Export { .. } => &[DropExport, Unmount, RemoveMountpoint, Settle(Outcome::Available)],
            Self::Detach => &[Settle(Outcome::InUse)],
            // The engine has done it wholly or not at all.
            Self::Rekey { .. } => &[NoteKey, Settle(Outcome::Kept)],
            Self::Flatten { .. } => &[NoteBase, Settle(Outcome::Kept)],
            Self::AcceptRollback => &[NotePast, Settle(Outcome::Kept)],
            Self::Snapshot { .. } => &[DropSnapshot, Settle(Outcome::Kept)],
            // One that was cut short goes on at the next attach.
            Self::DeleteSnapshot { .. }
            | Self::RollBack { .. }
            | Self::Extend { .. }
            | Self::Reencrypt { .. } => &[Settle(Outcome::Kept)],
            Self::Delete { .. } => &[Settle(Outcome::ErrorDeleting)],
        }
    }

    /// The steps that undo it when the step that failed was refused before it changed anything. A deletion has begun with its key then, or not
    /// at all: a healthy disk must not be condemned for it.
    pub(crate) fn undo_untouched_steps(&self) -> &'static [Step] {
        match self {
            Self::Delete { .. } => &[Settle(Outcome::Kept)],
            _ => self.undo_steps(),
        }
    }

    /// Whether it fills a new volume from this one.
    pub(crate) fn copies(&self, source: Uuid) -> bool {
        matches!(self, Self::Create { fill: Some(Fill::Volume { id, .. }), .. } if *id == source)
    }

    /// What to do with it when its process died; `serving` says whether the view is up.
    pub(crate) fn after_crash(&self, serving: bool) -> Direction {
        match self {
            // Nobody was told of the disk, so nobody misses it.
            Self::Create { .. } | Self::Export { .. } | Self::Snapshot { .. } => Direction::Undo,
            // The engine goes back wholly or not at all. Doing it again would take away what was written since.
            Self::RollBack { .. } => Direction::Undo,
            // Which key the volume has now is in its header; the user sees it, and asks again if need be.
            Self::Rekey { .. } | Self::Reencrypt { .. } | Self::Flatten { .. } => Direction::Undo,
            // The file may have been exchanged again since; what the key service accepted stands.
            Self::AcceptRollback => Direction::Undo,
            // Someone may use the view already; without it there is nothing to keep.
            Self::Attach { .. } => {
                if serving {
                    Direction::Finish
                } else {
                    Direction::Undo
                }
            }
            Self::Detach | Self::Delete { .. } | Self::DeleteSnapshot { .. } | Self::Extend { .. } => {
                Direction::Finish
            }
        }
    }

    /// What to do when one of its steps failed. None: leave it recorded, the next command tries again.
    pub(crate) fn after_failure(&self, serving: bool) -> Option<Direction> {
        match self {
            Self::Create { .. }
            | Self::Attach { .. }
            | Self::Export { .. }
            | Self::Delete { .. }
            | Self::Snapshot { .. }
            | Self::DeleteSnapshot { .. }
            | Self::RollBack { .. }
            | Self::Rekey { .. }
            | Self::Reencrypt { .. }
            | Self::Flatten { .. }
            | Self::AcceptRollback
            | Self::Extend { .. } => Some(Direction::Undo),
            // A view that is still up is busy, and stays as it was.
            Self::Detach => serving.then_some(Direction::Undo),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn every() -> Vec<Operation> {
        vec![
            Operation::Create { key: Some("evs/default".into()), fill: None },
            Operation::Create { key: None, fill: None },
            Operation::Create {
                key: None,
                fill: Some(Fill::Volume { id: Uuid::nil(), verify: true, snapshot: None }),
            },
            Operation::Create { key: None, fill: Some(Fill::File { path: "/i".into(), format: None }) },
            Operation::Attach { server: Uuid::nil() },
            Operation::Detach,
            Operation::Snapshot { id: Uuid::nil(), name: "s".into() },
            Operation::DeleteSnapshot { id: Uuid::nil() },
            Operation::RollBack { id: Uuid::nil() },
            Operation::Extend { size: 8192 },
            Operation::Rekey { key: "evs/default".into(), alias: None },
            Operation::Reencrypt { rate: None, wait: false },
            Operation::Flatten { rate: Some(1), wait: true },
            Operation::AcceptRollback,
            Operation::Export { id: Uuid::nil(), path: "/o".into(), format: ExportFormat::Raw },
            Operation::Delete { skip_erase: false },
            Operation::Delete { skip_erase: true },
        ]
    }

    #[test]
    fn every_list_of_steps_ends_in_exactly_one_settlement() {
        for operation in every() {
            for steps in [operation.steps(), operation.undo_steps(), operation.undo_untouched_steps()] {
                let settled = steps.iter().filter(|s| matches!(s, Settle(_))).count();
                assert_eq!(settled, 1, "{operation:?}");
                assert!(matches!(steps.last(), Some(Settle(_))), "{operation:?}");
            }
        }
    }

    #[test]
    fn d7_the_wrapped_dek_is_destroyed_before_the_file() {
        let steps = Operation::Delete { skip_erase: false }.steps();
        let at = |step| steps.iter().position(|s| *s == step).unwrap();
        assert!(at(Erase) < at(Unlink));
    }

    #[test]
    fn d7_only_the_first_step_of_a_deletion_can_be_refused_by_the_engine() {
        let steps = Operation::Delete { skip_erase: false }.steps();
        assert_eq!(steps[0], Erase, "what is refused after it would not have left the disk as it was");
    }

    #[test]
    fn i2_what_leaves_encryption_is_recorded_before_it_is_written() {
        let fill = Some(Fill::Volume { id: Uuid::nil(), verify: false, snapshot: None });
        let export = Operation::Export { id: Uuid::nil(), path: "/o".into(), format: ExportFormat::Raw };
        for (operation, writes) in [(Operation::Create { key: None, fill }, CopyIn), (export, Export)] {
            let at = |step| operation.steps().iter().position(|s| *s == step).unwrap();
            assert!(at(Release) < at(writes), "{operation:?}");
        }
    }

    #[test]
    fn s3_a_dead_mount_is_cleared_before_its_directory_is_touched() {
        assert_eq!(Operation::Attach { server: Uuid::nil() }.steps()[..2], [ClearDead, MakeMountpoint]);
    }

    #[test]
    fn recorded_operations_come_back_and_their_form_is_stable() {
        for operation in every() {
            let text = serde_json::to_string(&operation).unwrap();
            assert_eq!(serde_json::from_str::<Operation>(&text).unwrap(), operation);
        }
        assert_eq!(
            serde_json::from_str::<Operation>(r#"{"op":"create","key":null}"#).unwrap(),
            Operation::Create { key: None, fill: None }
        );
        let text = serde_json::to_string(&Operation::Delete { skip_erase: false }).unwrap();
        assert_eq!(text, r#"{"op":"delete","skip_erase":false}"#);
    }
}
