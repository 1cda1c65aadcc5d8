//! What every listening socket does alike: connections are accepted until the service stops, HTTP is served on each, and requests in progress may end.

use std::{convert::Infallible, future::Future, io, pin::pin, time::Duration};

use axum::http::{Request, Response};
use http_body_util::Full;
use hyper::{
    body::{Bytes, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::watch,
    task::JoinSet,
    time::timeout,
};

use super::{Limits, Slot};

/// Pause after a failure to accept that is likely to come again at once, such as too many open files.
const PAUSE: Duration = Duration::from_millis(100);
/// How long requests in progress may take once the server is told to stop.
const GRACE: Duration = Duration::from_secs(5);

/// Becomes true when the service stops.
#[derive(Clone)]
pub(crate) struct Stop(watch::Receiver<bool>);

impl Stop {
    pub(crate) const fn new(stop: watch::Receiver<bool>) -> Self {
        Self(stop)
    }

    /// Ends when the service is told to stop.
    pub(crate) async fn told(&mut self) {
        // An error means that whoever could say so is gone, which comes to the same.
        let _ = self.0.wait_for(|stop| *stop).await;
    }
}

/// The connections of one listening socket.
pub(crate) struct Connections {
    open: JoinSet<()>,
    stop: Stop,
}

impl Connections {
    pub(crate) fn new(stop: Stop) -> Self {
        Self { open: JoinSet::new(), stop }
    }

    /// The next one that is accepted; none once the service stops.
    pub(crate) async fn next<T, F>(&mut self, accept: impl Fn() -> F) -> Option<T>
    where
        F: Future<Output = io::Result<T>>,
    {
        loop {
            let accepted = tokio::select! {
                accepted = accept() => accepted,
                Some(_) = self.open.join_next() => continue,
                () = self.stop.told() => return None,
            };
            match accepted {
                Ok(accepted) => return Some(accepted),
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    /// Has one served, with the word to stop.
    pub(crate) fn serve<F>(&mut self, connection: impl FnOnce(Stop) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.open.spawn(connection(self.stop.clone()));
    }

    /// Lets requests in progress end, for a while.
    pub(crate) async fn end(mut self) {
        if timeout(GRACE, async { while self.open.join_next().await.is_some() {} }).await.is_err() {
            tracing::warn!(
                connections = self.open.len(),
                "connections are cut: their requests took too long"
            );
        }
    }
}

/// Serves HTTP/1.1 on a connection until its peer goes, it has to make room, or the service stops.
///
/// # Errors
/// If it ended badly.
pub(crate) async fn serve_http<S, F>(
    stream: S,
    slot: &Slot,
    limits: &Limits,
    answer: impl Fn(Request<Incoming>) -> F,
    mut stop: Stop,
) -> Result<(), hyper::Error>
where
    S: AsyncRead + AsyncWrite + Unpin,
    F: Future<Output = Response<Full<Bytes>>>,
{
    let service = service_fn(|request| {
        let answered = answer(request);
        async { Ok::<_, Infallible>(answered.await) }
    });
    let http = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.headers)
        .max_buf_size(limits.header_bytes)
        .max_headers(64)
        .serve_connection(TokioIo::new(stream), service);
    let mut http = pin!(http);
    tokio::select! {
        ended = &mut http => ended,
        () = slot.evicted() => {
            tracing::debug!("an idle connection makes room");
            Ok(())
        }
        () = stop.told() => {
            http.as_mut().graceful_shutdown();
            http.await
        }
    }
}
