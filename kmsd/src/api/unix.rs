//! The way in on this host: a Unix socket. The peer's user id, as the kernel knows it, is the principal.

use std::{
    convert::Infallible,
    fs,
    os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    pin::pin,
    sync::Arc,
    time::Duration,
};

use hyper::{Request, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use rustix::{
    fs::{Mode, chmod},
    net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with},
};
use tokio::{
    net::{UnixListener, UnixStream},
    sync::watch,
    task::JoinSet,
    time::timeout,
};

use super::{
    answer::{self, Reply},
    dispatch::dispatch,
    net::{BodyFault, Limits, Slot, Slots, read_body},
};
use crate::{
    domain::{Caller, Principal, Refusal},
    service::{Service, ServiceError, Way},
};

/// Why the socket cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Others can get at the directory.
    #[error("the socket's directory {path} has mode {mode:04o}, which lets every user in: chmod o-rwx it, or choose another directory", path = path.display())]
    Exposed {
        /// The directory.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// Its group could put another socket in the place of this one.
    #[error("the socket's directory {path} has mode {mode:04o}, which lets its group exchange the socket: chmod g-w it, or choose another directory", path = path.display())]
    Writable {
        /// The directory.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// The directory is another user's.
    #[error("the socket's directory {path} belongs to user {owner}: choose a directory of kmsd's own user or of root", path = path.display())]
    Foreign {
        /// The directory.
        path: PathBuf,
        /// Its owner.
        owner: u32,
    },
    /// Somebody listens there.
    #[error("another process listens on {path}: stop it, or set another socket in kmsd.toml", path = path.display())]
    InUse {
        /// The socket.
        path: PathBuf,
    },
    /// Something else is there.
    #[error("{path} is there and is not a socket: move it away, or set another socket in kmsd.toml", path = path.display())]
    NotASocket {
        /// The path.
        path: PathBuf,
    },
    /// The system refuses.
    #[error("cannot listen on {path}: {source}", path = path.display())]
    Io {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

/// Bounds and rights on the socket.
#[derive(Clone, Debug)]
pub(crate) struct Access {
    /// Users who may do everything.
    pub(crate) admins: Vec<Principal>,
    /// Bounds.
    pub(crate) limits: Limits,
}

/// Opens the socket with its mode, before anyone can connect.
pub(crate) fn open(path: &Path, mode: u32) -> Result<UnixListener, SocketError> {
    let io = |source: std::io::Error| SocketError::Io { path: path.to_owned(), source };
    let errno = |e: rustix::io::Errno| SocketError::Io { path: path.to_owned(), source: e.into() };
    let directory = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    if !directory.exists() {
        fs::DirBuilder::new().recursive(true).mode(0o750).create(directory).map_err(io)?;
    }
    let metadata = fs::metadata(directory).map_err(io)?;
    let found = metadata.permissions().mode() & 0o7777;
    if found & 0o007 != 0 {
        return Err(SocketError::Exposed { path: directory.to_owned(), mode: found });
    }
    if found & 0o020 != 0 {
        return Err(SocketError::Writable { path: directory.to_owned(), mode: found });
    }
    let owner = metadata.uid();
    if owner != 0 && owner != rustix::process::geteuid().as_raw() {
        return Err(SocketError::Foreign { path: directory.to_owned(), owner });
    }
    match fs::symlink_metadata(path) {
        Ok(there) if !there.file_type().is_socket() => {
            return Err(SocketError::NotASocket { path: path.to_owned() });
        }
        Ok(_) if std::os::unix::net::UnixStream::connect(path).is_ok() => {
            return Err(SocketError::InUse { path: path.to_owned() });
        }
        // Left behind by a process that was killed.
        Ok(_) => fs::remove_file(path).map_err(io)?,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
        Err(e) => return Err(io(e)),
    }
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).map_err(errno)?;
    bind(&socket, &SocketAddrUnix::new(path).map_err(errno)?).map_err(errno)?;
    chmod(path, Mode::from_raw_mode(mode)).map_err(errno)?;
    listen(&socket, 1024).map_err(errno)?;
    UnixListener::from_std(socket.into()).map_err(io)
}

/// Serves until `stop` becomes true; then lets requests in progress end, for a while.
pub(crate) async fn serve(
    listener: UnixListener,
    service: Service,
    access: Access,
    mut stop: watch::Receiver<bool>,
) {
    let access = Arc::new(access);
    let slots = Slots::new(access.limits.connections);
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = connections.join_next(), if !connections.is_empty() => continue,
            () = told_to(&mut stop) => break,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let uid = match stream.peer_cred() {
            Ok(peer) => peer.uid(),
            Err(error) => {
                tracing::warn!(%error, "a connection without credentials is closed");
                continue;
            }
        };
        let owner = Principal::Uid(uid);
        // The connection that is idle for longest makes room. If all are busy, the others wait in the kernel's queue; but no user's requests keep the
        // others waiting.
        let slot = tokio::select! {
            slot = slots.wait(Some(&owner)) => slot,
            () = told_to(&mut stop) => break,
        };
        let Some(slot) = slot else {
            tracing::warn!(uid, "a connection is refused: this user's requests take half of all connections");
            continue;
        };
        let (service, access, stop) = (service.clone(), Arc::clone(&access), stop.clone());
        connections.spawn(async move {
            let _open = service.count_connection(Way::Unix);
            connection(stream, uid, &slot, &service, &access, stop).await;
        });
    }
    drop(listener);
    let ended =
        timeout(Duration::from_secs(5), async { while connections.join_next().await.is_some() {} }).await;
    if ended.is_err() {
        tracing::warn!(connections = connections.len(), "connections are cut: their requests took too long");
    }
}

async fn connection(
    stream: UnixStream,
    uid: u32,
    slot: &Slot,
    service: &Service,
    access: &Access,
    mut stop: watch::Receiver<bool>,
) {
    let principal = Principal::Uid(uid);
    let caller = Caller { is_admin: access.admins.contains(&principal), principal };
    let limits = access.limits;
    let caller = &caller;
    let handle = service_fn(async |request| {
        Ok::<_, Infallible>(answer_one(service, slot, caller, request, &limits).await)
    });
    let http = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.headers)
        .max_buf_size(limits.header_bytes)
        .max_headers(64)
        .serve_connection(TokioIo::new(stream), handle);
    let mut http = pin!(http);
    let ended = tokio::select! {
        ended = &mut http => ended,
        () = slot.evicted() => {
            tracing::debug!(uid, "an idle connection makes room");
            return;
        }
        () = told_to(&mut stop) => {
            http.as_mut().graceful_shutdown();
            http.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, uid, "a connection ended badly");
    }
}

