//! Accepts connections and serves HTTP on them until told to stop.

use std::{future::Future, io, net::SocketAddr, sync::Arc, time::Duration};

use axum::http::{Request, Response};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, rustls::ServerConfig};

use super::{
    Limits,
    connections::{Connections, Stop, serve_http},
    slots::{Slot, Slots},
    tls::key_digest,
};
use crate::domain::Principal;

/// Who is at the other end, as far as TLS knows.
#[derive(Debug)]
pub(crate) struct Peer {
    /// Where the connection comes from.
    pub(crate) address: SocketAddr,
    /// SHA-256 of the public key info of the certificate that the client showed and proved to own.
    pub(crate) certificate: Option<[u8; 32]>,
    slot: Slot,
}

impl Peer {
    /// A request on this connection was shown to come from somebody: the connection need not give way to others, unless it is one of too many.
    pub(crate) fn prove(&self, principal: &Principal) {
        self.slot.prove_as(principal);
    }
}

/// Answers requests.
pub(crate) trait Handler: Send + Sync + 'static {
    /// What a connection holds for as long as it is open.
    type Open: Send;

    /// A connection has been accepted.
    fn opened(&self) -> Self::Open;

    /// Answers one. The body has not been read; the handler bounds it by the limits.
    fn handle(
        &self,
        peer: &Peer,
        request: Request<Incoming>,
    ) -> impl Future<Output = Response<Full<Bytes>>> + Send;
}

/// Serves until `stop` becomes true; then lets requests in progress end, for a while. Each connection takes the TLS configuration
/// that is there when it begins.
pub(crate) async fn serve<H: Handler>(
    listener: TcpListener,
    tls: watch::Receiver<Arc<ServerConfig>>,
    limits: Limits,
    handler: Arc<H>,
    stop: watch::Receiver<bool>,
) {
    let slots = Slots::new(limits.connections);
    let mut connections = Connections::new(Stop::new(stop));
    while let Some((stream, address)) = connections.next(|| listener.accept()).await {
        let Ok(slot) = slots.take(None) else {
            tracing::warn!(%address, "a connection is refused: all are taken by known clients");
            continue;
        };
        let acceptor = TlsAcceptor::from(Arc::clone(&tls.borrow()));
        let handler = Arc::clone(&handler);
        connections.serve(|stop| async move {
            let _open = handler.opened();
            connection(stream, address, slot, &acceptor, limits, &*handler, stop).await;
        });
    }
    drop(listener);
    connections.end().await;
}

async fn connection<H: Handler>(
    stream: TcpStream,
    address: SocketAddr,
    slot: Slot,
    acceptor: &TlsAcceptor,
    limits: Limits,
    handler: &H,
    mut stop: Stop,
) {
    if let Err(error) = bound_socket(&stream, limits.unacknowledged) {
        tracing::debug!(%address, %error, "a connection ended before it began");
        return;
    }
    let shaken = tokio::select! {
        shaken = timeout(limits.handshake, acceptor.accept(stream)) => shaken,
        () = slot.evicted() => return,
        () = stop.told() => return,
    };
    let stream = match shaken {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            tracing::debug!(%address, %error, "no TLS connection");
            return;
        }
        Err(_) => {
            tracing::debug!(%address, "no TLS connection in time");
            return;
        }
    };
    let shown = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
    let certificate = match shown.map(key_digest).transpose() {
        Ok(certificate) => certificate,
        Err(error) => {
            tracing::warn!(%address, %error, "a client's certificate cannot be read");
            return;
        }
    };
    let peer = Peer { address, certificate, slot };
    if let Some(digest) = peer.certificate {
        peer.prove(&Principal::Certificate(digest));
    }

    let answer = |request| handler.handle(&peer, request);
    if let Err(error) = serve_http(stream, &peer.slot, &limits, answer, stop).await {
        tracing::debug!(%address, %error, "a connection ended badly");
    }
}

/// Answers leave at once; and a peer that does not take them does not hold the connection for ever, which no timer of the
/// HTTP layer would see to.
fn bound_socket(stream: &TcpStream, unacknowledged: Duration) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let ms = u32::try_from(unacknowledged.as_millis()).unwrap_or(u32::MAX);
    rustix::net::sockopt::set_tcp_user_timeout(stream, ms)?;
    Ok(())
}
