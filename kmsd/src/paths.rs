//! Where the service's files are: one rule for the daemon and for everyone who looks for it.

use std::{env, path::PathBuf};

/// The daemon's home: `$KMSD_HOME`, else `/var/lib/kmsd`, for an ordinary user `$XDG_STATE_HOME/kmsd`.
#[must_use]
pub fn home() -> PathBuf {
    if let Some(home) = env::var_os("KMSD_HOME").filter(|v| !v.is_empty()) {
        return home.into();
    }
    if is_root() {
        return "/var/lib/kmsd".into();
    }
    xdg("XDG_STATE_HOME", ".local/state").join("kmsd")
}

/// The daemon's socket: `$KMSD_SOCKET`, else `/run/kmsd/kmsd.sock`, for an ordinary user
/// `$XDG_RUNTIME_DIR/kmsd.sock`.
#[must_use]
pub fn socket() -> PathBuf {
    if let Some(socket) = env::var_os("KMSD_SOCKET").filter(|v| !v.is_empty()) {
        return socket.into();
    }
    if is_root() {
        return "/run/kmsd/kmsd.sock".into();
    }
    match env::var_os("XDG_RUNTIME_DIR").filter(|v| !v.is_empty()) {
        Some(dir) => PathBuf::from(dir).join("kmsd.sock"),
        None => home().join("kmsd.sock"),
    }
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn xdg(variable: &str, below_home: &str) -> PathBuf {
    match env::var_os(variable).filter(|v| !v.is_empty()) {
        Some(dir) => dir.into(),
        None => PathBuf::from(env::var_os("HOME").unwrap_or_else(|| "/".into())).join(below_home),
    }
}