async fn answer_one(
    service: &Service,
    slot: &Slot,
    caller: &Caller,
    request: Request<Incoming>,
    limits: &Limits,
) -> Reply {
    let (head, body) = request.into_parts();
    let reply = match read_body(body, limits).await {
        Ok(body) => {
            slot.prove();
            let reply = dispatch(service, caller, &head.method, &head.uri, body, limits.request).await;
            slot.rest();
            reply
        }
        Err(fault) => answer::error(
            caller,
            &ServiceError::Refused(match fault {
                BodyFault::TooLong { limit } => Refusal::BodyTooLong { limit },
                BodyFault::TooSlow | BodyFault::Broken => {
                    Refusal::BodyInvalid { category: "it ends too early", line: 0, column: 0 }
                }
            }),
        ),
    };
    service.count_response(Way::Unix, reply.status().as_u16());
    reply
}

async fn told_to(stop: &mut watch::Receiver<bool>) {
    // An error means that whoever could say so is gone, which comes to the same.
    let _ = stop.wait_for(|stop| *stop).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whoever may write in the directory can put a socket of its own there, and be taken for kmsd.
    #[tokio::test]
    async fn a_directory_that_others_may_enter_or_write_in_is_refused() {
        for (mode, fits) in
            [(0o700, true), (0o750, true), (0o751, false), (0o755, false), (0o770, false), (0o730, false)]
        {
            let dir = tempfile::tempdir().unwrap();
            fs::set_permissions(dir.path(), fs::Permissions::from_mode(mode)).unwrap();
            let opened = open(&dir.path().join("kmsd.sock"), 0o660);
            assert_eq!(opened.is_ok(), fits, "{mode:o}");
            if let Err(error) = opened {
                let is_named = matches!(error, SocketError::Exposed { .. } | SocketError::Writable { .. });
                assert!(is_named && error.to_string().contains(&format!("{mode:04o}")), "{error}");
            }
        }
    }
}
