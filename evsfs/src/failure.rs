//! What the commands report: one code, one hint and one exit status for everything that can go wrong.

use std::io;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::backing::FileBackingError;
use crate::control::ControlError;
use crate::device::DeviceError;
use crate::engine::{CreateError, OpenError, SnapshotInfo, VolumeError};
use crate::format::{FormatError, HeaderError};
use crate::keys::{KeyError, KeyErrorKind};
use crate::lock::LockError;
use crate::mount::MountError;
use crate::rekey::RekeyError;
use crate::unlock::UnlockError;

/// Exit status of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[repr(u8)]
#[serde(rename_all = "kebab-case")]
pub enum Exit {
    /// It failed.
    Failed = 1,
    /// It was called wrongly.
    Usage = 2,
    /// A rule or a key's state does not allow it.
    Refused = 3,
    /// kmsd or the token cannot be reached.
    Unreachable = 4,
    /// The file is damaged or not a volume.
    Damaged = 5,
}

/// An error as it is printed and sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Stable name of the kind of error.
    pub code: String,
    /// What went wrong with what.
    pub message: String,
    /// What to do.
    pub hint: String,
    /// Exit status of a command that ends with it.
    pub exit: Exit,
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Report {}

/// Why a file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// No such file.
    #[error("{file} does not exist", file = file.display())]
    Missing {
        /// The path.
        file: PathBuf,
    },
    /// A directory or a device.
    #[error("{file} is not a regular file", file = file.display())]
    NotRegular {
        /// The path.
        file: PathBuf,
    },
    /// Nothing in it.
    #[error("{file} is empty", file = file.display())]
    Empty {
        /// The path.
        file: PathBuf,
    },
    /// There is one already.
    #[error("{file} exists already", file = file.display())]
    Exists {
        /// The path.
        file: PathBuf,
    },
    /// A base with a base with a base ...
    #[error("{file} stands on more than {most} bases", file = file.display())]
    TooManyBases {
        /// The path.
        file: PathBuf,
        /// Allowed.
        most: usize,
    },
    /// Its newest state is another one than an operator was shown.
    #[error("{file}: the newest state of the volume is not commit {shown} any more; nothing was accepted", file = file.display())]
    AnchorMoved {
        /// The path.
        file: PathBuf,
        /// The commit that the key service knew.
        shown: u64,
    },
    /// No such snapshot in it.
    #[error("{file} has no snapshot {id}{there}", file = file.display(), there = of_these(there))]
    NoSuchSnapshot {
        /// The path.
        file: PathBuf,
        /// Asked for.
        id: Uuid,
        /// Those that it has.
        there: Vec<SnapshotInfo>,
    },
    /// The system refused.
    #[error("{operation} {file}: {source}", file = file.display())]
    System {
        /// What was tried.
        operation: &'static str,
        /// The path.
        file: PathBuf,
        /// Its reason.
        source: io::Error,
    },
}

/// The snapshots that there are, for a message.
fn of_these(snapshots: &[SnapshotInfo]) -> String {
    if snapshots.is_empty() {
        return ", nor any other".to_owned();
    }
    let each: Vec<String> =
        snapshots.iter().map(|snapshot| format!("{} ({})", snapshot.id, snapshot.name)).collect();
    format!("; it has {}", each.join(", "))
}

/// What a command line cannot mean.
#[derive(Debug, thiserror::Error)]
pub enum UsageError {
    /// A new disk without a size.
    #[error("a new disk needs a size: --size")]
    NoSize,
    /// A thin disk that does not hold its base.
    #[error("a size of {size} bytes is less than the base's {base}")]
    SmallerThanBase {
        /// Asked for.
        size: u64,
        /// The base's.
        base: u64,
    },
    /// Plaintext of an encrypted base would come into the new volume.
    #[error("{base} is encrypted, and so is what is made over it: give --key", base = base.display())]
    PlainOverEncrypted {
        /// The base.
        base: PathBuf,
    },
    /// A base's path that a header cannot hold.
    #[error("the path of the base, {path}, is not UTF-8 of at most {most} bytes", path = path.display())]
    BasePath {
        /// The path.
        path: PathBuf,
        /// Bytes at most.
        most: usize,
    },
}

/// Why a serving process could not be started or talked to.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Starting it failed.
    #[error("{operation}: {source}")]
    System {
        /// What was tried.
        operation: &'static str,
        /// The system's reason.
        source: io::Error,
    },
    /// It ended without a word.
    #[error("the serving process ended with {status} before the disk could be used")]
    Ended {
        /// How it ended.
        status: std::process::ExitStatus,
    },
    /// The one who started it is gone.
    #[error("nobody waits for the disk any more: {source}")]
    Abandoned {
        /// The system's reason.
        source: io::Error,
    },
}

