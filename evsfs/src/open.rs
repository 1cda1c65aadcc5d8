//! From a path to an open volume: lock, header, keys, anchor, base, engine.

#[cfg(test)]
pub(crate) mod golden;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use uuid::Uuid;

use crate::backing::{FileBacking, FileBackingError};
use crate::crypto::{Backend, Suite, SystemEntropy};
use crate::engine::{Anchor, BaseImage, OpenOptions, Volume};
use crate::failure::{Failure, FileError};
use crate::format::{BaseReference, HeaderCopies};
use crate::keys::KeyService;
use crate::lock::{self, LockError};
use crate::regular_file;
use crate::unlock::{self, Expected, UnlockError};

/// Memory for the map of a base: it is read, never written.
const BASE_MEMORY: u64 = 16 << 20;

/// Bases under bases at most. Images are flat; more than one level comes from a file that was tampered with.
const MAX_DEPTH: usize = 4;

/// How a volume is to be opened.
#[derive(Clone, Copy, Debug)]
pub struct Access {
    /// What the caller knows of it.
    pub expected: Expected,
    /// No writes, and other readers may have it open, too.
    pub read_only: bool,
    /// Open a file that is older than the key service's anchor.
    pub accept_rollback: bool,
    /// Memory of the engine in bytes; its own choice if none is given.
    pub memory: Option<u64>,
    /// Committer and checkpointer threads.
    pub background: bool,
}

/// A volume file that is locked and has a header, which is not proven yet.
#[derive(Clone)]
pub struct LockedFile {
    /// Where it is.
    pub path: PathBuf,
    /// Device and inode number.
    pub identity: (u64, u64),
    /// The file.
    pub backing: Arc<FileBacking>,
    /// Both copies.
    pub header: HeaderCopies,
}

impl LockedFile {
    /// Locks a file and reads its header.
    ///
    /// # Errors
    /// If it is no volume, or in use.
    pub fn open(path: &Path, read_only: bool) -> Result<Self, Failure> {
        let path = std::path::absolute(path).map_err(|source| FileError::System {
            operation: "resolve",
            file: path.to_owned(),
            source,
        })?;
        let regular = regular_file::open(&path, !read_only)?;
        let opened = if read_only { FileBacking::open_read_only(&path) } else { FileBacking::open(&path) };
        let backing = opened.map_err(|error| match error {
            FileBackingError::InUse { path } => {
                Failure::from(LockError::Held { file: path, holder: lock::holder(&regular.file) })
            }
            other => other.into(),
        })?;
        let header =
            unlock::read_header(&backing).map_err(|source| Failure::Unlock { file: path.clone(), source })?;
        Ok(Self { path, identity: regular.identity, backing: Arc::new(backing), header })
    }
}

/// An open volume.
pub struct Opened {
    /// The volume.
    pub volume: Volume,
    /// The anchor that the key service has of it.
    pub anchor: Option<Anchor>,
}

/// Opens a locked volume file. Nothing is written to it.
///
/// # Errors
/// If the key service gives no key, the header is not proven by it, or the state is not fresh or damaged.
pub fn open(file: &LockedFile, service: &KeyService, access: &Access) -> Result<Opened, Failure> {
    open_at_depth(file, service, access, 0)
}

/// Opens a file that may be older than the key service's anchor, to be looked at: the key service keeps its anchor.
///
/// # Errors
/// As [`open`], except for a state that is not fresh.
pub fn open_past(file: &LockedFile, service: &KeyService, access: &Access) -> Result<Opened, Failure> {
    let access = Access { accept_rollback: true, read_only: true, ..*access };
    open_without_telling(file, service, &access, 0)
}

fn open_at_depth(
    file: &LockedFile,
    service: &KeyService,
    access: &Access,
    depth: usize,
) -> Result<Opened, Failure> {
    let Opened { volume, anchor } = open_without_telling(file, service, access, depth)?;
    if anchor.is_some() && access.accept_rollback {
        // Audited before anybody can use the disk.
        let accepted = volume.anchor();
        service
            .accept_rollback(volume.header().uuid, &to_service(&accepted), "evsfs with --accept-rollback")
            .map_err(|error| Failure::Unlock { file: file.path.clone(), source: error.into() })?;
        return Ok(Opened { volume, anchor: Some(accepted) });
    }
    Ok(Opened { volume, anchor })
}

fn open_without_telling(
    file: &LockedFile,
    service: &KeyService,
    access: &Access,
    depth: usize,
) -> Result<Opened, Failure> {
    let refused = |source| Failure::Unlock { file: file.path.clone(), source };
    let (header, keys) =
        unlock::unlock(&file.header, service, access.expected, Backend::AwsLc).map_err(refused)?;
    let uuid = header.uuid;
    let encrypted = header.suite == Suite::Aes256Gcm;
    // The key service keeps anchors of what it has keys of.
    let anchor = if encrypted { anchor(service, uuid).map_err(refused)? } else { None };
    let base = match &header.base {
        Some(reference) => Some(open_base(file, reference, service, depth + 1)?),
        None => None,
    };
    let defaults = OpenOptions::default();
    let options = OpenOptions {
        memory: access.memory.unwrap_or(defaults.memory),
        background: access.background,
        read_only: access.read_only,
        anchor,
        accept_rollback: access.accept_rollback,
        base,
        ..defaults
    };
    let backing = Arc::clone(&file.backing);
    let volume = Volume::open(backing, header, keys, options, Arc::new(SystemEntropy))
        .map_err(|source| Failure::Open { file: file.path.clone(), source: Box::new(source) })?;
    Ok(Opened { volume, anchor })
}

fn anchor(service: &KeyService, volume: Uuid) -> Result<Option<Anchor>, UnlockError> {
    Ok(service.anchor(volume)?.map(|anchor| from_service(&anchor)))
}

/// The base lies where the header says, or, when the files were moved together, beside the volume.
fn open_base(
    file: &LockedFile,
    reference: &BaseReference,
    service: &KeyService,
    depth: usize,
) -> Result<Arc<dyn BaseImage>, Failure> {
    let named = PathBuf::from(reference.path.as_str());
    if depth > MAX_DEPTH {
        return Err(FileError::TooManyBases { file: file.path.clone(), most: MAX_DEPTH }.into());
    }
    let beside = named.file_name().and_then(|name| Some(file.path.parent()?.join(name)));
    let path = match beside {
        Some(beside) if !named.exists() => beside,
        _ => named,
    };
    let access = Access {
        expected: Expected { uuid: Some(reference.uuid), encrypted: false },
        read_only: true,
        accept_rollback: false,
        memory: Some(BASE_MEMORY),
        background: false,
    };
    let base = LockedFile::open(&path, true)?;
    let opened = open_at_depth(&base, service, &access, depth).map_err(Failure::of_base)?;
    Ok(Arc::new(opened.volume))
}

/// An anchor as the key service has it.
#[must_use]
pub fn to_service(anchor: &Anchor) -> kmsd::client::Anchor {
    kmsd::client::Anchor { generation: anchor.commit, chain_mac: anchor.chain.0 }
}

fn from_service(anchor: &kmsd::client::Anchor) -> Anchor {
    Anchor { commit: anchor.generation, chain: crate::crypto::Chain(anchor.chain_mac) }
}
