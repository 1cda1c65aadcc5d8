//! Asking a serving process.

use std::io::{BufRead, BufReader, Write};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixStream};

use rustix::net::sockopt::socket_peercred;
use rustix::process::{Pid, geteuid};
use serde_json::Value;

use super::{Answer, ControlError, Request};
use crate::failure::Failure;

/// A serving process that answers.
#[derive(Debug)]
pub struct Peer {
    name: String,
    stream: UnixStream,
    pid: Pid,
}

impl Peer {
    /// Connects to the process behind a mount with this source.
    ///
    /// # Errors
    /// If nobody listens there, or somebody else.
    pub fn connect(source: &str) -> Result<Self, ControlError> {
        let unreachable =
            |source_error| ControlError::Unreachable { socket: source.to_owned(), source: source_error };
        let address = SocketAddr::from_abstract_name(source).map_err(unreachable)?;
        let stream = UnixStream::connect_addr(&address).map_err(unreachable)?;
        let credentials = socket_peercred(&stream).map_err(|errno| unreachable(errno.into()))?;
        let own = geteuid();
        // Root asks anybody's process, and believes it as far as that user goes.
        if !own.is_root() && credentials.uid != own && !credentials.uid.is_root() {
            return Err(ControlError::Foreign { socket: source.to_owned(), uid: credentials.uid.as_raw() });
        }
        Ok(Self { name: source.to_owned(), stream, pid: credentials.pid })
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
        self.stream.write_all(line.as_bytes()).map_err(lost)?;
        let mut answer = String::new();
        BufReader::new(&self.stream).read_line(&mut answer).map_err(lost)?;
        if answer.is_empty() {
            return Err(lost(std::io::ErrorKind::UnexpectedEof.into()).into());
        }
        match serde_json::from_str(&answer).map_err(not_json)? {
            Answer::Ok(value) => Ok(value),
            Answer::Error(report) => Err(report.into()),
        }
    }
}

/// One request to the process behind a mount.
///
/// # Errors
/// As [`Peer::connect`] and [`Peer::call`].
pub fn call(source: &str, request: &Request) -> Result<Value, Failure> {
    Peer::connect(source)?.call(request)
}
