//! The way in on this host: a Unix socket. The peer's user id, as the kernel knows it, is the principal.

use std::{
    fs,
    os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use hyper::{Request, body::Incoming};
use rustix::{
    fs::{Mode, chmod},
    net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with},
};
use tokio::{
    net::{UnixListener, UnixStream},
    sync::watch,
};

use super::{
    answer::{self, Reply},
    dispatch::dispatch,
    net::{BodyFault, Connections, Limits, Slot, Slots, Stop, read_body, serve_http},
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
    stop: watch::Receiver<bool>,
) {
    let (access, mut stop) = (Arc::new(access), Stop::new(stop));
    let slots = Slots::new(access.limits.connections);
    let mut connections = Connections::new(stop.clone());
    while let Some((stream, _)) = connections.next(|| listener.accept()).await {
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
            () = stop.told() => break,
        };
        let Some(slot) = slot else {
            tracing::warn!(uid, "a connection is refused: this user's requests take half of all connections");
            continue;
        };
        let (service, access) = (service.clone(), Arc::clone(&access));
        connections.serve(|stop| async move {
            let _open = service.count_connection(Way::Unix);
            connection(stream, uid, &slot, &service, &access, stop).await;
        });
    }
    drop(listener);
    connections.end().await;
}

async fn connection(
    stream: UnixStream,
    uid: u32,
    slot: &Slot,
    service: &Service,
    access: &Access,
    stop: Stop,
) {
    let principal = Principal::Uid(uid);
    let caller = Caller { is_admin: access.admins.contains(&principal), principal };
    let answer = |request| answer_one(service, slot, &caller, request, &access.limits);
    if let Err(error) = serve_http(stream, slot, &access.limits, answer, stop).await {
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
