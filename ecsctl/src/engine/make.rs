//! Making volumes: disks, images and backups, empty or filled, with the encryption that the rules allow.

use uuid::Uuid;

use crate::{
    app::App,
    catalog::{disks, snapshots},
    error::Error,
    images::{probe, raw::OpenFile},
    model::{
        Noun,
        disk::{Disk, DiskStatus, Role},
        plan::Fill,
        size::Size,
    },
};

/// What a new volume's encryption is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Encryption {
    /// As its source; without one, none.
    Inherit,
    /// None.
    Plain,
    /// Under this key, or the default key of its kind (K3).
    Under(Option<String>),
}

impl Encryption {
    /// From the options `--encrypted`, `--key` and `--plain`.
    pub(crate) fn from_options(encrypted: bool, key: Option<String>, plain: bool) -> Self {
        match (encrypted || key.is_some(), plain) {
            (true, _) => Self::Under(key),
            (false, true) => Self::Plain,
            (false, false) => Self::Inherit,
        }
    }
}

/// A volume to be made.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    /// Its ID.
    pub(crate) id: Uuid,
    /// Disk, image or backup.
    pub(crate) kind: Noun,
    /// Its name.
    pub(crate) name: String,
    /// What it is to its server.
    pub(crate) role: Role,
    /// The server that it is made with.
    pub(crate) made_with: Option<Uuid>,
    /// Its size; without it, that of its source.
    pub(crate) size: Option<Size>,
    /// Its encryption.
    pub(crate) encryption: Encryption,
    /// What it is filled with.
    pub(crate) fill: Option<Fill>,
}

impl Request {
    /// A volume filled from another one.
    pub(crate) fn from_volume(
        kind: Noun,
        name: &str,
        source: &Disk,
        encryption: Encryption,
        verify: bool,
    ) -> Self {
        Self {
            id: Uuid::new_v4(),
            kind,
            name: name.to_owned(),
            role: Role::Data,
            made_with: None,
            size: None,
            encryption,
            fill: Some(Fill::Volume { id: source.id, verify, snapshot: None }),
        }
    }
}

/// A request that was checked: every key can be used, the size fits, the source can be read. Nothing was made yet.
#[derive(Debug, Clone)]
pub(crate) struct Prepared {
    disk: Disk,
    key: Option<String>,
    fill: Option<Fill>,
}

impl App {
    /// Checks a request, without changing anything.
    ///
    /// # Errors
    /// [`Error::KeyUnusable`], [`Error::TooSmall`], [`Error::Image`], [`Error::StaysEncrypted`], [`Error::KeyUnrecorded`].
    pub(crate) fn prepare(&self, request: &Request) -> Result<Prepared, Error> {
        let source = match &request.fill {
            Some(Fill::Volume { id, .. }) => disks::by_id(self.catalog.read(), *id)?,
            _ => None,
        };
        let snapshot = match &request.fill {
            Some(Fill::Volume { snapshot: Some(id), .. }) => {
                Some(snapshots::by_id(self.catalog.read(), *id)?)
            }
            _ => None,
        };
        if let Some(source) = &source {
            if source.status != DiskStatus::Available && source.status != DiskStatus::InUse {
                return Err(Error::SourceStatus {
                    kind: source.kind,
                    name: source.name.clone(),
                    status: source.status,
                });
            }
            self.require_key(source, "read")?;
        }
        let (wanted, from) = match (&request.fill, &source) {
            (Some(Fill::File { path, format }), _) => {
                let failed = |source| Error::Image { path: path.clone(), source };
                let file = OpenFile::open(path).map_err(|e| failed(e.into()))?;
                let (_, image) = probe::open(file, *format).map_err(failed)?;
                (image.size().next_multiple_of(crate::model::size::BLOCK), Some(path.display().to_string()))
            }
            (_, Some(source)) => match &snapshot {
                Some(snapshot) => (snapshot.size, Some(format!("snapshot {}", snapshot.name))),
                None => (source.size, Some(format!("{} {}", source.kind, source.name))),
            },
            (_, None) => (0, None),
        };
        let size = match request.size {
            Some(size) if size.bytes() < wanted => {
                return Err(Error::TooSmall { name: request.name.clone(), size: size.bytes(), wanted });
            }
            Some(size) => size,
            None => Size::from_bytes(wanted)
                .map_err(|source| Error::Size { given: wanted.to_string(), source })?,
        };
        let (key, key_alias) = self.key_of(request, source.as_ref())?;
        // A disk from an image is thin over it (I4); everything else is a full copy.
        let base = source.as_ref().filter(|source| request.kind == Noun::Disk && source.kind == Noun::Image);
        let base = base.map(|image| image.id);
        let fill = if base.is_some() { None } else { request.fill.clone() };
        let disk = Disk {
            id: request.id,
            kind: request.kind,
            role: request.role,
            made_with: request.made_with,
            source: from,
            base,
            name: request.name.clone(),
            status: DiskStatus::Creating,
            size: size.bytes(),
            encrypted: key.is_some(),
            key_id: None,
            key_alias,
            server_id: None,
            serving: None,
            reason: None,
            created_at: self.now.clone(),
        };
        Ok(Prepared { disk, key, fill })
    }

    fn key_of(
        &self,
        request: &Request,
        source: Option<&Disk>,
    ) -> Result<(Option<String>, Option<String>), Error> {
        let inherited = source.filter(|source| source.encrypted);
        match (&request.encryption, inherited) {
            (Encryption::Under(given), _) => {
                let (key, alias) = self.key_for_new(request.kind, &request.name, given.as_deref())?;
                Ok((Some(key), alias))
            }
            (Encryption::Inherit, Some(Disk { key_id: Some(key), key_alias, .. })) => {
                Ok((Some(key.clone()), key_alias.clone()))
            }
            // Without a key it would be made plain.
            (Encryption::Inherit, Some(source)) => Err(Error::KeyUnrecorded {
                kind: request.kind,
                name: request.name.clone(),
                source_kind: source.kind,
                source_name: source.name.clone(),
            }),
            // A disk from an encrypted image is encrypted (S1); only a copy of the image itself, or a backup, may
            // lead out of encryption.
            (Encryption::Plain, Some(source)) if request.kind == Noun::Disk && source.kind == Noun::Image => {
                Err(Error::StaysEncrypted { name: request.name.clone(), image: source.name.clone() })
            }
            (Encryption::Inherit, None) | (Encryption::Plain, _) => Ok((None, None)),
        }
    }

    /// Makes what was prepared.
    ///
    /// # Errors
    /// [`Error::Exists`]; on any other error it is gone again.
    pub(crate) fn make(&mut self, prepared: Prepared) -> Result<Disk, Error> {
        self.create_disk(prepared.disk, prepared.key, prepared.fill)
    }
}
