//! The real volume engine: runs the `evsfs` program, by the contract in docs/architecture.md.

use std::{
    ffi::OsStr,
    fs::{self, File},
    io::{self, BufRead, BufReader, Read, Seek},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Stdio},
};

use serde::{Deserialize, de::DeserializeOwned};
use uuid::Uuid;

use crate::{
    claim::Claim,
    config::is_too_long,
    model::disk::Serving,
    output::progress::Progress,
    volumes::{
        Failure, Inspected, Kept, Long, Look, Mounting, NewVolume, Past, Place, ToolError, VolumeTool,
        Written,
        holders::{self, Holder},
        mounts, process,
    },
};

/// Runs `evsfs`.
#[derive(Debug)]
pub(crate) struct Evsfs {
    /// The program.
    pub(crate) program: PathBuf,
    /// kmsd's socket, handed on in the environment.
    pub(crate) kmsd_socket: PathBuf,
}

#[derive(Deserialize)]
struct CreateReply {
    key_id: Option<String>,
}

/// What `evsfs info` says: of the header, of work under way if it is served, and with `--unlock` its size.
#[derive(Deserialize)]
struct InfoReply {
    uuid: Uuid,
    kind: String,
    encrypted: bool,
    key_id: Option<String>,
    created: u64,
    base: Option<BaseReply>,
    flattened: bool,
    re_encrypting: bool,
    re_encryption: Option<serde_json::Value>,
    flatten: Option<serde_json::Value>,
    size: Option<u64>,
}

#[derive(Deserialize)]
struct MountReply {
    pid: u32,
}

#[derive(Deserialize)]
struct BaseReply {
    uuid: Uuid,
}

#[derive(Deserialize)]
struct SnapshotsReply {
    snapshots: Vec<Kept>,
}

#[derive(Deserialize)]
struct Empty {}

#[derive(Deserialize)]
struct ProgressReply {
    progress: Reached,
}

#[derive(Deserialize)]
struct Reached {
    position: u64,
    size: u64,
}

#[derive(Deserialize)]
struct ErrorReply {
    error: ErrorBody,
}

#[derive(Deserialize)]
struct ErrorBody {
    code: String,
    message: String,
    hint: Option<String>,
}

impl Evsfs {
    fn run<T: DeserializeOwned>(&self, claim: &Claim, arguments: &[&OsStr]) -> Result<T, ToolError> {
        let (status, stdout, stderr) = self
            .claimed(claim, arguments)
            .map_err(|source| ToolError::Spawn { program: self.program.clone(), source })?;
        self.interpret(status, &stdout, &stderr)
    }

    /// The same for work that takes long, which is shown if there is somebody to see it.
    fn run_long(&self, claim: &Claim, arguments: &[&OsStr], long: Long<'_>) -> Result<(), ToolError> {
        let Long { rate, wait, progress } = long;
        let rate = rate.map(|rate| rate.to_string());
        let mut arguments = arguments.to_vec();
        if let Some(rate) = &rate {
            arguments.extend(["--rate".as_ref(), OsStr::new(rate)]);
        }
        if wait {
            arguments.push("--wait".as_ref());
        }
        if !progress.is_shown() {
            return self.run::<Empty>(claim, &arguments).map(|Empty {}| ());
        }
        arguments.push("--progress".as_ref());
        let done = self.watched(claim, &arguments, progress);
        progress.finish();
        let (status, stdout, stderr) =
            done.map_err(|source| ToolError::Spawn { program: self.program.clone(), source })?;
        self.interpret::<Empty>(status, &stdout, &stderr).map(|Empty {}| ())
    }

