//! The authority and what it signed, as files.
//!
//! ```text
//! tls/             0700
//!   ca.pem         what clients need
//!   ca.key         0600  signs; needed only to renew and to make client certificates
//!   server.pem     0600  certificate and key, in one file so that renewing replaces both at once
//! ```

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Write},
    net::IpAddr,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use zeroize::Zeroizing;

use super::{Authority, Issued};

/// A directory with a private authority and the service's certificate.
#[derive(Clone, Debug)]
pub struct TlsFiles {
    dir: PathBuf,
}

/// Why certificates could not be made.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// A file could not be read or written.
    #[error("{action} {path}: {source}", path = path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// There is something already.
    #[error("{path} exists already and is not overwritten; move it away first", path = path.display())]
    Exists {
        /// The file or directory.
        path: PathBuf,
    },
    /// Making or reading a certificate or key failed.
    #[error("{path}: {source}", path = path.display())]
    Certificate {
        /// The file concerned.
        path: PathBuf,
        /// Why.
        source: rcgen::Error,
    },
    /// A client's name that cannot stand in a certificate.
    #[error("a client's name has 1 to 64 letters, digits, '-', '_' and '.', not {name:?}")]
    Name {
        /// As given.
        name: String,
    },
}

impl TlsFiles {
    /// Names the directory.
    #[must_use]
    pub fn at(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into() }
    }

    /// The authority's certificate: what clients have to trust.
    #[must_use]
    pub fn authority(&self) -> PathBuf {
        self.dir.join("ca.pem")
    }

    /// The server's certificate and key.
    #[must_use]
    pub fn server(&self) -> PathBuf {
        self.dir.join("server.pem")
    }

    fn authority_key(&self) -> PathBuf {
        self.dir.join("ca.key")
    }

    /// Makes an authority and a certificate for a server at `address`; all of it or nothing.
    ///
    /// # Errors
    /// If the directory is there already, or cannot be made.
    pub fn create(&self, address: IpAddr, now: Timestamp) -> Result<(), PkiError> {
        if self.dir.exists() {
            return Err(PkiError::Exists { path: self.dir.clone() });
        }
        let bad = |source| PkiError::Certificate { path: self.dir.clone(), source };
        let authority = Authority::generate(now).map_err(bad)?;
        let server = authority.server(address).map_err(bad)?;

        let staged = Self::at(self.dir.with_extension(format!("new.{}", std::process::id())));
        let outcome = staged
            .fill(&authority.certificate().map_err(bad)?, &authority.key_pem(), &server)
            .and_then(|()| fs::rename(&staged.dir, &self.dir).map_err(file("cannot make", &self.dir)))
            .and_then(|()| sync_dir(self.dir.parent().unwrap_or(&self.dir)));
        if outcome.is_err() {
            // Best effort: the first error is the one to tell.
            let _ = fs::remove_dir_all(&staged.dir);
        }
        outcome
    }

    fn fill(&self, certificate: &str, key: &str, server: &Issued) -> Result<(), PkiError> {
        DirBuilder::new().mode(0o700).create(&self.dir).map_err(file("cannot make", &self.dir))?;
        write_new(&self.authority(), 0o644, &[certificate])?;
        write_new(&self.authority_key(), 0o600, &[key])?;
        write_new(&self.server(), 0o600, &[&server.certificate, &server.key])?;
        sync_dir(&self.dir)
    }

    /// Takes back what [`TlsFiles::create`] made, as long as nobody has been given any of it.
    ///
    /// # Errors
    /// If a file cannot be removed.
    pub fn discard(&self) -> Result<(), PkiError> {
        fs::remove_dir_all(&self.dir).map_err(file("cannot remove", &self.dir))
    }

    /// Replaces the server's certificate and key, under the same authority.
    ///
    /// # Errors
    /// If the authority's key is not there, or the file cannot be written.
    pub fn renew_server(&self, address: IpAddr, now: Timestamp) -> Result<(), PkiError> {
        let bad = |source| PkiError::Certificate { path: self.server(), source };
        let server = self.load(now)?.server(address).map_err(bad)?;
        let staged = self.dir.join(format!("server.pem.new.{}", std::process::id()));
        let outcome = write_new(&staged, 0o600, &[&server.certificate, &server.key])
            .and_then(|()| fs::rename(&staged, self.server()).map_err(file("cannot replace", &self.server())))
            .and_then(|()| sync_dir(&self.dir));
        if outcome.is_err() {
            let _ = fs::remove_file(&staged);
        }
        outcome
    }

    /// Writes a client certificate and its key to `out`, and returns the digest that the service knows the client by.
    ///
    /// # Errors
    /// If `out` exists or cannot be written, or the name is not one.
    pub fn issue_client(&self, name: &str, out: &Path, now: Timestamp) -> Result<[u8; 32], PkiError> {
        let fits = (1..=64).contains(&name.len())
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
        if !fits {
            return Err(PkiError::Name { name: name.to_owned() });
        }
        let bad = |source| PkiError::Certificate { path: out.to_owned(), source };
        let client = self.load(now)?.client(name).map_err(bad)?;
        write_new(out, 0o600, &[&client.certificate, &client.key])?;
        Ok(client.key_digest)
    }

    fn load(&self, now: Timestamp) -> Result<Authority, PkiError> {
        let path = self.authority_key();
        let key = Zeroizing::new(fs::read_to_string(&path).map_err(file("cannot read", &path))?);
        Authority::from_pem(&key, now).map_err(|source| PkiError::Certificate { path, source })
    }
}

fn file(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> PkiError {
    let path = path.to_owned();
    move |source| match source.kind() {
        io::ErrorKind::AlreadyExists => PkiError::Exists { path },
        _ => PkiError::File { action, path, source },
    }
}

fn write_new(path: &Path, mode: u32, parts: &[&str]) -> Result<(), PkiError> {
    let mut out = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)
        .map_err(file("cannot make", path))?;
    let written =
        parts.iter().try_for_each(|part| out.write_all(part.as_bytes())).and_then(|()| out.sync_all());
    written.map_err(|source| {
        let _ = fs::remove_file(path);
        file("cannot write", path)(source)
    })
}

fn sync_dir(path: &Path) -> Result<(), PkiError> {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    File::open(path).and_then(|dir| dir.sync_all()).map_err(file("cannot sync", path))
}
