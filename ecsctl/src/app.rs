//! What every command works with.

use crate::{
    catalog::{Catalog, disks, servers},
    config::Installation,
    engine::{Settled, Warning},
    error::Error,
    keys::{KeyError, KeyService},
    machines::MachineTool,
    model::{
        Noun,
        disk::Disk,
        key::{DEFAULT_DISK_KEY, DEFAULT_IMAGE_KEY, Key, KeyTrouble, usable},
        plan::Step,
        server::Server,
    },
    output::Output,
    volumes::VolumeTool,
};

/// The installation, opened, with its key service and volume engine.
pub(crate) struct App {
    /// Its paths.
    pub(crate) installation: Installation,
    /// Its catalogue.
    pub(crate) catalog: Catalog,
    /// kmsd, not spoken to before it is needed.
    pub(crate) keys: Box<dyn KeyService>,
    /// evsfs.
    pub(crate) volumes: Box<dyn VolumeTool>,
    /// QEMU.
    pub(crate) machines: Box<dyn MachineTool>,
    /// The time at which the command began, RFC 3339.
    pub(crate) now: String,
    /// Where results go.
    pub(crate) out: Output,
    /// What was found half-done and put right.
    pub(crate) settled: Vec<Settled>,
    /// Servers whose machine was found to have ended.
    pub(crate) ended: Vec<String>,
    /// What could not be done beside what was asked.
    pub(crate) warnings: Vec<Warning>,
    /// Is told of each step before it is taken.
    pub(crate) observe: Option<Box<dyn FnMut(Step)>>,
}

impl App {
    /// The key that a user's word means: an alias, an ID, or the beginning of exactly one ID.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Ambiguous`], or that the key service does not answer.
    pub(crate) fn find_key(&self, given: &str) -> Result<Key, Error> {
        let word = given.strip_prefix("alias/").unwrap_or(given);
        let keys = self.keys.list()?;
        if let Some(key) = keys.iter().find(|key| key.alias == word || key.key_id == word) {
            return Ok(key.clone());
        }
        // A name besides its own.
        match self.keys.describe(word) {
            Ok(key) => return Ok(key),
            Err(KeyError::NotFound { .. }) => {}
            Err(other) => return Err(other.into()),
        }
        let pairs = keys.iter().map(|key| (key.key_id.as_str(), key.alias.as_str()));
        let id = crate::select::by_prefix(Noun::Key, word, pairs)?.to_owned();
        keys.into_iter().find(|key| key.key_id == id).ok_or_else(|| Error::NotFound {
            noun: Noun::Key,
            given: given.to_owned(),
            near: None,
        })
    }

    /// The key for a new volume: the one named, or the default key of its kind (K3), which may not exist yet.
    ///
    /// # Errors
    /// [`Error::KeyUnusable`] when it could not make a data key.
    pub(crate) fn key_for_new(
        &self,
        kind: Noun,
        name: &str,
        given: Option<&str>,
    ) -> Result<(String, Option<String>), Error> {
        self.key_for(kind, name, given, "created")
    }

    /// The same for a volume that there is; `doing` is the participle for messages.
    ///
    /// # Errors
    /// As [`App::key_for_new`].
    pub(crate) fn key_for(
        &self,
        kind: Noun,
        name: &str,
        given: Option<&str>,
        doing: &'static str,
    ) -> Result<(String, Option<String>), Error> {
        let given = given.map(|word| word.strip_prefix("alias/").unwrap_or(word));
        let default = if kind == Noun::Image { DEFAULT_IMAGE_KEY } else { DEFAULT_DISK_KEY };
        match given.unwrap_or(default) {
            // kmsd makes it when it is named first.
            key @ (DEFAULT_DISK_KEY | DEFAULT_IMAGE_KEY) => Ok((key.to_owned(), Some(key.to_owned()))),
            given => {
                let key = self.find_key(given)?;
                usable(key.state).map_err(|trouble| unusable(kind, name, doing, &key, trouble))?;
                Ok((key.key_id, Some(key.alias)))
            }
        }
    }

    /// Whether the disk's key can unwrap its DEK now (D2).
    ///
    /// # Errors
    /// [`Error::KeyUnusable`], which names the key, its state and the remedy; or that kmsd does not answer.
    pub(crate) fn require_key(&self, disk: &Disk, doing: &'static str) -> Result<(), Error> {
        // A thin disk needs the key of its image too.
        if let Some(image) = disk.base.map(|id| disks::by_id(self.catalog.read(), id)).transpose()?.flatten()
        {
            self.require_key(&image, "read")?;
        }
        let Some(key_id) = disk.key_id.as_deref().filter(|_| disk.encrypted) else { return Ok(()) };
        match self.keys.describe(key_id) {
            Ok(key) => {
                usable(key.state).map_err(|trouble| unusable(disk.kind, &disk.name, doing, &key, trouble))
            }
            Err(KeyError::NotFound { .. }) => Err(Error::KeyUnusable {
                kind: disk.kind,
                disk: disk.name.clone(),
                doing,
                key: disk.key_alias.clone().unwrap_or_else(|| key_id.to_owned()),
                trouble: KeyTrouble::Unknown,
            }),
            Err(other) => Err(other.into()),
        }
    }

    /// The disk, image or backup that a user's word means.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Ambiguous`].
    pub(crate) fn find_volume(&self, kind: Noun, given: &str) -> Result<Disk, Error> {
        let id = disks::find(self.catalog.read(), kind, given)?;
        disks::by_id(self.catalog.read(), id)?.ok_or_else(|| missing(kind, given))
    }

    /// The server that a user's word means.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Ambiguous`].
    pub(crate) fn find_server(&self, given: &str) -> Result<Server, Error> {
        let id = servers::find(self.catalog.read(), given)?;
        servers::by_id(self.catalog.read(), id)?.ok_or_else(|| missing(Noun::Server, given))
    }
}

fn unusable(kind: Noun, name: &str, doing: &'static str, key: &Key, trouble: KeyTrouble) -> Error {
    Error::KeyUnusable { kind, disk: name.to_owned(), doing, key: key.alias.clone(), trouble }
}

fn missing(noun: Noun, given: &str) -> Error {
    Error::NotFound { noun, given: given.to_owned(), near: None }
}