    /// Errors come by a pipe, for what is said meanwhile: such work leaves no process behind that would hold it.
    fn watched(
        &self,
        claim: &Claim,
        arguments: &[&OsStr],
        progress: &mut Progress,
    ) -> io::Result<(ExitStatus, String, String)> {
        let mut stdout = nameless("stdout")?;
        let mut child = self
            .command(claim.stdin()?, arguments)
            .stdout(stdout.try_clone()?)
            .stderr(Stdio::piped())
            .spawn()?;
        let mut said = String::new();
        let mut unread = None;
        for line in child.stderr.take().into_iter().flat_map(|stderr| BufReader::new(stderr).split(b'\n')) {
            // Whatever it says and however that is read: it works on, and is waited for.
            let line = match line {
                Ok(line) => String::from_utf8_lossy(&line).into_owned(),
                Err(error) => {
                    unread = Some(error);
                    break;
                }
            };
            match serde_json::from_str::<ProgressReply>(&line) {
                Ok(ProgressReply { progress: Reached { position, size } }) => {
                    progress.reach_of(position, size);
                }
                Err(_) => said += &(line + "\n"),
            }
        }
        let status = child.wait()?;
        match unread {
            Some(error) => Err(error),
            None => Ok((status, read_all(&mut stdout)?, said)),
        }
    }

    /// The same for what only reads and needs no claim.
    fn look<T: DeserializeOwned>(&self, arguments: &[&OsStr]) -> Result<T, ToolError> {
        let (status, stdout, stderr) = self
            .spawn(Stdio::null(), arguments)
            .map_err(|source| ToolError::Spawn { program: self.program.clone(), source })?;
        self.interpret(status, &stdout, &stderr)
    }

    fn interpret<T: DeserializeOwned>(
        &self,
        status: ExitStatus,
        stdout: &str,
        stderr: &str,
    ) -> Result<T, ToolError> {
        let contract = || ToolError::Contract {
            program: self.program.clone(),
            status,
            said: tail(if stderr.trim().is_empty() { stdout } else { stderr }),
        };
        if status.success() {
            // Several commands say nothing when all is well.
            let text = if stdout.trim().is_empty() { "{}" } else { stdout.trim() };
            return serde_json::from_str(text).map_err(|_| contract());
        }
        let reply = stderr
            .lines()
            .rev()
            .find_map(|line| serde_json::from_str::<ErrorReply>(line).ok())
            .or_else(|| serde_json::from_str(stderr).ok())
            .ok_or_else(contract)?;
        let class = match status.code() {
            Some(1 | 2) => Failure::Other,
            Some(3) => Failure::Refused,
            Some(4) => Failure::Unreachable,
            Some(5) => Failure::Damaged,
            Some(_) | None => return Err(contract()),
        };
        let ErrorBody { code, message, hint } = reply.error;
        Err(ToolError::Failed { class, code, message, hint })
    }

    /// The output goes to files without a name, not pipes: a process that evsfs leaves behind may hold its
    /// descriptors for as long as the disk is attached. The claim is evsfs's standard input: should this process
    /// be killed, nobody else touches the disk before evsfs has ended too.
    fn claimed(&self, claim: &Claim, arguments: &[&OsStr]) -> io::Result<(ExitStatus, String, String)> {
        self.spawn(claim.stdin()?, arguments)
    }

    fn spawn(&self, stdin: Stdio, arguments: &[&OsStr]) -> io::Result<(ExitStatus, String, String)> {
        let (mut stdout, mut stderr) = (nameless("stdout")?, nameless("stderr")?);
        let status = self
            .command(stdin, arguments)
            .stdout(stdout.try_clone()?)
            .stderr(stderr.try_clone()?)
            .status()?;
        Ok((status, read_all(&mut stdout)?, read_all(&mut stderr)?))
    }

    fn command(&self, stdin: Stdio, arguments: &[&OsStr]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(arguments).arg("--json").env("KMSD_SOCKET", &self.kmsd_socket).stdin(stdin);
        command
    }
}

fn nameless(name: &str) -> io::Result<File> {
    Ok(File::from(rustix::fs::memfd_create(name, rustix::fs::MemfdFlags::CLOEXEC)?))
}

fn read_all(file: &mut File) -> io::Result<String> {
    // The engine's answers are small; a flood is cut.
    const LIMIT: u64 = 1 << 20;
    file.rewind()?;
    let mut bytes = Vec::new();
    file.take(LIMIT).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.trim().lines().rev().take(3).collect();
    lines.into_iter().rev().collect::<Vec<_>>().join("; ")
}

