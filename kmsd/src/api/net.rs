//! The network's way in: TCP with TLS, and nothing without it.
//!
//! ```text
//!   accept --> slot --> TLS handshake --> HTTP/1.1 requests --> handler
//!              (bounded)  (timed)          (headers, body: bounded and timed)
//! ```
//!
//! Every connection holds a slot. When all are taken, the connection that has proved nothing for longest makes room, so that
//! strangers who hold connections open keep nobody out who can sign a request. What a handler answers is none of this
//! module's business.

mod body;
mod connections;
mod server;
mod slots;
mod tls;

pub(crate) use body::{BodyFault, discard_body, read_body};
pub(crate) use connections::{Connections, Stop, serve_http};
pub(crate) use server::{Handler, Peer, serve};
pub(crate) use slots::{Slot, Slots};
pub(crate) use tls::{TlsConfigError, server_config};

use std::time::Duration;

/// Bounds on what strangers may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Connections at once.
    pub(crate) connections: usize,
    /// Time for the TLS handshake.
    pub(crate) handshake: Duration,
    /// Time for a request's headers, from the end of the request before.
    pub(crate) headers: Duration,
    /// Time for a request's body.
    pub(crate) body: Duration,
    /// Time for an answer, the token's included, from when the body has been read.
    pub(crate) request: Duration,
    /// Time for the peer to take what is sent to it.
    pub(crate) unacknowledged: Duration,
    /// Bytes of a request's line and headers together.
    pub(crate) header_bytes: usize,
    /// Bytes of a request's body.
    pub(crate) body_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 512,
            handshake: Duration::from_secs(10),
            headers: Duration::from_secs(30),
            body: Duration::from_secs(10),
            request: Duration::from_secs(25),
            unacknowledged: Duration::from_secs(30),
            header_bytes: 16 << 10,
            body_bytes: 64 << 10,
        }
    }
}

#[cfg(test)]
mod tests;
