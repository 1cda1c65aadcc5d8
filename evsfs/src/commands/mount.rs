//! `evsfs mount`: here, or in a process of its own in the background.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use tracing::{debug, info};
use tracing_subscriber::EnvFilter;

use super::output::Output;
use crate::cli;
use crate::device::{RawDevice, VolumeDevice};
use crate::failure::{Failure, FileError, StartError, UsageError};
use crate::keys::KeyService;
use crate::open::{self, Access, LockedFile};
use crate::process::{self, Termination};
use crate::regular_file::{self, RegularFile};
use crate::serve::{self, Readiness, Ready, Settings, Signals};
use crate::unlock::Expected;
use crate::{lock, mount};

/// The engine looks after a volume that nobody writes to this much less often than what is not urgent is done otherwise: every 30 seconds.
const TICKS_IN_A_ROUND: u32 = 3;

pub(super) fn run(arguments: &cli::Mount, output: Output) -> Result<(), Failure> {
    if arguments.background_child {
        return in_background(arguments);
    }
    if arguments.foreground {
        let print = Box::new(move |ready: &Ready| output.write(ready, &text(ready)));
        return attach(arguments, Readiness::Here { print });
    }
    let ready = start()?;
    output.result(&ready, &text(&ready))
}

fn text(ready: &Ready) -> String {
    format!("{} ({} bytes, process {})", ready.path.display(), ready.size, ready.pid)
}

/// Starts this program again with the same arguments. The new process holds the key and never shares memory with this one.
fn start() -> Result<Ready, Failure> {
    let system = |operation| move |source| StartError::System { operation, source };
    process::keep_from_children().map_err(system("close files to the serving process"))?;
    let mut child = Command::new("/proc/self/exe")
        .arg0(env!("CARGO_PKG_NAME"))
        .args(for_the_child(std::env::args_os().skip(1)))
        // It will stand in another directory.
        .env("KMSD_SOCKET", absolute(&kmsd::paths::socket())?)
        // Each thread would get an allocation arena of its own, which an idle disk pays for.
        .env("MALLOC_ARENA_MAX", "2")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(system("start the serving process"))?;
    serve::await_ready(&mut child)
}

/// The same arguments with the one that tells the child apart, which must come before `--`: what follows that is no option.
fn for_the_child(arguments: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = arguments.into_iter().collect();
    let end = arguments.iter().position(|argument| argument == "--").unwrap_or(arguments.len());
    arguments.insert(end, "--background-child".into());
    arguments
}

/// The child's side: leaves the terminal, and says on the pipe how it went.
fn in_background(arguments: &cli::Mount) -> Result<(), Failure> {
    let result = leave_everything(arguments).and_then(|here| attach(&here, Readiness::Parent));
    if let Err(failure) = &result {
        // After readiness the pipe is gone and this goes nowhere; the log has it.
        if let Err(error) = Readiness::fail(&failure.report()) {
            debug!(%error, "nobody to report to");
        }
    }
    result
}

/// Leaves the terminal and the directory in which the command was given, which would be in use as long as the disk is attached; and takes its
/// name from the program, not from the path by which that was found. Gives back the arguments as they read from anywhere.
fn leave_everything(arguments: &cli::Mount) -> Result<cli::Mount, Failure> {
    let system = |operation| move |source| StartError::System { operation, source };
    process::leave_session().map_err(system("leave the session"))?;
    process::take_name().map_err(system("take a name"))?;
    let mut here = arguments.clone();
    let paths = [Some(&mut here.file), Some(&mut here.mountpoint), here.control.as_mut(), here.log.as_mut()];
    for path in paths.into_iter().flatten() {
        *path = absolute(path)?;
    }
    std::env::set_current_dir("/").map_err(system("change to the root directory"))?;
    Ok(here)
}

