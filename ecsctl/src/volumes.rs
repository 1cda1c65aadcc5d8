//! Volumes as this program needs them: a small trait, the adapter that runs `evsfs`, and a fake for unit tests.

pub(crate) mod evsfs;
#[cfg(test)]
pub(crate) mod fake;
pub(crate) mod holders;
pub(crate) mod mounts;
pub(crate) mod process;

use std::path::{Path, PathBuf};

use thiserror::Error;
use uuid::Uuid;

use crate::{
    claim::Claim,
    config::SOCKET_PATH_BYTES,
    model::{disk::Serving, snapshot::Snapshot, time},
    output::progress::Progress,
    volumes::holders::Holder,
};

/// Where everything of one disk lies.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    /// The volume file.
    pub(crate) file: PathBuf,
    /// The volume that must be in it.
    pub(crate) uuid: Uuid,
    /// The directory that the view is mounted on.
    pub(crate) mountpoint: PathBuf,
    /// The plain raw view, when mounted.
    pub(crate) view: PathBuf,
    /// The control socket of the process that serves it.
    pub(crate) control: PathBuf,
    /// That process's log.
    pub(crate) log: PathBuf,
}

/// A volume to be written.
#[derive(Debug)]
pub(crate) struct NewVolume<'a> {
    /// Where; must not exist.
    pub(crate) file: &'a Path,
    /// Bytes.
    pub(crate) size: u64,
    /// The CMK, or none for a plain volume.
    pub(crate) key: Option<&'a str>,
    /// Its UUID.
    pub(crate) uuid: Uuid,
    /// What it is for: it is part of the context that its DEK is bound to.
    pub(crate) image: bool,
    /// The image that it is thin over.
    pub(crate) base: Option<&'a Path>,
}

/// How a volume is mounted. A file that was exchanged for another volume, or for a plain one, is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mounting {
    /// Refuse writes.
    pub(crate) read_only: bool,
    /// The catalogue says that it is encrypted.
    pub(crate) encrypted: bool,
}

/// How work is done that may take long.
#[derive(Debug)]
pub(crate) struct Long<'a> {
    /// Bytes in a second at most, 0 for no limit; as before if none is given.
    pub(crate) rate: Option<u64>,
    /// Return only when an attached volume is done.
    pub(crate) wait: bool,
    /// Is told how far it is, if there is somebody to see it.
    pub(crate) progress: &'a mut Progress,
}

/// What the engine says of a volume that it wrote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Written {
    /// The CMK that wraps its DEK.
    pub(crate) key_id: Option<String>,
}

/// What is seen of a volume without its key.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Look {
    /// How far a re-encryption is, if one is under way.
    pub(crate) re_encryption: Option<serde_json::Value>,
    /// How far a flatten is, if the process that serves the volume has one under way.
    pub(crate) flatten: Option<serde_json::Value>,
    /// The volume that it is thin over.
    pub(crate) base: Option<Uuid>,
    /// It was thin, and needs no base any more.
    pub(crate) flattened: bool,
}

/// What the header of a volume file says, and, proven with the key, what only the key shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Inspected {
    /// Its UUID.
    pub(crate) uuid: Uuid,
    /// Made as an image, not as a disk.
    pub(crate) image: bool,
    /// Whether it is encrypted.
    pub(crate) encrypted: bool,
    /// The CMK that wraps its DEK.
    pub(crate) key_id: Option<String>,
    /// The volume that it is thin over.
    pub(crate) base: Option<Uuid>,
    /// When it was made, seconds since 1970.
    pub(crate) created: u64,
    /// Bytes; only when unlocked.
    pub(crate) size: Option<u64>,
    /// Its snapshots; only when unlocked.
    pub(crate) snapshots: Vec<Kept>,
}

/// How far a volume file is behind the newest state that the key service knows (F3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize)]
pub(crate) struct Gap {
    /// The commit that it holds.
    pub(crate) found: u64,
    /// The newest one that the key service knows.
    pub(crate) newest: u64,
}

/// What a detached volume holds, proven with its key, however old that is.
#[derive(Debug, Clone, PartialEq, Eq, serde::Deserialize)]
pub(crate) struct Past {
    /// How far it is behind; none if it may be attached as it is.
    #[serde(rename = "rollback")]
    pub(crate) gap: Option<Gap>,
    /// Bytes.
    pub(crate) size: u64,
    /// Its snapshots.
    pub(crate) snapshots: Vec<Kept>,
}

/// A snapshot as the volume knows it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Deserialize)]
pub(crate) struct Kept {
    /// Its ID.
    pub(crate) id: Uuid,
    /// Its name.
    pub(crate) name: String,
    /// Bytes of the disk at that time.
    pub(crate) size: u64,
    /// When it was taken, seconds since 1970.
    pub(crate) created: u64,
}

impl Kept {
    /// The same for the catalogue, which is told at `now`.
    pub(crate) fn of_disk(&self, disk_id: Uuid, now: &str) -> Snapshot {
        Snapshot {
            id: self.id,
            name: self.name.clone(),
            disk_id,
            size: self.size,
            created_at: time::of_seconds(self.created).unwrap_or_else(|| now.to_owned()),
        }
    }
}

