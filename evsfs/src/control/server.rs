//! Listening: a thread for each socket, one for each connection, and all requests in one queue.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::AsRawFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};
use rustix::net::sockopt::socket_peercred;
use rustix::process::geteuid;
use serde_json::Value;
use tracing::{debug, warn};

use super::{Answer, ControlError, Request};
use crate::engine::Ration;
use crate::failure::{Failure, Report};

/// Longest request in bytes.
const MAX_LINE: u64 = 16 * 1024;

/// Connections at a time; more are turned away.
const MAX_CONNECTIONS: usize = 16;

/// How long a connection may say nothing.
const IDLE: Duration = Duration::from_secs(300);

/// For the log: who is turned away for there being too many has this place, and users have their numbers.
const CROWD: u64 = u64::MAX;

/// The same for those that could not be accepted.
const NOT_ACCEPTED: u64 = u64::MAX - 1;

/// How long nothing is accepted after that failed.
const PAUSE: Duration = Duration::from_millis(100);

/// These threads do little.
const STACK: usize = 128 * 1024;

/// How long an answer may take to its reader when the process is about to end.
const DELIVERY: Duration = Duration::from_secs(2);

/// A request and where its answer goes.
#[derive(Debug)]
pub struct Call {
    /// What is asked.
    pub request: Request,
    answer: Sender<Answer>,
    delivered: Receiver<()>,
}

impl Call {
    /// Answers it. One who does not listen any more is no reason to stop.
    pub fn reply(&self, result: Result<Value, Report>) {
        let _ = self.answer.try_send(result.into());
    }

    /// Waits until the answer is out: the process may end then.
    pub fn await_delivery(&self) {
        // Nothing is ever sent: the other end goes when the answer is written.
        let _ = self.delivered.recv_timeout(DELIVERY);
    }
}

/// The sockets of a serving process. The path, if there is one, is removed with it.
#[derive(Debug)]
pub struct Listeners {
    path: Option<PathBuf>,
    sockets: Vec<UnixListener>,
}

impl Listeners {
    /// Listens under the abstract name `source` and at `path`.
    ///
    /// # Errors
    /// If one of them is taken.
    pub fn bind(source: &str, path: Option<&Path>) -> Result<Self, ControlError> {
        let named = SocketAddr::from_abstract_name(source)
            .and_then(|address| UnixListener::bind_addr(&address))
            .map_err(|e| ControlError::Bind { socket: source.into(), source: e })?;
        let mut sockets = vec![named];
        if let Some(path) = path {
            let bound =
                bind_path(path).map_err(|source| ControlError::Bind { socket: path.to_owned(), source })?;
            sockets.push(bound);
        }
        Ok(Self { path: path.map(Path::to_owned), sockets })
    }

    /// Starts to pass requests on as events made by `wrap`.
    ///
    /// # Errors
    /// If no thread can be started.
    pub fn serve<E: Send + 'static>(&self, events: &Sender<E>, wrap: fn(Call) -> E) -> io::Result<()> {
        let crowd = Arc::new(Crowd::default());
        for socket in &self.sockets {
            let (socket, events, crowd) = (socket.try_clone()?, events.clone(), Arc::clone(&crowd));
            thread::Builder::new().name("control".into()).stack_size(STACK).spawn(move || {
                for stream in socket.incoming() {
                    match stream {
                        Ok(stream) => accept(stream, &events, wrap, &crowd),
                        Err(error) => {
                            // Of descriptors or memory there are none left: that passes, or lasts.
                            if let Some(untold) = crowd.told.take(NOT_ACCEPTED) {
                                warn!(%error, untold, "a control connection could not be accepted");
                            }
                            thread::sleep(PAUSE);
                        }
                    }
                }
            })?;
        }
        Ok(())
    }
}

impl Drop for Listeners {
    fn drop(&mut self) {
        if let Some(path) = &self.path
            && let Err(error) = fs::remove_file(path)
        {
            warn!(path = %path.display(), %error, "the control socket could not be removed");
        }
    }
}

