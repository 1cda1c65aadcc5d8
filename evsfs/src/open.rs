//! From a path to an open volume: lock, header, keys, anchor, base, engine.

#[cfg(test)]
pub(crate) mod golden;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use kmsd::domain::lease::Ticket;
use uuid::Uuid;

use crate::backing::{FileBacking, FileBackingError};
use crate::crypto::{Backend, Keyring, Suite, SystemEntropy};
use crate::engine::{Anchor, BaseImage, OpenOptions, Volume};
use crate::failure::{Failure, FileError};
use crate::format::{BaseReference, BaseState, Header, HeaderCopies};
use crate::keys::{self, KeyError, KeyService};
use crate::lease::Lease;
use crate::lock::{self, LockError};
use crate::regular_file::{self, RegularFile};
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
    /// Take a place of the log that the host fails to read for its end, rather than open nothing. Only to read.
    pub salvage: bool,
    /// Open a file that is older than the key service's anchor, or does not descend from it: the operator's command, for the audit log.
    pub accept_rollback: Option<&'static str>,
    /// Memory of the engine in bytes; its own choice if none is given.
    pub memory: Option<u64>,
    /// Committer and checkpointer threads.
    pub background: bool,
    /// How often those look after a volume that nobody writes to; the engine's own choice if none is given.
    pub idle_round: Option<Duration>,
}

impl Access {
    /// To look at what a volume holds, by a command that ends.
    #[must_use]
    pub const fn reading() -> Self {
        let expected = Expected { uuid: None, encrypted: false };
        let (accept_rollback, memory, idle_round) = (None, None, None);
        let (read_only, salvage, background) = (true, false, false);
        Self { expected, read_only, salvage, accept_rollback, memory, background, idle_round }
    }

    /// The same, to change it.
    #[must_use]
    pub const fn writing() -> Self {
        Self { read_only: false, ..Self::reading() }
    }
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
        // Opened once: what is looked at, locked and read is one file, whatever comes to stand at the path.
        let RegularFile { file, identity, .. } = regular_file::open(&path, !read_only)?;
        let seen = file.try_clone().map_err(|source| FileError::System {
            operation: "open",
            file: path.clone(),
            source,
        })?;
        let backing = FileBacking::of(file, &path, !read_only).map_err(|error| match error {
            FileBackingError::InUse { path } => {
                Failure::from(LockError::Held { file: path, holder: lock::holder(&seen) })
            }
            other => other.into(),
        })?;
        let header =
            unlock::read_header(&backing).map_err(|source| Failure::Unlock { file: path.clone(), source })?;
        Ok(Self { path, identity, backing: Arc::new(backing), header })
    }
}

/// An open volume.
pub struct Opened {
    /// The volume.
    pub volume: Volume,
    /// The anchor that the key service has of it.
    pub anchor: Option<Anchor>,
    /// The right to write to it, if it is encrypted and may be written to.
    pub lease: Option<Lease>,
}

/// Opens a locked volume file. Nothing is written to it, but by background threads if they are asked for. From then on this process keeps
/// its memory out of swap space, if it may.
///
/// # Errors
/// If the key service gives no key, the header is not proven by it, or the state is not fresh or damaged.
pub fn open(file: &LockedFile, service: &KeyService, access: &Access) -> Result<Opened, Failure> {
    keys::keep_in_memory();
    let opened = open_at_depth(file, service, access, access.accept_rollback.is_some(), 0)?;
    let Opened { volume, mut anchor, lease } = opened;
    let refused = |source: KeyError| Failure::Unlock { file: file.path.clone(), source: source.into() };
    if let Some(command) = access.accept_rollback.filter(|_| volume.is_rollback()) {
        // Audited before a byte is shown, and agreed upon before one is written.
        let ticket = lease.as_ref().map(Lease::ticket);
        anchor = accept(service, &volume, ticket, command).map_err(refused)?.or(anchor);
    }
    if let Some(lease) = &lease {
        // All that may have taken long: bases are unlocked by then, and the log is read. Another may have got it meanwhile.
        lease.confirm().map_err(refused)?;
    }
    let failed = |source| Failure::Open { file: file.path.clone(), source: Box::new(source) };
    volume.start().map_err(|source| failed(source.into()))?;
    Ok(Opened { volume, anchor, lease })
}

/// Opens a file that may be older than the key service's anchor, only to say how far it is behind: nothing of what the disk holds is shown, and
/// the key service is told nothing.
///
/// # Errors
/// As [`open`], except for a state that is not fresh.
pub fn open_past(file: &LockedFile, service: &KeyService, access: &Access) -> Result<Volume, Failure> {
    keys::keep_in_memory();
    let access = Access { read_only: true, background: false, ..*access };
    Ok(open_at_depth(file, service, &access, true, 0)?.volume)
}

