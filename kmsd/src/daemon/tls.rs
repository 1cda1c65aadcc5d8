//! `kmsd tls`.

use std::path::Path;

use jiff::Timestamp;

use super::{Config, DaemonError, ListenConfig};
use crate::{domain::Principal, pki::TlsFiles};

/// Replaces the server's certificate.
///
/// # Errors
/// If this installation has no private authority, or its files cannot be read or written.
pub fn renew_certificate(home: &Path) -> Result<(), DaemonError> {
    let (listen, files) = private(home)?;
    Ok(files.renew_server(listen.address.ip(), Timestamp::now())?)
}

/// Makes a client certificate, and says who shows it.
///
/// # Errors
/// As [`renew_certificate`]; or if `out` is there already.
pub fn issue_client(home: &Path, name: &str, out: &Path) -> Result<Principal, DaemonError> {
    let (_, files) = private(home)?;
    Ok(Principal::Certificate(files.issue_client(name, out, Timestamp::now())?))
}

fn private(home: &Path) -> Result<(ListenConfig, TlsFiles), DaemonError> {
    let listen = Config::load(home)?.listen.ok_or(DaemonError::NoAuthority)?;
    // Certificates from elsewhere are not this program's to replace.
    if listen != ListenConfig::private(listen.address) {
        return Err(DaemonError::NoAuthority);
    }
    Ok((listen, TlsFiles::at(home.join(ListenConfig::TLS))))
}
