//! `kmsd.toml`.

use std::{
    collections::BTreeMap,
    fs,
    net::SocketAddr,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::{domain::Principal, hsm::pkcs11::PinFile, service::Limits};

/// Everything that can be set.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The Unix socket.
    pub socket: PathBuf,
    /// Its mode, as octal text.
    #[serde(default = "default_socket_mode")]
    pub socket_mode: String,
    /// The token.
    pub token: TokenConfig,
    /// The network; absent, there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub listen: Option<ListenConfig>,
    /// Who may do everything.
    #[serde(default)]
    pub access: AccessConfig,
    /// Bounds.
    #[serde(default)]
    pub limits: LimitsConfig,
}

/// `[token]`
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenConfig {
    /// Path of the PKCS#11 module.
    pub module: PathBuf,
    /// The token's label. Its serial number is in the store.
    pub label: String,
    /// The file with the user PIN, which only its owner reads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pin_file: Option<PathBuf>,
    /// Or the name of a systemd credential with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pin_credential: Option<String>,
    /// Sessions on the token, and threads that use them.
    #[serde(default = "default_sessions")]
    pub sessions: usize,
    /// Variables that the module reads from its environment, such as `SOFTHSM2_CONF`. Set before it is loaded.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
}

/// `[listen]`: TCP, with TLS only. Paths are relative to the home directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListenConfig {
    /// Address and port.
    pub address: SocketAddr,
    /// The server's certificate, and what leads from it to its authority.
    #[serde(default = "default_certificate")]
    pub certificate: PathBuf,
    /// Its private key, which only its owner reads; may be the same file.
    #[serde(default = "default_certificate")]
    pub key: PathBuf,
    /// The authority of client certificates; absent, clients sign their requests with access keys.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_ca: Option<PathBuf>,
}

impl ListenConfig {
    /// Directory of the private authority in the home directory.
    pub const TLS: &'static str = "tls";

    /// For an address, with the private authority that `kmsd init` makes.
    #[must_use]
    pub fn private(address: SocketAddr) -> Self {
        Self {
            address,
            certificate: default_certificate(),
            key: default_certificate(),
            client_ca: Some(Path::new(Self::TLS).join("ca.pem")),
        }
    }
}

/// `[access]`
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AccessConfig {
    /// Besides root and kmsd's own user, such as `uid:1000` or `cert:<SHA-256 of a client's public key info>`.
    pub admins: Vec<Principal>,
}

/// `[limits]`
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LimitsConfig {
    /// Most keys that are not destroyed.
    pub max_keys: usize,
    /// Most of them that belong to one principal, administrators aside.
    pub max_keys_each: usize,
    /// Most grants on keys that are not destroyed.
    pub max_grants: usize,
    /// Most of them on keys of one principal, unless an administrator makes them.
    pub max_grants_each: usize,
    /// Most volume anchors: each encrypted volume that was attached has one until it is forgotten.
    pub max_anchors: usize,
    /// Most of them that belong to one principal, administrators aside.
    pub max_anchors_each: usize,
    /// How long a volume stays its writer's when nothing is heard of that one, in seconds: so long another host waits after a crash.
    pub lease_seconds: u64,
    /// Most connections on the socket.
    pub connections: usize,
    /// Most requests that wait for the token.
    pub queue: usize,
    /// Longest time that a request may take, the token's included, in seconds.
    pub request_seconds: u64,
}

impl Default for LimitsConfig {
    fn default() -> Self {
        let Limits {
            max_keys,
            max_keys_each,
            max_grants,
            max_grants_each,
            max_anchors,
            max_anchors_each,
            lease_seconds,
        } = Limits::default();
        Self {
            max_keys,
            max_keys_each,
            max_grants,
            max_grants_each,
            max_anchors,
            max_anchors_each,
            lease_seconds,
            connections: 1024,
            queue: 1024,
            request_seconds: 25,
        }
    }
}

