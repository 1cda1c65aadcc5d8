//! The daemon: puts the parts together, and runs them until it is told to stop.

mod backup;
pub mod config;
mod doctor;

mod init;
mod offline;
pub mod process;
mod run;
mod tls;

pub use self::{
    backup::{BackupError, Manifest, Restored, backup, restore},
    config::{Config, ConfigError, ListenConfig},
    doctor::{Finding, Health, doctor},
    init::{InitOptions, init},
    offline::{archive_audit, rekey_store, verify_audit},
    run::run,
    tls::{issue_client, renew_certificate},
};
use crate::{
    api::{net::TlsConfigError, unix::SocketError},
    audit::AuditError,
    hsm::HsmError,
    pki::PkiError,
    service::StartError,
    store::StoreError,
};

/// Why the daemon does not start.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// The configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The token.
    #[error(transparent)]
    Hsm(#[from] HsmError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Store and token together.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The socket.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// The network.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The address of `[listen]`.
        address: std::net::SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// No `[listen]` to do something for.
    #[error("kmsd.toml has no [listen] with the private authority of `kmsd init --listen`")]
    NoAuthority,
    /// Certificates of `[listen]`.
    #[error("[listen] in kmsd.toml: {0}")]
    Tls(#[from] TlsConfigError),
    /// Making certificates.
    #[error(transparent)]
    Pki(#[from] PkiError),
    /// The home directory.
    #[error("{path}: {source}", path = path.display())]
    Home {
        /// Which.
        path: std::path::PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The home directory is another user's.
    #[error("the home directory {path} belongs to the user with the id {owner}: what is configured there is run by nobody else. Run this as that user (`setpriv --reuid {owner} --regid GROUP --clear-groups kmsd ...`)", path = path.display())]
    HomeForeign {
        /// Which.
        path: std::path::PathBuf,
        /// Its owner.
        owner: u32,
    },
    /// The home directory is open to others.
    #[error("the home directory {path} has mode {mode:04o}, which lets other users in: chmod 700 it", path = path.display())]
    HomeExposed {
        /// Which.
        path: std::path::PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// A copy, or putting it back.
    #[error(transparent)]
    Backup(#[from] BackupError),
    /// The store's integrity key.
    #[error("the store's integrity key was not replaced: {0}")]
    Rekey(#[source] crate::service::ServiceError),
    /// The audit log is not as it was written.
    #[error("the audit log was tampered with: {fault}; {records} records before that are intact")]
    Tampered {
        /// What is wrong.
        fault: crate::domain::audit::ChainFault,
        /// Records that are as they were written.
        records: u64,
    },
    /// The audit log cannot be read.
    #[error(transparent)]
    Audit(#[from] AuditError),
    /// The inherited descriptor.
    #[error(transparent)]
    ReadyFd(#[from] process::NotInherited),
    /// Threads, signals, clocks.
    #[error("the system refuses what the daemon needs: {0}")]
    System(#[from] std::io::Error),
}

impl DaemonError {
    /// The process' exit code: 5 if the audit log was tampered with, 4 if the token cannot be reached (trying again may help), 78 (`EX_CONFIG`) if only an operator
    /// can change it (systemd should not restart), else 1.
    #[must_use]
    pub const fn exit_code(&self) -> u8 {
        match self {
            Self::Hsm(error) | Self::Start(StartError::Hsm(error)) => match error {
                HsmError::PinFile { .. }
                | HsmError::PinRefused { .. }
                | HsmError::WrongToken { .. }
                | HsmError::Module { .. }
                | HsmError::Lacks { .. } => 78,
                _ => 4,
            },
            Self::Start(
                StartError::ForeignToken { .. }
                | StartError::OlderStore { .. }
                | StartError::ReplacedKey { .. }
                | StartError::AuditCutOff { .. }
                | StartError::AuditReplaced { .. }
                | StartError::Store(
                    StoreError::Tampered { .. } | StoreError::Damaged { .. } | StoreError::Newer { .. },
                )
                | StartError::Audit(AuditError::Damaged { .. }),
            )
            | Self::Store(
                StoreError::Tampered { .. } | StoreError::Damaged { .. } | StoreError::Newer { .. },
            )
            | Self::Audit(AuditError::Damaged { .. })
            | Self::Socket(
                SocketError::Exposed { .. }
                | SocketError::Writable { .. }
                | SocketError::Foreign { .. }
                | SocketError::NotASocket { .. },
            )
            | Self::Config(_)
            | Self::ReadyFd(_)
            | Self::HomeForeign { .. }
            | Self::HomeExposed { .. }
            | Self::NoAuthority
            | Self::Tls(_) => 78,
            Self::Listen { .. }
            | Self::Pki(_)
            | Self::Store(_)
            | Self::Start(_)
            | Self::Socket(_)
            | Self::Home { .. }
            | Self::Backup(_)
            | Self::Rekey(_)
            | Self::Audit(_)
            | Self::System(_) => 1,
            Self::Tampered { .. } => 5,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What only an operator can change is told to systemd, which does not try it again for ever.
    #[test]
    fn what_a_restart_does_not_help_is_78() {
        let path = || std::path::PathBuf::from("/p");
        let newer = || StoreError::Newer { path: path(), found: 9, known: 2 };
        let damaged = || AuditError::Damaged { path: path(), what: "x" };
        for error in [
            DaemonError::Store(newer()),
            DaemonError::Start(StartError::Store(newer())),
            DaemonError::Start(StartError::Audit(damaged())),
            DaemonError::Audit(damaged()),
            DaemonError::Socket(SocketError::Exposed { path: path(), mode: 0o777 }),
            DaemonError::Socket(SocketError::Writable { path: path(), mode: 0o770 }),
            DaemonError::Socket(SocketError::Foreign { path: path(), owner: 5 }),
            DaemonError::Socket(SocketError::NotASocket { path: path() }),
        ] {
            assert_eq!(error.exit_code(), 78, "{error}");
        }
        for error in [
            DaemonError::Store(StoreError::InUse { path: path() }),
            DaemonError::Socket(SocketError::InUse { path: path() }),
            DaemonError::System(std::io::ErrorKind::Other.into()),
        ] {
            assert_eq!(error.exit_code(), 1, "{error}");
        }
    }
}
