//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

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
}

/// `evsfs mount`
#[derive(Debug, Args)]
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
    /// Let the kernel cache the disk's contents, so that it can be mapped into memory
    #[arg(long)]
    pub cached: bool,
    /// Let other users in, as far as the disk's mode allows
    #[arg(long)]
    pub allow_other: bool,
    /// Serve FILE as it is, without format or encryption
    #[arg(long)]
    pub raw: bool,
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
