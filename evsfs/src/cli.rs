//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use uuid::Uuid;

use crate::size::{DiskSize, MemorySize, Rate};

/// Encrypted, authenticated volume files, shown as plain raw disks.
#[derive(Debug, Parser)]
#[command(version, propagate_version = true)]
pub struct Cli {
    /// Print one JSON object; errors as JSON on standard error
    #[arg(long, global = true)]
    pub json: bool,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Attach a volume: its disk appears as MOUNTPOINT/disk
    Mount(Mount),
    /// Detach a volume: flush, unmount, erase the key from memory
    Umount(Umount),
    /// Make a new volume file
    Create(Create),
    /// Show what a volume's header says
    Info(Info),
    /// Verify everything in a detached volume; changes nothing
    Check(Check),
    /// Grow a disk, attached or not
    Extend(Extend),
    /// Take a snapshot, attached or not
    Snapshot(Snapshot),
    /// List the snapshots
    Snapshots(Snapshots),
    /// Delete a snapshot
    SnapshotDelete(OfSnapshot),
    /// Go back to a snapshot; nobody may have the disk open
    Rollback(OfSnapshot),
    /// Wrap the data key of a volume anew, or re-encrypt it under a new data key; attached or not
    Rekey(Rekey),
    /// Copy into a thin volume what it reads from its base, until it needs that no more; attached or not
    Flatten(Flatten),
    /// Have the key service accept a file that is older than the newest state it knows, such as a restored backup (audited)
    AcceptRollback(AcceptRollback),
    /// Copy all that verifies of a damaged volume into a raw file, and list the rest
    Salvage(Salvage),
    /// Destroy the data key in a detached volume, and with it the contents, for good
    Erase(Erase),
}

/// `evsfs create`
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("protection").required(true).args(["key", "plain"]))]
pub struct Create {
    /// The file to make; there must be none of that name
    pub file: PathBuf,
    /// Size of the disk: bytes, or with K, M, G, T; a multiple of 4096 up to 64T (a thin disk has its base's by default)
    #[arg(long, allow_hyphen_values = true)]
    pub size: Option<DiskSize>,
    /// Encrypt under this master key: an id, an alias, or evs/default
    #[arg(long, value_name = "KEY")]
    pub key: Option<String>,
    /// Do not encrypt
    #[arg(long)]
    pub plain: bool,
    /// What it is for
    #[arg(long, value_enum, default_value_t = Kind::Disk)]
    pub kind: Kind,
    /// Identity of the volume; a new one by default
    #[arg(long)]
    pub uuid: Option<Uuid>,
    /// Make a thin disk: what it does not hold itself is read from this image, which must not change or go
    #[arg(long, value_name = "IMAGE")]
    pub base: Option<PathBuf>,
}

/// What a volume is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// A disk
    Disk,
    /// An image
    Image,
}

/// `evsfs info`
#[derive(Debug, Args)]
pub struct Info {
    /// The volume file
    pub file: PathBuf,
    /// Ask for the key, prove the header, and show the size as well
    #[arg(long)]
    pub unlock: bool,
}

/// `evsfs check`
#[derive(Debug, Args)]
pub struct Check {
    /// The volume file
    pub file: PathBuf,
    /// Also if it is older than the newest state that the key service knows (audited; that state stays the newest)
    #[arg(long)]
    pub accept_rollback: bool,
}

/// `evsfs extend`
#[derive(Debug, Args)]
pub struct Extend {
    /// The volume file
    pub file: PathBuf,
    /// The new size: bytes, or with K, M, G, T; a multiple of 4096 up to 64T
    #[arg(long, allow_hyphen_values = true)]
    pub size: DiskSize,
}

/// `evsfs snapshot`
#[derive(Debug, Args)]
pub struct Snapshot {
    /// The volume file
    pub file: PathBuf,
    /// Name of the snapshot
    pub name: String,
    /// Its id; asked again with the same id and name it is the same snapshot
    #[arg(long)]
    pub id: Option<Uuid>,
}

/// `evsfs snapshots`
#[derive(Debug, Args)]
pub struct Snapshots {
    /// The volume file
    pub file: PathBuf,
}

/// `evsfs snapshot-delete`, `evsfs rollback`
#[derive(Debug, Args)]
pub struct OfSnapshot {
    /// The volume file
    pub file: PathBuf,
    /// Id of the snapshot
    pub id: Uuid,
}