impl VolumeTool for Evsfs {
    fn create(&self, claim: &Claim, new: &NewVolume<'_>) -> Result<Written, ToolError> {
        let (size, uuid) = (new.size.to_string(), new.uuid.to_string());
        let mut arguments: Vec<&OsStr> = vec![OsStr::new("create"), new.file.as_os_str()];
        arguments.extend(["--size", &size, "--uuid", &uuid].map(OsStr::new));
        match new.key {
            Some(key) => arguments.extend(["--key", key].map(OsStr::new)),
            None => arguments.push(OsStr::new("--plain")),
        }
        if new.image {
            arguments.extend(["--kind", "image"].map(OsStr::new));
        }
        if let Some(base) = new.base {
            arguments.extend([OsStr::new("--base"), base.as_os_str()]);
        }
        let reply: CreateReply = self.run(claim, &arguments)?;
        Ok(Written { key_id: reply.key_id })
    }

    fn mount(&self, claim: &Claim, place: &Place, how: Mounting) -> Result<Serving, ToolError> {
        if let Some(serving) = self.serving(place)? {
            return Ok(serving);
        }
        if is_too_long(&place.control) {
            return Err(ToolError::LongSocket { path: place.control.clone() });
        }
        let mut arguments = vec![
            OsStr::new("mount"),
            place.file.as_os_str(),
            place.mountpoint.as_os_str(),
            OsStr::new("--control"),
            place.control.as_os_str(),
            OsStr::new("--log"),
            place.log.as_os_str(),
        ];
        let uuid = place.uuid.to_string();
        arguments.extend(["--expect-uuid", &uuid].map(OsStr::new));
        if how.encrypted {
            arguments.push(OsStr::new("--expect-encrypted"));
        }
        if how.read_only {
            arguments.push(OsStr::new("--read-only"));
        }
        let reply: MountReply = self.run(claim, &arguments)?;
        process::identify(reply.pid).ok_or_else(|| ToolError::Failed {
            class: Failure::Other,
            code: "serving-process-ended".to_owned(),
            message: format!("process {}, which was to serve the disk, has ended", reply.pid),
            hint: Some(format!("its log: {}", place.log.display())),
        })
    }

    fn serving(&self, place: &Place) -> Result<Option<Serving>, ToolError> {
        Ok(if mounts::is_mounted(&place.mountpoint)? { answers(&place.control) } else { None })
    }

    fn alive(&self, serving: &Serving) -> bool {
        process::identify(serving.pid).as_ref() == Some(serving)
    }

    fn holders(&self, place: &Place) -> Result<Vec<Holder>, ToolError> {
        holders::find(&place.mountpoint, self.serving(place)?.map(|s| s.pid))
    }

    fn unmount(&self, claim: &Claim, place: &Place) -> Result<(), ToolError> {
        if !mounts::is_mounted(&place.mountpoint)? {
            return Ok(());
        }
        let serving = self.serving(place)?;
        // A live mount may have lost its socket; a dead one says so itself.
        let dead = serving.is_none() && fs::metadata(&place.view).is_err_and(|e| nobody_serves(&e));
        if !dead {
            let done = self.run::<Empty>(claim, &[OsStr::new("umount"), place.mountpoint.as_os_str()]);
            match done {
                Err(ToolError::Failed { class: Failure::Refused, message, .. }) => {
                    return Err(ToolError::Busy { holders: self.holders(place)?, message });
                }
                Err(other) => return Err(other),
                Ok(Empty {}) => {}
            }
        }
        if mounts::is_mounted(&place.mountpoint)? { clear(&place.mountpoint) } else { Ok(()) }
    }

    fn snapshot(&self, claim: &Claim, file: &Path, name: &str, id: Uuid) -> Result<(), ToolError> {
        let id = id.to_string();
        let arguments = ["snapshot".as_ref(), file.as_os_str(), name.as_ref(), "--id".as_ref(), id.as_ref()];
        self.run::<Empty>(claim, &arguments).map(|Empty {}| ())
    }

