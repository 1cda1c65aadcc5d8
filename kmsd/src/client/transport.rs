//! HTTP/1.1 over the Unix socket: one connection, opened when it is needed and kept.
//!
//! Blocking and without a runtime of its own, so that a process that holds a data key stays small, and so that
//! the buffers through which the key passes can be wiped.

use std::{
    io::{self, Read, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use rustix::net::{self, AddressFamily, RecvFlags, SocketAddrUnix, SocketFlags, SocketType, sockopt};
use zeroize::Zeroizing;

use super::error::{ClientError, ProtocolFault};

const MAX_HEAD: usize = 16 << 10;
const MAX_BODY: usize = 4 << 20;

/// How long to wait.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// For a connection to be taken up.
    pub connect: Duration,
    /// For a whole request, connecting included.
    pub total: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self { connect: Duration::from_secs(5), total: Duration::from_secs(30) }
    }
}

/// Whether a request may be sent again when it is not known if it was carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Replay {
    /// It changes nothing, or the same the second time.
    Safe,
    /// It would be done twice.
    Unsafe,
}

/// An answer as it came.
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) body: Zeroizing<Vec<u8>>,
}

/// The connection, if there is one at the moment.
pub(super) struct Transport {
    socket: PathBuf,
    timeouts: Timeouts,
    kept: Option<UnixStream>,
}

/// How an exchange failed, as far as sending again is concerned.
enum Failure {
    /// The request did not reach the service in full: it cannot have been carried out.
    NotSent(io::Error),
    /// It reached the service, and no byte of an answer came back.
    NoReply(io::Error),
    /// Anything later.
    Final(ClientError),
}

impl Transport {
    pub(super) fn new(socket: PathBuf, timeouts: Timeouts) -> Self {
        Self { socket, timeouts, kept: None }
    }

    pub(super) fn socket(&self) -> &Path {
        &self.socket
    }

    /// Sends one request and waits for its answer.
    pub(super) fn exchange(
        &mut self,
        method: &str,
        path: &str,
        body: &[u8],
        replay: Replay,
    ) -> Result<Reply, ClientError> {
        let started = Instant::now();
        if let Some(stream) = self.kept.take().filter(still_open) {
            match self.attempt(stream, started, method, path, body) {
                Ok(reply) => return Ok(reply),
                Err(Failure::Final(error)) => return Err(error),
                // The service closed the kept connection in this very moment: once more, on a new one.
                Err(Failure::NotSent(_)) => {}
                Err(Failure::NoReply(e)) if replay == Replay::Safe && !timed_out(&e) => {}
                Err(Failure::NoReply(e)) => return Err(self.no_reply(&e)),
            }
        }
        let stream = self.connect()?;
        self.attempt(stream, started, method, path, body).map_err(|failure| match failure {
            Failure::NotSent(source) if timed_out(&source) => self.late(),
            Failure::NotSent(source) => ClientError::Unreachable { socket: self.socket.clone(), source },
            Failure::NoReply(e) => self.no_reply(&e),
            Failure::Final(error) => error,
        })
    }

    fn connect(&self) -> Result<UnixStream, ClientError> {
        let unreachable =
            |source: io::Error| ClientError::Unreachable { socket: self.socket.clone(), source };
        let address = SocketAddrUnix::new(&self.socket).map_err(|e| unreachable(e.into()))?;
        let socket = net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
            .map_err(|e| unreachable(e.into()))?;
        // On Linux the send timeout also bounds how long connect() waits when the listener's queue is full.
        sockopt::set_socket_timeout(&socket, sockopt::Timeout::Send, Some(self.timeouts.connect))
            .map_err(|e| unreachable(e.into()))?;
        match net::connect(&socket, &address) {
            Ok(()) => Ok(socket.into()),
            Err(rustix::io::Errno::AGAIN) => {
                Err(ClientError::TimedOut { socket: self.socket.clone(), after: self.timeouts.connect })
            }
            Err(e) => Err(unreachable(e.into())),
        }
    }

    fn attempt(
        &mut self,
        mut stream: UnixStream,
        started: Instant,
        method: &str,
        path: &str,
        body: &[u8],
    ) -> Result<Reply, Failure> {
        let mut request = Zeroizing::new(Vec::with_capacity(256 + path.len() + body.len()));
        write!(
            request,
            "{method} {path} HTTP/1.1\r\nhost: kmsd\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
            body.len()
        )
        .map_err(Failure::NotSent)?;
        request.extend_from_slice(body);
        self.arm(&stream, started, sockopt::Timeout::Send).map_err(Failure::NotSent)?;
        stream.write_all(&request).map_err(Failure::NotSent)?;

        let mut received = Received { bytes: Zeroizing::new(Vec::with_capacity(4096)) };
        let head = loop {
            match received.head() {
                Ok(Some(head)) => break head,
                Ok(None) => self.fill(&mut stream, started, &mut received)?,
                Err(fault) => return Err(Failure::Final(self.fault(fault))),
            }
        };
        while received.bytes.len() < head.len + head.body {
            self.fill(&mut stream, started, &mut received)?;
        }
        if head.keep {
            self.kept = Some(stream);
        }
        let body = Zeroizing::new(received.bytes[head.len..head.len + head.body].to_vec());
        Ok(Reply { status: head.status, body })
    }

