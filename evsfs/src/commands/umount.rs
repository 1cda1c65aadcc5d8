//! `evsfs umount`: asks the serving process to detach; where there is none any more, clears what it left.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde_json::json;

use super::output::Output;
use crate::cli;
use crate::control::{ControlError, Peer, Request};
use crate::failure::{Failure, FileError, StartError};
use crate::lock;
use crate::mount::table::{self, MountEntry};
use crate::mount::{self, MountError, Obstacle};

/// A process that has said that it is done ends at once; one that hangs is reported.
const PATIENCE: Duration = Duration::from_secs(30);

pub(super) fn run(arguments: &cli::Umount, output: Output) -> Result<(), Failure> {
    let entry = find(&arguments.target)?;
    let point = entry.point.display().to_string();
    if mount::is_dead(&entry.point) {
        mount::clear(&entry)?;
        let text = format!("cleared {point}, which a process that is gone had left mounted");
        return output.result(&json!({"mountpoint": entry.point, "cleared": true}), &text);
    }
    let source = entry.source.to_string_lossy();
    match Peer::connect(&source, entry.user) {
        Ok(mut peer) => {
            let ended = watch(peer.pid())?;
            peer.call(&Request::Detach {})?;
            ended.wait()?;
        }
        // From another network namespace its name cannot be seen. The kernel still unmounts, and the process then ends.
        Err(ControlError::Unreachable { .. }) => unmount(&entry)?,
        Err(error) => return Err(error.into()),
    }
    output.result(&json!({"mountpoint": entry.point, "cleared": false}), &format!("detached from {point}"))
}

/// Unmounts a disk whose process cannot be asked, and waits until it has ended. It has the file locked as long as it has the key.
fn unmount(entry: &MountEntry) -> Result<(), Failure> {
    let process =
        entry.served_file().and_then(lock::holder_of).and_then(|pid| Pid::from_raw(pid.cast_signed()));
    let ended = process.map(watch).transpose()?;
    mount::unmount(entry).map_err(Obstacle::named)?;
    match ended {
        Some(ended) => Ok(ended.wait()?),
        None => Err(MountError::Unseen { point: entry.point.clone() }.into()),
    }
}

/// The mount that a path means: the mount point itself, or the file that is served.
fn find(target: &Path) -> Result<MountEntry, Failure> {
    let system =
        |source| FileError::System { operation: "find the mount of", file: target.to_owned(), source };
    let resolved = mount::resolve(target).map_err(|error| match error {
        MountError::Missing { .. } => Failure::from(FileError::Missing { file: target.to_owned() }),
        other => other.into(),
    })?;
    if let Some(entry) = table::at(&resolved).map_err(system)? {
        return if entry.is_ours() {
            Ok(entry)
        } else {
            Err(MountError::NotMounted { point: resolved }.into())
        };
    }
    let metadata = fs::metadata(&resolved).map_err(system)?;
    table::of_file(metadata.dev(), metadata.ino(), metadata.uid())
        .map_err(system)?
        .ok_or_else(|| MountError::NotMounted { point: resolved }.into())
}

struct Watch(Option<std::os::fd::OwnedFd>);

/// Watches a process from now on, so that its number cannot come to mean another.
fn watch(pid: Pid) -> Result<Watch, StartError> {
    match pidfd_open(pid, PidfdFlags::empty()) {
        Ok(fd) => Ok(Watch(Some(fd))),
        Err(Errno::SRCH) => Ok(Watch(None)),
        Err(errno) => {
            Err(StartError::System { operation: "watch the serving process", source: errno.into() })
        }
    }
}

impl Watch {
    fn wait(&self) -> Result<(), StartError> {
        let Some(fd) = &self.0 else { return Ok(()) };
        let timeout = Timespec::try_from(PATIENCE).expect("half a minute fits");
        loop {
            match poll(&mut [PollFd::new(fd, PollFlags::IN)], Some(&timeout)) {
                Ok(0) => return Err(waiting(Errno::TIMEDOUT)),
                Ok(_) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(waiting(errno)),
            }
        }
    }
}

fn waiting(errno: Errno) -> StartError {
    StartError::System { operation: "wait for the serving process to end", source: errno.into() }
}