impl From<&LimitsConfig> for Limits {
    fn from(config: &LimitsConfig) -> Self {
        let LimitsConfig {
            max_keys,
            max_keys_each,
            max_grants,
            max_grants_each,
            max_anchors,
            max_anchors_each,
            lease_seconds,
            connections: _,
            queue: _,
            request_seconds: _,
        } = *config;
        Self {
            max_keys,
            max_keys_each,
            max_grants,
            max_grants_each,
            max_anchors,
            max_anchors_each,
            lease_seconds,
        }
    }
}

fn default_socket_mode() -> String {
    "0660".to_owned()
}

fn default_certificate() -> PathBuf {
    Path::new(ListenConfig::TLS).join("server.pem")
}

const fn default_sessions() -> usize {
    4
}

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// None.
    #[error("there is no {path}: make one with `kmsd init`, or point KMSD_HOME to its directory", path = path.display())]
    Missing {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// One already.
    #[error("there is a {path} already; it is left as it is (choose another --home, or remove that one first)", path = path.display())]
    Exists {
        /// Where.
        path: PathBuf,
    },
    /// Cannot be read or written.
    #[error("{path}: {source}", path = path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Not what is expected.
    #[error("{path} is not valid: {source}", path = path.display())]
    Invalid {
        /// Which file.
        path: PathBuf,
        /// Where and why.
        source: Box<toml::de::Error>,
    },
    /// A value out of range.
    #[error("{field} in kmsd.toml is not valid: {expected}")]
    Value {
        /// Which.
        field: &'static str,
        /// What it should be.
        expected: &'static str,
    },
}

impl Config {
    /// Name of the file in the home directory.
    pub const FILE: &'static str = "kmsd.toml";
    /// Name of the store in the home directory.
    pub const STORE: &'static str = "kmsd.db";
    /// Name of the audit log's directory in the home directory.
    pub const AUDIT: &'static str = "audit";
    /// Name of the mark of a refused PIN in the home directory.
    const PIN_MARK: &'static str = "pin-refused";