/// Binds at a path that is free or where nobody listens any more. Nobody else can connect at any moment: the socket gets its
/// mode before it listens at its place.
fn bind_path(path: &Path) -> io::Result<UnixListener> {
    // Nobody could connect to a longer path, nor would it be seen whether somebody listens there.
    SocketAddr::from_pathname(path)?;
    match fs::symlink_metadata(path) {
        Ok(metadata) if !metadata.file_type().is_socket() => return Err(io::ErrorKind::AlreadyExists.into()),
        Ok(_) if UnixStream::connect(path).is_ok() => return Err(io::ErrorKind::AddrInUse.into()),
        Ok(_) => fs::remove_file(path)?,
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => return Err(e),
    }
    // By way of its directory, under a short name: an address has room for 107 bytes, which the path itself may take up.
    let parent =
        path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    let dir = File::open(parent)?;
    let own = PathBuf::from(format!("/proc/self/fd/{}/.evsfs-{}", dir.as_raw_fd(), std::process::id()));
    let socket = UnixListener::bind(&own)?;
    let placed =
        fs::set_permissions(&own, fs::Permissions::from_mode(0o600)).and_then(|()| fs::rename(&own, path));
    if let Err(error) = placed {
        // The reason why it could not be placed counts.
        let _ = fs::remove_file(&own);
        return Err(error);
    }
    Ok(socket)
}

/// Those who are connected, and those who were turned away.
#[derive(Default)]
struct Crowd {
    connected: AtomicUsize,
    /// Anybody can connect, and however often: the log hears of each user now and then.
    told: Ration,
}

fn accept<E: Send + 'static>(
    stream: UnixStream,
    events: &Sender<E>,
    wrap: fn(Call) -> E,
    crowd: &Arc<Crowd>,
) {
    let own = geteuid();
    match socket_peercred(&stream) {
        Ok(peer) if peer.uid == own || peer.uid.is_root() => {}
        Ok(peer) => {
            let uid = peer.uid.as_raw();
            if let Some(untold) = crowd.told.take(uid.into()) {
                warn!(uid, untold, "a stranger was turned away from the control socket");
            }
            return turn_away(&stream, ControlError::Stranger { uid });
        }
        Err(error) => return debug!(%error, "a control connection without credentials was closed"),
    }
    if crowd.connected.fetch_add(1, Ordering::Relaxed) >= MAX_CONNECTIONS {
        crowd.connected.fetch_sub(1, Ordering::Relaxed);
        if let Some(untold) = crowd.told.take(CROWD) {
            warn!(untold, "too many control connections");
        }
        return turn_away(&stream, ControlError::Crowded { most: MAX_CONNECTIONS });
    }
    let (events, shared) = (events.clone(), Arc::clone(crowd));
    let started = thread::Builder::new().name("control-call".into()).stack_size(STACK).spawn(move || {
        if let Err(error) = converse(&stream, &events, wrap) {
            debug!(%error, "control connection ended");
        }
        shared.connected.fetch_sub(1, Ordering::Relaxed);
    });
    if let Err(error) = started {
        crowd.connected.fetch_sub(1, Ordering::Relaxed);
        warn!(%error, "a control connection could not be served");
    }
}

/// One line, for which a new connection has room: it keeps nobody waiting.
fn turn_away(mut stream: &UnixStream, error: ControlError) {
    let said = serde_json::to_string(&refusal(error)).map(|text| stream.write_all((text + "\n").as_bytes()));
    if let Ok(Err(error)) = said {
        debug!(%error, "who was turned away did not wait for the reason");
    }
}