    /// Reads what there is, within the time that is left.
    fn fill(
        &self,
        stream: &mut UnixStream,
        started: Instant,
        received: &mut Received,
    ) -> Result<(), Failure> {
        let had = received.bytes.len();
        let read = self
            .arm(stream, started, sockopt::Timeout::Recv)
            .and_then(|()| received.read_from(stream))
            .and_then(|n| if n == 0 { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(()) });
        read.map_err(|e| if had == 0 { Failure::NoReply(e) } else { Failure::Final(self.no_reply(&e)) })
    }

    /// Lets the next call on the stream take no longer than what is left of the total.
    fn arm(&self, stream: &UnixStream, started: Instant, which: sockopt::Timeout) -> io::Result<()> {
        let left = self.timeouts.total.saturating_sub(started.elapsed());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        // Below a microsecond the kernel would read "forever".
        let left = left.max(Duration::from_micros(10));
        sockopt::set_socket_timeout(stream, which, Some(left)).map_err(Into::into)
    }

    fn no_reply(&self, error: &io::Error) -> ClientError {
        if timed_out(error) { self.late() } else { ClientError::ReplyLost { socket: self.socket.clone() } }
    }

    fn late(&self) -> ClientError {
        ClientError::TimedOut { socket: self.socket.clone(), after: self.timeouts.total }
    }

    pub(super) fn fault(&self, fault: ProtocolFault) -> ClientError {
        ClientError::Protocol { socket: self.socket.clone(), fault }
    }
}

fn timed_out(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

/// Whether the peer has neither closed a kept connection nor sent something unasked.
fn still_open(stream: &UnixStream) -> bool {
    let mut probe = [0u8; 1];
    matches!(
        net::recv(stream, &mut probe[..], RecvFlags::PEEK | RecvFlags::DONTWAIT),
        Err(rustix::io::Errno::AGAIN)
    )
}

struct Head {
    status: u16,
    len: usize,
    body: usize,
    keep: bool,
}

/// Bytes of an answer so far. Grows by hand, since a growing `Vec` would leave copies of a secret behind.
struct Received {
    bytes: Zeroizing<Vec<u8>>,
}

impl Received {
    fn read_from(&mut self, stream: &mut UnixStream) -> io::Result<usize> {
        let used = self.bytes.len();
        if used == self.bytes.capacity() {
            let mut larger = Zeroizing::new(Vec::with_capacity(used * 2));
            larger.extend_from_slice(&self.bytes);
            self.bytes = larger;
        }
        let capacity = self.bytes.capacity();
        self.bytes.resize(capacity, 0);
        let read = loop {
            match stream.read(&mut self.bytes[used..]) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                other => break other,
            }
        };
        self.bytes.truncate(used + *read.as_ref().unwrap_or(&0));
        read
    }

    fn head(&self) -> Result<Option<Head>, ProtocolFault> {
        let mut headers = [httparse::EMPTY_HEADER; 32];
        let mut response = httparse::Response::new(&mut headers);
        let httparse::Status::Complete(len) = response.parse(&self.bytes)? else {
            if self.bytes.len() > MAX_HEAD {
                return Err(ProtocolFault::TooLong { limit: MAX_HEAD });
            }
            return Ok(None);
        };
        let value =
            |name: &str| response.headers.iter().find(|h| h.name.eq_ignore_ascii_case(name)).map(|h| h.value);
        let body = value("content-length")
            .and_then(|v| std::str::from_utf8(v).ok()?.trim().parse::<usize>().ok())
            // This one has no body, and says no length (RFC 9110, section 8.6).
            .or_else(|| (response.code == Some(204)).then_some(0))
            .ok_or(ProtocolFault::NoLength)?;
        if body > MAX_BODY {
            return Err(ProtocolFault::TooLong { limit: MAX_BODY });
        }
        let keep = !value("connection").is_some_and(|v| v.eq_ignore_ascii_case(b"close"));
        Ok(Some(Head { status: response.code.unwrap_or(0), len, body, keep }))
    }
}
