//! What a backup says is in it.

use std::{
    fs,
    path::{Component, Path, PathBuf},
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{BackupError, digest, write_new};
use crate::{
    daemon::{Config, ListenConfig},
    hsm::TokenIdentity,
    store::sqlite::Facts,
};

const FILE: &str = "manifest.json";
const FORMAT: &str = "kmsd backup 1";

/// `manifest.json`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    format: String,
    /// When it was made, RFC 3339.
    pub made_at: String,
    /// The version of kmsd that made it.
    pub version: String,
    /// Label of the token that the store is bound to.
    pub token_label: String,
    /// Its serial number.
    pub token_serial: String,
    /// Number of the store's newest commit.
    pub commit: u64,
    /// Every other file.
    pub files: Vec<Entry>,
}

/// A file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Its path in the backup.
    pub path: PathBuf,
    /// Its length.
    pub bytes: u64,
    /// SHA-256, in hexadecimal.
    pub sha256: String,
}

impl Entry {
    pub(super) fn of(directory: &Path, name: &Path) -> Result<Self, BackupError> {
        let (bytes, sha256) = digest(&directory.join(name))?;
        Ok(Self { path: name.to_owned(), bytes, sha256 })
    }

    /// Whether the path is one that a backup has: nothing is ever written anywhere else.
    fn is_legal(&self) -> bool {
        let parts: Vec<_> = self.path.components().collect();
        let is_plain = parts.iter().all(|part| matches!(part, Component::Normal(_)));
        let first = parts.first().map(|part| part.as_os_str());
        let is_known = match parts.len() {
            1 => [Config::STORE, Config::FILE].iter().any(|name| first == Some(name.as_ref())),
            2 => [Config::AUDIT, ListenConfig::TLS].iter().any(|name| first == Some(name.as_ref())),
            _ => false,
        };
        is_plain && is_known
    }
}

impl Manifest {
    pub(super) fn new(facts: &Facts, files: Vec<Entry>, now: Timestamp) -> Self {
        Self {
            format: FORMAT.to_owned(),
            made_at: now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            token_label: facts.token.label.clone(),
            token_serial: facts.token.serial.clone(),
            commit: facts.epoch,
            files,
        }
    }

    /// The token that the store is bound to.
    #[must_use]
    pub fn token(&self) -> TokenIdentity {
        TokenIdentity { label: self.token_label.clone(), serial: self.token_serial.clone() }
    }

    pub(super) fn save(&self, directory: &Path) -> Result<(), BackupError> {
        let json = serde_json::to_vec_pretty(self).expect("it serialises");
        write_new(json.as_slice(), &directory.join(FILE))
    }

    /// Reads it, and checks every file against it.
    pub(super) fn load(directory: &Path) -> Result<Self, BackupError> {
        let path = directory.join(FILE);
        let json = fs::read(&path).map_err(BackupError::io("read", &path))?;
        let wrong = |what| BackupError::Manifest { path: directory.to_owned(), what };
        let manifest: Self = serde_json::from_slice(&json).map_err(|_| wrong("cannot be understood"))?;
        if manifest.format != FORMAT {
            return Err(wrong("is of another format"));
        }
        if !manifest.files.iter().any(|entry| entry.path == Path::new(Config::STORE)) {
            return Err(wrong("names no store"));
        }
        for entry in &manifest.files {
            if !entry.is_legal() {
                return Err(wrong("names a file that no backup has"));
            }
            let found = digest(&directory.join(&entry.path))?;
            if found != (entry.bytes, entry.sha256.clone()) {
                return Err(BackupError::Damaged { file: entry.path.clone() });
            }
        }
        Ok(manifest)
    }
}
