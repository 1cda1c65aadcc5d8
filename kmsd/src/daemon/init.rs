//! `kmsd init`: binds a new home to a token.

use std::{
    collections::BTreeMap,
    fs,
    net::SocketAddr,
    os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
};

use jiff::Timestamp;

use super::{
    Config, DaemonError,
    config::{AccessConfig, LimitsConfig, ListenConfig, TokenConfig},
};
use crate::{
    hsm::{
        Token, TokenIdentity,
        pkcs11::{PinFile, Pkcs11Settings, Pkcs11Token, Select},
    },
    pki::TlsFiles,
    store::SqliteStore,
};

/// What `kmsd init` is told.
#[derive(Clone, Debug)]
pub struct InitOptions {
    /// The home directory.
    pub home: PathBuf,
    /// The socket.
    pub socket: PathBuf,
    /// Where to listen on the network; makes a private authority.
    pub listen: Option<SocketAddr>,
    /// The PKCS#11 module.
    pub module: PathBuf,
    /// The token.
    pub select: Select,
    /// The file with the user PIN.
    pub pin_file: PathBuf,
    /// Sessions on the token.
    pub sessions: usize,
    /// Variables for the module.
    pub env: BTreeMap<String, String>,
}

/// Makes home, store and configuration, or nothing. Logs in once, so that a wrong PIN shows now.
///
/// # Errors
/// Names what is missing and what to do.
pub fn init(options: InitOptions) -> Result<TokenIdentity, DaemonError> {
    let home = options.home;
    let store = home.join(Config::STORE);
    let config_path = home.join(Config::FILE);
    if config_path.exists() {
        return Err(super::ConfigError::Exists { path: config_path }.into());
    }
    let absolute = |path: &Path| {
        std::path::absolute(path).map_err(|source| DaemonError::Home { path: path.to_owned(), source })
    };
    let pin_file = absolute(&options.pin_file)?;
    let token = Pkcs11Token::connect(Pkcs11Settings {
        module: options.module.clone(),
        select: options.select,
        expected: None,
        pin: PinFile::file(pin_file.clone(), None),
    })?;
    let identity = token.identity();
    drop(token);

    let config = Config {
        socket: absolute(&options.socket)?,
        socket_mode: "0660".to_owned(),
        token: TokenConfig {
            module: options.module,
            label: identity.label.clone(),
            pin_file: Some(pin_file),
            pin_credential: None,
            sessions: options.sessions,
            env: options.env,
        },
        listen: options.listen.map(ListenConfig::private),
        access: AccessConfig::default(),
        limits: LimitsConfig::default(),
    };
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&home)
        .map_err(|source| DaemonError::Home { path: home.clone(), source })?;
    check_home(&home)?;
    let tls = TlsFiles::at(home.join(ListenConfig::TLS));
    if let Some(listen) = &config.listen {
        tls.create(listen.address.ip(), Timestamp::now())?;
    }
    let undo_tls = || match &config.listen {
        Some(_) => tls.discard(),
        None => Ok(()),
    };
    if let Err(error) = SqliteStore::create(&store, &identity) {
        undo_tls()?;
        return Err(error.into());
    }
    if let Err(error) = config.save_new(&home) {
        undo_tls()?;
        // Without its configuration the store is of no use, and would be in the way of the next try.
        if let Err(error) = fs::remove_file(&store) {
            tracing::warn!(path = %store.display(), %error, "cannot remove the unfinished store");
        }
        return Err(error.into());
    }
    Ok(identity)
}

/// The home holds the store: nobody else may get at it. And its configuration names the module that is loaded: what another user than oneself and root wrote is
/// not run, above all not by root.
pub(super) fn check_home(home: &Path) -> Result<(), DaemonError> {
    check_home_as(home, rustix::process::geteuid().as_raw())
}

fn check_home_as(home: &Path, user: u32) -> Result<(), DaemonError> {
    let metadata =
        fs::metadata(home).map_err(|source| DaemonError::Home { path: home.to_owned(), source })?;
    let owner = metadata.uid();
    if owner != user && owner != 0 {
        return Err(DaemonError::HomeForeign { path: home.to_owned(), owner });
    }
    let mode = metadata.permissions().mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(DaemonError::HomeExposed { path: home.to_owned(), mode });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a user wrote is run by nobody else, not by root either.
    #[test]
    fn a_home_of_another_user_is_refused() {
        let home = tempfile::tempdir().unwrap();
        fs::set_permissions(home.path(), fs::Permissions::from_mode(0o700)).unwrap();
        let own = rustix::process::geteuid();
        let owner = if own.is_root() {
            std::os::unix::fs::chown(home.path(), Some(12_345), None).unwrap();
            12_345
        } else {
            own.as_raw()
        };
        check_home_as(home.path(), owner).unwrap();
        for other in [0, owner + 1] {
            let refused = check_home_as(home.path(), other);
            assert!(matches!(refused, Err(DaemonError::HomeForeign { owner: found, .. }) if found == owner));
        }
        fs::set_permissions(home.path(), fs::Permissions::from_mode(0o750)).unwrap();
        assert!(matches!(check_home_as(home.path(), owner), Err(DaemonError::HomeExposed { .. })));
    }
}
