//! `evsfs extend`, `snapshot`, `snapshots`, `snapshot-delete`, `rollback`: by the process that serves the volume, or, when it is
//! not attached, here.

use std::path::Path;

use serde_json::Value;

use super::output::Output;
use crate::cli;
use crate::control::{self, Request};
use crate::device::VolumeDevice;
use crate::failure::{Failure, FileError};
use crate::keys::KeyService;
use crate::lock;
use crate::mount::table::{self, MountEntry};
use crate::open::{self, Access, LockedFile};
use crate::regular_file::{self, RegularFile};
use crate::serve::Attachment;

pub(super) fn extend(arguments: &cli::Extend, output: Output) -> Result<(), Failure> {
    let value = perform(&arguments.file, &Request::Extend { size: arguments.size.0 })?;
    output.result(&value, &format!("{} has {} bytes now", arguments.file.display(), arguments.size.0))
}

pub(super) fn snapshot(arguments: &cli::Snapshot, output: Output) -> Result<(), Failure> {
    let request = Request::Snapshot { name: arguments.name.clone(), id: arguments.id };
    let value = perform(&arguments.file, &request)?;
    output.result(&value, &line(&value))
}

pub(super) fn snapshots(arguments: &cli::Snapshots, output: Output) -> Result<(), Failure> {
    let value = perform(&arguments.file, &Request::Snapshots {})?;
    let lines: Vec<String> = value["snapshots"].as_array().into_iter().flatten().map(line).collect();
    output.result(&value, &lines.join("\n"))
}

pub(super) fn delete(arguments: &cli::OfSnapshot, output: Output) -> Result<(), Failure> {
    let value = perform(&arguments.file, &Request::SnapshotDelete { id: arguments.id })?;
    output.result(&value, &format!("snapshot {} is deleted", arguments.id))
}

pub(super) fn rollback(arguments: &cli::OfSnapshot, output: Output) -> Result<(), Failure> {
    let value = perform(&arguments.file, &Request::Rollback { id: arguments.id })?;
    output.result(&value, &format!("{} is as in snapshot {}", arguments.file.display(), arguments.id))
}

fn line(snapshot: &Value) -> String {
    let field =
        |name: &str| snapshot[name].as_str().map_or_else(|| snapshot[name].to_string(), str::to_owned);
    format!("{}  {} bytes  {}", field("id"), field("size"), field("name"))
}

/// Who can carry out a request for a volume.
pub(super) enum Reached {
    /// The process that serves it, by its mount.
    Served(MountEntry),
    /// This one; nobody serves it.
    Here(VolumeDevice),
}

/// Finds the process that serves a volume, or opens it.
pub(super) fn reach(path: &Path) -> Result<Reached, Failure> {
    let RegularFile { file, identity: (device, inode), owner } = regular_file::open(path, false)?;
    let mounted = table::of_file(device, inode, owner).map_err(|source| FileError::System {
        operation: "find the mount of",
        file: path.to_owned(),
        source,
    })?;
    // Who serves it has it locked. A mount without that is what a process left that is gone.
    if let Some(entry) = mounted.filter(|_| lock::is_held(&file)) {
        return Ok(Reached::Served(entry));
    }
    drop(file);
    let file = LockedFile::open(path, false)?;
    let opened = open::open(&file, &KeyService::from_env(), &Access::writing())?;
    Ok(Reached::Here(VolumeDevice::start(opened, &file, false)?))
}

/// Asks the process that serves a mount.
pub(super) fn ask(mount: &MountEntry, request: &Request) -> Result<Value, Failure> {
    control::call(&mount.source.to_string_lossy(), mount.user, request)
}

pub(super) fn perform(path: &Path, request: &Request) -> Result<Value, Failure> {
    match reach(path)? {
        Reached::Served(mount) => ask(&mount, request),
        Reached::Here(device) => {
            let result = device.operate(request);
            device.close().1?;
            result
        }
    }
}