fn attach(arguments: &cli::Mount, ready: Readiness) -> Result<(), Failure> {
    let system = |operation| move |source| StartError::System { operation, source };
    // Before any thread: signals are held back in all of them.
    let termination = Termination::hold().map_err(system("hold signals back"))?;
    let flusher = process::become_io_flusher();
    keep_log_apart(arguments)?;
    start_log(arguments)?;
    if let Err(error) = flusher {
        info!(%error, "loop mounts on this disk may stall when memory is short");
    }
    // Before anything that may take long.
    let signals = Signals::watch(termination).map_err(system("start a thread"))?;
    if arguments.raw {
        let (device, settings) = open_raw(arguments)?;
        serve::serve(device, settings, &signals, ready)
    } else {
        let (device, settings) = open_volume(arguments)?;
        serve::serve(device, settings, &signals, ready)
    }
}

/// Once the file is there, and before anybody is asked for its key: where nothing can be mounted, nothing is opened.
fn settings(arguments: &cli::Mount, identity: (u64, u64)) -> Result<Settings, Failure> {
    Ok(Settings {
        file: absolute(&arguments.file)?,
        identity,
        point: mount::prepare(&arguments.mountpoint)?,
        control: arguments.control.clone(),
        cached: arguments.cached,
        read_only: arguments.read_only,
        allow_other: arguments.allow_other,
        tick: Duration::from_millis(arguments.tick),
    })
}

fn open_raw(arguments: &cli::Mount) -> Result<(RawDevice, Settings), Failure> {
    let path = absolute(&arguments.file)?;
    let RegularFile { file, identity, .. } = regular_file::open(&path, !arguments.read_only)?;
    lock::exclusive(&file, &path)?;
    let settings = settings(arguments, identity)?;
    let device = RawDevice::new(file, path.clone(), arguments.read_only)
        .map_err(|source| FileError::System { operation: "inspect", file: path, source })?;
    Ok((device, settings))
}

fn open_volume(arguments: &cli::Mount) -> Result<(VolumeDevice, Settings), Failure> {
    let file = LockedFile::open(&arguments.file, arguments.read_only)?;
    let settings = settings(arguments, file.identity)?;
    let access = Access {
        expected: Expected { uuid: arguments.expect_uuid, encrypted: arguments.expect_encrypted },
        read_only: arguments.read_only,
        salvage: false,
        accept_rollback: arguments.accept_rollback.then_some("evsfs mount --accept-rollback"),
        memory: arguments.memory.map(|memory| memory.0),
        background: true,
        idle_round: Some(Duration::from_millis(arguments.tick) * TICKS_IN_A_ROUND),
    };
    let opened = open::open(&file, &KeyService::from_env(), &access)?;
    Ok((VolumeDevice::start(opened, &file, arguments.read_only)?, settings))
}

fn absolute(path: &Path) -> Result<PathBuf, FileError> {
    std::path::absolute(path).map_err(|source| FileError::System {
        operation: "resolve",
        file: path.to_owned(),
        source,
    })
}

/// Lines of the log in the volume file would be damage, and behind the mount nobody could read them.
fn keep_log_apart(arguments: &cli::Mount) -> Result<(), UsageError> {
    let Some(log) = &arguments.log else { return Ok(()) };
    // What is not there is refused, or made, by whoever opens it.
    let identity =
        |path: &Path| std::fs::metadata(path).ok().map(|metadata| (metadata.dev(), metadata.ino()));
    let is_the_file = identity(log).is_some_and(|log| Some(log) == identity(&arguments.file));
    let directory = log.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let resolved = |path: &Path| std::fs::canonicalize(path).ok();
    let is_behind = resolved(directory)
        .zip(resolved(&arguments.mountpoint))
        .is_some_and(|(directory, point)| directory.starts_with(point));
    if is_the_file || is_behind {
        let (file, point) = (arguments.file.clone(), arguments.mountpoint.clone());
        return Err(UsageError::LogOnItsDisk { log: log.clone(), file, point });
    }
    Ok(())
}

/// The log goes to its file, or to standard error, which the background has none of.
fn start_log(arguments: &cli::Mount) -> Result<(), FileError> {
    let filter = EnvFilter::try_from_env("EVSFS_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(false);
    match &arguments.log {
        Some(path) => {
            let file = open_log(path).map_err(|source| FileError::System {
                operation: "open the log",
                file: path.clone(),
                source,
            })?;
            log.with_writer(Mutex::new(file)).init();
        }
        None => log.with_writer(io::stderr).init(),
    }
    Ok(())
}

fn open_log(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o600).open(path)
}
