//! `kmsd backup` and `kmsd restore`.
//!
//! ```text
//!   BACKUP/manifest.json    what is in it, with SHA-256 of each file
//!          kmsd.db          one state of the store, copied beside a running service
//!          audit/*.log      the audit log, up to its last whole line; copied after the store, so it covers it
//!          kmsd.toml, tls/  configuration and certificates (with the private authority's key)
//! ```
//!
//! Neither the token nor its PIN is in it. The directory appears under its name when everything in it is durable.

mod error;
mod manifest;
mod restore;

use std::{
    fs::{self, File},
    io::{BufRead, BufReader, Read, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use sha2::{Digest, Sha256};

use self::manifest::Entry;
pub use self::{
    error::BackupError,
    manifest::Manifest,
    restore::{Restored, restore},
};
use super::{Config, DaemonError, ListenConfig, init::check_home};
use crate::{audit, store::sqlite};

/// Copies what an installation needs besides its token into a new directory. kmsd may be serving.
///
/// # Errors
/// If anything cannot be copied; then nothing is left of the copy.
pub fn backup(home: &Path, to: &Path) -> Result<Manifest, DaemonError> {
    check_home(home)?;
    Config::load(home)?;
    if to.exists() {
        return Err(BackupError::Exists { path: to.to_owned() }.into());
    }
    let partial = with_suffix(to, ".partial");
    fs::DirBuilder::new().mode(0o700).create(&partial).map_err(|source| BackupError::Io {
        doing: "make",
        path: partial.clone(),
        source,
    })?;
    let copied = fill(home, &partial).and_then(|manifest| {
        fs::rename(&partial, to).map_err(BackupError::io("rename", &partial))?;
        sync_parent(to)?;
        Ok(manifest)
    });
    if copied.is_err()
        && let Err(error) = fs::remove_dir_all(&partial)
    {
        tracing::warn!(path = %partial.display(), %error, "cannot remove what was copied so far");
    }
    copied
}

fn fill(home: &Path, to: &Path) -> Result<Manifest, DaemonError> {
    let store = to.join(Config::STORE);
    sqlite::copy(&home.join(Config::STORE), &store)?;
    let facts = sqlite::facts(&store)?;
    let mut entries = vec![Entry::of(to, Path::new(Config::STORE))?];
    // After the store: what a copied change was recorded by is in the copy of the log.
    let log = home.join(Config::AUDIT);
    if log.exists() {
        private_dir(&to.join(Config::AUDIT))?;
        for file in audit::files(&log).map_err(BackupError::from)? {
            let name = Path::new(Config::AUDIT).join(file.file_name().unwrap_or_default());
            entries.push(copy_lines(&file, to, &name)?);
        }
    }
    entries.push(copy_file(&home.join(Config::FILE), to, Path::new(Config::FILE))?);
    let tls = home.join(ListenConfig::TLS);
    if tls.exists() {
        private_dir(&to.join(ListenConfig::TLS))?;
        for file in fs::read_dir(&tls).map_err(BackupError::io("read", &tls))? {
            let file = file.map_err(BackupError::io("read", &tls))?;
            if file.file_type().is_ok_and(|kind| kind.is_file()) {
                let name = Path::new(ListenConfig::TLS).join(file.file_name());
                entries.push(copy_file(&file.path(), to, &name)?);
            }
        }
    }
    let manifest = Manifest::new(&facts, entries, Timestamp::now());
    manifest.save(to)?;
    for directory in [Config::AUDIT, ListenConfig::TLS, "."].map(|name| to.join(name)) {
        if directory.exists() {
            File::open(&directory).and_then(|d| d.sync_all()).map_err(BackupError::io("sync", &directory))?;
        }
    }
    Ok(manifest)
}

fn copy_file(from: &Path, directory: &Path, name: &Path) -> Result<Entry, BackupError> {
    let source = File::open(from).map_err(BackupError::io("read", from))?;
    write_new(source, &directory.join(name))?;
    Entry::of(directory, name)
}

/// A file of the log up to its last whole line: the rest is on its way to the disk.
fn copy_lines(from: &Path, directory: &Path, name: &Path) -> Result<Entry, BackupError> {
    let reading = |source| BackupError::Io { doing: "read", path: from.to_owned(), source };
    let len = File::open(from).and_then(|file| file.metadata()).map_err(reading)?.len();
    let mut lines = BufReader::new(File::open(from).map_err(reading)?.take(len));
    let mut whole = 0;
    let mut line = Vec::new();
    loop {
        line.clear();
        lines.read_until(b'\n', &mut line).map_err(reading)?;
        if line.last() != Some(&b'\n') {
            break;
        }
        whole += u64::try_from(line.len()).unwrap_or(u64::MAX);
    }
    let source = File::open(from).map_err(reading)?.take(whole);
    write_new(source, &directory.join(name))?;
    Entry::of(directory, name)
}

fn write_new(mut source: impl Read, to: &Path) -> Result<(), BackupError> {
    let io = |source| BackupError::Io { doing: "write", path: to.to_owned(), source };
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(to).map_err(io)?;
    std::io::copy(&mut source, &mut file).map_err(io)?;
    file.flush().and_then(|()| file.sync_all()).map_err(io)
}

fn private_dir(path: &Path) -> Result<(), BackupError> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(BackupError::io("make", path))
}

fn digest(path: &Path) -> Result<(u64, String), BackupError> {
    let io = |source| BackupError::Io { doing: "read", path: path.to_owned(), source };
    let mut file = File::open(path).map_err(io)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 64 << 10];
    let mut bytes = 0;
    loop {
        match file.read(&mut buffer).map_err(io)? {
            0 => return Ok((bytes, hex::encode(hash.finalize()))),
            n => {
                hash.update(&buffer[..n]);
                bytes += u64::try_from(n).unwrap_or(u64::MAX);
            }
        }
    }
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

fn sync_parent(path: &Path) -> Result<(), BackupError> {
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    File::open(parent).and_then(|d| d.sync_all()).map_err(BackupError::io("sync", parent))
}
