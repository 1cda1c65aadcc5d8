//! Changes as data: each operation is a list of steps that are recorded before the first is taken, and every
//! step may be repeated. A process that dies between any two steps therefore leaves an operation that the next
//! command finishes or undoes.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// A change of one disk that takes more than one step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "kebab-case")]
pub(crate) enum Operation {
    /// Write a new volume.
    Create {
        /// The CMK (ID or `evs/default`), or none for a plain disk.
        key: Option<String>,
    },
    /// Show it to a server.
    Attach {
        /// The server.
        server: Uuid,
    },
    /// Take it from its server.
    Detach,
    /// Destroy it: its wrapped DEK, then its file (D7).
    Delete {
        /// Leave out the crypto-erase, because the header cannot be read any more.
        skip_erase: bool,
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
    ClearDead, Erase, MakeMountpoint, Mount, Publish, RemoveMountpoint, Settle, Unlink, Unmount, Unpublish,
    WriteVolume,
};

impl Operation {
    /// The verb in messages: "is being ...".
    pub(crate) fn doing(&self) -> &'static str {
        match self {
            Self::Create { .. } => "created",
            Self::Attach { .. } => "attached",
            Self::Detach => "detached",
            Self::Delete { .. } => "deleted",
        }
    }

    /// The steps that carry it out.
    pub(crate) fn steps(&self) -> &'static [Step] {
        match self {
            Self::Create { .. } => &[WriteVolume, Settle(Outcome::Available)],
            // The stable path comes last: who can see it can use it.
            Self::Attach { .. } => &[ClearDead, MakeMountpoint, Mount, Publish, Settle(Outcome::InUse)],
            // The view goes first: when it is busy nothing has changed yet.
            Self::Detach => &[Unmount, Unpublish, RemoveMountpoint, Settle(Outcome::Available)],
            Self::Delete { skip_erase: false } => &[Erase, Unlink, Settle(Outcome::Gone)],
            Self::Delete { skip_erase: true } => &[Unlink, Settle(Outcome::Gone)],
        }
    }

    /// The steps that undo it, from any point.
    pub(crate) fn undo_steps(&self) -> &'static [Step] {
        match self {
            Self::Create { .. } => &[Unlink, Settle(Outcome::Gone)],
            Self::Attach { .. } => &[Unpublish, Unmount, RemoveMountpoint, Settle(Outcome::Available)],
            Self::Detach => &[Settle(Outcome::InUse)],
            Self::Delete { .. } => &[Settle(Outcome::ErrorDeleting)],
        }
    }

    /// What to do with it when its process died; `serving` says whether the view is up.
    pub(crate) fn after_crash(&self, serving: bool) -> Direction {
        match self {
            // Nobody was told of the disk, so nobody misses it.
            Self::Create { .. } => Direction::Undo,
            // Someone may use the view already; without it there is nothing to keep.
            Self::Attach { .. } => {
                if serving {
                    Direction::Finish
                } else {
                    Direction::Undo
                }
            }
            Self::Detach | Self::Delete { .. } => Direction::Finish,
        }
    }

    /// What to do when one of its steps failed. None: leave it recorded, the next command tries again.
    pub(crate) fn after_failure(&self, serving: bool) -> Option<Direction> {
        match self {
            Self::Create { .. } | Self::Attach { .. } | Self::Delete { .. } => Some(Direction::Undo),
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
            Operation::Create { key: Some("evs/default".into()) },
            Operation::Create { key: None },
            Operation::Attach { server: Uuid::nil() },
            Operation::Detach,
            Operation::Delete { skip_erase: false },
            Operation::Delete { skip_erase: true },
        ]
    }

    #[test]
    fn every_list_of_steps_ends_in_exactly_one_settlement() {
        for operation in every() {
            for steps in [operation.steps(), operation.undo_steps()] {
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
    fn s3_a_dead_mount_is_cleared_before_its_directory_is_touched() {
        assert_eq!(Operation::Attach { server: Uuid::nil() }.steps()[..2], [ClearDead, MakeMountpoint]);
    }

    #[test]
    fn recorded_operations_come_back_and_their_form_is_stable() {
        for operation in every() {
            let text = serde_json::to_string(&operation).unwrap();
            assert_eq!(serde_json::from_str::<Operation>(&text).unwrap(), operation);
        }
        let text = serde_json::to_string(&Operation::Delete { skip_erase: false }).unwrap();
        assert_eq!(text, r#"{"op":"delete","skip_erase":false}"#);
    }
}
