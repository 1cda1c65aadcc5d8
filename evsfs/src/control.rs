//! The control socket: one JSON object per line in, one out.
//!
//! Each serving process listens under an abstract name that stands in its mount's source as well, so that the mount leads to
//! it, and at a path of mode 0600 when one is given. Only root and the process's own user are heard.

mod client;
mod protocol;
mod server;

use std::io;
use std::path::PathBuf;

pub use client::{Peer, call};
pub use protocol::{Answer, Request};
pub use server::{Call, Listeners};

/// Why a request to a serving process came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// Nobody listens.
    #[error("cannot reach the serving process at {socket}: {source}")]
    Unreachable {
        /// Path or abstract name.
        socket: String,
        /// The system's reason.
        source: io::Error,
    },
    /// It ended, or broke the connection, before it answered.
    #[error("the serving process at {socket} did not answer: {source}")]
    Lost {
        /// Path or abstract name.
        socket: String,
        /// The system's reason.
        source: io::Error,
    },
    /// Somebody else listens there.
    #[error("user {uid} listens at {socket}, not the user of the disk")]
    Foreign {
        /// Path or abstract name.
        socket: String,
        /// Who listens.
        uid: u32,
    },
    /// Somebody who has no say here asks.
    #[error("user {uid} does not detach or change the disk of another user")]
    Stranger {
        /// Who.
        uid: u32,
    },
    /// Others ask already.
    #[error("{most} others are connected to the serving process already")]
    Crowded {
        /// So many at most.
        most: usize,
    },
    /// Not what is spoken here.
    #[error("a message that is not understood: {source}")]
    NotJson {
        /// The parser's reason.
        source: serde_json::Error,
    },
    /// The socket cannot be made.
    #[error("cannot listen at {socket}: {source}", socket = socket.display())]
    Bind {
        /// Path.
        socket: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The disk has no such operation.
    #[error("{operation} is not possible with this disk")]
    Unsupported {
        /// Name of the operation.
        operation: &'static str,
    },
    /// Too late.
    #[error("the disk is being detached")]
    Detaching,
}