/// An open volume whose threads do not run yet.
fn open_at_depth(
    file: &LockedFile,
    service: &KeyService,
    access: &Access,
    accept_rollback: bool,
    depth: usize,
) -> Result<Opened, Failure> {
    let refused = |source| Failure::Unlock { file: file.path.clone(), source };
    let (header, keys) =
        unlock::unlock(&file.header, service, access.expected, Backend::AwsLc).map_err(refused)?;
    let uuid = header.uuid;
    let encrypted = header.suite == Suite::Aes256Gcm;
    // The key service keeps anchors of what it has keys of.
    let (lease, anchor) = match (encrypted, access.read_only) {
        (false, _) => (None, None),
        (true, true) => (None, anchor(service, uuid).map_err(refused)?),
        // Before anything of the state is read: from then on nobody else changes it, nor where its anchor stands.
        (true, false) => {
            let taken = Lease::take(service, uuid, file.identity);
            let (lease, anchor) = taken.map_err(|source| refused(source.into()))?;
            (Some(lease), anchor.as_ref().map(from_service))
        }
    };
    let (header, keys) = match &lease {
        Some(_) => unlock_again(file, service, (header, keys), access.expected).map_err(refused)?,
        None => (header, keys),
    };
    let base = match &header.base {
        Some(reference) => Some(open_base(file, reference, encrypted, service, depth + 1)?),
        None => None,
    };
    let defaults = OpenOptions::default();
    let options = OpenOptions {
        memory: access.memory.unwrap_or(defaults.memory),
        background: access.background,
        idle_round: access.idle_round.unwrap_or(defaults.idle_round),
        read_only: access.read_only,
        salvage: access.salvage,
        anchor,
        accept_rollback,
        base,
        ..defaults
    };
    let backing = Arc::clone(&file.backing);
    let failed = |source| Failure::Open { file: file.path.clone(), source: Box::new(source) };
    let volume =
        Volume::open_idle(backing, header, keys, options, Arc::new(SystemEntropy)).map_err(failed)?;
    Ok(Opened { volume, anchor, lease })
}

/// What is unlocked of the header as it is now that nobody else changes it: whoever had the lease before may have given the volume another wrapped key,
/// or data key, since this process read it.
fn unlock_again(
    file: &LockedFile,
    service: &KeyService,
    unlocked: (Header, Keyring),
    expected: Expected,
) -> Result<(Header, Keyring), UnlockError> {
    let now = unlock::read_header(&*file.backing)?;
    if now == file.header {
        return Ok(unlocked);
    }
    let expected = Expected { uuid: Some(unlocked.0.uuid), ..expected };
    unlock::unlock(&now, service, expected, Backend::AwsLc)
}

/// Has the key service accept the state of a volume that is only read, in place of the one that the operator was shown: commit `shown`, and no other.
///
/// # Errors
/// If the newest state is another one by now, somebody writes to the volume, or the service refuses or is away.
pub fn accept_in_place_of(
    file: &LockedFile,
    service: &KeyService,
    volume: &Volume,
    shown: u64,
    command: &str,
) -> Result<(), Failure> {
    let uuid = volume.header().uuid;
    // The file is only read, but what is accepted of it is what a writer somewhere else would lose.
    let (lease, newest) = Lease::take(service, uuid, file.identity)?;
    if newest.map(|anchor| anchor.generation) != Some(shown) {
        return Err(FileError::AnchorMoved { file: file.path.clone(), shown }.into());
    }
    service.accept_rollback(uuid, &to_service(&volume.anchor()), command, Some(lease.ticket()))?;
    Ok(())
}

/// Tells the service of a state that the operator accepts. Only where it may be written on, which takes a lease, does the anchor go there, which is
/// given back: whoever just looks at an old copy must not make the newest file a stranger.
fn accept(
    service: &KeyService,
    volume: &Volume,
    lease: Option<Ticket>,
    command: &str,
) -> Result<Option<Anchor>, KeyError> {
    let (uuid, state) = (volume.header().uuid, volume.anchor());
    if lease.is_none() {
        service.read_rollback(uuid, &to_service(&state), command)?;
        return Ok(None);
    }
    service.accept_rollback(uuid, &to_service(&state), command, lease)?;
    // Before any superblock is written: it remembers where the service is.
    volume.confirm_anchor(state);
    Ok(Some(state))
}

fn anchor(service: &KeyService, volume: Uuid) -> Result<Option<Anchor>, UnlockError> {
    Ok(service.anchor(volume)?.map(|anchor| from_service(&anchor)))
}

/// The base lies where the header says, or, when the files were moved together, beside the volume. The engine holds its identity and state
/// against the header; `above` says whether the volume over it is encrypted.
fn open_base(
    file: &LockedFile,
    reference: &BaseReference,
    above: bool,
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
    let encrypted = matches!(reference.state, BaseState::Proven { encrypted: true, .. });
    let expected = Expected { uuid: Some(reference.uuid), encrypted };
    let access = Access { expected, memory: Some(BASE_MEMORY), ..Access::reading() };
    let base = LockedFile::open(&path, true)?;
    let volume = open_at_depth(&base, service, &access, false, depth).map_err(Failure::of_base)?.volume;
    if above && !reference.is_proved() {
        let note = BaseReference::UNPROVED;
        tracing::warn!(volume = %file.header.candidates()[0].uuid(), base = %reference.uuid, note, "the base is not proved");
    }
    // The first headers do not say whether the base is encrypted, and everybody can make a plain one of any number and state. Whether the true
    // one is encrypted, the service knows: it has anchors of encrypted volumes only.
    if above && !reference.is_proved() && volume.header().suite == Suite::Plain {
        let refused = |source| Failure::Unlock { file: base.path.clone(), source };
        if anchor(service, reference.uuid).map_err(refused)?.is_some() {
            return Err(refused(UnlockError::NotEncrypted { volume: reference.uuid }));
        }
    }
    Ok(Arc::new(volume))
}

/// An anchor as the key service has it.
#[must_use]
pub fn to_service(anchor: &Anchor) -> kmsd::client::Anchor {
    kmsd::client::Anchor { generation: anchor.commit, chain_mac: anchor.chain.0 }
}

fn from_service(anchor: &kmsd::client::Anchor) -> Anchor {
    Anchor { commit: anchor.generation, chain: crate::crypto::Chain(anchor.chain_mac) }
}