/// The volume engine, from outside. Whoever changes a volume shows the claim on its disk.
pub(crate) trait VolumeTool {
    /// Writes a new volume file.
    ///
    /// # Errors
    /// [`ToolError`], as every method here.
    fn create(&self, claim: &Claim, new: &NewVolume<'_>) -> Result<Written, ToolError>;
    /// Shows it at its mount point; returns who serves it. One that is served already stays as it is.
    fn mount(&self, claim: &Claim, place: &Place, how: Mounting) -> Result<Serving, ToolError>;
    /// Who serves it at this moment.
    fn serving(&self, place: &Place) -> Result<Option<Serving>, ToolError>;
    /// Whether a process that served it is still alive. Cheap.
    fn alive(&self, serving: &Serving) -> bool;
    /// Who else has something of its view open.
    fn holders(&self, place: &Place) -> Result<Vec<Holder>, ToolError>;
    /// Flushes and unmounts it, and clears a mount whose process has died. One that is not mounted is fine.
    fn unmount(&self, claim: &Claim, place: &Place) -> Result<(), ToolError>;
    /// Takes a snapshot, of an attached or a detached volume. The same ID and name again is the same snapshot.
    fn snapshot(&self, claim: &Claim, file: &Path, name: &str, id: Uuid) -> Result<(), ToolError>;
    /// Deletes a snapshot. One that is gone is fine.
    fn delete_snapshot(&self, claim: &Claim, file: &Path, id: Uuid) -> Result<(), ToolError>;
    /// Takes the volume back to a snapshot, wholly or not at all.
    fn roll_back(&self, claim: &Claim, file: &Path, id: Uuid) -> Result<(), ToolError>;
    /// Grows the volume to `size` bytes. One that has that size is fine.
    fn extend(&self, claim: &Claim, file: &Path, size: u64) -> Result<(), ToolError>;
    /// Wraps the DEK anew, under the newest version of a CMK. The volume may be attached.
    fn rekey(&self, claim: &Claim, file: &Path, key: &str) -> Result<(), ToolError>;
    /// Begins to re-encrypt the volume under a new DEK, or goes on; a detached one to the end.
    fn reencrypt(&self, claim: &Claim, file: &Path, long: Long<'_>) -> Result<(), ToolError>;
    /// Begins to copy into a thin volume what it reads from its base, or goes on; a detached one to the end. One that needs no base is fine.
    fn flatten(&self, claim: &Claim, file: &Path, long: Long<'_>) -> Result<(), ToolError>;
    /// What the header says of work that takes long, and how far that is. Needs no claim.
    fn look(&self, file: &Path) -> Result<Look, ToolError>;
    /// What a detached volume holds, also if it is older than the key service knows. Changes nothing.
    fn past(&self, place: &Place, encrypted: bool) -> Result<Past, ToolError>;
    /// Has the key service accept a file that is older than it knows (F3), and record that. One that is not older is fine.
    fn accept_past(&self, claim: &Claim, place: &Place, encrypted: bool) -> Result<(), ToolError>;
    /// Verifies everything in a detached volume, and returns the engine's report.
    fn check(&self, claim: &Claim, file: &Path) -> Result<serde_json::Value, ToolError>;
    /// The version of the engine.
    fn version(&self) -> Result<String, ToolError>;
    /// Reads a volume's header; `unlock` asks for the key, proves the header and reads the rest. Changes nothing.
    fn inspect(&self, file: &Path, unlock: bool) -> Result<Inspected, ToolError>;
    /// Overwrites the wrapped DEK in the file. A file that is gone is fine, and one where that was done.
    fn erase(&self, claim: &Claim, file: &Path) -> Result<(), ToolError>;
}

/// Why the volume engine did not do what it was asked.
#[derive(Debug, Error)]
pub(crate) enum ToolError {
    /// The program could not be run.
    #[error("cannot run {}: {source}", program.display())]
    Spawn {
        /// The program.
        program: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Somebody has the view open.
    #[error("{}", if holders.is_empty() { message.clone() } else { holders::sentence(holders) })]
    Busy {
        /// Who, as far as could be seen.
        holders: Vec<Holder>,
        /// evsfs's words.
        message: String,
    },
    /// Its control socket could not be bound.
    #[error("its control socket would be {}, and no socket has a path of more than {} bytes", path.display(), SOCKET_PATH_BYTES)]
    LongSocket {
        /// The socket.
        path: PathBuf,
    },
    /// It ran, and failed.
    #[error("{message}")]
    Failed {
        /// What kind of failure.
        class: Failure,
        /// evsfs's code.
        code: String,
        /// evsfs's words.
        message: String,
        /// evsfs's hint.
        hint: Option<String>,
    },
    /// It ended in a way that its contract does not know.
    #[error("{} ended with {status} and said: {said}", program.display())]
    Contract {
        /// The program.
        program: PathBuf,
        /// Its exit status.
        status: std::process::ExitStatus,
        /// The end of what it wrote.
        said: String,
    },
    /// The kernel's table of mounts: without it nobody knows what is attached.
    #[error("cannot read the table of mounts, {}: {source}", table.display())]
    MountTable {
        /// The table.
        table: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A mount whose process died could not be cleared.
    #[error("cannot clear the dead mount at {}: {source}", mountpoint.display())]
    Clear {
        /// The mount.
        mountpoint: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

impl ToolError {
    /// Whether what was asked was refused, or never begun: the volume is as it was.
    pub(crate) fn is_untouched(&self) -> bool {
        match self {
            Self::Spawn { .. } | Self::Busy { .. } | Self::LongSocket { .. } => true,
            Self::Failed { class, .. } => *class == Failure::Refused,
            Self::Contract { .. } | Self::MountTable { .. } | Self::Clear { .. } => false,
        }
    }
}

/// evsfs's exit codes by meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Failure {
    /// Failed (1, and 2: this program used it wrongly).
    Other,
    /// Refused by a rule or a key's state (3).
    Refused,
    /// kmsd or the token cannot be reached (4).
    Unreachable,
    /// The file is damaged or not a volume (5).
    Damaged,
}