fn converse<E>(stream: &UnixStream, events: &Sender<E>, wrap: fn(Call) -> E) -> io::Result<()> {
    stream.set_read_timeout(Some(IDLE))?;
    let mut input = BufReader::new(stream);
    loop {
        let mut line = Vec::new();
        input.by_ref().take(MAX_LINE).read_until(b'\n', &mut line)?;
        if line.is_empty() {
            return Ok(());
        }
        let whole = line.ends_with(b"\n");
        // Dropped at the end of this turn, when the answer is out.
        let (_delivering, delivered) = bounded(0);
        let answer = match serde_json::from_slice(&line) {
            Ok(request) => ask(request, delivered, events, wrap),
            Err(source) => refusal(ControlError::NotJson { source }),
        };
        let mut text = serde_json::to_string(&answer)?;
        text.push('\n');
        let mut output = stream;
        output.write_all(text.as_bytes())?;
        if !whole {
            return Ok(());
        }
    }
}

fn ask<E>(request: Request, delivered: Receiver<()>, events: &Sender<E>, wrap: fn(Call) -> E) -> Answer {
    let (answer, answered) = bounded(1);
    if events.send(wrap(Call { request, answer, delivered })).is_err() {
        return refusal(ControlError::Detaching);
    }
    answered.recv().unwrap_or_else(|_| refusal(ControlError::Detaching))
}

fn refusal(error: ControlError) -> Answer {
    Answer::Error(Failure::from(error).report())
}

#[cfg(test)]
mod tests {
    use crossbeam_channel::unbounded;
    use serde_json::json;

    use super::*;
    use crate::control::Peer;

    fn listening(path: Option<&Path>) -> (String, Listeners) {
        let source = format!("evsfs:test:{}", uuid::Uuid::new_v4());
        let listeners = Listeners::bind(&source, path).unwrap();
        let (events, queue) = unbounded();
        listeners.serve(&events, |call| call).unwrap();
        thread::spawn(move || {
            for call in queue {
                call.reply(Ok(json!({"op": call.request.operation()})));
            }
        });
        (source, listeners)
    }

    #[test]
    fn a_request_is_answered_and_a_bad_one_refused() {
        let (source, _listeners) = listening(None);
        let own = geteuid().as_raw();
        assert!(matches!(Peer::connect(&source, Some(own + 1)), Err(ControlError::Foreign { .. })));
        let mut peer = Peer::connect(&source, Some(own)).unwrap();
        assert_eq!(peer.pid().as_raw_nonzero().get().cast_unsigned(), std::process::id());
        assert_eq!(peer.call(&Request::Flush {}).unwrap(), json!({"op": "flush"}));
        let address = SocketAddr::from_abstract_name(&source).unwrap();
        let mut raw = UnixStream::connect_addr(&address).unwrap();
        raw.write_all(b"nonsense\n").unwrap();
        let mut line = String::new();
        BufReader::new(&raw).read_line(&mut line).unwrap();
        assert!(line.contains("protocol_error"), "{line}");
    }

    #[test]
    fn the_path_is_private_replaces_a_dead_socket_and_goes_with_its_process() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("control.sock");
        drop(UnixListener::bind(&path).unwrap());
        let (_, listeners) = listening(Some(&path));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(UnixStream::connect(&path).is_ok());
        assert!(Listeners::bind(&format!("{}", uuid::Uuid::new_v4()), Some(&path)).is_err(), "it is in use");
        drop(listeners);
        assert!(!path.exists());
    }

    #[test]
    fn a_path_may_be_as_long_as_an_address_and_not_longer() {
        let dir = tempfile::tempdir().unwrap();
        let length = 107 - dir.path().as_os_str().len() - 1;
        let path = dir.path().join("s".repeat(length));
        let (_, _listeners) = listening(Some(&path));
        assert!(UnixStream::connect(&path).is_ok());
        let names: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert_eq!(names, [path.as_path()]);
        let longer = path.with_file_name("s".repeat(length + 1));
        let source = uuid::Uuid::new_v4().to_string();
        assert!(matches!(Listeners::bind(&source, Some(&longer)), Err(ControlError::Bind { .. })));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing is left of it");
    }

    #[test]
    fn an_ordinary_file_is_not_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("precious");
        fs::write(&path, "data").unwrap();
        assert!(Listeners::bind(&format!("{}", uuid::Uuid::new_v4()), Some(&path)).is_err());
        assert_eq!(fs::read_to_string(&path).unwrap(), "data");
    }
}