    /// Reads `kmsd.toml` in a home directory.
    ///
    /// # Errors
    /// If there is none or it is not valid.
    pub fn load(home: &Path) -> Result<Self, ConfigError> {
        let path = home.join(Self::FILE);
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Err(ConfigError::Missing { path }),
            Err(source) => return Err(ConfigError::Io { path, source }),
        };
        let config: Self =
            toml::from_str(&text).map_err(|e| ConfigError::Invalid { path, source: Box::new(e) })?;
        config.check()?;
        Ok(config)
    }

    /// Writes it, whole or not at all.
    ///
    /// # Errors
    /// If there is one already or it cannot be written.
    pub fn save_new(&self, home: &Path) -> Result<(), ConfigError> {
        use std::io::Write;
        let path = home.join(Self::FILE);
        let io = |source| ConfigError::Io { path: path.clone(), source };
        let text = toml::to_string(self).expect("the configuration serialises");
        let temporary = path.with_extension("new");
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&temporary)
            .map_err(io)?;
        file.write_all(HEAD.as_bytes()).and_then(|()| file.write_all(text.as_bytes())).map_err(io)?;
        file.sync_all().map_err(io)?;
        // Unlike a rename, a link does not replace what is there.
        match fs::hard_link(&temporary, &path) {
            Ok(()) => {}
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {
                return Err(ConfigError::Exists { path });
            }
            Err(e) => return Err(io(e)),
        }
        fs::remove_file(&temporary).map_err(io)?;
        fs::File::open(home).and_then(|d| d.sync_all()).map_err(io)
    }

    /// The socket's mode.
    ///
    /// # Errors
    /// If it is not octal, or lets every user in.
    pub fn socket_mode(&self) -> Result<u32, ConfigError> {
        u32::from_str_radix(&self.socket_mode, 8).ok().filter(|mode| mode & !0o770 == 0).ok_or(
            ConfigError::Value {
                field: "socket_mode",
                expected: "octal text such as \"0660\", nothing for others",
            },
        )
    }

    /// Where the PIN is.
    ///
    /// # Errors
    /// If the configuration names no place, or two.
    pub fn pin(&self, home: &Path) -> Result<PinFile, ConfigError> {
        let mark = Some(home.join(Self::PIN_MARK));
        match (&self.token.pin_file, &self.token.pin_credential) {
            (Some(path), None) => Ok(PinFile::file(home.join(path), mark)),
            (None, Some(name)) if !name.contains('/') => {
                let directory = std::env::var_os("CREDENTIALS_DIRECTORY").ok_or(ConfigError::Value {
                    field: "token.pin_credential",
                    expected: "a credential of the systemd unit (LoadCredential=), but kmsd was started without any",
                })?;
                Ok(PinFile::credential(Path::new(&directory).join(name), mark))
            }
            _ => Err(ConfigError::Value {
                field: "token.pin_file",
                expected: "either pin_file or pin_credential (a name), not both",
            }),
        }
    }

    fn check(&self) -> Result<(), ConfigError> {
        self.socket_mode()?;
        let in_range = |n: usize, max: usize| (1..=max).contains(&n);
        let bad = |field, expected| Err(ConfigError::Value { field, expected });
        if !in_range(self.token.sessions, 256) {
            return bad("token.sessions", "1 to 256");
        }
        // What the system takes for no name of a variable, or no value, would end the process.
        let is_name = |name: &String| !name.is_empty() && !name.contains(['=', '\0']);
        if !self.token.env.iter().all(|(name, value)| is_name(name) && !value.contains('\0')) {
            return bad("token.env", "names without '=', and neither names nor values with a NUL");
        }
        if !in_range(self.limits.max_keys, 1_000_000) {
            return bad("limits.max_keys", "1 to 1000000");
        }
        if !in_range(self.limits.max_keys_each, 1_000_000) {
            return bad("limits.max_keys_each", "1 to 1000000");
        }
        if !in_range(self.limits.max_grants, 1_000_000) {
            return bad("limits.max_grants", "1 to 1000000");
        }
        if !in_range(self.limits.max_grants_each, 1_000_000) {
            return bad("limits.max_grants_each", "1 to 1000000");
        }
        if !in_range(self.limits.max_anchors, 1_000_000) {
            return bad("limits.max_anchors", "1 to 1000000");
        }
        if !in_range(self.limits.max_anchors_each, 1_000_000) {
            return bad("limits.max_anchors_each", "1 to 1000000");
        }
        if !(1..=3600).contains(&self.limits.lease_seconds) {
            return bad("limits.lease_seconds", "1 to 3600");
        }
        if !in_range(self.limits.connections, 65_536) {
            return bad("limits.connections", "1 to 65536");
        }
        if !in_range(self.limits.queue, 1_000_000) {
            return bad("limits.queue", "1 to 1000000");
        }
        if !(1..=600).contains(&self.limits.request_seconds) {
            return bad("limits.request_seconds", "1 to 600");
        }
        Ok(())
    }
}

const HEAD: &str = "# Configuration of kmsd; see docs/kmsd.md.\n\n";

#[cfg(test)]
mod tests {
    use super::*;

    /// What the system takes for no variable is refused with its name, rather than end the process.
    #[test]
    fn variables_of_the_module_are_checked() {
        let refused = |name: &str, value: &str| {
            let text = "socket = \"/s\"\n[token]\nmodule = \"/m\"\nlabel = \"l\"\npin_file = \"/p\"\n";
            let mut config: Config = toml::from_str(text).unwrap();
            config.token.env.insert(name.to_owned(), value.to_owned());
            config.check().err()
        };
        assert!(refused("SOFTHSM2_CONF", "/a=b").is_none());
        for (name, value) in [("A=B", "c"), ("", "c"), ("A\u{0}", "c"), ("A", "c\u{0}")] {
            let error = refused(name, value);
            assert!(
                matches!(error, Some(ConfigError::Value { field: "token.env", .. })),
                "{name:?}: {error:?}"
            );
        }
    }
}