/// Anything that ends a command.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The file.
    #[error(transparent)]
    File(#[from] FileError),
    /// Its lock.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The mount.
    #[error(transparent)]
    Mount(#[from] MountError),
    /// The device.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// The command line.
    #[error(transparent)]
    Usage(#[from] UsageError),
    /// A volume file that could not be opened or made.
    #[error(transparent)]
    Backing(#[from] FileBackingError),
    /// A volume that could not be made.
    #[error("{file}: {source}", file = file.display())]
    Create {
        /// The file.
        file: PathBuf,
        /// Why.
        source: CreateError,
    },
    /// A volume that could not be opened.
    #[error("{file}: {source}", file = file.display())]
    Open {
        /// The file.
        file: PathBuf,
        /// Why.
        source: Box<OpenError>,
    },
    /// An open volume.
    #[error(transparent)]
    Volume(#[from] VolumeError),
    /// A volume file that gave no keys.
    #[error("{file}: {source}", file = file.display())]
    Unlock {
        /// The file.
        file: PathBuf,
        /// Why.
        source: UnlockError,
    },
    /// The key service, for a volume that is to be.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// Another key for a volume.
    #[error(transparent)]
    Rekey(#[from] RekeyError),
    /// Talking to a serving process.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// Starting one.
    #[error(transparent)]
    Start(#[from] StartError),
    /// What another process of this program reported.
    #[error(transparent)]
    Elsewhere(#[from] Report),
}

impl Failure {
    /// As it is printed.
    #[must_use]
    pub fn report(&self) -> Report {
        if let Self::Elsewhere(report) = self {
            return report.clone();
        }
        let (code, exit, hint) = self.kind();
        let hint = self.told_hint().unwrap_or(hint);
        Report { code: code.to_owned(), message: self.to_string(), hint: hint.to_owned(), exit }
    }

    /// The commit that the key service knows, when the file was refused for being older than that, or of another history (F3).
    #[must_use]
    pub fn anchor_ahead(&self) -> Option<u64> {
        let Self::Open { source, .. } = self else { return None };
        match **source {
            OpenError::RolledBack { anchor, .. } | OpenError::Forked { anchor, .. } => Some(anchor),
            _ => None,
        }
    }

    /// The same of a base: what is accepted of a thin volume is not accepted of what it stands on, which never changes.
    #[must_use]
    pub fn of_base(self) -> Self {
        if self.anchor_ahead().is_none() {
            return self;
        }
        let Report { code, message, exit, .. } = self.report();
        let hint =
            "put the newest file of the image back: an image never changes, so no older one is accepted";
        Report { code: format!("base_{code}"), message, hint: hint.to_owned(), exit }.into()
    }

    /// What the key service advised: it knows the key.
    fn told_hint(&self) -> Option<&str> {
        match self {
            Self::Key(error) | Self::Unlock { source: UnlockError::Key(error), .. } => error.hint(),
            _ => None,
        }
    }

    fn kind(&self) -> (&str, Exit, &str) {
        match self {
            Self::File(error) => match error {
                FileError::Missing { .. } => ("file_not_found", Exit::Damaged, "check the path"),
                FileError::NotRegular { .. } => {
                    ("not_a_file", Exit::Damaged, "give the path of a volume file")
                }
                FileError::Empty { .. } => (
                    "not_a_volume",
                    Exit::Damaged,
                    "give the path of a volume file, or make one with `evsfs create`",
                ),
                FileError::Exists { .. } => (
                    "file_exists",
                    Exit::Refused,
                    "choose another path, or remove the file if it is not needed",
                ),
                FileError::TooManyBases { .. } => {
                    ("damaged", Exit::Damaged, "restore the volume file from a backup")
                }
                FileError::AnchorMoved { .. } => (
                    "anchor_moved",
                    Exit::Refused,
                    "see where else it is attached, and look at what would be given up (`--dry-run`) before you accept it again",
                ),
                FileError::NoSuchSnapshot { .. } => {
                    ("no_such_snapshot", Exit::Refused, "choose one of the snapshots that it has")
                }
                FileError::System { .. } => ("file_error", Exit::Failed, "check permissions and free space"),
            },
            Self::Lock(error) => match error {
                LockError::Held { .. } => (
                    "already_attached",
                    Exit::Refused,
                    "a volume is attached once at a time: detach it there first (`evsfs umount FILE`)",
                ),
                LockError::Unsupported { .. } => {
                    ("lock_error", Exit::Failed, "keep volumes on a file system that has locks")
                }
            },
            Self::Mount(error) => match error {
                MountError::Missing { .. } => {
                    ("mountpoint_missing", Exit::Failed, "make the directory first")
                }
                MountError::NotADirectory { .. } => {
                    ("mountpoint_not_a_directory", Exit::Failed, "give an empty directory")
                }
                MountError::NotEmpty { .. } => {
                    ("mountpoint_not_empty", Exit::Refused, "give an empty directory")
                }
                MountError::InUse { .. } => (
                    "mountpoint_in_use",
                    Exit::Refused,
                    "unmount what is there (`evsfs umount`), or give another directory",
                ),
                MountError::Unseen { .. } => (
                    "not_seen",
                    Exit::Failed,
                    "wait until the process has ended; on its own host and in its own namespaces `evsfs umount` waits for that",
                ),
                MountError::NotMounted { .. } => ("not_attached", Exit::Failed, "nothing needs to be done"),
                MountError::Busy { .. } => {
                    ("busy", Exit::Refused, "end what uses the disk, then detach again")
                }
                MountError::Elsewhere { .. } => (
                    "busy",
                    Exit::Refused,
                    "end those processes, or mount fusectl at /sys/fs/fuse/connections; the disk is then detached without another command",
                ),
                MountError::System { .. } => (
                    "mount_error",
                    Exit::Failed,
                    "root mounts directly; other users need fusermount3 (package fuse3) and a directory of their own",
                ),
            },
            Self::Device(error) => match error {
                DeviceError::OutOfRange { .. } => ("out_of_range", Exit::Usage, "stay within the disk"),
                DeviceError::ReadOnly => ("read_only", Exit::Refused, "attach without --read-only"),
                DeviceError::Host { .. } => {
                    ("io_error", Exit::Failed, "look at the host's disk and its free space")
                }
                DeviceError::Volume(error) => volume_kind(error),
            },
            Self::Usage(_) => ("usage", Exit::Usage, "see `evsfs create --help`"),
            Self::Backing(error) => match error {
                FileBackingError::InUse { .. } => (
                    "already_attached",
                    Exit::Refused,
                    "detach it where it is attached (`evsfs umount FILE`)",
                ),
                FileBackingError::Exists { .. } => (
                    "file_exists",
                    Exit::Refused,
                    "choose another path, or remove the file if it is not needed",
                ),
                FileBackingError::NotAFile { .. } => {
                    ("not_a_file", Exit::Damaged, "give the path of a volume file")
                }
                FileBackingError::Io { .. } => {
                    ("file_error", Exit::Failed, "check permissions and free space")
                }
            },
            Self::Create { source, .. } => match source {
                CreateError::BadSize { .. } => {
                    ("bad_size", Exit::Usage, "give a multiple of 4096 bytes, up to 64T")
                }
                CreateError::Header(_) => ("bad_header", Exit::Failed, "report this with the command line"),
                CreateError::NotEmpty => ("file_exists", Exit::Refused, "choose another path"),
                CreateError::Io(_) => ("file_error", Exit::Failed, "check permissions and free space"),
                CreateError::NoEntropy(_) => ("no_entropy", Exit::Failed, "try again; see getrandom(2)"),
            },
            Self::Open { source, .. } => match source.as_ref() {
                OpenError::TooShort { .. } => {
                    ("truncated", Exit::Damaged, "restore the volume file from a backup")
                }
                OpenError::ForeignKeys { .. } | OpenError::KeysOfBoth { .. } => {
                    ("another_volume", Exit::Damaged, "put the right volume file back")
                }
                OpenError::NoSuperblock { .. }
                | OpenError::LogCut { .. }
                | OpenError::BaseNotCopied { .. } => {
                    ("damaged", Exit::Damaged, "restore the volume file from a backup")
                }
                OpenError::RolledBack { .. } => (
                    "rolled_back",
                    Exit::Refused,
                    "put the newest file back, or use --accept-rollback if this is a restored backup",
                ),
                OpenError::Forked { .. } => (
                    "forked",
                    Exit::Refused,
                    "put the right file back, or use --accept-rollback if this is the one to go on with",
                ),
                OpenError::BaseMissing { .. } => {
                    ("base_missing", Exit::Failed, "put the image file back where it was")
                }
                OpenError::BaseChanged { .. } | OpenError::BaseExchanged { .. } => (
                    "base_changed",
                    Exit::Damaged,
                    "put the image file back as it was when the disk was made",
                ),
                OpenError::Volume(error) => volume_kind(error),
            },
            Self::Volume(error) => volume_kind(error),
            Self::Unlock { source, .. } => match source {
                UnlockError::Read(_) | UnlockError::OtherUnread { .. } => {
                    ("io_error", Exit::Failed, "look at the host's disk")
                }
                UnlockError::Format(error) | UnlockError::Header(HeaderError::Format(error)) => {
                    format_kind(error)
                }
                UnlockError::Header(HeaderError::NotAuthentic { .. }) => {
                    ("header_not_authentic", Exit::Damaged, "restore the volume file from a backup")
                }
                UnlockError::Key(error) => key_kind(error),
                UnlockError::AnotherVolume { .. } | UnlockError::NotEncrypted { .. } => {
                    ("another_volume", Exit::Damaged, "put the right volume file back")
                }
            },
            Self::Key(error) => key_kind(error),
            Self::Rekey(error) => match error {
                RekeyError::NotEncrypted { .. } => {
                    ("not_encrypted", Exit::Refused, "a disk from a backup of it may be encrypted")
                }
                RekeyError::Image { .. } => (
                    "image_key",
                    Exit::Refused,
                    "make another image under the other key (`ecsctl image copy`)",
                ),
                RekeyError::WrappedAnother { .. } => ("key_error", Exit::Failed, "look at the log of kmsd"),
            },
            Self::Control(error) => match error {
                ControlError::Unreachable { .. } => (
                    "not_serving",
                    Exit::Failed,
                    "look at the log of the serving process; if it has ended, `evsfs umount` clears what it left mounted",
                ),
                ControlError::Lost { .. } => (
                    "process_lost",
                    Exit::Failed,
                    "the serving process ended during the request; its log says why, and the volume recovers at the next attach",
                ),
                ControlError::Foreign { .. } => {
                    ("not_serving", Exit::Refused, "another user's process answers there")
                }
                ControlError::Stranger { .. } => {
                    ("not_yours", Exit::Refused, "ask as root, or as the user who attached the disk")
                }
                ControlError::Crowded { .. } => {
                    ("crowded", Exit::Failed, "try again when the others have their answers")
                }
                ControlError::NotJson { .. } => {
                    ("protocol_error", Exit::Failed, "use the same version of evsfs on both sides")
                }
                ControlError::Bind { source, .. } => (
                    "control_socket",
                    Exit::Failed,
                    match source.kind() {
                        io::ErrorKind::AddrInUse => {
                            "a disk is attached with it: give another path, or detach that one"
                        }
                        io::ErrorKind::AlreadyExists => {
                            "there is a file that is no socket: give another path"
                        }
                        _ => "give a path of at most 107 bytes, in a directory of your own",
                    },
                ),
                ControlError::Unsupported { .. } => {
                    ("unsupported", Exit::Refused, "this kind of disk cannot do that")
                }
                ControlError::Detaching => {
                    ("detaching", Exit::Refused, "wait until it is detached, then attach it again")
                }
            },
            Self::Start(error) => match error {
                StartError::System { .. } => ("start_error", Exit::Failed, "check memory and process limits"),
                StartError::Ended { .. } => {
                    ("start_error", Exit::Failed, "run again with --foreground to see its log")
                }
                StartError::Abandoned { .. } => ("abandoned", Exit::Failed, "attach again"),
            },
            Self::Elsewhere(report) => (&report.code, report.exit, &report.hint),
        }
    }
}

fn key_kind(error: &KeyError) -> (&'static str, Exit, &'static str) {
    match error.kind() {
        KeyErrorKind::Unreachable => (
            "kms_unreachable",
            Exit::Unreachable,
            "start kmsd (`kmsd serve`), or set KMSD_SOCKET to its socket; attached disks work on without it",
        ),
        KeyErrorKind::Disabled => {
            ("key_disabled", Exit::Refused, "enable the key (`ecsctl key enable`), then try again")
        }
        KeyErrorKind::PendingDeletion => (
            "key_pending_deletion",
            Exit::Refused,
            "cancel its deletion and enable it (`ecsctl key cancel-deletion`, `ecsctl key enable`), then try again",
        ),
        KeyErrorKind::NoMaterial => {
            ("key_without_material", Exit::Refused, "import the key's material again, then try again")
        }
        KeyErrorKind::NotFound => (
            "key_not_found",
            Exit::Refused,
            "check the key's name (`ecsctl key list`), or ask its owner for a grant; a destroyed key cannot be brought back",
        ),
        KeyErrorKind::AccessDenied => ("key_access_denied", Exit::Refused, "ask the key's owner for a grant"),
        KeyErrorKind::WrongKey => {
            ("wrapped_key_invalid", Exit::Damaged, "restore the volume file from a backup")
        }
        KeyErrorKind::HeldElsewhere | KeyErrorKind::HeldByEarlierBoot | KeyErrorKind::MayBeHeld => (
            "attached_elsewhere",
            Exit::Refused,
            "detach it there; if that process or its host is gone, try again when the lease has ended",
        ),
        KeyErrorKind::Superseded => (
            "superseded",
            Exit::Refused,
            "detach it here, see where else it is attached, and attach it at one place only",
        ),
        KeyErrorKind::Other => ("key_error", Exit::Failed, "look at the log of kmsd"),
    }
}

fn format_kind(error: &FormatError) -> (&'static str, Exit, &'static str) {
    match error {
        FormatError::NotAVolume | FormatError::Magic { .. } => {
            ("not_a_volume", Exit::Damaged, "give the path of a volume file; `evsfs create` makes one")
        }
        FormatError::Version { .. } => {
            ("other_version", Exit::Damaged, "use the version of evsfs that made the volume, or a later one")
        }
        FormatError::Truncated { .. } => {
            ("truncated", Exit::Damaged, "restore the volume file from a backup")
        }
        // What `evsfs erase` leaves behind.
        FormatError::Contradiction { field: "wrapped DEK", .. } => {
            ("key_erased", Exit::Damaged, "its data key was erased; nothing brings the contents back")
        }
        FormatError::OutOfBounds { .. }
        | FormatError::NotZero { .. }
        | FormatError::NotText { .. }
        | FormatError::Contradiction { .. } => {
            ("damaged", Exit::Damaged, "restore the volume file from a backup")
        }
    }
}

fn volume_kind(error: &VolumeError) -> (&'static str, Exit, &'static str) {
    match error {
        VolumeError::DamagedBlock { .. }
        | VolumeError::DamagedPage { .. }
        | VolumeError::DamagedTable { .. } => {
            ("damaged", Exit::Damaged, "restore it from a backup, or save what verifies with `evsfs salvage`")
        }
        VolumeError::OutOfRange { .. } => ("out_of_range", Exit::Usage, "stay within the disk"),
        VolumeError::NoSpace => ("no_space", Exit::Failed, "free space on the host's file system"),
        VolumeError::Poisoned => {
            ("io_error", Exit::Failed, "detach and attach again; what was flushed is safe")
        }
        VolumeError::Superseded { .. } => (
            "superseded",
            Exit::Refused,
            "detach it here, see where else it is attached, and attach it at one place only",
        ),
        VolumeError::ReadOnly => ("read_only", Exit::Refused, "attach without --read-only"),
        VolumeError::Io(_) => ("io_error", Exit::Failed, "look at the host's disk and its free space"),
        VolumeError::EpochsExhausted => {
            ("epochs_exhausted", Exit::Refused, "copy the disk into a new volume")
        }
        VolumeError::NoEntropy(_) => ("no_entropy", Exit::Failed, "try again; see getrandom(2)"),
        VolumeError::Header(error) => format_kind(error),
        VolumeError::WouldShrink { .. } => ("would_shrink", Exit::Refused, "a disk only grows"),
        VolumeError::BadSize { .. } => ("bad_size", Exit::Usage, "give a multiple of 4096 bytes, up to 64T"),
        VolumeError::HeaderChanged { .. } => ("header_changed", Exit::Failed, "ask again"),
        VolumeError::Reencrypting { .. } => {
            ("re_encrypting", Exit::Refused, "wait until it is done; `evsfs info FILE` shows how far it is")
        }
        VolumeError::Flattening { .. } => {
            ("flattening", Exit::Refused, "wait until it is done; `evsfs info FILE` shows how far it is")
        }
        VolumeError::NotThin { .. } => {
            ("not_thin", Exit::Refused, "it needs no base: there is nothing to do")
        }
        VolumeError::SmallerThanBase { .. } => {
            ("smaller_than_base", Exit::Refused, "extend it to the size of its base first")
        }
        VolumeError::TooManySnapshots { .. } => {
            ("too_many_snapshots", Exit::Refused, "delete a snapshot first")
        }
        VolumeError::NoSuchSnapshot { .. } => {
            ("no_such_snapshot", Exit::Refused, "list the snapshots and choose one of them")
        }
        VolumeError::SnapshotExists { .. } => ("snapshot_exists", Exit::Refused, "choose another id"),
        VolumeError::NameTooLong { .. } => {
            ("bad_name", Exit::Usage, "choose a shorter name without control characters")
        }
    }
}
