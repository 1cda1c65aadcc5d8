//! What can go wrong between a client and the service.

use std::{io, path::PathBuf, time::Duration};

/// Why a request has no answer, or was refused.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens, or the connection broke before the request was out. Nothing was done.
    #[error(
        "cannot reach the key service at {socket}: {source}",
        socket = socket.display()
    )]
    Unreachable {
        /// The socket that was tried.
        socket: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// No answer in time. A request that changes something may have been carried out.
    #[error(
        "the key service at {socket} did not answer within {after:?}",
        socket = socket.display()
    )]
    TimedOut {
        /// The socket.
        socket: PathBuf,
        /// How long the client waited.
        after: Duration,
    },
    /// The connection broke while the answer was awaited. The request may have been carried out: look before
    /// it is sent again.
    #[error(
        "the key service at {socket} closed the connection before it answered; the request may have been carried out",
        socket = socket.display()
    )]
    ReplyLost {
        /// The socket.
        socket: PathBuf,
    },
    /// The service refused.
    #[error("{message} ({code})")]
    Refused {
        /// HTTP status.
        status: u16,
        /// Published error code, such as `KMS.0209`.
        code: String,
        /// What was refused and why.
        message: String,
        /// What to do about it.
        hint: Option<String>,
    },
    /// The answer is not what the service sends.
    #[error("what answers at {socket} does not speak the key service's protocol: {fault}", socket = socket.display())]
    Protocol {
        /// The socket.
        socket: PathBuf,
        /// What is wrong with the answer.
        fault: ProtocolFault,
    },
}

/// What is wrong with an answer.
#[derive(Debug, thiserror::Error)]
pub enum ProtocolFault {
    /// Not HTTP/1.
    #[error("not an HTTP reply ({0})")]
    NotHttp(#[from] httparse::Error),
    /// No `Content-Length`.
    #[error("a reply without a length")]
    NoLength,
    /// More than a client takes.
    #[error("a reply of more than {limit} bytes")]
    TooLong {
        /// The bound, in bytes.
        limit: usize,
    },
    /// Not the JSON that belongs to the request.
    #[error("an unexpected body (status {status}, {category:?} error at line {line}, column {column})")]
    NotJson {
        /// HTTP status.
        status: u16,
        /// Kind of the mistake. The parser's message is not kept: it could quote a secret.
        category: serde_json::error::Category,
        /// Where.
        line: usize,
        /// Where.
        column: usize,
    },
    /// A field whose value has not the right form.
    #[error("a wrong value of {field:?}")]
    Field {
        /// Its name.
        field: &'static str,
    },
}

impl ClientError {
    /// Whether the service, or the token behind it, is away: trying again later may help.
    #[must_use]
    pub const fn is_unavailable(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::TimedOut { .. } | Self::ReplyLost { .. } => true,
            Self::Refused { status, .. } => matches!(*status, 429 | 502 | 503 | 504),
            Self::Protocol { .. } => false,
        }
    }

    /// What to do about it. Messages do not repeat it.
    #[must_use]
    pub fn hint(&self) -> Option<&str> {
        match self {
            Self::Unreachable { .. } => Some("start it with `kmsd serve`, or set KMSD_SOCKET to its socket"),
            Self::TimedOut { .. } => Some("look at kmsd's log, and at the token"),
            Self::ReplyLost { .. } => Some("look whether it was carried out before you try again"),
            Self::Refused { hint, .. } => hint.as_deref(),
            Self::Protocol { .. } => Some("is KMSD_SOCKET the socket of kmsd?"),
        }
    }

    /// The published code of a refusal.
    #[must_use]
    pub fn code(&self) -> Option<&str> {
        match self {
            Self::Refused { code, .. } => Some(code),
            _ => None,
        }
    }

    /// Whether the service knows no such key, or does not tell this caller of it.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        self.code() == Some("KMS.0207")
    }
}
