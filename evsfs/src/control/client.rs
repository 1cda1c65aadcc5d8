//! Asking a serving process.

use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use rustix::net::sockopt::{Timeout, set_socket_timeout, socket_peercred};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use rustix::process::{Pid, geteuid};
use serde_json::Value;

use super::{Answer, ControlError, Request};
use crate::failure::Failure;

/// How long a process may take to accept a connection: one that serves does nothing else on that thread.
const ACCEPTANCE: Duration = Duration::from_secs(10);

/// A serving process that answers.
#[derive(Debug)]
pub struct Peer {
    name: String,
    stream: UnixStream,
    pid: Pid,
}

impl Peer {
    /// Connects to the process behind a mount with this source, which this user mounted.
    ///
    /// # Errors
    /// If nobody listens there, or a process of another user.
    pub fn connect(source: &str, user: Option<u32>) -> Result<Self, ControlError> {
        let unreachable =
            |source_error| ControlError::Unreachable { socket: source.to_owned(), source: source_error };
        let stream = dial(source).map_err(unreachable)?;
        let credentials = socket_peercred(&stream).map_err(|errno| unreachable(errno.into()))?;
        let (own, peer) = (geteuid(), credentials.uid);
        // A name that is free, since its process has crashed, anybody can take. And what another user's process says is worth nothing to any
        // but root, who knows whose it is.
        if Some(peer.as_raw()) != user || !(own.is_root() || peer == own || peer.is_root()) {
            return Err(ControlError::Foreign { socket: source.to_owned(), uid: peer.as_raw() });
        }
        Ok(Self { name: source.to_owned(), stream, pid: credentials.pid })
    }

    /// Lets an answer take so long and not longer.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn wait_at_most(&self, patience: Duration) -> io::Result<()> {
        self.stream.set_read_timeout(Some(patience))
    }

    /// The process.
    #[must_use]
    pub const fn pid(&self) -> Pid {
        self.pid
    }

    /// Asks, and waits for the answer.
    ///
    /// # Errors
    /// If the process ends before it answers, or it answers with an error.
    pub fn call(&mut self, request: &Request) -> Result<Value, Failure> {
        let lost = |source| ControlError::Lost { socket: self.name.clone(), source };
        let not_json = |source| ControlError::NotJson { source };
        let mut line = serde_json::to_string(request).map_err(not_json)?;
        line.push('\n');
        // Who is turned away finds the connection closed, and the reason in it.
        let sent = self.stream.write_all(line.as_bytes());
        let mut answer = String::new();
        let received = BufReader::new(&self.stream).read_line(&mut answer);
        if answer.is_empty() {
            sent.and(received.map(drop)).map_err(lost)?;
            return Err(lost(io::ErrorKind::UnexpectedEof.into()).into());
        }
        received.map_err(lost)?;
        match serde_json::from_str(&answer).map_err(not_json)? {
            Answer::Ok(value) => Ok(value),
            Answer::Error(report) => Err(report.into()),
        }
    }
}

/// One request to the process behind a mount with this source, which this user mounted.
///
/// # Errors
/// As [`Peer::connect`] and [`Peer::call`].
pub fn call(source: &str, user: Option<u32>, request: &Request) -> Result<Value, Failure> {
    Peer::connect(source, user)?.call(request)
}

/// Connects to an abstract name.
fn dial(name: &str) -> io::Result<UnixStream> {
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    set_socket_timeout(&socket, Timeout::Send, Some(ACCEPTANCE))?;
    connect(&socket, &SocketAddrUnix::new_abstract_name(name.as_bytes())?)?;
    Ok(socket.into())
}