/// `evsfs rekey`
#[derive(Debug, Args)]
pub struct Rekey {
    /// The volume file
    pub file: PathBuf,
    /// Under this master key: an id, an alias, or evs/default; by default the newest version of the one that it has
    #[arg(long, value_name = "KEY")]
    pub key: Option<String>,
    /// Make a new data key and re-encrypt everything under it, snapshots too; the old one is destroyed in the end. An attached disk does it in
    /// the background, also after it was detached and attached again; else it is done here, and goes on later if it is cut short
    #[arg(long)]
    pub new_data_key: bool,
    /// Re-encrypt at most so many bytes in a second (with K, M, G); 0 for as fast as it goes
    #[arg(long, value_name = "BYTES", requires = "new_data_key", allow_hyphen_values = true)]
    pub rate: Option<Rate>,
    /// Return only when an attached disk is re-encrypted
    #[arg(long, requires = "new_data_key")]
    pub wait: bool,
    /// Write how far it is to standard error, a JSON document a line, instead of showing it on a terminal
    #[arg(long, requires = "new_data_key")]
    pub progress: bool,
}

/// `evsfs flatten`
#[derive(Debug, Args)]
pub struct Flatten {
    /// The volume file
    pub file: PathBuf,
    /// Copy at most so many bytes in a second (with K, M, G); 0 for as fast as it goes
    #[arg(long, value_name = "BYTES", allow_hyphen_values = true)]
    pub rate: Option<Rate>,
    /// Return only when an attached disk is flattened. Without it that goes on in the background, also after it was detached and attached again;
    /// a detached volume is flattened here, and goes on later if it is cut short
    #[arg(long)]
    pub wait: bool,
    /// Write how far it is to standard error, a JSON document a line, instead of showing it on a terminal
    #[arg(long)]
    pub progress: bool,
}

/// `evsfs salvage`
#[derive(Debug, Args)]
pub struct Salvage {
    /// The damaged volume file
    pub file: PathBuf,
    /// The raw file to make
    pub output: PathBuf,
    /// What this snapshot holds, not the disk as it is now (`evsfs snapshots FILE` lists them)
    #[arg(long, value_name = "ID")]
    pub snapshot: Option<Uuid>,
    /// Also if it is older than the newest state that the key service knows (audited; that state stays the newest)
    #[arg(long)]
    pub accept_rollback: bool,
}

/// `evsfs accept-rollback`
#[derive(Debug, Args)]
pub struct AcceptRollback {
    /// The volume file; nobody may have it attached
    pub file: PathBuf,
    /// Only show what is in it, and how far behind it is
    #[arg(long)]
    pub dry_run: bool,
    /// Refuse any other volume than this one
    #[arg(long, value_name = "UUID")]
    pub expect_uuid: Option<Uuid>,
    /// Refuse a volume that is not encrypted
    #[arg(long)]
    pub expect_encrypted: bool,
}

/// `evsfs erase`
#[derive(Debug, Args)]
pub struct Erase {
    /// The volume file
    pub file: PathBuf,
}

/// `evsfs mount`
#[derive(Clone, Debug, Args)]
pub struct Mount {
    /// The volume file
    pub file: PathBuf,
    /// An empty directory
    pub mountpoint: PathBuf,
    /// Listen for requests at this path as well
    #[arg(long, value_name = "SOCKET")]
    pub control: Option<PathBuf>,
    /// Write the log of the serving process to this file (without it a process in the background keeps none)
    #[arg(long, value_name = "FILE")]
    pub log: Option<PathBuf>,
    /// Stay until the disk is detached
    #[arg(long)]
    pub foreground: bool,
    /// Refuse all writes
    #[arg(long)]
    pub read_only: bool,
    /// Let the kernel cache the disk's contents, so that it can be mapped into memory; all of it then counts as data (SEEK_DATA finds no holes)
    #[arg(long)]
    pub cached: bool,
    /// Let other users in, as far as the disk's mode allows
    #[arg(long)]
    pub allow_other: bool,
    /// Serve FILE as it is, without format or encryption
    #[arg(long, conflicts_with_all = ["memory", "accept_rollback", "expect_uuid", "expect_encrypted"])]
    pub raw: bool,
    /// Memory for the volume's map and what is not yet written to it: 16M to 64G, 192M by default
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true)]
    pub memory: Option<MemorySize>,
    /// Open a file that is older than the newest state that the key service knows, such as a restored backup (audited; unless with --read-only,
    /// what was newer is refused from then on)
    #[arg(long)]
    pub accept_rollback: bool,
    /// Refuse any other volume than this one
    #[arg(long, value_name = "UUID")]
    pub expect_uuid: Option<Uuid>,
    /// Refuse a volume that is not encrypted
    #[arg(long)]
    pub expect_encrypted: bool,
    /// How often what is not urgent is done, in milliseconds; for tests, which cannot wait for it.
    #[arg(long, hide = true, value_name = "MILLISECONDS", default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..=3_600_000))]
    pub tick: u64,
    /// This process was started by one that waits for a word on the standard output.
    #[arg(long, hide = true)]
    pub background_child: bool,
}

/// `evsfs umount`
#[derive(Debug, Args)]
pub struct Umount {
    /// The volume file, or where it is mounted
    #[arg(value_name = "FILE|MOUNTPOINT")]
    pub target: PathBuf,
}