    fn delete_snapshot(&self, claim: &Claim, file: &Path, id: Uuid) -> Result<(), ToolError> {
        let id = id.to_string();
        match self.run::<Empty>(claim, &["snapshot-delete".as_ref(), file.as_os_str(), id.as_ref()]) {
            Err(ToolError::Failed { code, .. }) if code == "no_such_snapshot" => Ok(()),
            other => other.map(|Empty {}| ()),
        }
    }

    fn roll_back(&self, claim: &Claim, file: &Path, id: Uuid) -> Result<(), ToolError> {
        let id = id.to_string();
        self.run::<Empty>(claim, &["rollback".as_ref(), file.as_os_str(), id.as_ref()]).map(|Empty {}| ())
    }

    fn extend(&self, claim: &Claim, file: &Path, size: u64) -> Result<(), ToolError> {
        let size = size.to_string();
        let arguments = ["extend".as_ref(), file.as_os_str(), "--size".as_ref(), size.as_ref()];
        self.run::<Empty>(claim, &arguments).map(|Empty {}| ())
    }

    fn rekey(&self, claim: &Claim, file: &Path, key: &str) -> Result<(), ToolError> {
        let arguments = ["rekey".as_ref(), file.as_os_str(), "--key".as_ref(), key.as_ref()];
        self.run::<Empty>(claim, &arguments).map(|Empty {}| ())
    }

    fn reencrypt(&self, claim: &Claim, file: &Path, long: Long<'_>) -> Result<(), ToolError> {
        self.run_long(claim, &["rekey".as_ref(), file.as_os_str(), "--new-data-key".as_ref()], long)
    }

    fn flatten(&self, claim: &Claim, file: &Path, long: Long<'_>) -> Result<(), ToolError> {
        self.run_long(claim, &["flatten".as_ref(), file.as_os_str()], long)
    }

    fn look(&self, file: &Path) -> Result<Look, ToolError> {
        let reply: InfoReply = self.look(&["info".as_ref(), file.as_os_str()])?;
        // A disk that nobody serves goes on when it is attached.
        let waiting = || reply.re_encrypting.then(|| serde_json::json!({"phase": "waiting"}));
        Ok(Look {
            re_encryption: reply.re_encryption.or_else(waiting),
            flatten: reply.flatten,
            base: reply.base.map(|base| base.uuid),
            flattened: reply.flattened,
        })
    }

    fn past(&self, place: &Place, encrypted: bool) -> Result<Past, ToolError> {
        let uuid = place.uuid.to_string();
        let mut arguments = accept_rollback(place, &uuid, encrypted);
        arguments.push("--dry-run".as_ref());
        self.look(&arguments)
    }

    fn accept_past(&self, claim: &Claim, place: &Place, encrypted: bool) -> Result<(), ToolError> {
        let uuid = place.uuid.to_string();
        self.run::<Empty>(claim, &accept_rollback(place, &uuid, encrypted)).map(|Empty {}| ())
    }

    fn check(&self, claim: &Claim, file: &Path) -> Result<serde_json::Value, ToolError> {
        let arguments = ["check".as_ref(), file.as_os_str()];
        let (status, stdout, stderr) = self
            .claimed(claim, &arguments)
            .map_err(|source| ToolError::Spawn { program: self.program.clone(), source })?;
        // A damaged volume is reported on stdout although the command fails.
        match serde_json::from_str(&stdout) {
            Ok(report) if matches!(status.code(), Some(0 | 5)) => Ok(report),
            _ => self.interpret(status, &stdout, &stderr),
        }
    }

    fn version(&self) -> Result<String, ToolError> {
        let spawned = |source| ToolError::Spawn { program: self.program.clone(), source };
        let done =
            Command::new(&self.program).arg("--version").stdin(Stdio::null()).output().map_err(spawned)?;
        let said = String::from_utf8_lossy(&done.stdout).trim().to_owned();
        match said.strip_prefix("evsfs ") {
            Some(version) if done.status.success() => Ok(version.to_owned()),
            _ => Err(ToolError::Contract {
                program: self.program.clone(),
                status: done.status,
                said: tail(&said),
            }),
        }
    }

