//! From a volume file to its proven header and keys.
//!
//! The header is hostile until its MAC is verified with the key that it names (F13). Nothing is decrypted before.

#[cfg(test)]
mod tests;

use std::io;

use tracing::warn;
use uuid::Uuid;

use crate::backing::Backing;
use crate::crypto::{Backend, Keyring, Suite, VolumeKeys};
use crate::format::layout::{BLOCK, BLOCK_BYTES, HEADER_SLOTS};
use crate::format::{FormatError, Header, HeaderCopies, HeaderError, UnverifiedHeader};
use crate::keys::{KeyError, KeyErrorKind, KeyService};

/// Why a volume file gave no keys.
#[derive(Debug, thiserror::Error)]
pub enum UnlockError {
    /// It cannot be read.
    #[error("read the header: {0}")]
    Read(#[source] io::Error),
    /// No header.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// A header whose key does not prove it.
    #[error(transparent)]
    Header(#[from] HeaderError),
    /// No key.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// One copy gave none, and the host failed to read the other one.
    #[error("one copy of the header cannot be read, and the other one does not open: {source}")]
    OtherUnread {
        /// What is wrong with the one that can be read.
        source: Box<Self>,
    },
    /// Another volume than the caller expects.
    #[error("it holds volume {found}, not volume {expected}")]
    AnotherVolume {
        /// What the header says.
        found: Uuid,
        /// What was expected.
        expected: Uuid,
    },
    /// The caller expects an encrypted volume.
    #[error("volume {volume} is not encrypted, but was expected to be: it was exchanged for another")]
    NotEncrypted {
        /// What the header says.
        volume: Uuid,
    },
}

/// What the caller knows of a volume beforehand. A header alone could be anybody's.
#[derive(Clone, Copy, Debug, Default)]
pub struct Expected {
    /// Its identity.
    pub uuid: Option<Uuid>,
    /// It is encrypted.
    pub encrypted: bool,
}

/// Reads both copies of the header, each by itself: one that the host fails to read does not keep the other from being used. They differ only
/// while a change of the header is under way, when either may count.
///
/// # Errors
/// If neither is one.
pub fn read_header(file: &impl Backing) -> Result<HeaderCopies, UnlockError> {
    let length = file.len().map_err(UnlockError::Read)?;
    let mut failed = None;
    let copies = HEADER_SLOTS.map(|slot| {
        let at = slot * BLOCK_BYTES;
        let there = usize::try_from(length.saturating_sub(at)).unwrap_or(BLOCK).min(BLOCK);
        let mut copy = vec![0; there];
        match file.read_at(&mut copy, at) {
            Ok(()) => Some(copy),
            Err(error) => {
                warn!(slot, %error, "a copy of the header cannot be read");
                failed = Some(error);
                None
            }
        }
    });
    match (HeaderCopies::of(copies.each_ref().map(Option::as_deref)), failed) {
        // The header may be in the one that cannot be read.
        (Err(_), Some(error)) => Err(UnlockError::Read(error)),
        (copies, _) => Ok(copies?),
    }
}

/// Proves a header and gives it back with the volume's keys. A copy that cannot be proven (a change of it was cut short) makes
/// way for the other one; what the service refuses to open is refused.
///
/// # Errors
/// That of the newest copy.
pub fn unlock(
    copies: &HeaderCopies,
    service: &KeyService,
    expected: Expected,
    backend: Backend,
) -> Result<(Header, Keyring), UnlockError> {
    let mut first = None;
    for copy in copies.candidates() {
        match unlock_copy(copy, service, expected, backend) {
            Ok(unlocked) => return Ok(unlocked),
            Err(error) => {
                let damaged = match &error {
                    UnlockError::Header(_) => true,
                    UnlockError::Key(error) => error.kind() == KeyErrorKind::WrongKey,
                    _ => false,
                };
                first.get_or_insert(error);
                if !damaged {
                    return Err(first.expect("there is one"));
                }
            }
        }
    }
    let error = first.unwrap_or(UnlockError::Format(FormatError::NotAVolume));
    Err(if copies.has_unread() { UnlockError::OtherUnread { source: Box::new(error) } } else { error })
}

fn unlock_copy(
    copy: &UnverifiedHeader,
    service: &KeyService,
    expected: Expected,
    backend: Backend,
) -> Result<(Header, Keyring), UnlockError> {
    let found = *copy.uuid();
    if let Some(expected) = expected.uuid.filter(|uuid| *uuid != found) {
        return Err(UnlockError::AnotherVolume { found, expected });
    }
    let keys = match copy.suite() {
        Suite::Plain if expected.encrypted => return Err(UnlockError::NotEncrypted { volume: found }),
        Suite::Plain => VolumeKeys::plain(found, backend),
        Suite::Aes256Gcm => VolumeKeys::new(service.open(copy)?, found, backend),
    };
    let Some(claimed) = &copy.claims().next else {
        return Ok((copy.verify(&keys)?, keys.into()));
    };
    // A re-encryption runs: both keys, and each must prove the header.
    let switch = claimed.switch;
    let next = VolumeKeys::new(service.open_next(copy)?, found, backend);
    let header = copy.verify_with(&keys, Some(&next))?;
    Ok((header, Keyring::from(keys).switched(next, switch)))
}