    fn inspect(&self, file: &Path, unlock: bool) -> Result<Inspected, ToolError> {
        let mut arguments = vec![OsStr::new("info"), file.as_os_str()];
        if unlock {
            arguments.push(OsStr::new("--unlock"));
        }
        let reply: InfoReply = self.look(&arguments)?;
        let snapshots = if unlock {
            self.look::<SnapshotsReply>(&[OsStr::new("snapshots"), file.as_os_str()])?.snapshots
        } else {
            Vec::new()
        };
        Ok(Inspected {
            uuid: reply.uuid,
            image: reply.kind == "image",
            encrypted: reply.encrypted,
            key_id: reply.key_id,
            base: reply.base.map(|base| base.uuid),
            created: reply.created,
            size: reply.size,
            snapshots,
        })
    }

    fn erase(&self, claim: &Claim, file: &Path) -> Result<(), ToolError> {
        if !file.exists() {
            return Ok(());
        }
        match self.run::<Empty>(claim, &[OsStr::new("erase"), file.as_os_str()]) {
            Err(ToolError::Failed { code, .. }) if code == "key_erased" => Ok(()),
            other => other.map(|Empty {}| ()),
        }
    }
}

/// The process behind a control socket.
fn answers(control: &Path) -> Option<Serving> {
    let control = UnixStream::connect(control).ok()?;
    let peer = rustix::net::sockopt::socket_peercred(&control).ok()?;
    process::identify(u32::try_from(peer.pid.as_raw_nonzero().get()).ok()?)
}

/// A file that was exchanged for another volume is no past of this one.
fn accept_rollback<'a>(place: &'a Place, uuid: &'a str, encrypted: bool) -> Vec<&'a OsStr> {
    let mut arguments = vec!["accept-rollback".as_ref(), place.file.as_os_str()];
    arguments.extend(["--expect-uuid", uuid].map(OsStr::new));
    if encrypted {
        arguments.push("--expect-encrypted".as_ref());
    }
    arguments
}

/// What a FUSE mount answers when its process has died.
fn nobody_serves(error: &io::Error) -> bool {
    use rustix::io::Errno;
    matches!(Errno::from_io_error(error), Some(Errno::NOTCONN | Errno::CONNABORTED))
}

/// Takes away a mount that nobody serves any more. Only then is a lazy unmount safe: nothing can be lost by it.
fn clear(mountpoint: &Path) -> Result<(), ToolError> {
    let failed = |source| ToolError::Clear { mountpoint: mountpoint.to_owned(), source };
    match rustix::mount::unmount(mountpoint, rustix::mount::UnmountFlags::DETACH) {
        Ok(()) => Ok(()),
        Err(rustix::io::Errno::PERM) => {
            // An ordinary user unmounts through the set-uid helper.
            let status =
                Command::new("fusermount3").arg("-uzq").arg("--").arg(mountpoint).status().map_err(failed)?;
            if status.success() { Ok(()) } else { Err(failed(io::ErrorKind::PermissionDenied.into())) }
        }
        Err(errno) => Err(failed(errno.into())),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::{
        claim::Patience,
        output::{Format, Output},
    };

    #[test]
    fn an_engine_that_says_what_is_no_text_is_heard_and_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("evsfs");
        let script =
            "#!/bin/sh\nprintf 'a\\377b\\n{\"progress\":{\"position\":1,\"size\":2}}\\n' >&2\nexit 3\n";
        fs::write(&program, script).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let evsfs = Evsfs { program, kmsd_socket: "/nowhere".into() };
        let claim = Claim::take(dir.path(), Uuid::new_v4(), Patience::NONE).unwrap();
        let out = Output { format: Format::Json, quiet: true };
        let mut progress = Progress::new(out, "re-encrypting", "d", 2);
        let (status, _, said) = evsfs.watched(&claim, &[], &mut progress).unwrap();
        assert_eq!((status.code(), said.as_str()), (Some(3), "a\u{fffd}b\n"));
    }
}
